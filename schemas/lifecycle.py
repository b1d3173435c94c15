"""The lifecycle of a job: the table, and `evolve`, the only code that changes a job's state.

`TRANSITIONS` says where an event may lead from a state (one entry, or the few between which the event's own
data decide); `REFUSALS` names why every other pair is refused. Together they are total. The drawing in
`docs/reference/lifecycle.md` is made from this table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import replace

from .bounds import SECOND_US
from .errors import AttemptError
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
    JobDue,
    JobRedriven,
    JobSubmitted,
    LeaseExpired,
    LeaseGranted,
    LeaseReleased,
    RetryScheduled,
)
from .ids import fencing_token, split_job_key
from .policy import Limits, Retry
from .records import Record
from .sealed import Sealed


class State(StrEnum):
    """Where a job stands."""

    SCHEDULED = "scheduled"
    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    DEAD = "dead"


S = State
TERMINAL: Final = frozenset({S.COMPLETED, S.CANCELLED, S.DEAD})
WAITING: Final = frozenset({S.SCHEDULED, S.PENDING, S.RETRYING})
Place = State | None
"""A state, or None before the first record."""

TRANSITIONS: Final[dict[tuple[Place, type[Fact]], tuple[State, ...]]] = {
    (None, JobSubmitted): (S.PENDING, S.SCHEDULED),
    (S.SCHEDULED, JobDue): (S.PENDING,),
    (S.SCHEDULED, CancelRequested): (S.SCHEDULED,),
    (S.SCHEDULED, JobCancelled): (S.CANCELLED,),
    (S.SCHEDULED, JobDeadLettered): (S.DEAD,),
    (S.PENDING, LeaseGranted): (S.RUNNING,),
    (S.PENDING, CancelRequested): (S.PENDING,),
    (S.PENDING, JobCancelled): (S.CANCELLED,),
    (S.PENDING, JobDeadLettered): (S.DEAD,),
    (S.RUNNING, AttemptStarted): (S.RUNNING,),
    (S.RUNNING, CancelRequested): (S.RUNNING,),
    (S.RUNNING, JobCompleted): (S.COMPLETED,),
    (S.RUNNING, AttemptFailed): (S.RETRYING,),
    (S.RUNNING, LeaseExpired): (S.PENDING,),
    (S.RUNNING, LeaseReleased): (S.PENDING,),
    (S.RETRYING, RetryScheduled): (S.RETRYING,),
    (S.RETRYING, JobDue): (S.PENDING,),
    (S.RETRYING, CancelRequested): (S.RETRYING,),
    (S.RETRYING, JobCancelled): (S.CANCELLED,),
    (S.RETRYING, JobDeadLettered): (S.DEAD,),
    (S.DEAD, JobRedriven): (S.PENDING,),
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
}


def _refusal(place: Place, event: type[Fact]) -> str:
    if place is None:
        return "unknown_job"
    if place in TERMINAL and event is not JobSubmitted and event is not JobRedriven:
        return "already_finished"
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


class HeldLease(msgspec.Struct, frozen=True):
    """The live lease of a running job; times are log time in microseconds."""

    worker: str
    principal: str
    token: int
    granted_at: int
    expires_at: int
    started_at: int | None = None


class Job(msgspec.Struct, frozen=True):
    """One job as its records tell it. Times are log time in microseconds.

    `attempt` counts grants in this round, `failures` and `lease_losses` what the policy counts. `since` is
    the sequence at which it entered its state, which orders a queue. `last_token` is the newest lease's,
    kept after the lease ended so that a repeated report is known. `round_at` and `round_due` are when this
    round was opened and when it was first due. `ended_by` is the terminal record.
    """

    tenant: str
    key: str
    state: State
    task: str
    input: Sealed
    actor: str
    submitted_at: int
    due_at: int
    since: int
    priority: int
    retry: Retry
    limits: Limits
    policy: int
    round: int = 1
    attempt: int = 0
    failures: int = 0
    lease_losses: int = 0
    records: int = 0
    round_at: int = 0
    round_due: int = 0
    lease: HeldLease | None = None
    last_token: int = 0
    cancel: str | None = None
    output: Sealed | None = None
    error: AttemptError | None = None
    dead: DeadReason | None = None
    reason: str | None = None
    finished_at: int | None = None
    ended_by: int = 0

    @property
    def queue(self) -> str:
        return split_job_key(self.key)[0]

    @property
    def id(self) -> str:
        return split_job_key(self.key)[1]


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
    return Job(
        tenant=record.tenant,
        key=record.key,
        state=S.SCHEDULED if due_at > record.at else S.PENDING,
        task=event.task,
        input=event.input,
        actor=record.actor,
        submitted_at=record.at,
        due_at=due_at,
        since=record.seq,
        priority=event.priority,
        retry=event.retry,
        limits=event.limits,
        policy=event.policy,
        round_at=record.at,
        round_due=due_at,
    )


def evolve(job: Job | None, event: Fact, record: Record) -> Job:
    """The job after one of a record's events. Pure and total: anything the table refuses raises."""
    (target, *_) = check(job, type(event), record.key)
    if isinstance(event, JobSubmitted):
        return _submitted(event, record)
    assert job is not None, "only job_submitted starts from nothing; the table says so"
    match event:
        case LeaseGranted(worker=worker, principal=principal):
            token = fencing_token(record.epoch, record.seq)
            expires_at = record.at + micros(job.limits.lease_s)
            lease = HeldLease(worker, principal or record.actor, token, record.at, expires_at)
            return replace(
                job, state=target, since=record.seq, attempt=job.attempt + 1, lease=lease, last_token=token
            )
        case AttemptStarted():
            assert job.lease is not None
            return replace(job, lease=replace(job.lease, started_at=record.at))
        case JobCompleted(output=output):
            return _ended(job, target, record, output=output)
        case AttemptFailed(error=error):
            return replace(
                job, state=target, since=record.seq, lease=None, error=error, failures=job.failures + 1
            )
        case LeaseExpired(losses=losses):
            return replace(job, state=target, since=record.seq, lease=None, lease_losses=losses)
        case LeaseReleased():
            return replace(job, state=target, since=record.seq, lease=None)
        case RetryScheduled(due_at=due_at):
            return replace(job, due_at=due_at)
        case JobDue():
            return replace(job, state=target, since=record.seq)
        case CancelRequested(reason=reason):
            return replace(job, cancel=reason)
        case JobCancelled(reason=reason):
            return _ended(job, target, record, reason=reason)
        case JobDeadLettered(reason=dead, rule=rule):
            return _ended(job, target, record, reason=rule, dead=dead)
        case JobRedriven():
            return replace(
                job,
                state=target,
                since=record.seq,
                round=job.round + 1,
                round_at=record.at,
                round_due=record.at,
                due_at=record.at,
                attempt=0,
                failures=0,
                lease_losses=0,
                cancel=None,
                error=None,
                dead=None,
                reason=None,
                finished_at=None,
            )
        case _:  # pragma: no cover - the table has no row for it, so check() has raised
            raise IllegalTransition(record.key, job.state, type(event))


