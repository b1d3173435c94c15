"""Reads of the views: `writ.query.<tenant>.<principal>.<verb>`, request and answer as JSON.

Verbs: `jobs` (JobsQuery -> JobsPage), `dead` (DeadQuery -> DeadPage), `job` (JobQuery -> JobsPage), `records`
(RecordsQuery -> RecordsPage), `log` (LogQuery -> RecordsPage), `stretch` (StretchQuery -> StretchPage),
`queues` (QueuesQuery -> QueuesPage), `schedules` (SchedulesQuery -> SchedulesPage), `operations`
(OperationsQuery -> OperationsPage), `batches` (BatchesQuery -> BatchesPage), `holds` (HoldsQuery ->
HoldsPage), `status` (StatusQuery -> NodeStatus); `verbs.py` lists them all. An answer has `error` where the
query was refused.

Every query but `status` waits until the view has reached the log's last record at the time of asking, so
that nobody misses what they were already told; `max_wait_s` bounds the wait and is answered `try_later`. A
`job` query for an unknown id is answered with no jobs.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .commands import Answer, Command, JobKey, Token
from .errors import ErrorClass
from .events import DeadReason, Filter, OnTimeout, OperationVerb, WaitReason
from .forms import QueueName
from .lifecycle import State
from .policy import QueuePolicy
from .processes import Digest
from .queues import Mode
from .schedules import ScheduleSpec

Timestamp = str
"""RFC 3339, UTC, with microseconds: `2026-01-31T12:00:00.000000Z`."""


Moment = Annotated[datetime.datetime, Meta(tz=True)]
Place = Annotated[str, Meta(pattern=r"^([0-9]{1,18}|@[0-9]{1,2}:[0-9]{0,18})$(?!\n)")]
SEQUENCE_MAX: Final = 2**63 - 1
SEARCH_MAX_CHARS: Final = 500


class Query(Command, frozen=True, kw_only=True):
    """`min_position` asks for a view at least as new as this log sequence; None means the newest.

    A sequence that the log has not reached is refused: no answer has ever named it.
    """

    min_position: Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)] | None = None
    max_wait_s: Annotated[float, Meta(ge=0, le=30)] = 5.0


class NewestFirst(Query, frozen=True, kw_only=True):
    """Base of lists of what happened, newest first, from log time `since` on and before `until`.

    `cursor` is the `next` of the page before. A page looks at so many rows at most: with rare filters it may
    hold less than `limit`, and still have a `next`.
    """

    since: Moment | None = None
    until: Moment | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    cursor: Place | None = None


class JobsQuery(NewestFirst, frozen=True, kw_only=True):
    """Jobs that match all filters that are given, by the time of their submit.

    `batch`, `schedule` and `operation` are names, and `parent` a key, `<queue>~<id>`. The jobs of an
    operation are all that it changed, those of a `release`, by its digest, had a lease for it.
    `error_class` is that of the last error, `actor` who submitted it, and `cause` that of a dead letter
    which nobody has settled. A job has all the `tags`. `search` are words that are all in its input or last
    error, those in double quotes together. It takes a node that was started with it, and finds nothing in
    sealed content. `waits_for` is the reason for which a job is suspended.
    """

    states: tuple[State, ...] = ()
    queue: QueueName | None = None
    task: str | None = None
    batch: Token | None = None
    parent: JobKey | None = None
    schedule: Token | None = None
    operation: Token | None = None
    release: Digest | None = None
    error_class: ErrorClass | None = None
    actor: Token | None = None
    cause: Token | None = None
    tags: dict[str, str] = {}
    search: Annotated[str, Meta(min_length=1, max_length=SEARCH_MAX_CHARS)] | None = None
    waits_for: WaitReason | None = None


class JobQuery(Query, frozen=True, kw_only=True):
    """The jobs with this id: one, unless several queues have one and `queue` is not given."""

    id: Token
    queue: QueueName | None = None


class RecordsQuery(Query, frozen=True, kw_only=True):
    """The records of one job as stored, after a sequence, oldest first.

    `context` adds the records of other aggregates that move its lease: beats and changes of leader. With
    `reveal` sealed content is opened, as far as it was not erased: those are no longer the bytes of the log.
    """

    id: Token
    queue: QueueName
    after: Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)] = 0
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    context: bool = False
    reveal: bool = False


class LogQuery(Query, frozen=True, kw_only=True):
    """Records of the tenant as stored, after a sequence, oldest first: of all, or of one kind of aggregate.

    With `queue` they are those of the queue and of what is named within it: its jobs, schedules, batches and
    operations; with `id` as well, those of the one of this name.
    """

    after: Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)] = 0
    kind: Token | None = None
    queue: QueueName | None = None
    id: Token | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 100

    def holds(self, kind: str, key: str) -> bool:
        """Whether the record of an aggregate is asked for."""
        if self.kind is not None and kind != self.kind:
            return False
        if self.id is not None:
            return key == f"{self.queue}~{self.id}"
        return self.queue is None or key == self.queue or key.startswith(f"{self.queue}~")


class StretchQuery(Query, frozen=True, kw_only=True):
    """The records of the tenant and of the partition itself, as stored, after a sequence, oldest first.

    It reads the log, not a view: only `after` and `limit` count.
    """

    after: Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)] = 0
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 10_000


class GovernedQuery(Query, frozen=True, kw_only=True):
    """Of one queue or all, in the order of queue and name; `cursor` is the `next` of the page before."""

    queue: QueueName | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    cursor: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_\-+=:@/,~#]{1,520}$(?!\n)")] | None = None


class HoldsQuery(GovernedQuery, frozen=True, kw_only=True):
    """Holds by name; those that were lifted only where they are asked for."""

    name: Token | None = None
    lifted: bool = False


class QueuesQuery(GovernedQuery, frozen=True, kw_only=True):
    """Queues that have jobs, or that somebody declared, paused or drained.

    `history` adds what was done to each, newest first, at most 100.
    """

    history: bool = False


class SchedulesQuery(GovernedQuery, frozen=True, kw_only=True):
    """Schedules, with the next `times` at which each is due; `deleted` lists those too.

    `history` adds what was done to each and its due times, newest first, about 100 of each at most.
    """

    name: Token | None = None
    times: Annotated[int, Meta(ge=0, le=100)] = 5
    deleted: bool = False
    history: bool = False


class OperationsQuery(GovernedQuery, frozen=True, kw_only=True):
    """Operations on many jobs."""

    id: Token | None = None


class BatchesQuery(GovernedQuery, frozen=True, kw_only=True):
    """Batches, with their jobs by state; `history` adds who sealed it, and its end."""

    batch: Token | None = None
    history: bool = False


class DeadQuery(GovernedQuery, frozen=True, kw_only=True):
    """Dead letters that nobody has settled, by queue and cause; with `largest` the cause of most comes first.

    A page of the largest goes on from how many there were: what changes meanwhile may come twice, or not.
    """

    task: str | None = None
    cause: Token | None = None
    largest: bool = False


class StatusQuery(Query, frozen=True, kw_only=True):
    """Is the node up, who leads, how far behind are the views."""


class ErrorView(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last error of a job, with its text where this reader may read it."""

    class_: str = msgspec.field(name="class")
    type: str
    text: str | None = None


