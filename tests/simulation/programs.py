"""What the clients of a history do: submits, results, an operator's deeds, and meddling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from writ.broker.client import Client, JobHandle
from writ.broker.errors import WireError, WritError
from writ.schemas.commands import Complete, Completion, Held, Release, Renew
from writ.schemas.subjects import lease_subject, submit_subject

from .hosts import ClientHost
from .loop import SECOND_US
from .net import Broker
from .operators import Operator
from .plan import HOME, TENANT, Deed, JobPlan, Plan
from .ports import SimWire
from .tally import Tally
from .watch import Watch

_FLOOD: Final = 60
_BAD: Final = (b'{"bad":1}', b'{"bad":2,"task":"plain","lease_s":0}', b'{"task":7,"bad":3}', b'{"bad')


class Part(NamedTuple):
    """One thing that a client's program does: its name, when, and how to begin it."""

    name: str
    at_us: int
    begin: Callable[[], Coroutine[Any, Any, None]]


class Program:
    """One start of one client of a plan. What it has been done with, another start does not do again."""

    def __init__(
        self, plan: Plan, number: int, host: ClientHost, client: Client, wire: SimWire, watch: Watch
    ) -> None:
        self._plan = plan
        self._number = number
        self._host = host
        self._client = client
        self._wire = wire
        self._watch = watch
        self._broker: Broker = wire.broker
        self._operator = Operator(plan, host, client, watch)

    def parts(self) -> list[Part]:
        plan, number = self._plan, self._number
        parts: list[Part] = []
        many: dict[str, list[JobPlan]] = {}
        for job in plan.jobs:
            if job.client != number:
                continue
            if job.how == "many":
                many.setdefault(job.queue, []).append(job)
            else:
                submit = self._submit if job.how == "submit" else self._raw
                parts.append(Part(f"job {job.number}", job.at_us, partial(submit, job)))
        for queue, jobs in many.items():
            parts.append(Part(f"many {queue}", jobs[0].at_us, partial(self._submit_many, queue, jobs)))
        for place, deed in enumerate(plan.deeds):
            if deed.client == number:
                parts.append(Part(f"deed {place}", deed.at_us, partial(self._do, deed)))
        return parts

    async def let_go(self) -> None:
        """What operators do in the end; only one of them need do it."""
        if self._number == 0:
            await self._operator.let_go()

    async def run(self, part: Part, done: set[str]) -> None:
        """Does a part at its time."""
        host = self._host
        await asyncio.sleep(max(0, part.at_us - host.world.now_us) / SECOND_US)
        await part.begin()
        if host.alive:
            done.add(part.name)
            host.open.discard(part.name)

    # --- submits ------------------------------------------------------------------------------------------

    async def _submit(self, job: JobPlan) -> None:
        client = self._client
        try:
            handle = await client.submit(
                job.queue, job.task, job.input, id=job.id, **job.options, timeout_s=20
            )
        except WritError:
            return
        self._accepted(handle)
        if job.awaits:
            await self._result(handle)

    async def _submit_many(self, queue: str, jobs: list[JobPlan]) -> None:
        try:
            handles = await self._client.submit_many(queue, [_mapping(job) for job in jobs], timeout_s=20)
        except WritError:
            return
        for handle in handles:
            self._accepted(handle)

    async def _raw(self, job: JobPlan) -> None:
        """A foreign client: one publish, no questions asked."""
        body = msgspec.json.encode(_mapping(job))
        if job.how == "malformed":
            body = _BAD[job.number % len(_BAD)]
            if job.number % 2 and body.endswith(b"}"):
                body = b'[%s,{"task":"plain","input":{"do":"plain","ms":0,"n":0}}]' % body
        host, principal = self._host, self._client.target.principal
        subject = submit_subject(TENANT, principal, job.queue)
        try:
            await self._wire.publish_submit(subject, body, f"raw-{host.name}-{job.number}")
        except WireError:
            return

    def _accepted(self, handle: JobHandle) -> None:
        """The client was told that its submit is stored, or which job stands for it."""
        if handle.existing:
            if self._watch.find(handle.queue, handle.id) is None:
                self._watch.broken(f"{handle.id} is said to stand for a submit, and is not there")
            return
        intake = self._broker.intakes[HOME[handle.queue]]
        stored = next((stored for stored in intake if stored.seq == handle.seq), None)
        if stored is None or f'"{handle.id}"'.encode() not in stored.body:
            self._watch.broken(
                f"the submit of {handle.id} was acknowledged as {handle.seq}, and is not there"
            )

    async def _result(self, handle: JobHandle) -> None:
        try:
            output = await self._client.result(handle, timeout_s=60)
        except (WritError, TimeoutError):
            return
        job = self._watch.find(handle.queue, handle.id)
        said = msgspec.json.encode(output)
        if job is None:  # a live job with its unique key stands for it
            job = self._watch.find(handle.queue, msgspec.json.decode(said, type=dict[str, Any])["id"])
        if job is None or (job.round == 1 and (job.state != "completed" or said != (job.output or b"null"))):
            self._watch.broken(f"{handle.id} was said to be completed with {said!r}")

    # --- deeds --------------------------------------------------------------------------------------------

    async def _do(self, deed: Deed) -> None:
        job = next((job for job in self._plan.jobs if job.number == deed.job), None)
        try:
            if deed.what == "flood":
                await self._flood(deed.queue)
            elif deed.what not in ("resubmit", "meddle"):
                await self._operator.do(deed, None if job is None else job.id)
            elif job is None:
                return  # a smaller history may lack the job
            elif deed.what == "resubmit":
                await self._raw(job)
            else:
                await self._meddle(job)
        except WritError:
            return

    async def _flood(self, queue: str) -> None:
        """More nonsense at once than is recorded piece by piece."""
        subject = submit_subject(TENANT, self._client.target.principal, queue)
        name = f"flood-{self._host.name}"
        sending = (
            self._wire.publish_submit(subject, _BAD[0], f"{name}-{number}") for number in range(_FLOOD)
        )
        await asyncio.gather(*sending, return_exceptions=True)

    async def _meddle(self, job: JobPlan) -> None:
        """Reports that must change nothing: of another principal, with an old token, or with none."""
        for _ in range(4):
            folds = self._watch.folds
            granted = [each for fold in folds for each in fold.jobs.values() if each.last_token]
            if granted:
                await self._meddle_with(granted[job.number % len(granted)])
            await asyncio.sleep(0.6)

    async def _meddle_with(self, victim: Tally) -> None:
        queue, _, job_id = victim.key.partition(".")[2].partition("~")
        token = victim.last_token
        for principal in ("meddler", victim.principal):
            if principal == victim.principal:
                if token == victim.token:
                    token -= 1
                elif victim.state == "completed":
                    continue
            held = (Held(job_id, token),)
            report = Complete("nobody", (Completion(job_id, token, msgspec.Raw(b'"stolen"')),))
            for verb, command in (
                ("complete", report),
                ("renew", Renew("nobody", held)),
                ("release", Release("nobody", held)),
            ):
                subject = lease_subject(TENANT, principal, verb, queue)
                await self._wire.request(subject, msgspec.json.encode(command), 3)


def _mapping(job: JobPlan) -> dict[str, Any]:
    named = {} if job.id is None else {"id": job.id}
    return {"task": job.task, "input": job.input, **named, **job.options}
