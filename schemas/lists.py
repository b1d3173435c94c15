"""Reads of the views beside the jobs view: `writ.query.<tenant>.<principal>.<verb>`, as in `queries.py`.

Verbs: `audit` (AuditQuery -> AuditPage), `attempts` (AttemptsQuery -> AttemptsPage), `workers` (WorkersQuery
-> WorkersPage), `traffic` (TrafficQuery -> TrafficPage), `cost` (CostQuery -> CostPage), `tools` (ToolsQuery
-> ToolsPage), `tool_calls` (ToolCallsQuery -> ToolCallsPage), `principals` (PrincipalsQuery ->
PrincipalsPage), `whoami` (WhoamiQuery -> PrincipalsPage), `can` (CanQuery -> Verdict).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from .commands import Answer, Token
from .errors import ErrorClass
from .forms import QueueName
from .principals import PrincipalKind, Role
from .queries import Moment, NewestFirst, Query, Timestamp
from .rejections import RejectionKind
from .steps import ToolOutcome


class AuditQuery(NewestFirst, frozen=True, kw_only=True):
    """What principals did, and what they were refused; `refused` narrows to either. `job` is an id."""

    actor: Token | None = None
    queue: QueueName | None = None
    job: Token | None = None
    verb: Token | None = None
    refused: bool | None = None


class ActView(msgspec.Struct, frozen=True):
    """Something that `actor` did, or was refused.

    `verb` is the command's, or the event's name where no command is behind it. `kind` and `key` name the
    aggregate that the record is of; `job` is an id. Of what was refused, `refused` is the kind of refusal,
    and `field` and `element` what it was about; the record speaks of `of` refusals in all. `token` and
    `worker` are those of a refused report.
    """

    seq: int
    at: Timestamp
    tenant: str
    actor: str
    verb: str
    event: str
    kind: str
    key: str
    queue: str | None
    job: str | None
    reason: str | None
    refused: RejectionKind | None
    field: str | None
    element: int | None
    of: int | None
    token: int | None
    worker: str | None


class AuditPage(Answer, frozen=True):
    acts: tuple[ActView, ...] = ()
    next: str | None = None


class AttemptOutcome(StrEnum):
    """How an attempt ended; `live` while it holds its lease."""

    LIVE = "live"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    RELEASED = "released"
    SNOOZED = "snoozed"
    SUSPENDED = "suspended"
    COMPENSATED = "compensated"
    """It has undone what the job's steps did."""


class AttemptsQuery(NewestFirst, frozen=True, kw_only=True):
    """Attempts by the time of their grant; `job` is an id."""

    job: Token | None = None
    queue: QueueName | None = None
    worker: Token | None = None
    outcome: AttemptOutcome | None = None
    error_class: ErrorClass | None = None


class AttemptView(msgspec.Struct, frozen=True):
    """One attempt: record `seq` granted its lease, `ended_by` ended it; `run_ms` is by the worker's clock."""

    seq: int
    tenant: str
    queue: str
    job: str
    attempt: int
    worker: str
    principal: str
    token: int
    granted_at: Timestamp
    started_at: Timestamp | None
    ended_at: Timestamp | None
    ended_by: int | None
    outcome: AttemptOutcome
    error_class: str | None
    error_type: str | None
    run_ms: int | None


class AttemptsPage(Answer, frozen=True):
    attempts: tuple[AttemptView, ...] = ()
    next: str | None = None


class WorkersQuery(Query, frozen=True, kw_only=True):
    """Workers by name: those with leases, and those that were heard of from log time `since` on."""

    worker: Token | None = None
    since: Moment | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    cursor: Token | None = None