def _ended(
    job: Job,
    state: State,
    record: Record,
    output: Sealed | None = None,
    reason: str | None = None,
    dead: DeadReason | None = None,
) -> Job:
    return replace(
        job,
        state=state,
        since=record.seq,
        lease=None,
        output=output,
        reason=reason,
        dead=dead,
        finished_at=record.at,
        ended_by=record.seq,
    )


def evolve_record(job: Job | None, record: Record) -> Job:
    """The job after a whole record of it."""
    for event in record.events:
        job = evolve(job, event, record)
    assert job is not None, f"record {record.seq} holds no event"
    return replace(job, records=job.records + 1)


def renewed(job: Job, at: int) -> Job:
    """The job after a beat of its live lease at log time `at`."""
    assert job.lease is not None
    return replace(job, lease=replace(job.lease, expires_at=at + micros(job.limits.lease_s)))


def regranted(job: Job, at: int) -> Job:
    """The job after time resumed: its lease lives at least a whole `lease_s` from `at`."""
    assert job.lease is not None
    expires_at = max(job.lease.expires_at, at + micros(job.limits.lease_s))
    return replace(job, lease=replace(job.lease, expires_at=expires_at))


def job_deadline(job: Job) -> int:
    """When `job_timeout_s` is over."""
    return job.round_due + micros(job.limits.job_timeout_s)


def next_deadline(job: Job) -> int | None:
    """The log time at which something happens to the job by itself; None where nothing will.

    In order: a delay or backoff ends; a lease expires; a time limit passes.
    """
    if job.state in TERMINAL:
        return None
    times = [job_deadline(job)]
    if job.state in (S.SCHEDULED, S.RETRYING):
        times.append(job.due_at)
    if job.attempt == 0 and job.limits.expires_in_s is not None:
        times.append(job.round_at + micros(job.limits.expires_in_s))
    if job.lease is not None:
        times.append(job.lease.expires_at)
        times.append(job.lease.granted_at + micros(job.limits.attempt_timeout_s))
    return min(times)
