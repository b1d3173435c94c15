"""Reads of the views: `writ.query.<tenant>.<principal>.<verb>`, request and answer as JSON.

Verbs: `jobs` (JobsQuery -> JobsPage), `job` (JobQuery -> JobsPage), `records` (RecordsQuery -> RecordsPage),
`status` (StatusQuery -> NodeStatus). An answer has `error` where the query was refused.

Every query but `status` waits until the view has reached the log's last record at the time of asking, so
that nobody misses what they were already told; `max_wait_s` bounds the wait and is answered `try_later`. A
`job` query for an unknown id is answered with no jobs.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from .commands import Answer, Command, Token
from .events import DeadReason
from .lifecycle import State

Timestamp = str
"""RFC 3339, UTC, with microseconds: `2026-01-31T12:00:00.000000Z`."""


class Query(Command, frozen=True, kw_only=True):
    """`min_position` asks for a view at least as new as this log sequence; None means the newest."""

    min_position: Annotated[int, Meta(ge=0)] | None = None
    max_wait_s: Annotated[float, Meta(ge=0, le=30)] = 5.0


class JobsQuery(Query, frozen=True, kw_only=True):
    """Jobs by filters, newest submit first; `cursor` is the `next` of the page before."""

    states: tuple[State, ...] = ()
    queue: Token | None = None
    task: str | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    cursor: str | None = None


class JobQuery(Query, frozen=True, kw_only=True):
    """The jobs with this id: one, unless several queues have one and `queue` is not given."""

    id: Token
    queue: Token | None = None


class RecordsQuery(Query, frozen=True, kw_only=True):
    """The records of one job as stored, after a sequence, oldest first.

    `context` adds the records of other aggregates that move its lease: beats and changes of leader.
    """

    id: Token
    queue: Token
    after: Annotated[int, Meta(ge=0)] = 0
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    context: bool = False


class StatusQuery(Query, frozen=True, kw_only=True):
    """Is the node up, who leads, how far behind are the views."""


class ErrorView(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last error of a job, with its text where this reader may read it."""

    class_: str = msgspec.field(name="class")
    type: str
    text: str | None = None


class JobView(msgspec.Struct, frozen=True):
    """A job as a view shows it. `error` is the last one, also of a job that completed or waits to retry."""

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


class JobsPage(Answer, frozen=True):
    jobs: tuple[JobView, ...] = ()
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


class PartitionStatus(msgspec.Struct, frozen=True):
    partition: int
    epoch: int
    leader: str | None
    last_seq: int


class ViewStatus(msgspec.Struct, frozen=True):
    """`lag` in records; `halted` says why a view stopped rather than guess."""

    name: str
    position: int
    lag: int
    halted: str | None = None


class NodeStatus(Answer, frozen=True):
    version: str = ""
    partitions: tuple[PartitionStatus, ...] = ()
    views: tuple[ViewStatus, ...] = ()
    jobs: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    warnings: tuple[str, ...] = ()