class WaitView(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a suspended job waits for: `on` names it, and at `until` the wait ends by itself."""

    reason: WaitReason
    since: Timestamp
    on: tuple[str, ...] = ()
    until: Timestamp | None = None
    on_timeout: OnTimeout | None = None


class JobView(msgspec.Struct, frozen=True):
    """A job as a view shows it. `error` is the last one, also of a job that completed or waits to retry.

    `cause` groups dead letters, and `dropped` says why one was settled. `cancel` is the reason of a cancel
    that the worker has not obeyed yet, `policy` the version of the queue's policy that it runs under.
    `process` is the release that it asks for, and `release` the digest of the one that its newest lease was
    for.
    """

    id: str
    tenant: str
    queue: str
    task: str
    state: State
    attempt: int
    input: msgspec.Raw
    output: msgspec.Raw
    error: ErrorView | None
    release: str | None
    actor: str
    submitted_at: Timestamp
    finished_at: Timestamp | None
    priority: int
    due_at: Timestamp
    round: int
    failures: int
    lease_losses: int
    worker: str | None
    lease_expires_at: Timestamp | None
    reason: str | None
    dead_reason: DeadReason | None
    seq: int
    """Log sequence of the newest record of the job."""

    wait: WaitView | None = None
    cause: str | None = None
    dropped: str | None = None
    cancel: str | None = None
    progress: msgspec.Raw = msgspec.Raw(b"null")
    policy: int = 0
    fairness_key: str | None = None
    concurrency_key: str | None = None
    unique_key: str | None = None
    after: tuple[str, ...] = ()
    parent: str | None = None
    batch: str | None = None
    schedule: str | None = None
    operation: str | None = None
    process: str | None = None
    tags: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    requires: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    """Labels that its worker must have."""

    ended_by: int | None = None
    """Log sequence of its terminal record, while it has ended: what a redrive or rerun answers."""


class JobsPage(Answer, frozen=True):
    jobs: tuple[JobView, ...] = ()
    next: str | None = None


class DeadView(msgspec.Struct, frozen=True):
    """How many dead letters a queue has of one cause; `newest` is the one of them that was submitted last."""

    queue: str
    tenant: str
    cause: str
    count: int
    newest: JobView


class DeadPage(Answer, frozen=True):
    causes: tuple[DeadView, ...] = ()
    next: str | None = None


class RecordView(msgspec.Struct, frozen=True):
    """A stored record: `record` is the body exactly as stored."""

    seq: int
    subject: str
    stored_at: Timestamp
    record: msgspec.Raw


class RecordsPage(Answer, frozen=True):
    """`more` where records after the last one here remain: ask again with `after` set to it."""

    records: tuple[RecordView, ...] = ()
    more: bool = False


class StretchPage(Answer, frozen=True):
    """A part of the log of a partition; `last` is its newest sequence now; `whole` says that none is missing.

    Where it is not, records of other tenants lie between. Ask again with `after` set to `upto` while that is
    before `last`. `position` is how far the jobs view has read, and `digest` that of the record there as it
    was then: who reads another one there, or finds the log to end before, knows that it was changed since.
    """

    partition: int = 0
    epoch: int = 0
    records: tuple[RecordView, ...] = ()
    upto: int = 0
    last: int = 0
    whole: bool = True
    digest: str = ""


class ChangeView(msgspec.Struct, frozen=True):
    """Something that happened to a queue, schedule or batch: the event's type and its data."""

    seq: int
    at: Timestamp
    actor: str
    event: str
    data: msgspec.Raw


class BucketView(msgspec.Struct, frozen=True):
    """A token bucket as of a log time; `tokens` fill up by the policy's rate from there."""

    tokens: float
    at: Timestamp


class DemandView(msgspec.Struct, frozen=True):
    """How many pending jobs of a queue demand these labels of their worker."""

    requires: dict[str, str]
    pending: int


class QueueView(msgspec.Struct, frozen=True):
    """A queue; `version` 0 is the built-in policy. `jobs` is how many are in which state.

    `grants` is the bucket of its rate, and `retries` that of its retry budget; None while untouched.
    `demands` tells of the pending jobs that demand labels of their worker.
    """

    queue: str
    tenant: str
    version: int
    policy: QueuePolicy
    mode: Mode
    reason: str
    changed_at: Timestamp | None
    changed_by: str | None
    jobs: dict[str, int]
    running_by_key: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    grants: BucketView | None = None
    retries: BucketView | None = None
    history: tuple[ChangeView, ...] = ()
    demands: tuple[DemandView, ...] = ()


class QueuesPage(Answer, frozen=True):
    queues: tuple[QueueView, ...] = ()
    next: str | None = None


class ScheduleView(msgspec.Struct, frozen=True):
    """A schedule; `paused` and `deleted` hold the reason while it is so, and `next` when it is due next."""

    name: str
    queue: str
    tenant: str
    version: int
    spec: ScheduleSpec
    input: msgspec.Raw
    paused: str | None
    deleted: str | None
    declared_at: Timestamp
    changed_by: str
    last_due: Timestamp | None
    last_job: str | None
    fired: int
    skipped: int
    next: tuple[Timestamp, ...] = ()
    history: tuple[ChangeView, ...] = ()


class SchedulesPage(Answer, frozen=True):
    schedules: tuple[ScheduleView, ...] = ()
    next: str | None = None


class OperationView(msgspec.Struct, frozen=True):
    """An operation: its plan, how many jobs it has changed, and why it ended, None while it goes on."""

    id: str
    queue: str
    tenant: str
    actor: str
    verb: OperationVerb
    filter: Filter
    reason: str
    matched: int
    limit: int
    rate_per_s: float | None
    canary: int
    stop_after: int
    planned_at: Timestamp
    done: int
    ended: str | None
    ended_at: Timestamp | None


class OperationsPage(Answer, frozen=True):
    operations: tuple[OperationView, ...] = ()
    next: str | None = None


class BatchView(msgspec.Struct, frozen=True):
    """A batch; `size` is None until it is sealed, `jobs` is how many are in which state."""

    batch: str
    queue: str
    tenant: str
    size: int | None
    jobs: dict[str, int]
    ended_at: Timestamp | None
    history: tuple[ChangeView, ...] = ()


class BatchesPage(Answer, frozen=True):
    batches: tuple[BatchView, ...] = ()
    next: str | None = None


class HoldView(msgspec.Struct, frozen=True):
    """A hold; `lifted` says why it ended, None while it stands."""

    name: str
    queue: str
    tenant: str
    filter: Filter
    reason: str
    placed_by: str
    changed_at: Timestamp
    lifted: str | None


class HoldsPage(Answer, frozen=True):
    holds: tuple[HoldView, ...] = ()
    next: str | None = None


class PartitionStatus(msgspec.Struct, frozen=True):
    partition: int
    epoch: int
    leader: str | None
    last_seq: int


class ViewStatus(msgspec.Struct, frozen=True):
    """`lag` in records; `halted` says why a view stopped rather than guess.

    `away` says why it does not follow the log now; its node starts it again. `lag_s` is how long ago the
    newest record was made that it tells of, 0 where it tells of all. `building` is the position of the file
    that is built anew beside it, None where there is none. `restored` is the record of the snapshot
    from which it goes on, where its process found its file lost.
    """

    name: str
    position: int
    lag: int
    halted: str | None = None
    away: str | None = None
    lag_s: float = 0.0
    building: int | None = None
    restored: int | None = None


class Durability(msgspec.Struct, frozen=True):
    """How safe what is acknowledged is.

    Of the broker's `servers` these are `answering`. The log is kept on `replicas` of them, of which `current`
    have all of it, placed by tags. `sync` tells when a server has it on the disk: `always` before it says so,
    `every 120 s`, or `unknown`. `mirror_lag` is how many records the audit copy is behind, None without one.
    `orchestrators` are there to lead: one does, the others stand by. Each `reads` records up to a version;
    the log is in the one that is `written`, 0 where nobody says.
    """

    servers: int = 1
    answering: tuple[str, ...] = ()
    replicas: int = 1
    current: int = 1
    placement: tuple[str, ...] = ()
    sync: str = "unknown"
    mirror_lag: int | None = None
    orchestrators: tuple[str, ...] = ()
    reads: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    written: int = 0


class KeptOut(msgspec.Struct, frozen=True):
    """A tenant of which nothing more is stored since then, as too many of its jobs wait to be decided on."""

    tenant: str
    since: Timestamp


class NodeStatus(Answer, frozen=True):
    """`kept_out` are all such tenants for those of the node's own tenant; others are told of their own."""

    version: str = ""
    partitions: tuple[PartitionStatus, ...] = ()
    views: tuple[ViewStatus, ...] = ()
    jobs: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    warnings: tuple[str, ...] = ()
    durability: Durability | None = None
    kept_out: tuple[KeptOut, ...] = ()

    def faults(self) -> list[str]:
        """What is wrong with the node, in words; empty where it is well."""
        faults = [f"partition {each.partition} has no leader" for each in self.partitions if not each.leader]
        for each in self.views:
            faults += [f"view {each.name} has halted: {each.halted}"] if each.halted else []
            faults += [f"view {each.name} is away: {each.away}"] if each.away else []
        return faults
