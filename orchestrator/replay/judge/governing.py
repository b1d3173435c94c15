"""Decisions on what governs jobs, made again: queues, batches, operations, schedules, leaders, messages."""

from __future__ import annotations

import datetime
from collections import deque
from functools import partial
from typing import Any, Final

from writ.broker.clock import Clock
from writ.schemas import bounds, commands, hosting
from writ.schemas.assets import AssetRemoved, AssetSet, KeptAsset
from writ.schemas.events import (
    AlarmRaised,
    BatchEnded,
    BatchSealed,
    CancelRequested,
    CommandRejected,
    Fact,
    HistoryLong,
    JobSubmitted,
    LeaderElected,
    LeasesRenewed,
    OperationEnded,
    OperationPlanned,
    QueueDeclared,
    QueueDraining,
    QueuePaused,
    QueueResumed,
    ReportRejected,
    type_names,
)
from writ.schemas.fleet import (
    FLEET_EVENTS,
    NO_FLEET,
    DrainWorker,
    Fleet,
    UndrainWorker,
    WorkerDrained,
    WorkerUndrained,
)
from writ.schemas.ids import split_job_key
from writ.schemas.lifecycle import State
from writ.schemas.links import (
    CanaryTold,
    Content,
    FleetTold,
    JobAsked,
    MessageSent,
    PolicyTold,
    PricesTold,
    PrincipalTold,
    ProcessTold,
    QuotasTold,
    TenantHosted,
)
from writ.schemas.prices import NO_PRICES, PriceSet
from writ.schemas.principals import AccessDenied, TenantCreated
from writ.schemas.quotas import NO_ACCOUNT, BudgetReached, QuotasSet
from writ.schemas.records import Record
from writ.schemas.rejections import Rejection
from writ.schemas.schedules import (
    Schedule,
    ScheduleBackfilled,
    ScheduleDeclared,
    ScheduleDeleted,
    ScheduleFired,
    SchedulePaused,
    ScheduleResumed,
    ScheduleSkipped,
    ScheduleTriggered,
)
from writ.schemas.sealed import UNSEALED
from writ.schemas.shards import AllTold, OfShard, ShardPlaced
from writ.schemas.tenants import UNDECLARED, Tenant, TenantDeclared
from writ.schemas.upgrading import RECORDS, RaiseRecords, RecordsRaised

from ...consequences import ORCHESTRATOR
from ...decide import fleet as fleets
from ...decide import queue as queues
from ...decide import quotas
from ...decide import schedule as schedules
from ...decide.assets import remove_asset, set_asset
from ...decide.prices import set_price
from ...decide.tenant import declare_tenant
from ...decide.upgrade import raise_records
from ...office import Office
from ...operating import Operating
from ...round import Round
from ...schedule_desk import ScheduleDesk
from ...state import Partition, address
from . import access, refusals, releases, shards
from .differs import Differs, Unrecorded, accepted, need

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class _NoClock(Clock):
    """Nothing that is decided again may look at a clock."""

    def wall_us(self) -> int:
        raise AssertionError("a decision read the clock")

    mono_us = wall_us


def _no_draw() -> float:
    raise AssertionError("a decision drew a number")


