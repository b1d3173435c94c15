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
    job_dropped          a dead letter is settled for good
    job_rerun            any finished job is pending again: a new round

and on the way, without a place in that order:

    job_suspended        waits for somebody or something, with one reason; holds no lease
    job_resumed          what it waited for came, or the wait ran out
    job_snoozed          the task asked to be run later; uses up no attempt
    progress_reported    what the running attempt says of itself
    signal_received      data for the job from outside
    job_edited           changed by an operator before it started

and those of recorded steps, tools, usage and compensation (`steps.py`).

Others: leases_renewed, worker_seen (worker); leader_elected, time_resumed, barrier, log_restored,
records_raised (partition);
queue_declared, queue_paused, queue_draining, queue_resumed (queue); batch_sealed, batch_ended (batch);
operation_planned, operation_ended (operation); content_erased (subject); hold_placed, hold_lifted (hold);
history_long, alarm_raised (incident); command_rejected, report_rejected, rejections_folded and those of
`principals.py` (principal); tenant_created, tenant_declared and those of `quotas.py` (tenant);
partition_opened (partition), message_sent, message_accepted, message_settled (link); price_set (prices);
asset_set, asset_removed (asset), and asset_read of a job;
those of `processes.py` (process) and `gates.py` (gate);
worker_drained, worker_undrained (worker, see `fleet.py`).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

import msgspec

from .assets import ASSET_EVENTS, AssetRead
from .backups import LogRestored
from .errors import AttemptError, ErrorClass
from .facts import Fact as Fact  # noqa: PLC0414  # told as one of these
from .fleet import FLEET_EVENTS
from .gates import GATE_EVENTS
from .links import LINK_EVENTS, PartitionOpened
from .policy import DEFAULT_LIMITS, DEFAULT_RETRY, Isolation, Limits, PositiveSeconds, QueuePolicy, Retry
from .prices import PriceSet
from .principals import PRINCIPAL_EVENTS
from .processes import PROCESS_EVENTS
from .quotas import QUOTA_EVENTS
from .rejections import Rejection
from .schedules import SCHEDULE_EVENTS
from .sealed import Sealed
from .states import DeadReason as DeadReason  # noqa: PLC0414 - a part of the events
from .states import State
from .steps import STEP_EVENTS, Reproduces
from .tenants import TenantDeclared
from .upgrading import RECORDS, RecordsRaised, written


class WaitReason(StrEnum):
    """What a suspended job waits for."""

    APPROVAL = "approval"
    SIGNAL = "signal"
    CHILD = "child"
    DEPENDENCY = "dependency"
    FROZEN = "frozen"
    PAUSED = "paused"
    EXHAUSTED = "exhausted"


class OnTimeout(StrEnum):
    """What a wait ends in when nobody came: the job goes on, or is dead-lettered."""

    RESUME = "resume"
    DEAD_LETTER = "dead_letter"


class OnDead(StrEnum):
    """What becomes of a job when one that it comes after ends otherwise than completed."""

    DEAD_LETTER = "dead_letter"
    CANCEL = "cancel"
    SUSPEND = "suspend"
    RUN = "run"


class OnParentEnd(StrEnum):
    """What becomes of a child when its parent ends otherwise than completed."""

    CANCEL = "cancel"
    ABANDON = "abandon"
    """It goes on alone."""


