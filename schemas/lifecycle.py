"""The lifecycle of a job: the table, and `evolve`, the only code that changes a job's state.

`TRANSITIONS` says where an event may lead from a state (one entry, or the few between which the event's own
data decide); `REFUSALS` names why every other pair is refused. Together they are total. The drawing in
`docs/reference/lifecycle.md` is made from this table.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from msgspec.structs import force_setattr, replace

from .assets import AssetRead
from .bounds import SECOND_US
from .errors import AttemptError, ErrorClass
from .events import (
    JOB_EVENTS,
    AttemptFailed,
    AttemptStarted,
    CancelRequested,
    DeadReason,
    Fact,
    JobCancelled,
    JobCompleted,
    JobDeadLettered,
    JobDropped,
    JobDue,
    JobEdited,
    JobRedriven,
    JobRerun,
    JobResumed,
    JobSnoozed,
    JobSubmitted,
    JobSuspended,
    LeaseExpired,
    LeaseGranted,
    LeaseReleased,
    ProgressReported,
    RetryScheduled,
    SignalReceived,
    WaitReason,
    type_names,
)
from .ids import fencing_token, token_position
from .jobs import HeldLease as HeldLease  # noqa: PLC0414 - for all who fold, like the others of jobs
from .jobs import Job as Job  # noqa: PLC0414
from .jobs import Reopened as Reopened  # noqa: PLC0414
from .jobs import Signal as Signal  # noqa: PLC0414
from .jobs import Wait as Wait  # noqa: PLC0414
from .records import Record
from .sealed import Sealed
from .states import State as State  # noqa: PLC0414 - for all who fold; events need it too
from .steps import (
    NOTED,
    Compensation,
    CompensationDue,
    CompensationEnded,
    StepCompensated,
    StepDone,
    StepFailed,
    StepIntended,
    ToolCalled,
    ToolOutcome,
    UsageRecorded,
    stepped,
)

S = State
TERMINAL: Final = frozenset({S.COMPLETED, S.CANCELLED, S.DEAD})
WAITING: Final = frozenset({S.SCHEDULED, S.PENDING, S.RETRYING, S.SUSPENDED})
Place = State | None
"""A state, or None before the first record."""

TRANSITIONS: Final[dict[tuple[Place, type[Fact]], tuple[State, ...]]] = {
    (None, JobSubmitted): (S.PENDING, S.SCHEDULED),
    (S.SCHEDULED, JobDue): (S.PENDING,),
    (S.SCHEDULED, JobSuspended): (S.SUSPENDED,),
    (S.SCHEDULED, JobEdited): (S.PENDING, S.SCHEDULED),
    (S.SCHEDULED, SignalReceived): (S.SCHEDULED,),
    (S.SCHEDULED, CancelRequested): (S.SCHEDULED,),
    (S.SCHEDULED, JobCancelled): (S.CANCELLED,),
    (S.SCHEDULED, JobDeadLettered): (S.DEAD,),
    (S.SCHEDULED, CompensationDue): (S.PENDING,),
    (S.PENDING, LeaseGranted): (S.RUNNING,),
    (S.PENDING, JobSuspended): (S.SUSPENDED,),
    (S.PENDING, JobEdited): (S.PENDING, S.SCHEDULED),
    (S.PENDING, SignalReceived): (S.PENDING,),
    (S.PENDING, CancelRequested): (S.PENDING,),
    (S.PENDING, JobCancelled): (S.CANCELLED,),
    (S.PENDING, JobDeadLettered): (S.DEAD,),
    (S.PENDING, CompensationDue): (S.PENDING,),
    (S.SUSPENDED, JobResumed): (S.PENDING, S.SCHEDULED, S.RETRYING),
    (S.SUSPENDED, JobSuspended): (S.SUSPENDED,),
    (S.SUSPENDED, JobEdited): (S.SUSPENDED,),
    (S.SUSPENDED, SignalReceived): (S.SUSPENDED,),
    (S.SUSPENDED, CancelRequested): (S.SUSPENDED,),
    (S.SUSPENDED, JobCancelled): (S.CANCELLED,),
    (S.SUSPENDED, JobDeadLettered): (S.DEAD,),
    (S.SUSPENDED, CompensationDue): (S.PENDING,),
    (S.RUNNING, AttemptStarted): (S.RUNNING,),
    (S.RUNNING, ProgressReported): (S.RUNNING,),
    (S.RUNNING, SignalReceived): (S.RUNNING,),
    (S.RUNNING, CancelRequested): (S.RUNNING,),
    **{(S.RUNNING, noted): (S.RUNNING,) for noted in NOTED},
    (S.RUNNING, AssetRead): (S.RUNNING,),
    (S.RUNNING, CompensationEnded): (S.PENDING,),
    (S.RUNNING, JobCompleted): (S.COMPLETED,),
    (S.RUNNING, AttemptFailed): (S.RETRYING,),
    (S.RUNNING, LeaseExpired): (S.PENDING,),
    (S.RUNNING, LeaseReleased): (S.PENDING,),
    (S.RUNNING, JobSnoozed): (S.SCHEDULED,),
    (S.RUNNING, JobSuspended): (S.SUSPENDED,),
    (S.RETRYING, RetryScheduled): (S.RETRYING,),
    (S.RETRYING, JobDue): (S.PENDING,),
    (S.RETRYING, JobSuspended): (S.SUSPENDED,),
    (S.RETRYING, SignalReceived): (S.RETRYING,),
    (S.RETRYING, CancelRequested): (S.RETRYING,),
    (S.RETRYING, JobCancelled): (S.CANCELLED,),
    (S.RETRYING, JobDeadLettered): (S.DEAD,),
    (S.RETRYING, CompensationDue): (S.PENDING,),
    (S.DEAD, JobRedriven): (S.PENDING,),
    (S.DEAD, JobRerun): (S.PENDING,),
    (S.DEAD, JobDropped): (S.DEAD,),
    (S.COMPLETED, JobRerun): (S.PENDING,),
    (S.CANCELLED, JobRerun): (S.PENDING,),
}

_NOT_FROM: Final[dict[type[Fact], str]] = {
    JobSubmitted: "already_submitted",
    JobDue: "not_waiting_for_time",
    LeaseGranted: "not_pending",
    AttemptStarted: "not_running",
    AttemptFailed: "not_running",
    LeaseExpired: "not_running",
    LeaseReleased: "not_running",
    RetryScheduled: "no_failed_attempt",
    CancelRequested: "already_finished",
    JobCompleted: "not_running",
    JobCancelled: "lease_is_live",
    JobDeadLettered: "lease_is_live",
    JobRedriven: "not_dead",
    JobRerun: "not_finished",
    JobDropped: "not_dead",
    JobSuspended: "not_suspendable",
    JobResumed: "not_suspended",
    JobSnoozed: "not_running",
    ProgressReported: "not_running",
    SignalReceived: "already_finished",
    JobEdited: "already_started",
    **dict.fromkeys(NOTED, "not_running"),
    AssetRead: "not_running",
    CompensationDue: "lease_is_live",
    CompensationEnded: "not_running",
}


def _refusal(place: Place, event: type[Fact]) -> str:
    if place is None:
        return "unknown_job"
    if place in TERMINAL and event is not JobSubmitted:
        return _NOT_FROM[event] if event in (JobRedriven, JobRerun, JobDropped) else "already_finished"
    return _NOT_FROM[event]


REFUSALS: Final[dict[tuple[Place, type[Fact]], str]] = {
    (place, event): _refusal(place, event)
    for place in (None, *State)
    for event in JOB_EVENTS
    if (place, event) not in TRANSITIONS
}


class IllegalTransition(Exception):
    """An event that the table refuses in this state: a bug in `decide`, or a record that no leader wrote."""

    def __init__(self, key: str, place: Place, event: type[Fact]) -> None:
        self.refusal = REFUSALS.get((place, event), "not_a_job_event")
        super().__init__(f"job {key}: {event.__name__} from {place or 'nothing'} is refused: {self.refusal}")


LEASES_LOST: Final = AttemptError(ErrorClass.POISON, "LeasesLost")
"""The error of a job that took its process down too often to be tried again."""


@lru_cache(1_024)  # the same few limits, several times with each record
def micros(seconds: float) -> int:
    """Seconds as log time."""
    return round(seconds * SECOND_US)


def check(job: Job | None, event: type[Fact], key: str) -> tuple[State, ...]:
    """Where the event leads by the table. Raises IllegalTransition."""
    place = None if job is None else job.state
    targets = TRANSITIONS.get((place, event))
    if targets is None:
        raise IllegalTransition(key, place, event)
    return targets


def _submitted(event: JobSubmitted, record: Record) -> Job:
    due_at = record.at if event.due_at is None else event.due_at
    return Job(  # by place as far as it goes: by name takes twice as long
        record.tenant,
        record.key,
        S.SCHEDULED if due_at > record.at else S.PENDING,
        event.task,
        event.input,
        record.actor,
        record.at,
        due_at,
        record.seq,
        event.priority,
        event.retry,
        event.limits,
        event.policy,
        event.fairness_key,
        event.concurrency_key,
        event.unique_key,
        event.after,
        event.on_dead,
        event.input_from,
        event.parent,
        event.on_parent_end,
        event.batch,
        event.schedule,
        event.approval,
        event.tags,
        round_at=record.at,
        round_due=due_at,
        reproduces=event.reproduces,
        reserve_microusd=event.reserve_microusd,
        process=event.process,
        requires=event.requires,
        trace=record.trace,
    )


def evolve(job: Job | None, event: Fact, record: Record) -> Job:
    """The job after one of a record's events. Pure and total: anything the table refuses raises."""
    target = check(job, type(event), record.key)[0]
    if isinstance(event, JobSubmitted):
        return _submitted(event, record)
    assert job is not None, "only job_submitted starts from nothing; the table says so"
    match event:  # what comes most often comes first
        case LeaseGranted(worker=worker, principal=principal, reserved_microusd=reserved):
            if event.release is not None:
                job = replace(job, release=event.release)
            token = fencing_token(record.epoch, record.seq)
            expires_at = record.at + micros(job.limits.lease_s)
            held_by = principal or record.actor
            lease = HeldLease(worker, held_by, token, record.at, expires_at, reserved_microusd=reserved)
            return replace(
                job, state=target, since=record.seq, attempt=job.attempt + 1, lease=lease, last_token=token
            )
        case JobCompleted(output=output):
            return _ended(job, target, record, output=output)
        case AttemptStarted():
            assert job.lease is not None
            return replace(job, lease=replace(job.lease, started_at=record.at))
        case ProgressReported(progress=progress):
            return replace(job, progress=progress)
        case StepIntended() | StepDone() | StepFailed() | StepCompensated() | ToolCalled() | UsageRecorded():
            return _noted(job, event, record)
        case AssetRead():
            return job
        case AttemptFailed(error=error, crashed=True):
            losses = job.lease_losses + 1
            if losses >= job.retry.max_lease_losses and job.stops is None:
                error = replace(error, class_=ErrorClass.POISON)
            return replace(job, state=target, since=record.seq, lease=None, error=error, lease_losses=losses)
        case AttemptFailed(error=error):
            return replace(
                job, state=target, since=record.seq, lease=None, error=error, failures=job.failures + 1
            )
        case LeaseExpired(losses=losses):
            return replace(job, state=target, since=record.seq, lease=None, lease_losses=losses)
        case LeaseReleased() | JobDue() | CompensationEnded():
            return replace(job, state=target, since=record.seq, lease=None)
        case JobSnoozed(due_at=due_at):
            return replace(job, state=target, since=record.seq, lease=None, due_at=due_at)
        case RetryScheduled(due_at=due_at):
            return replace(job, due_at=due_at)
        case CancelRequested(reason=reason):
            return replace(job, cancel=reason)
        case JobCancelled(reason=reason):
            return _ended(job, target, record, reason=reason)
        case JobDeadLettered(reason=dead, rule=rule, cause=cause):
            if dead is DeadReason.POISON and (job.error is None or job.error.class_ is not ErrorClass.POISON):
                # No attempt reported it, as each died with its process: this is what it died of.
                job = replace(job, error=LEASES_LOST)
            return _ended(job, target, record, reason=rule, dead=dead, cause=cause)
        case CompensationDue():
            return _compensating(job, target, event, record)
        case JobDropped(reason=reason):
            return replace(job, dropped=reason)
        case JobRedriven() | JobRerun():
            return _reopened(job, target, record, event)
        case _:
            return _evolve_waiting(job, target, event, record)