class WorkerView(msgspec.Struct, frozen=True):
    """A worker: `seen_at` is its newest grant, beat, report or word of itself. `leases` are live, the other
    numbers are ends.

    `returned` counts attempts that it gave back, or that were taken from it, unfinished. `host`, Writ's
    `version` there, its `slots` and `labels` are as it said, None where it never did. `jobs` are the keys of
    those in its hands, the longest held first, at most 20. `drained` is why it takes no more leases, and
    `drained_by` who has it so. `tasks` are what its tasks take, as JSON Schemas by name, where it said so.
    """

    worker: str
    tenant: str
    principal: str
    queues: tuple[str, ...]
    first_at: Timestamp
    seen_at: Timestamp
    leases: int
    granted: int
    completed: int
    failed: int
    expired: int
    returned: int
    host: str | None = None
    version: str | None = None
    slots: int | None = None
    jobs: tuple[str, ...] = ()
    tasks: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    labels: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    drained: str | None = None
    drained_by: str | None = None


class WorkersPage(Answer, frozen=True):
    workers: tuple[WorkerView, ...] = ()
    next: str | None = None


class Quantiles(msgspec.Struct, frozen=True):
    """Seconds that so many of 100 did not exceed, up to 25 % too many; None where there was none."""

    p50_s: float | None
    p95_s: float | None
    p99_s: float | None


class CostBy(StrEnum):
    """What costs are summed by."""

    DAY = "day"
    QUEUE = "queue"
    TASK = "task"
    MODEL = "model"
    RELEASE = "release"


class CostQuery(Query, frozen=True, kw_only=True):
    """Tokens and what they cost, on whole days of log time: that of `since`, to that before `until`.

    A `release` is named by its digest; what ran without one is of the release `""`.
    """

    by: tuple[CostBy, ...] = (CostBy.QUEUE, CostBy.MODEL)
    queue: QueueName | None = None
    task: str | None = None
    model: str | None = None
    release: str | None = None
    since: Moment | None = None
    until: Moment | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 100


class CostSum(msgspec.Struct, frozen=True):
    """A sum over all that is None. `unpriced` calls were of models without a price, and add no cost."""

    day: str | None
    queue: str | None
    task: str | None
    model: str | None
    release: str | None
    calls: int
    input_tokens: int
    output_tokens: int
    cost_microusd: int
    unpriced: int


class CostPage(Answer, frozen=True):
    """Those that cost most first; `more` where there are others than the `limit` asked for."""

    sums: tuple[CostSum, ...] = ()
    more: bool = False


class ToolsQuery(Query, frozen=True, kw_only=True):
    """Tools by name, with their calls on the days of log time from `since` on."""

    tool: str | None = None
    since: Moment | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    cursor: str | None = None


class ToolView(msgspec.Struct, frozen=True):
    """How many calls of a tool were `done`, `failed`, or `denied` before they were made.

    `took` is how long they took; `recorded` ones were answered from the record of another run.
    """

    tool: str
    tenant: str
    took: Quantiles
    done: int
    failed: int
    denied: int
    recorded: int


class ToolsPage(Answer, frozen=True):
    tools: tuple[ToolView, ...] = ()
    next: str | None = None


class ToolCallsQuery(NewestFirst, frozen=True, kw_only=True):
    """Calls of tools; `job` is an id."""

    tool: str | None = None
    queue: QueueName | None = None
    job: Token | None = None
    outcome: ToolOutcome | None = None


class ToolCallView(msgspec.Struct, frozen=True):
    """One call, as record `seq` tells it; `rule` of version `policy` of the queue's policy decided on it.

    `known` says how its outcome came to be known: it `ran`, or is that of another run.
    """

    seq: int
    at: Timestamp
    tenant: str
    tool: str
    schema: str
    queue: str
    job: str
    attempt: int
    actor: str
    outcome: ToolOutcome
    policy: int
    rule: str | None
    error_type: str | None
    run_ms: int | None
    known: str


class ToolCallsPage(Answer, frozen=True):
    calls: tuple[ToolCallView, ...] = ()
    next: str | None = None


class TrafficQuery(Query, frozen=True, kw_only=True):
    """What went through queues from log time `since` on, in whole minutes; the last seven days are kept.

    Where `since` is more than a day back it counts from the beginning of its hour. `minutes` adds the last so
    many of log time one by one, over all the queues asked for.
    """

    queue: QueueName | None = None
    since: Moment | None = None
    minutes: Annotated[int, Meta(ge=0, le=1_440)] = 0
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    cursor: QueueName | None = None