class Approval(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """A person must say yes before the job runs: within `timeout_s`, or `on_timeout` decides."""

    timeout_s: PositiveSeconds | None = None
    on_timeout: OnTimeout = OnTimeout.DEAD_LETTER


class JobSubmitted(Fact, frozen=True):
    """`due_at` is log time in microseconds; left out, the job is due at once.

    `after` are the keys of jobs that must complete first, `on_dead` what happens if one ends otherwise;
    `input_from` names fields of the input that take the output of one of them. `parent` is the key of the
    job that started it, `batch` the group it counts in, `schedule` the key of what fired it. `approval` is
    asked for when the job has waited for those before it. `reproduces` is the run that it repeats, whose
    steps and tools answer from the record.

    `policy` is the version of the queue's policy that it was accepted under; 0 is the built-in one. `tags` is
    a JSON object of strings. `reserve_microusd` is what an attempt may cost, where submit or queue says so.
    `process` is the release that it asks for: `NAME@` and a digest, or an alias.
    `requires` are the labels that its worker must have, its own and the queue's.
    """

    task: str
    input: Sealed
    due_at: int | None = None
    priority: int = 3
    retry: Retry = DEFAULT_RETRY
    limits: Limits = DEFAULT_LIMITS
    policy: int = 0
    fairness_key: str | None = None
    concurrency_key: str | None = None
    unique_key: str | None = None
    after: tuple[str, ...] = ()
    on_dead: OnDead = OnDead.DEAD_LETTER
    input_from: dict[str, str] = {}
    parent: str | None = None
    on_parent_end: OnParentEnd = OnParentEnd.CANCEL
    batch: str | None = None
    schedule: str | None = None
    approval: Approval | None = None
    reproduces: Reproduces | None = None
    tags: Sealed | None = None
    reserve_microusd: int | None = None
    process: str | None = None
    requires: dict[str, str] = {}


class JobDue(Fact, frozen=True):
    """A delay or backoff is over."""


class LeaseGranted(Fact, frozen=True):
    """The fencing token is `epoch * 2**40 + seq` of this record.

    `principal` is the worker's, where it is not the record's actor. `isolation` is what the worker offered.
    `reserved_microusd` of the tenant's budget are set apart for the attempt.
    `release` is the digest of the release to run, of a job that names one, and `labels` are the worker's,
    told where the job demands some.
    """

    worker: str
    attempt: int
    principal: str | None = None
    isolation: Isolation = Isolation.NONE
    reserved_microusd: int = 0
    release: str | None = None
    labels: dict[str, str] = {}


class AttemptStarted(Fact, frozen=True):
    attempt: int
    token: int


class AttemptFailed(Fact, frozen=True):
    """`run_ms` is the worker's own measure; `retry_after_s` its wish, obeyed when later than the policy.

    `isolation` is the level that the attempt ran at. Where it `crashed`, its process died: that counts
    against `max_lease_losses`. A
    `permanent` one would fail again, whoever tried.
    """

    attempt: int
    token: int
    error: AttemptError
    run_ms: int | None = None
    retry_after_s: float | None = None
    isolation: Isolation = Isolation.NONE
    crashed: bool = False
    permanent: bool = False


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

    `base_s` is the delay before jitter, `seed` the draw in 0 to 1 that places it within the jitter;
    `budget_at` is when the queue's retry budget allowed it, where that was later than now.
    """

    due_at: int
    rule: str
    failures: int
    max_attempts: int
    base_s: float
    jitter: float
    seed: float
    retry_after_s: float | None = None
    budget_at: int | None = None


class CancelRequested(Fact, frozen=True):
    reason: str


class JobCompleted(Fact, frozen=True):
    attempt: int
    token: int
    output: Sealed | None = None
    run_ms: int | None = None
    isolation: Isolation = Isolation.NONE


class JobCancelled(Fact, frozen=True):
    reason: str


class JobDeadLettered(Fact, frozen=True):
    """`rule` says in words which limit or list decided, with its numbers; `cause` is its fingerprint."""

    reason: DeadReason
    rule: str
    cause: str | None = None


class JobRedriven(Fact, frozen=True):
    """`answers` is the sequence of the terminal record that this round answers.

    `operation` is the key of the one that did it, where it was not a person.
    """

    answers: int
    reason: str
    operation: str | None = None


class JobRerun(Fact, frozen=True):
    """`answers` is the sequence of the terminal record that this round answers.

    `operation` is the key of the one that did it, where it was not a person. The first `steps` of the
    recorded steps are kept: the round goes on behind them.
    """

    answers: int
    reason: str
    operation: str | None = None
    steps: int = 0


class JobDropped(Fact, frozen=True):
    """An operator settled a dead letter: it stays dead, and is listed as one no more."""

    reason: str


class JobSuspended(Fact, frozen=True):
    """`until` is log time at which the wait ends by itself, in `on_timeout`. `on` names what is waited for.

    Where a running attempt asked for it, `attempt` and `token` are that attempt's, and its lease ends here.
    """

    reason: WaitReason
    rule: str
    on: tuple[str, ...] = ()
    until: int | None = None
    on_timeout: OnTimeout = OnTimeout.DEAD_LETTER
    attempt: int | None = None
    token: int | None = None


class JobResumed(Fact, frozen=True):
    """`rule` says what ended the wait; `data` is what came with it."""

    reason: WaitReason
    rule: str
    data: Sealed | None = None


class JobSnoozed(Fact, frozen=True):
    attempt: int
    token: int
    due_at: int


class ProgressReported(Fact, frozen=True):
    attempt: int
    token: int
    progress: Sealed


class SignalReceived(Fact, frozen=True):
    name: str
    data: Sealed


class JobEdited(Fact, frozen=True):
    """What an operator changed; what is left out is as it was."""

    reason: str
    priority: int | None = None
    due_at: int | None = None
    input: Sealed | None = None


class QueueDeclared(Fact, frozen=True):
    """`version` grows by one with each; `policy` is whole, not a difference."""

    version: int
    policy: QueuePolicy
    reason: str = ""


class QueuePaused(Fact, frozen=True):
    """No more grants; submits are taken."""

    reason: str


class QueueDraining(Fact, frozen=True):
    """No more submits; what is there is worked off."""

    reason: str


class QueueResumed(Fact, frozen=True):
    reason: str


class BatchSealed(Fact, frozen=True):
    """The batch is `size` jobs: it ends when so many have ended."""

    size: int
    reason: str = ""


class BatchEnded(Fact, frozen=True):
    """All jobs of a batch have ended; how many in which state."""

    completed: int
    dead: int
    cancelled: int


class Filter(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """Which jobs of a queue are meant: those that match all that is given. None given means all."""

    states: tuple[State, ...] = ()
    task: str | None = None
    cause: str | None = None
    dead_reason: DeadReason | None = None
    error_class: ErrorClass | None = None
    error_type: str | None = None
    ids: tuple[str, ...] | None = None


class OperationVerb(StrEnum):
    """What an operation does to each job that its filter matches."""

    REDRIVE = "redrive"
    RERUN = "rerun"
    CANCEL = "cancel"
    TERMINATE = "terminate"
    DROP = "drop"
    PAUSE = "pause"
    RESUME = "resume"


class OperationPlanned(Fact, frozen=True):
    """Jobs of one queue that `filter` matched at this record, `matched` of them, get `verb` one by one.

    At most `limit` of them (0: all), `rate_per_s` a second; first `canary` of them alone, and the rest when
    those have completed; it stops when `stop_after` of those that it reopened have died again (0: never).
    """

    verb: OperationVerb
    filter: Filter
    reason: str
    matched: int
    limit: int = 0
    rate_per_s: float | None = None
    canary: int = 0
    stop_after: int = 0


class OperationEnded(Fact, frozen=True):
    """`done` jobs were changed, and why it ended there."""

    reason: str
    done: int


class ContentErased(Fact, frozen=True):
    """The key that the record's key names is destroyed: the content of `count` jobs is gone."""

    count: int
    reason: str


class HoldPlaced(Fact, frozen=True):
    """Jobs of the queue that `filter` matches are not erased."""

    filter: Filter
    reason: str


class HoldLifted(Fact, frozen=True):
    reason: str


class HistoryLong(Fact, frozen=True):
    """The job that the record's key names has so many records, of which `limit` call for a warning.

    Told once in each of its rounds; at a further bound it is dead-lettered.
    """

    records: int
    limit: int


class AlarmKind(StrEnum):
    """What an alarm is about."""

    STREAM_CHANGED = "stream_changed"
    """Somebody has changed or deleted a stream, or has made it anew."""

    RECORDS_MISSING = "records_missing"
    LOG_DIFFERS = "log_differs"
    """The log does not go on from what was signed of it."""

    MIRROR_DIFFERS = "mirror_differs"

    BREAK_GLASS = "break_glass"
    """Somebody has connected as the broker's user for emergencies, who may do anything there."""


class AlarmRaised(Fact, frozen=True):
    """A component of Writ found what nobody who keeps to the rules can have done.

    The record's key names the stream.
    """

    alarm: AlarmKind
    reason: str


class Renewal(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One lease in a beat: the job's key and the token."""

    key: str
    token: int


class LeasesRenewed(Fact, frozen=True):
    """Each lease named lives `lease_s` of its job from this record on."""

    leases: tuple[Renewal, ...]


class WorkerSeen(Fact, frozen=True):
    """What the worker named by the record's key says of itself: where it runs, Writ's version, its slots,
    its labels, and the queues that it works on.
    """

    host: str
    version: str
    slots: int
    tasks: dict[str, str] = {}
    """What its tasks take, as JSON Schemas by name; empty where that is as it was."""
    labels: dict[str, str] = {}
    queues: tuple[str, ...] = ()


class LeaderElected(Fact, frozen=True):
    """A new leader; each live lease gets at least a whole lease from here, as it could not be renewed.

    `records` is the version of records that it writes: that of the log, in an empty one the newest.
    """

    leader: str
    version: str
    previous: str | None = None
    records: int = 1


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


class RefusedReport(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
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
    JobRerun,
    JobDropped,
    JobSuspended,
    JobResumed,
    JobSnoozed,
    ProgressReported,
    SignalReceived,
    JobEdited,
    *STEP_EVENTS,
    AssetRead,
)
OTHER_EVENTS: Final[tuple[type[Fact], ...]] = (
    LeasesRenewed,
    WorkerSeen,
    LeaderElected,
    TimeResumed,
    Barrier,
    PartitionOpened,
    LogRestored,
    RecordsRaised,
    *LINK_EVENTS,
    QueueDeclared,
    QueuePaused,
    QueueDraining,
    QueueResumed,
    BatchSealed,
    BatchEnded,
    OperationPlanned,
    OperationEnded,
    ContentErased,
    HoldPlaced,
    HoldLifted,
    HistoryLong,
    AlarmRaised,
    CommandRejected,
    ReportRejected,
    RejectionsFolded,
    PriceSet,
    TenantDeclared,
    *QUOTA_EVENTS,
    *ASSET_EVENTS,
    *FLEET_EVENTS,
    *PRINCIPAL_EVENTS,
    *SCHEDULE_EVENTS,
    *PROCESS_EVENTS,
    *GATE_EVENTS,
)
for _cls in JOB_EVENTS + OTHER_EVENTS:
    type_names[_cls] = _WORD.sub("_", _cls.__name__).lower()

EVENT_TYPES: Final[dict[str, type[Fact]]] = {name: cls for cls, name in type_names.items()}
VERSIONS: Final[dict[str, int]] = dict.fromkeys(EVENT_TYPES, 1) | written(RECORDS)
"""The newest version of each event type: the one that the newest version of records writes."""