def _noted(job: Job, event: Fact, record: Record) -> Job:
    """What the holder of the lease has noted."""
    assert job.lease is not None
    called = isinstance(event, ToolCalled) and event.outcome is not ToolOutcome.DENIED
    cost = (event.cost_microusd or 0) if isinstance(event, UsageRecorded) else 0
    lease = job.lease
    return replace(
        job,
        lease=replace(lease, noted=lease.noted + 1, used_microusd=lease.used_microusd + cost),
        steps=stepped(job.steps, event, record.seq),
        tool_calls=job.tool_calls + called,
    )


def _compensating(job: Job, state: State, event: CompensationDue, record: Record) -> Job:
    """What its steps did is undone before the job ends, by attempts like any other, counted anew."""
    return replace(
        job,
        state=state,
        since=record.seq,
        due_at=record.at,
        round_due=record.at,
        wait=None,
        failures=0,
        lease_losses=0,
        stood_us=0,
        compensation=Compensation(event.rule, event.dead, event.cause),
    )


def _evolve_waiting(job: Job, target: State, event: Fact, record: Record) -> Job:
    """What may happen to a job that does not run."""
    match event:
        case JobSuspended(reason=reason, on=on, until=until, on_timeout=on_timeout):
            wait = Wait(reason, on, until, on_timeout, record.at)
            stood = _stood(job, record.at)
            asks = None if reason is WaitReason.APPROVAL else job.approval
            return replace(
                job, state=target, since=record.seq, lease=None, wait=wait, stood_us=stood, approval=asks
            )
        case JobResumed(data=data):
            state = target
            if job.due_at > record.at:
                state = S.RETRYING if job.failures and job.attempt else S.SCHEDULED
            signals = job.signals
            if data is not None and job.wait is not None:
                signals = (*signals, Signal(job.wait.reason, data, record.seq))
            return replace(
                job,
                state=state,
                since=record.seq,
                wait=None,
                stood_us=_stood(job, record.at),
                signals=signals,
            )
        case SignalReceived(name=name, data=data):
            return replace(job, signals=(*job.signals, Signal(name, data, record.seq)))
        case JobEdited(priority=priority, due_at=due_at, input=content):
            edited = replace(
                job,
                since=record.seq,
                priority=job.priority if priority is None else priority,
                due_at=job.due_at if due_at is None else due_at,
                round_due=job.round_due if due_at is None else due_at,
                input=job.input if content is None else content,
                first_input=job.first_input if content is None else job.first_input or job.input.digest,
            )
            if job.state is S.SUSPENDED:
                return edited
            return replace(edited, state=S.SCHEDULED if edited.due_at > record.at else S.PENDING)
        case _:  # pragma: no cover - the table has no row for it, so check() has raised
            raise IllegalTransition(record.key, job.state, type(event))