class Governing:
    """Judges the records of one log that are no job's, and what schedules do to jobs."""

    def __init__(self, state: Partition, standing: refusals.Standing) -> None:
        self._state = state
        self._standing = standing
        office = Office(state, _NoClock(), _no_draw)
        self._schedules = ScheduleDesk(office)
        self._operating = Operating(office)
        self._firing: deque[Record] = deque()
        """What deciding a firing again gave, as far as the log has not told it yet."""

    # --- schedules' jobs ----------------------------------------------------------------------------------

    @staticmethod
    def fires(record: Record) -> bool:
        """Whether a record of a job belongs to what a schedule does by itself."""
        first = record.events[0]
        by_hand = isinstance(first, CancelRequested) and "-triggered; overlap" in first.reason
        return record.cause == "schedule" and not by_hand

    def fired(self, record: Record, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
        """What the firing that a record is part of gives in its place. Raises Differs and Unrecorded."""
        if not self._firing or self._firing[0].at != record.at:
            self._firing = deque(self._decide(record))
        expected = self._firing.popleft() if self._firing else None
        where = (record.kind, record.tenant, record.key)
        if expected is None or where != (expected.kind, expected.tenant, expected.key):
            self._firing.clear()
            gives = (
                "nothing" if expected is None else f"{type_names[type(expected.events[0])]} of {expected.key}"
            )
            raise Differs(f"deciding the schedule's firing again gives {gives} here")
        return expected.events

    def _decide(self, record: Record) -> list[Record]:
        """The records of a firing, decided on a state that is put back as it was."""
        schedule = self._schedule_of(record)
        state = self._state
        place = address(record.tenant, schedule.key)
        live, exists = self._schedules.live(place), self._schedules.exists(record.tenant, schedule.queue)
        firing = schedules.due(schedule, live, record.at, exists)
        refused = self._schedules.refusals(record.tenant, schedule, firing, record.at)
        firing = schedules.not_started(firing, {job: why.reason for job, why in refused.items()})
        round_ = Round(state, record.at)
        self._schedules.store(round_, record.tenant, schedule, firing, ORCHESTRATOR, "schedule")
        round_.drop()
        return round_.records

    def _schedule_of(self, record: Record) -> Schedule:
        key: str | None = record.key
        if record.kind == "job":
            queue, _ = split_job_key(record.key)
            first, job = record.events[0], self._state.jobs.get(address(record.tenant, record.key))
            name = (
                first.schedule if isinstance(first, JobSubmitted) else None if job is None else job.schedule
            )
            key = f"{queue}~{name}"
        schedule = self._state.schedules.get(address(record.tenant, key or ""))
        if schedule is None:
            raise Differs(f"there is no schedule {key}")
        return schedule

    # --- other aggregates -----------------------------------------------------------------------------------

    def decided_again(self, record: Record) -> tuple[Fact, ...]:
        """What deciding again gives for a record that is no job's. Raises Differs and Unrecorded."""
        match record.kind:
            case "queue":
                return self._queue(record)
            case "schedule":
                return self._schedule(record)
            case "batch":
                return self._batch(record)
            case "operation":
                return self._operation(record)
            case "prices":
                return self._prices(record)
            case "tenant" if isinstance(record.events[0], TenantCreated):
                return access.founded(self._state, record)
            case "tenant":
                return self._tenant(record)
            case "asset":
                return self._asset(record)
            case "incident":
                return self._incident(record)
            case "process":
                return releases.decided_again(self._state, record)
            case "gate":
                return releases.gate_decided_again(self._state, record)
            case "principal" if access.changes(record):
                return access.decided_again(self._state, record)
            case "worker" if isinstance(record.events[0], FLEET_EVENTS):
                return self._fleet(record)
            case _:
                return tuple([self._other(event, record) for event in record.events])

    def _queue(self, record: Record) -> tuple[Fact, ...]:
        queue = self._state.queue(address(record.tenant, record.key))
        match record.events[0]:
            case QueueDeclared(policy=policy, reason=reason):
                keyed = partial(self._state.keyed, address(record.tenant, record.key))
                again = commands.Declare(policy, reason)
                return accepted(queues.declare(queue, again, record.key, keyed))
            case QueuePaused(reason=reason):
                return accepted(queues.pause(queue, commands.PauseQueue(reason)))
            case QueueDraining(reason=reason):
                return accepted(queues.drain(queue, commands.DrainQueue(reason)))
            case QueueResumed(reason=reason):
                return accepted(queues.resume(queue, commands.ResumeQueue(reason)))
            case _:
                raise Unrecorded

    def _schedule(self, record: Record) -> tuple[Fact, ...]:
        first = record.events[0]
        if record.actor == ORCHESTRATOR and isinstance(first, ScheduleFired | ScheduleSkipped):
            return self.fired(record, record.events)
        queue, name = split_job_key(record.key)
        known = self._state.schedules.get(address(record.tenant, record.key))
        if isinstance(first, ScheduleDeclared):
            if first.input.key != UNSEALED:
                raise Unrecorded
            content = bytes(first.input.plain)
            release = self._schedules.release_of(record.tenant, first.spec)
            need(not isinstance(release, Rejection), f"it names {first.spec.process}, which is refused")
            return accepted(schedules.declare(known, queue, name, first.spec, content, first.reason))
        schedule: Any = schedules.known(known, name)
        if isinstance(schedule, Rejection):
            raise Differs(f"decided again it is refused: {schedule.reason}")
        match first:
            case SchedulePaused(reason=reason):
                return accepted(schedules.pause(schedule, reason))
            case ScheduleResumed(reason=reason):
                return accepted(schedules.resume(schedule, reason))
            case ScheduleDeleted(reason=reason):
                return accepted(schedules.delete(schedule, reason))
            case ScheduleTriggered(at=at, job=job):
                follows = at >= record.at and job == schedules.triggered_job_id(name, at)
                need(follows, f"job {job} does not follow from time {at}")
                self._started(record, queue, (job,))
            case ScheduleBackfilled(jobs=jobs):
                self._started(record, queue, jobs)
            case _:
                raise Unrecorded
        return record.events

    def _started(self, record: Record, queue: str, jobs: tuple[str, ...]) -> None:
        """The jobs that an operator had a schedule start stand before its record."""
        for job in jobs:
            need(
                self._state.job(record.tenant, queue, job) is not None,
                f"it names job {job}, which is not there",
            )

    def _batch(self, record: Record) -> tuple[Fact, ...]:
        place = address(record.tenant, record.key)
        relations = self._state.relations
        batch, tally = relations.batches.get(place), relations.tally(place)
        match record.events[0]:
            case BatchSealed(size=size, reason=reason):
                command = commands.SealBatch(split_job_key(record.key)[1], size, reason)
                return accepted(
                    queues.seal(None if batch is None else batch.size, sum(tally.values()), command)
                )
            case BatchEnded():
                need(batch is not None, "the batch was never sealed")
                assert batch is not None
                need(not batch.ended, "its end was told before")
                done = [tally.get(state, 0) for state in (State.COMPLETED, State.DEAD, State.CANCELLED)]
                need(sum(done) >= batch.size, f"{sum(done)} of {batch.size} jobs have ended")
                return (BatchEnded(*done),)
            case _:
                raise Unrecorded

    def _operation(self, record: Record) -> tuple[Fact, ...]:
        place = address(record.tenant, record.key)
        first = record.events[0]
        if isinstance(first, OperationPlanned):
            queue = record.key.partition("~")[0]
            plan = commands.Plan(
                first.verb, first.filter, first.reason, first.limit, first.rate_per_s, first.canary,
                first.stop_after,
            )  # fmt: skip
            matched = len(self._operating.matching(record.tenant, queue, plan))
            need(matched == first.matched, f"it says {first.matched} jobs; its filter matches {matched}")
            need(record.key == f"{queue}~op{record.seq}", "its key does not follow from its place")
            return (first,)
        operation = self._state.operations.get(place)
        if not isinstance(first, OperationEnded) or operation is None:
            raise Unrecorded
        need(operation.ended is None, "it had ended before")
        over = self._operating.over(place, operation, True)
        # That none was left is known only to who looked at each.
        return (OperationEnded(over or "done", operation.done),)

    def _prices(self, record: Record) -> tuple[Fact, ...]:
        first = record.events[0]
        if not isinstance(first, PriceSet):
            raise Unrecorded
        from_ = _EPOCH + datetime.timedelta(microseconds=first.from_at)
        command = commands.SetPrice(
            first.model, first.input_microusd, first.output_microusd, from_, first.reason
        )
        return accepted(set_price(self._state.prices.get(record.tenant, NO_PRICES), command, record.at))

    def _tenant(self, record: Record) -> tuple[Fact, ...]:
        first = record.events[0]
        if isinstance(first, QuotasSet):
            need(access.may_host(self._state, record), f"{record.actor} may not {record.cause}")
            command = hosting.SetQuotas(name=record.tenant, quotas=first.quotas, reason=first.reason)
            return accepted(quotas.set_quotas(self._state.accounts.get(record.tenant, NO_ACCOUNT), command))
        if isinstance(first, BudgetReached):
            standing = self._state.standing(record.tenant)
            return () if standing is None else quotas.reached(standing, record.at)
        if not isinstance(first, TenantDeclared):
            raise Unrecorded
        tenant = self._state.tenants.get(record.tenant, UNDECLARED)
        return declare_tenant(tenant, commands.DeclareTenant(first.policy, first.reason))

    def _asset(self, record: Record) -> tuple[Fact, ...]:
        asset = self._state.assets.get(address(record.tenant, record.key))
        match record.events[0]:
            case AssetSet() as made:
                # With `forget`, as it may have been said: then it may be so however many versions there are.
                command = KeptAsset(
                    record.key, made.key, made.digest, made.size_bytes, made.secret, False, True, made.reason
                )
                return accepted(set_asset(asset, command, 0, self._state.erased))
            case AssetRemoved(reason=reason):
                return accepted(remove_asset(asset, record.key, reason))
            case _:
                raise Unrecorded

    def _fleet(self, record: Record) -> tuple[Fact, ...]:
        first, known = record.events[0], self._state.fleets.get(record.tenant, NO_FLEET)
        if isinstance(first, WorkerDrained):
            return accepted(fleets.drain(known, DrainWorker(record.key, first.reason)))
        assert isinstance(first, WorkerUndrained)
        return fleets.undrain(known, UndrainWorker(record.key, first.reason))

    def _incident(self, record: Record) -> tuple[Fact, ...]:
        if isinstance(record.events[0], AlarmRaised):
            raise Unrecorded
        job = self._state.jobs.get(address(record.tenant, record.key))
        most = bounds.HISTORY_LONG_RECORDS
        need(job is not None and job.records >= most, f"the job has fewer than {most} records")
        assert job is not None
        told = self._state.long.get(address(record.tenant, record.key))
        need(told != job.round, "it was told of before, in this round of the job")
        return (HistoryLong(job.records, most),)

    def _other(self, event: Fact, record: Record) -> Fact:
        """One event of a worker, a principal, a partition or a link."""
        match event:
            case LeasesRenewed(leases=leases):
                for renewal in leases:
                    job = self._state.jobs.get(address(record.tenant, renewal.key))
                    live = None if job is None else job.lease
                    reason = f"renews token {renewal.token} of {renewal.key}, which is not live"
                    need(live is not None and live.token == renewal.token, reason)
                    assert live is not None
                    by = f"renews a lease of principal {live.principal}, by {record.actor}"
                    need(live.principal == record.actor, by)
            case LeaderElected(previous=previous, records=version):
                led, written = self._state.leader, self._state.records
                need(previous == led, f"follows leader {previous}, but {led} led")
                known = version <= RECORDS if led is None else version == written
                need(known, f"writes version {version} of records, not {RECORDS if led is None else written}")
            case RecordsRaised() as raised:
                need(access.may_host(self._state, record), f"{record.actor} may not {record.cause}")
                command = RaiseRecords(version=raised.version, reason=raised.reason)
                (event,) = accepted(raise_records(self._state.records, raised.members, command))
            case MessageSent(content=content):
                self._message(content, record)
            case CommandRejected():
                refusals.command_rejected(self._state, self._standing, event, record)
            case AccessDenied():
                access.denied(self._state, record, event)
            case ReportRejected():
                refusals.report_rejected(self._standing, event, record)
            case _:
                raise Unrecorded
        return event

    def _message(self, content: Content, record: Record) -> None:
        """What one partition says of its own jobs and tenants is what it has of them."""
        links = self._state.links
        if isinstance(content, PricesTold):
            prices = self._state.prices.get(content.tenant, NO_PRICES)
            need(content.version in (0, prices.version), f"tells of prices {content.version}")
            need(set(content.table) <= set(prices.table), "tells of prices that nobody set")
            return
        if isinstance(content, ProcessTold):
            process = self._state.processes.get(address(content.tenant, content.process.name))
            need(process is not None and process.told() == content.process, "tells of another process")
            need(content.version == content.process.version, f"tells of version {content.version}")
            return
        if isinstance(content, CanaryTold):
            found = content.found
            watch = self._state.watches.get(f"{content.tenant}.{found.process}~{found.scope}")
            same = watch is not None and watch.decided and watch.found(links.number) == found
            need(same and content.version == found.revision, "tells of another finding on a canary")
            return
        if isinstance(content, PolicyTold):
            tenant = self._state.tenants.get(content.tenant, UNDECLARED)
            need(tenant == Tenant(content.version, content.policy), "tells of another policy of the tenant")
            return
        if isinstance(content, TenantHosted):
            need(
                self._state.hosted.get(content.tenant) == content.owner, "tells of a tenant that nobody made"
            )
            return
        if isinstance(content, QuotasTold):
            account = self._state.accounts.get(content.tenant, NO_ACCOUNT)
            held = (account.version, account.quotas) == (content.version, content.quotas)
            need(held, "tells of other quotas of the tenant")
            return
        if isinstance(content, PrincipalTold):
            known = self._state.principals.get(address(content.tenant, content.principal.name))
            told = content.principal
            need(known == told and told.version == content.version, "tells of another principal")
            return
        if isinstance(content, FleetTold):
            fleet = self._state.fleets.get(content.tenant, NO_FLEET)
            need(fleet == Fleet(content.version, content.drained), "tells of other drained workers")
            return
        if isinstance(content, AllTold | ShardPlaced | OfShard):
            shards.said(self._state, content, record)
            return
        home = links.home(content.tenant, content.key)
        if isinstance(content, JobAsked):
            need(home == int(record.key), f"asks partition {record.key} after a job of partition {home}")
            return
        job = self._state.jobs.get(address(content.tenant, content.key))
        if job is None:
            need(content.state is None, f"tells of {content.key}, which is not there")
            return
        need(content.state is job.state, f"tells that {content.key} is {content.state}; it is {job.state}")
