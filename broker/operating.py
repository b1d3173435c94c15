"""What operators ask: of jobs, of queues, of schedules, of many jobs at once."""

from __future__ import annotations

import asyncio
import datetime
from typing import Final

import msgspec

from writ.schemas import commands
from writ.schemas.assets import AssetsTold, AssetTold, GetAsset, ListAssets, RemoveAsset, SetAsset
from writ.schemas.commands import Answer, Plan, Planned, PriceTable, Started, TenantTold
from writ.schemas.events import Filter
from writ.schemas.fleet import DrainWorker, UndrainWorker
from writ.schemas.hosting import CreateTenant, HostedTenant, ListTenants, SetQuotas, TenantsTold
from writ.schemas.ids import lanes_of
from writ.schemas.policy import QueuePolicy
from writ.schemas.queries import JobQuery, JobsPage
from writ.schemas.quotas import Quotas
from writ.schemas.rejections import RejectionKind
from writ.schemas.schedules import Overlap, ScheduleSpec
from writ.schemas.shards import ListShards, MoveShard, ShardsTold
from writ.schemas.subjects import NO_QUEUE
from writ.schemas.tenants import TenantPolicy
from writ.schemas.upgrading import RECORDS, RaiseRecords

from .asking import Asking, encode
from .errors import Refused, WireError

READ_S: Final = 2.0
"""How long a look at the job may take before it is reopened without."""


_VERBS: Final = {kind: verb for verb, kind in commands.CONTROL_VERBS.items()}


def _left(until: float) -> float:
    return until - asyncio.get_running_loop().time()


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(encode(value))