def _stood(job: Job, at: int) -> int:
    """How long the round has been suspended by log time `at`."""
    return job.stood_us + (0 if job.wait is None else at - job.wait.since_at)


def _reopened(job: Job, state: State, record: Record, event: JobRedriven | JobRerun) -> Job:
    """A new round of a finished job: the counts start anew, the id, the policy and the input stay."""
    return replace(
        job,
        state=state,
        since=record.seq,
        round=job.round + 1,
        round_at=record.at,
        round_due=record.at,
        due_at=record.at,
        attempt=0,
        failures=0,
        lease_losses=0,
        stood_us=0,
        cancel=None,
        output=None,
        error=None,
        progress=None,
        signals=(),
        dead=None,
        cause=None,
        operation=event.operation,
        dropped=None,
        reason=None,
        finished_at=None,
        reopened=Reopened(record.seq, event.answers, record.actor, type_names[type(event)], event.reason),
        steps=job.steps[: event.steps] if isinstance(event, JobRerun) else job.steps,
        tool_calls=0,
        compensation=None,
    )


def _ended(
    job: Job,
    state: State,
    record: Record,
    output: Sealed | None = None,
    reason: str | None = None,
    dead: DeadReason | None = None,
    cause: str | None = None,
) -> Job:
    return replace(
        job,
        state=state,
        since=record.seq,
        lease=None,
        wait=None,
        output=output,
        reason=reason,
        dead=dead,
        cause=cause,
        finished_at=record.at,
        ended_by=record.seq,
    )