class QueueTraffic(msgspec.Struct, frozen=True):
    """Numbers of jobs, of attempts that `failed`, and of leases `lost`.

    Since `oldest_at` its oldest pending job waits; `waits` are from when a job was ready to its grant.
    """

    queue: str
    tenant: str
    oldest_at: Timestamp | None
    waits: Quantiles
    submitted: int
    granted: int
    completed: int
    failed: int
    lost: int
    dead: int
    cancelled: int


class MinuteTraffic(msgspec.Struct, frozen=True):
    """Numbers of one minute, as in `QueueTraffic`."""

    at: Timestamp
    submitted: int
    granted: int
    completed: int
    failed: int
    lost: int
    dead: int
    cancelled: int


class TrafficPage(Answer, frozen=True):
    """`minutes` are those in which there was anything, oldest first."""

    queues: tuple[QueueTraffic, ...] = ()
    next: str | None = None
    minutes: tuple[MinuteTraffic, ...] = ()


class PrincipalsQuery(Query, frozen=True, kw_only=True):
    """The principals of the tenant by name; one with `name`. `waiting` narrows to those with proposals."""

    name: Token | None = None
    waiting: bool = False
    cursor: Annotated[str, Meta(max_length=256)] | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 100


class WhoamiQuery(Query, frozen=True, kw_only=True):
    """The principal that asks."""


class CanQuery(Query, frozen=True, kw_only=True):
    """Whether the asking principal, or another `principal`, may do an operation in a queue or a scope."""

    operation: Annotated[str, Meta(min_length=1, max_length=64)]
    queue: Annotated[str, Meta(min_length=1, max_length=256)] = "*"
    principal: Token | None = None


class GrantView(msgspec.Struct, frozen=True):
    """A role in a scope. `proposed_by` is who asked where another one approved it."""

    role: Role
    scope: str
    granted_by: str
    proposed_by: str | None
    at: Timestamp
    until: Timestamp | None
    reason: str


class TokenView(msgspec.Struct, frozen=True):
    """An API token, of which nothing more is known than this and its digest."""

    token: str
    at: Timestamp
    until: Timestamp | None


class SessionView(msgspec.Struct, frozen=True):
    """A session of the HTTP API: since when, until when at most, and how its principal has logged in."""

    session: str
    at: Timestamp
    until: Timestamp
    by: str


class ProposalView(msgspec.Struct, frozen=True):
    """What waits for a second person; `for_s` of a role for a time."""

    number: int
    role: Role
    scope: str
    proposed_by: str
    at: Timestamp
    until: Timestamp | None
    for_s: int | None
    reason: str


class PrincipalView(msgspec.Struct, frozen=True):
    """A principal and what it holds. `used_at` is the time of the newest record that it caused."""

    name: str
    tenant: str
    kind: PrincipalKind
    created_at: Timestamp
    created_by: str
    used_at: Timestamp | None
    revoked: str | None
    keys: tuple[str, ...]
    tokens: tuple[TokenView, ...]
    grants: tuple[GrantView, ...]
    proposals: tuple[ProposalView, ...]
    sessions: tuple[SessionView, ...] = ()
    """Those that were not ended; one whose time is over goes at the next log-in."""


class PrincipalsPage(Answer, frozen=True):
    principals: tuple[PrincipalView, ...] = ()
    next: str | None = None


class Verdict(Answer, frozen=True):
    """The decision, the line of the policy that made it, and why."""

    allowed: bool = False
    rule: str = ""
    reason: str = ""


class BearerQuery(Query, frozen=True, kw_only=True):
    """Asked by the parts of Writ that take API tokens: whose is the one, or the session, of this digest?"""

    digest: Annotated[str, Meta(min_length=64, max_length=64)]


class Bearer(Answer, frozen=True):
    """The principal of an API token or a session that counts; None where there is none.

    `token` is the name of the one, `session` of the other, with when it began and when it is over.
    """

    tenant: str | None = None
    principal: str | None = None
    token: str | None = None
    session: str | None = None
    at: Timestamp | None = None
    until: Timestamp | None = None