class Operating(Asking):
    """Each call is one recorded decision, with `reason` in the log. Refused raises what is not allowed.

    Those that have nothing else to return return the log sequence that their answer rests on: a view of that
    position, see `min_position`, tells of what was done.
    """

    async def send(self, queue: str, command: commands.Command, *, timeout_s: float = 10.0) -> Answer:
        """Any one of `CONTROL_VERBS`, as the message that it is; `position` in the answer is where it stands.

        What would be done twice if it were asked twice is not sent again where no answer comes. What is asked
        of a queue is asked of each of its lanes behind it: where one does not answer, ask it all again.
        """
        until = asyncio.get_running_loop().time() + timeout_s
        try:
            answer = await self._send(queue, command, until)
        except Refused as error:
            lane = await self._lane_with(queue, command, error, until)
            if lane is None:
                raise
            return await self._send(lane, command, until)
        if isinstance(answer, commands.LanesTold) and answer.lanes > 1:
            self._lanes[queue] = answer.lanes
            if isinstance(command, commands.Declare):
                command = msgspec.structs.replace(command, version=None)  # each has versions of its own
            for lane in lanes_of(queue, answer.lanes):
                try:
                    await self._send(lane, command, until)
                except (Refused, WireError) as error:
                    error.add_note(f"it holds for queue {queue}, and not for {lane} and what is behind it")
                    raise
        return answer

    async def _send(self, queue: str, command: commands.Command, until: float) -> Answer:
        if isinstance(command, commands.Reopening) and command.answers is None:
            answers = await self._end_of(command.id, queue, _left(until))
            command = msgspec.structs.replace(command, answers=answers)
        match command:
            case Plan(dry_run=dry_run):
                once = not dry_run
            case commands.Signal() | commands.TriggerSchedule():
                once = True
            case _:
                once = False
        answer = commands.CONTROL_ANSWERS.get(type(command), Answer)
        return await self._control(_VERBS[type(command)], queue, command, answer, _left(until), once=once)

    async def _lane_with(
        self, queue: str, command: commands.Command, refused: Refused, until: float
    ) -> str | None:
        """The lane of a queue that has the job which it was said not to have; None where none has."""
        job_id = getattr(command, "id", None)
        if job_id is None or (refused.kind, refused.rejection.field) != (RejectionKind.NOT_FOUND, "id"):
            return None
        query = JobQuery(id=job_id, queue=queue)
        try:
            page = await self._query("job", query, JobsPage, min(READ_S, _left(until)))
        except (WireError, Refused):
            return None
        return next((job.queue for job in page.jobs if job.queue != queue), None)

    async def _end_of(self, id: str, queue: str, timeout_s: float) -> int | None:
        """The terminal record of a job; None where it has not ended, or cannot be read now."""
        query = JobQuery(id=id, queue=queue)
        try:
            page = await self._query("job", query, JobsPage, min(READ_S, timeout_s / 2))
        except (WireError, Refused):
            return None  # asked without it, as a principal may that may not read
        return page.jobs[0].ended_by if page.jobs else None

    async def _recorded(self, queue: str, command: commands.Command, timeout_s: float) -> int:
        return (await self.send(queue, command, timeout_s=timeout_s)).position

    # --- jobs -------------------------------------------------------------------------------------------

    async def cancel(self, id: str, queue: str, reason: str = "requested", *, timeout_s: float = 10.0) -> int:
        """Ends a waiting job at once; asks the worker of a running one to stop. Refused if it has ended."""
        return await self._recorded(queue, commands.Cancel(id=id, reason=reason), timeout_s)

    async def terminate(
        self, id: str, queue: str, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """Ends a job at once, also a running one: its lease is void from here."""
        return await self._recorded(queue, commands.Terminate(id=id, reason=reason), timeout_s)

    async def redrive(
        self,
        id: str,
        queue: str,
        reason: str = "requested",
        *,
        answers: int | None = None,
        timeout_s: float = 10.0,
    ) -> int:
        """Puts a dead letter back to pending, in a new round. Refused for any other job.

        `answers` is the end that was seen, `JobView.ended_by`, and is looked up if not given. With it, the
        same call come twice opens one round, and one about an earlier end is refused.
        """
        command = commands.Redrive(id=id, reason=reason, answers=answers)
        return await self._recorded(queue, command, timeout_s)

    async def rerun(
        self,
        id: str,
        queue: str,
        reason: str = "requested",
        *,
        from_step: str | None = None,
        answers: int | None = None,
        timeout_s: float = 10.0,
    ) -> int:
        """Runs a finished job again, in a new round. Refused for one that has not ended.

        With `from_step` only from that recorded step on; those before it answer from the record. `answers` is
        as in `redrive`.
        """
        command = commands.Rerun(id=id, reason=reason, from_step=from_step, answers=answers)
        return await self._recorded(queue, command, timeout_s)

    async def drop(self, id: str, queue: str, reason: str = "requested", *, timeout_s: float = 10.0) -> int:
        """Settles a dead letter: it stays dead and is listed as one no more."""
        return await self._recorded(queue, commands.Drop(id=id, reason=reason), timeout_s)

    async def pause(self, id: str, queue: str, reason: str = "requested", *, timeout_s: float = 10.0) -> int:
        """Suspends a job that does not run, until it is resumed."""
        return await self._recorded(queue, commands.Pause(id=id, reason=reason), timeout_s)

    async def resume(self, id: str, queue: str, reason: str = "requested", *, timeout_s: float = 10.0) -> int:
        """Ends a job's pause, or lets one go on whose attempts were used up."""
        return await self._recorded(queue, commands.Resume(id=id, reason=reason), timeout_s)

    async def approve(
        self,
        id: str,
        queue: str,
        reason: str = "requested",
        *,
        data: object = None,
        timeout_s: float = 10.0,
    ) -> int:
        """Says yes to a job that waits for approval. `data` reaches its task."""
        command = commands.Approve(id=id, reason=reason, data=self.coder.content(_raw(data)))
        return await self._recorded(queue, command, timeout_s)

    async def reject(self, id: str, queue: str, reason: str = "requested", *, timeout_s: float = 10.0) -> int:
        """Says no to a job that waits for approval: it is dead-lettered."""
        return await self._recorded(queue, commands.Reject(id=id, reason=reason), timeout_s)

    async def signal(
        self,
        id: str,
        queue: str,
        name: str,
        data: object = None,
        reason: str = "requested",
        *,
        timeout_s: float = 10.0,
    ) -> int:
        """Data for a job under a name; one that waits for that name goes on. Never sent twice by itself."""
        command = commands.Signal(id=id, name=name, data=self.coder.content(_raw(data)), reason=reason)
        return await self._recorded(queue, command, timeout_s)

    async def edit(
        self,
        id: str,
        queue: str,
        reason: str = "requested",
        *,
        priority: int | None = None,
        not_before: datetime.datetime | None = None,
        input: object = msgspec.UNSET,
        timeout_s: float = 10.0,
    ) -> int:
        """Changes a job that has not started; what is left out stays as it was."""
        command = commands.Edit(
            id=id,
            reason=reason,
            priority=priority,
            not_before=not_before,
            input=msgspec.UNSET if input is msgspec.UNSET else self.coder.content(_raw(input)),
        )
        return await self._recorded(queue, command, timeout_s)

    # --- many jobs --------------------------------------------------------------------------------------

    async def plan(self, queue: str, plan: Plan, *, timeout_s: float = 10.0) -> Planned:
        """Does one thing to the jobs of a queue that the plan's filter matches, as a recorded operation.

        A plan with `dry_run` only says which are meant. Never sent twice by itself.
        """
        answer = await self.send(queue, plan, timeout_s=timeout_s)
        assert isinstance(answer, Planned)
        return answer

    async def seal_batch(
        self, queue: str, batch: str, size: int, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """Says how many jobs a batch has, so that its end can be told."""
        command = commands.SealBatch(batch=batch, size=size, reason=reason)
        return await self._recorded(queue, command, timeout_s)

    # --- assets -----------------------------------------------------------------------------------------

    async def set_asset(
        self,
        name: str,
        value: str | bytes,
        *,
        secret: bool = False,
        rotate: bool = False,
        forget: bool = False,
        reason: str = "requested",
        timeout_s: float = 10.0,
    ) -> AssetTold:
        """Puts a value of at most 64 KiB away as the next version of an asset, or of a secret.

        With `rotate` it must be there already; with `forget` the values of all versions before are erased.
        """
        content = value.encode() if isinstance(value, str) else value
        command = SetAsset(name, content, secret, rotate, forget, reason)
        return await self._control("set_asset", NO_QUEUE, command, AssetTold, timeout_s, once=True)

    async def asset(self, name: str, version: int | None = None, *, timeout_s: float = 10.0) -> AssetTold:
        """An asset with its value, the newest or that of a version; of a secret it is refused."""
        return await self._control("get_asset", NO_QUEUE, GetAsset(name, version), AssetTold, timeout_s)

    async def assets(
        self, name: str | None = None, *, after: str = "", limit: int = 100, timeout_s: float = 10.0
    ) -> AssetsTold:
        """Assets by name behind `after`, each with its newest version; of one of that name all versions."""
        command = ListAssets(name, after, limit)
        return await self._control("list_assets", NO_QUEUE, command, AssetsTold, timeout_s)

    async def remove_asset(self, name: str, *, reason: str = "requested", timeout_s: float = 10.0) -> int:
        """Erases the values of all versions of an asset, for good."""
        return await self._recorded(NO_QUEUE, RemoveAsset(name, reason), timeout_s)

    # --- prices -----------------------------------------------------------------------------------------

    async def set_price(
        self,
        model: str,
        input_microusd: int,
        output_microusd: int,
        reason: str = "requested",
        *,
        from_: datetime.datetime | None = None,
        timeout_s: float = 10.0,
    ) -> int:
        """What a million tokens of a model cost from a time on [now], in micro-dollars.

        Usage recorded before keeps its cost. A price that holds already changes nothing.
        """
        command = commands.SetPrice(model, input_microusd, output_microusd, from_, reason)
        return await self._recorded(NO_QUEUE, command, timeout_s)

    async def prices(self, model: str | None = None, *, timeout_s: float = 10.0) -> PriceTable:
        """The tenant's price table, or the prices of one model."""
        command = commands.ListPrices(model)
        return await self._control("list_prices", NO_QUEUE, command, PriceTable, timeout_s)

    # --- tenants ----------------------------------------------------------------------------------------

    async def declare_tenant(
        self, policy: TenantPolicy, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """Sets what holds in all queues of the tenant whose own policy leaves it open."""
        return await self._recorded(NO_QUEUE, commands.DeclareTenant(policy, reason), timeout_s)

    async def tenant(self, *, timeout_s: float = 10.0) -> TenantTold:
        """The tenant's policy and quotas, and what of them it uses."""
        return await self._control("get_tenant", NO_QUEUE, commands.GetTenant(), TenantTold, timeout_s)

    async def create_tenant(
        self, name: str, key: str, owner: str = "owner", *, reason: str = "requested", timeout_s: float = 10.0
    ) -> int:
        """Makes a tenant, whose first principal `owner` logs in with the public NKey `key`.

        For owners of the host tenant, as `set_quotas` and `tenants`.
        """
        command = CreateTenant(name=name, owner=owner, key=key, reason=reason)
        return await self._recorded(NO_QUEUE, command, timeout_s)

    async def set_quotas(
        self,
        name: str,
        quotas: Quotas,
        reason: str = "requested",
        *,
        version: int | None = None,
        timeout_s: float = 10.0,
    ) -> int:
        """What a tenant may use from here on. Refused where the quotas are of another `version` by now."""
        command = SetQuotas(name=name, quotas=quotas, version=version, reason=reason)
        return await self._recorded(NO_QUEUE, command, timeout_s)

    async def tenants(self, *, timeout_s: float = 10.0) -> tuple[HostedTenant, ...]:
        """All tenants, what they may use and what they use."""
        found = await self._control("list_tenants", NO_QUEUE, ListTenants(), TenantsTold, timeout_s)
        return found.tenants

    async def raise_records(
        self,
        version: int = RECORDS,
        reason: str = "requested",
        *,
        queue: str = NO_QUEUE,
        timeout_s: float = 10.0,
    ) -> int:
        """Has the log that a queue is in, or the tenant itself, written in that version of records, for good.

        For owners of the host tenant. Raises Refused while an orchestrator is there that reads less.
        """
        return await self._recorded(queue, RaiseRecords(version=version, reason=reason), timeout_s)

    # --- partitions -------------------------------------------------------------------------------------

    async def move_shard(
        self, queue: str, to: int, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """Has the shard of a queue handed over to another partition, refused where it holds anything.

        `shards` tells when it is there. For owners of the host tenant; queues of other tenants are in the
        same 256 shards: see `writ.schemas.ids`.
        """
        return await self._recorded(queue, MoveShard(to=to, reason=reason), timeout_s)

    async def shards(self, *, timeout_s: float = 10.0) -> ShardsTold:
        """How many partitions there are, and in which of them each shard is."""
        return await self._control("list_shards", NO_QUEUE, ListShards(), ShardsTold, timeout_s)

    # --- workers ----------------------------------------------------------------------------------------

    async def drain_worker(self, worker: str, reason: str = "requested", *, timeout_s: float = 10.0) -> int:
        """The worker of that name takes no more leases, in no queue; what it holds it finishes."""
        return await self._recorded(NO_QUEUE, DrainWorker(worker, reason), timeout_s)

    async def undrain_worker(self, worker: str, reason: str = "requested", *, timeout_s: float = 10.0) -> int:
        """A drained worker takes leases again."""
        return await self._recorded(NO_QUEUE, UndrainWorker(worker, reason), timeout_s)

    # --- erasure ----------------------------------------------------------------------------------------

    async def erase(
        self,
        queue: str,
        id: str | None = None,
        reason: str = "requested",
        *,
        data_subject: str | None = None,
        timeout_s: float = 10.0,
    ) -> int:
        """Destroys the key to the content of a job, or of all jobs of a data subject; for how many jobs.

        Refused while one of them has not ended or is held, and for a job whose content is not sealed. For a
        subject any queue will do: each partition is asked, one after the other, and where one refuses, what
        those before it have erased is erased. Cannot be undone.
        """
        command = commands.Erase(id=id, data_subject=data_subject, reason=reason)
        answer = await self.send(queue, command, timeout_s=timeout_s)
        assert isinstance(answer, commands.Erased)
        jobs = answer.jobs
        if data_subject is not None:
            for other in answer.beside:
                answer = await self.send(other, command, timeout_s=timeout_s)
                assert isinstance(answer, commands.Erased)
                jobs += answer.jobs
        return jobs

    async def place_hold(
        self, queue: str, name: str, filter: Filter, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """Jobs of the queue that the filter matches, now or later, cannot be erased until it is lifted."""
        command = commands.PlaceHold(name=name, filter=filter, reason=reason)
        return await self._recorded(queue, command, timeout_s)

    async def lift_hold(
        self, queue: str, name: str, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """Ends a hold. Refused where there is none of that name."""
        return await self._recorded(queue, commands.LiftHold(name, reason), timeout_s)

    # --- queues -----------------------------------------------------------------------------------------

    async def declare_queue(
        self,
        queue: str,
        policy: QueuePolicy,
        reason: str = "declared",
        *,
        version: int | None = None,
        timeout_s: float = 10.0,
    ) -> int:
        """Gives a queue its policy, as the next version; one that says the same changes nothing.

        Refused where the policy is of another `version` by now.
        """
        return await self._recorded(queue, commands.Declare(policy, reason, version), timeout_s)

    async def pause_queue(self, queue: str, reason: str = "requested", *, timeout_s: float = 10.0) -> int:
        """No more grants in the queue; submits are taken."""
        return await self._recorded(queue, commands.PauseQueue(reason), timeout_s)

    async def drain_queue(self, queue: str, reason: str = "requested", *, timeout_s: float = 10.0) -> int:
        """No more submits to the queue; what is there is worked off."""
        return await self._recorded(queue, commands.DrainQueue(reason), timeout_s)

    async def resume_queue(self, queue: str, reason: str = "requested", *, timeout_s: float = 10.0) -> int:
        """Opens a queue that was paused or is draining."""
        return await self._recorded(queue, commands.ResumeQueue(reason), timeout_s)

    # --- schedules --------------------------------------------------------------------------------------

    async def declare_schedule(
        self,
        queue: str,
        name: str,
        spec: ScheduleSpec,
        input: object = None,
        reason: str = "declared",
        *,
        timeout_s: float = 10.0,
    ) -> int:
        """Gives a schedule its spec, as the next version; its jobs get `input`."""
        command = commands.DeclareSchedule(name, spec, self.coder.content(_raw(input)), reason)
        return await self._recorded(queue, command, timeout_s)

    async def pause_schedule(
        self, queue: str, name: str, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """No time is due until it is resumed; those in between are not made up for."""
        return await self._recorded(queue, commands.PauseSchedule(name, reason), timeout_s)

    async def resume_schedule(
        self, queue: str, name: str, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """Due again from now on."""
        return await self._recorded(queue, commands.ResumeSchedule(name, reason), timeout_s)

    async def delete_schedule(
        self, queue: str, name: str, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """Ends a schedule; the jobs that it started go on."""
        return await self._recorded(queue, commands.DeleteSchedule(name, reason), timeout_s)

    async def trigger_schedule(
        self,
        queue: str,
        name: str,
        reason: str = "requested",
        *,
        overlap: Overlap | None = None,
        timeout_s: float = 10.0,
    ) -> tuple[str, ...]:
        """Starts a schedule's job now, beside its due times; the ids started. Never sent twice by itself."""
        command = commands.TriggerSchedule(name, reason, overlap)
        answer = await self.send(queue, command, timeout_s=timeout_s)
        assert isinstance(answer, Started)
        return answer.jobs

    async def backfill_schedule(
        self,
        queue: str,
        name: str,
        from_: datetime.datetime,
        to: datetime.datetime,
        reason: str = "requested",
        *,
        limit: int = 400,
        overlap: Overlap = Overlap.QUEUE,
        timeout_s: float = 10.0,
    ) -> tuple[str, ...]:
        """Runs the due times between two moments, both included; the ids of the jobs started.

        A time whose job is there already is not run again.
        """
        command = commands.Backfill(
            name=name, from_=from_, to=to, limit=limit, overlap=overlap, reason=reason
        )
        answer = await self.send(queue, command, timeout_s=timeout_s)
        assert isinstance(answer, Started)
        return answer.jobs