def evolve_record(job: Job | None, record: Record) -> Job:
    """The job after a whole record of it."""
    before = job
    for event in record.events:
        job = evolve(job, event, record)
    assert job is not None, f"record {record.seq} holds no event"
    if job is before:
        return replace(job, records=job.records + 1)
    force_setattr(job, "records", job.records + 1)  # it was made just now, and nobody else has it yet
    return job


def renewed(job: Job, at: int) -> Job:
    """The job after a beat of its live lease at log time `at`."""
    assert job.lease is not None
    return replace(job, lease=replace(job.lease, expires_at=at + micros(job.limits.lease_s)))


def regranted(job: Job, at: int, epoch: int) -> Job:
    """The job after time resumed in a log of an epoch: its lease lives at least a whole `lease_s` from `at`.

    One that was granted in an earlier epoch is over: what became of it elsewhere is not in this log.
    """
    assert job.lease is not None
    if token_position(job.lease.token)[0] < epoch:
        return replace(job, lease=replace(job.lease, expires_at=min(job.lease.expires_at, at)))
    expires_at = max(job.lease.expires_at, at + micros(job.limits.lease_s))
    return replace(job, lease=replace(job.lease, expires_at=expires_at))


def job_deadline(job: Job) -> int:
    """When `job_timeout_s` is over. It stands still while the job is suspended."""
    return job.round_due + job.stood_us + micros(job.limits.job_timeout_s)


def next_deadline(job: Job) -> int | None:
    """The log time at which something happens to the job by itself; None where nothing will.

    In order: a delay or backoff ends; a lease expires; a time limit passes.
    """
    if job.state in TERMINAL:
        return None
    if job.wait is not None:
        return job.wait.until
    limits, lease = job.limits, job.lease
    first = job.round_due + job.stood_us + micros(limits.job_timeout_s)
    if lease is not None:
        return min(first, lease.expires_at, lease.granted_at + micros(limits.attempt_timeout_s))
    if job.state in (S.SCHEDULED, S.RETRYING):
        first = min(first, job.due_at)
    if job.attempt == 0 and limits.expires_in_s is not None and job.compensation is None:
        first = min(first, job.round_at + job.stood_us + micros(limits.expires_in_s))
    return first
