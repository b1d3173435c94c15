"""Every event of the log, past tense, one frozen Struct each.

On the wire an event is `{"type": ..., "v": ..., "data": {...}}`; the Struct is the data. The type is the
class name in snake case, and `VERSIONS` holds the version now written. A field's default never changes and a
field is never dropped or renamed within a version: raise the version and add an upcast (`codec.py`).

Job events, in the order a job meets them:

    job_submitted        accepted; due now or later
    job_due              its time has come
    lease_granted        one worker holds the right to run one attempt
    attempt_started      the worker says that user code runs
    attempt_failed       the worker reported a failure, or a time limit ended the attempt
    lease_expired        nobody renewed it
    lease_released       the worker gave it back unfinished (drain)
    retry_scheduled      decided after a failure: again, at a time
    cancel_requested     an operator wants it ended
    job_completed        terminal
    job_cancelled        terminal
    job_dead_lettered    terminal, with a reason; an operator may redrive it
    job_redriven         a dead letter is pending again: a new round

Others: leases_renewed (worker); leader_elected, time_resumed, barrier (partition);
command_rejected, report_rejected, rejections_folded (principal).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

import msgspec

from .errors import AttemptError
from .policy import Limits, Retry
from .rejections import Rejection
from .sealed import Sealed


class Fact(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of all event data."""


class DeadReason(StrEnum):
    """Why a job was dead-lettered."""

    EXHAUSTED = "exhausted"
    NON_RETRYABLE = "non_retryable"
    POLICY = "policy"
    POISON = "poison"
    EXPIRED = "expired"
    JOB_TIMEOUT = "job_timeout"
    HISTORY_LIMIT = "history_limit"


class JobSubmitted(Fact, frozen=True):
    """`due_at` is log time in microseconds; left out, the job is due at once.

    `policy` is the version of the queue's policy that it was accepted under; 0 is the built-in one.
    """

    task: str
    input: Sealed
    due_at: int | None = None
    priority: int = 3
    retry: Retry = Retry()
    limits: Limits = Limits()
    policy: int = 0


class JobDue(Fact, frozen=True):
    """A delay or backoff is over."""


class LeaseGranted(Fact, frozen=True):
    """The fencing token is `epoch * 2**40 + seq` of this record.

    `principal` is the worker's, where it is not the record's actor.
    """

    worker: str
    attempt: int
    principal: str | None = None


class AttemptStarted(Fact, frozen=True):
    attempt: int
    token: int


class AttemptFailed(Fact, frozen=True):
    """`run_ms` is the worker's own measure; `retry_after_s` its wish, obeyed when later than the policy."""

    attempt: int
    token: int
    error: AttemptError
    run_ms: int | None = None
    retry_after_s: float | None = None


class LeaseExpired(Fact, frozen=True):
    """`expires_at` is the deadline that passed; `losses` counts this one."""

    attempt: int
    token: int
    worker: str
    expires_at: int
    losses: int
    max_lease_losses: int


class LeaseReleased(Fact, frozen=True):
    attempt: int
    token: int
    reason: str


class RetryScheduled(Fact, frozen=True):
    """All that the delay was computed from: `due_at = at + delay`, see `Retry`.

    `base_s` is the delay before jitter, `seed` the draw in 0 to 1 that places it within the jitter.
    """

    due_at: int
    rule: str
    failures: int
    max_attempts: int
    base_s: float
    jitter: float
    seed: float
    retry_after_s: float | None = None


class CancelRequested(Fact, frozen=True):
    reason: str


class JobCompleted(Fact, frozen=True):
    attempt: int
    token: int
    output: Sealed | None = None
    run_ms: int | None = None


class JobCancelled(Fact, frozen=True):
    reason: str


class JobDeadLettered(Fact, frozen=True):
    """`rule` says in words which limit or list decided, with its numbers."""

    reason: DeadReason
    rule: str


class JobRedriven(Fact, frozen=True):
    """`answers` is the sequence of the terminal record that this round answers."""

    answers: int
    reason: str


class Renewal(msgspec.Struct, frozen=True, array_like=True):
    """One lease in a beat: the job's key and the token."""

    key: str
    token: int


class LeasesRenewed(Fact, frozen=True):
    """Each lease named lives `lease_s` of its job from this record on."""

    leases: tuple[Renewal, ...]


class LeaderElected(Fact, frozen=True):
    """A new leader; each live lease gets at least a whole lease from here, as it could not be renewed."""

    leader: str
    version: str
    previous: str | None = None


class TimeResumed(Fact, frozen=True):
    """The log could not be written for `gap_ms`; leases get their time back as with `leader_elected`."""

    gap_ms: int


class Barrier(Fact, frozen=True):
    """Nothing changed; proof that the leader still led when it answered."""


class CommandRejected(Fact, frozen=True):
    """A command was refused. `refused` names each refused element of an array by its index.

    `count` is how many were refused in all, as the list is bounded.
    """

    verb: str
    refused: tuple[Rejection, ...]
    queue: str = ""
    count: int = 1


class RefusedReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One report, or renewal, that was not from the live lease. `job` is the job's key."""

    job: str
    token: int
    rejection: Rejection


class ReportRejected(Fact, frozen=True):
    """What a worker said in one message about leases that it does not hold; nothing changed by it."""

    verb: str
    worker: str
    refused: tuple[RefusedReport, ...]


class RejectionsFolded(Fact, frozen=True):
    """More refusals than are recorded singly: their number, since the last such record."""

    count: int
    last: Rejection


type_names: dict[type[Fact], str] = {}
"""Event class to the name on the wire."""

_WORD: Final = re.compile(r"(?<!^)(?=[A-Z])")

JOB_EVENTS: Final[tuple[type[Fact], ...]] = (
    JobSubmitted,
    JobDue,
    LeaseGranted,
    AttemptStarted,
    AttemptFailed,
    LeaseExpired,
    LeaseReleased,
    RetryScheduled,
    CancelRequested,
    JobCompleted,
    JobCancelled,
    JobDeadLettered,
    JobRedriven,
)
OTHER_EVENTS: Final[tuple[type[Fact], ...]] = (
    LeasesRenewed,
    LeaderElected,
    TimeResumed,
    Barrier,
    CommandRejected,
    ReportRejected,
    RejectionsFolded,
)
for _cls in JOB_EVENTS + OTHER_EVENTS:
    type_names[_cls] = _WORD.sub("_", _cls.__name__).lower()

EVENT_TYPES: Final[dict[str, type[Fact]]] = {name: cls for cls, name in type_names.items()}
VERSIONS: Final[dict[str, int]] = dict.fromkeys(EVENT_TYPES, 1)
"""The version of each event type that is written now."""
