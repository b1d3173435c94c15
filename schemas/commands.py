"""The public messages: what clients, workers and operators send, and what they are answered.

All are JSON. Unknown fields are refused by name. An answer has `error` where the whole message was refused,
and `position`, the log sequence that the answer rests on (0 where it rests on none).
"""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from .assets import ASSET_ANSWERS, ASSET_VERBS, ReadAsset
from .bounds import (
    ACQUIRE_WAIT_MAX_S,
    AFTER_MAX,
    ASKS_MAX_CHARS,
    LEASES_PER_REQUEST_MAX,
    QUEUES_TOLD_MAX,
    RELEASES_HELD_MAX,
    RENEWALS_PER_REQUEST_MAX,
    TASKS_TOLD_MAX,
    TOKEN_MAX_BYTES,
)
from .errors import ErrorClass
from .events import AlarmKind, Filter, OnDead, OnParentEnd, OnTimeout, OperationVerb
from .events import Approval as Approval  # noqa: PLC0414 - a part of the message
from .fleet import FLEET_VERBS, Labels
from .forms import Answer as Answer  # noqa: PLC0414 - parts of the messages
from .forms import Attempt as Attempt  # noqa: PLC0414 - parts of the messages
from .forms import Command as Command  # noqa: PLC0414
from .forms import Fence as Fence  # noqa: PLC0414
from .forms import JobKey as JobKey  # noqa: PLC0414
from .forms import Reason as Reason  # noqa: PLC0414
from .forms import RunMs as RunMs  # noqa: PLC0414
from .forms import TaskName as TaskName  # noqa: PLC0414
from .forms import Token as Token  # noqa: PLC0414
from .forms import Trace as Trace  # noqa: PLC0414
from .granting import ACCESS_ANSWERS, ACCESS_VERBS, NoteDenial
from .hosting import HOSTING_ANSWERS, HOSTING_VERBS, Used
from .notes import ModelName, Note, Recall
from .policy import Isolation, PositiveSeconds, Priority, QueuePolicy, Retry, Seconds, ToolPolicy
from .prices import Price
from .processes import Digest, ReleaseRef
from .quotas import NO_QUOTAS, Quotas, Reserve
from .rejections import Rejection
from .releasing import RELEASE_ANSWERS, RELEASE_VERBS
from .schedules import Overlap, ScheduleSpec
from .shards import SHARD_ANSWERS, SHARD_VERBS
from .steps import Reproduces
from .tenants import TenantPolicy
from .upgrading import UPGRADE_VERBS


class SubmitJob(Command, frozen=True):
    """A job to run: one message holds one, or an array of up to 500.

    `not_before` is an RFC 3339 time with an offset, `delay_s` the same as a duration; give one of them.
    Without `id` the job is named after its place in the intake stream. `priority`, `retry` and the time
    limits are the queue's where they are left out. `fairness_key` takes turns with others of its priority,
    `concurrency_key` shares the queue's `key_concurrency` slots, `unique_key` may be live once in a queue.
    `after` are keys (`<queue>~<id>`) of jobs that must complete first, `on_dead` says what happens if one
    ends otherwise, and `input_from` fills fields of the input, an object, with the output of one of them.
    `parent` is the job that starts this one, and `batch` a group that it counts in. Where the parent has
    ended already, otherwise than completed, `on_parent_end` is met at once. With `reproduces` the job repeats
    a run of the same task with the same input, whose steps and tools answer from the record. `tags`, at
    most 20, are names and values of the submitter's own, to find the job by. `data_subject` is whom the
    content is about: that is sealed under the subject's key, and the name stands nowhere in the log.
    `reserve_microusd` is what an attempt may cost, in micro-dollars: so much of the tenant's budget is set
    apart for it before it starts.
    `process` is the release that runs it: `NAME@live` or another alias, looked up at each grant, or `NAME@`
    with a version or a digest, which is fixed from here on. Workers without that release do not get it.
    `requires` are labels: only a worker that has all of them is given the job. `trace` is the context of W3C
    in which it is submitted: the spans of its attempts, and of its children, stand below that.
    """

    task: TaskName
    input: msgspec.Raw = msgspec.Raw(b"null")
    id: Token | None = None
    priority: Priority | None = None
    not_before: Annotated[datetime.datetime, Meta(tz=True)] | None = None
    delay_s: Seconds | None = None
    retry: Retry | None = None
    lease_s: Annotated[float, Meta(ge=1, le=86_400)] | None = None
    attempt_timeout_s: PositiveSeconds | None = None
    job_timeout_s: PositiveSeconds | None = None
    expires_in_s: PositiveSeconds | None = None
    fairness_key: Token | None = None
    concurrency_key: Token | None = None
    unique_key: Token | None = None
    approval: Approval | None = None
    after: Annotated[tuple[JobKey, ...], Meta(max_length=AFTER_MAX)] = ()
    on_dead: OnDead = OnDead.DEAD_LETTER
    input_from: dict[str, str] = {}
    parent: JobKey | None = None
    on_parent_end: OnParentEnd = OnParentEnd.CANCEL
    batch: Token | None = None
    reproduces: Reproduces | None = None
    tags: dict[str, str] = {}
    data_subject: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    reserve_microusd: Reserve | None = None
    process: ReleaseRef | None = None
    requires: Labels = {}
    trace: Trace | None = None


class WorkerAbout(Command, frozen=True):
    """What a worker says of itself: its machine's name, Writ's version there, how many slots it has, and
    the queues that it works on.
    """

    host: Annotated[str, Meta(min_length=1, max_length=256)]
    version: Annotated[str, Meta(max_length=64)]
    slots: Annotated[int, Meta(ge=1, le=1_000_000)]
    tasks: Annotated[dict[TaskName, str], Meta(max_length=TASKS_TOLD_MAX)] = {}
    """What each of its tasks takes, as a JSON Schema. Left out it is as it was told last."""
    queues: Annotated[tuple[Token, ...], Meta(max_length=QUEUES_TOLD_MAX)] = ()


class Acquire(Command, frozen=True):
    """Up to `count` leases from the subject's queue, waiting up to `wait_s` while there are none.

    `tasks` narrows it to the tasks that the worker knows; empty means any. `about` is recorded when it is
    new, and now and then, so that also a worker without a lease is heard of. `isolation` is how it will keep
    the attempts apart; refused where the queue's policy demands more. `releases` are the digests of those
    that it holds: jobs that name a release go to who has it. `labels` are the worker's: a job that demands
    some goes to those alone that have them.

    With `again` nothing is granted, nothing waited for, and its acquires that wait in the queue end: the
    answer has the leases that the worker holds there, the newest first, but for those whose tokens are
    `known`. So it learns of those in an answer that was lost with its connection or its leader. One answer
    may not hold all of them: it asks until nothing in the answer is new to it.
    """

    worker: Token
    count: Annotated[int, Meta(ge=1, le=LEASES_PER_REQUEST_MAX)] = 1
    wait_s: Annotated[float, Meta(ge=0, le=ACQUIRE_WAIT_MAX_S)] = 0.0
    tasks: tuple[TaskName, ...] = ()
    about: WorkerAbout | None = None
    isolation: Isolation = Isolation.NONE
    releases: Annotated[tuple[Digest, ...], Meta(max_length=RELEASES_HELD_MAX)] = ()
    labels: Labels = {}
    again: bool = False
    known: Annotated[tuple[Fence, ...], Meta(max_length=RENEWALS_PER_REQUEST_MAX)] = ()


class Withdraw(Command, frozen=True):
    """Ends the waiting acquires of a worker in the subject's queue; each is answered with no lease."""

    worker: Token


class Held(Command, frozen=True):
    """A lease as its holder names it; `seen` is the newest signal that it has had."""

    id: Token
    token: Fence
    seen: Fence = 0


class Renew(Command, frozen=True):
    """One beat: all leases that the worker holds in the subject's queue."""

    worker: Token
    leases: Annotated[tuple[Held, ...], Meta(min_length=1, max_length=RENEWALS_PER_REQUEST_MAX)]


class Start(Command, frozen=True):
    """User code runs for these leases."""

    worker: Token
    leases: Annotated[tuple[Held, ...], Meta(min_length=1, max_length=LEASES_PER_REQUEST_MAX)]


class Completion(Command, frozen=True):
    """One attempt that succeeded; `null` is no output. `run_ms` is the worker's measure of the user code.

    `isolation` is the level that the attempt ran at; here and in `Failure`.
    """

    id: Token
    token: Fence
    output: msgspec.Raw = msgspec.Raw(b"null")
    run_ms: RunMs | None = None
    isolation: Isolation = Isolation.NONE


class Complete(Command, frozen=True):
    worker: Token
    reports: Annotated[tuple[Completion, ...], Meta(min_length=1, max_length=LEASES_PER_REQUEST_MAX)]


class Failure(Command, frozen=True):
    """One attempt that failed. Text beyond 10,000 characters is cut by the orchestrator.

    With `crashed` the process of the attempt died: that counts as a lost lease, and not as a failure. With
    `permanent` it would fail again, whoever tried: it is not tried again.
    """

    id: Token
    token: Fence
    class_: ErrorClass = msgspec.field(name="class")
    type: Annotated[str, Meta(max_length=256)]
    text: str = ""
    run_ms: RunMs | None = None
    retry_after_s: Seconds | None = None
    isolation: Isolation = Isolation.NONE
    crashed: bool = False
    permanent: bool = False


class Fail(Command, frozen=True):
    worker: Token
    reports: Annotated[tuple[Failure, ...], Meta(min_length=1, max_length=LEASES_PER_REQUEST_MAX)]


class Release(Command, frozen=True):
    """Leases given back unfinished; their jobs are pending again at once."""

    worker: Token
    leases: Annotated[tuple[Held, ...], Meta(min_length=1, max_length=LEASES_PER_REQUEST_MAX)]
    reason: Reason = "drain"


class Snooze(Command, frozen=True):
    """The task asks to be run again in `delay_s`; that uses up no attempt."""

    worker: Token
    id: Token
    token: Fence
    delay_s: Seconds


class Suspend(Command, frozen=True):
    """The task waits for an approval, a signal or children, and gives its lease and slot back until then.

    `on` names the signal, and `seen` the newest one of it that the task has had. `children` are the keys of
    the jobs that must have ended. `step` is the number of a step whose outcome a person shall tell; `asks`
    says what a person is to approve, and stands in the log. After `timeout_s`, `on_timeout` decides.
    """

    worker: Token
    id: Token
    token: Fence
    reason: Literal["approval", "signal", "child"]
    on: Token | None = None
    timeout_s: PositiveSeconds | None = None
    on_timeout: OnTimeout = OnTimeout.DEAD_LETTER
    seen: Fence = 0
    children: Annotated[tuple[JobKey, ...], Meta(max_length=AFTER_MAX)] = ()
    step: Annotated[int, Meta(ge=1)] | None = None
    asks: Annotated[str, Meta(min_length=1, max_length=ASKS_MAX_CHARS)] | None = None


class Progress(Command, frozen=True):
    """What a running attempt says of itself; the newest counts."""

    worker: Token
    id: Token
    token: Fence
    progress: msgspec.Raw


class Control(Command, frozen=True, kw_only=True):
    """Base of what operators ask of one job, and why."""

    id: Token
    reason: Reason = "requested"


class Cancel(Control, frozen=True):
    """Ends a job: a waiting one at once, a running one when its worker has heard and stopped."""


class Terminate(Control, frozen=True):
    """Ends a job at once; the lease of a running one is void from here."""


class Reopening(Control, frozen=True, kw_only=True):
    """Base of what opens a new round of a finished job.

    `answers` is the sequence of the terminal record that the operator saw: the same message come twice then
    opens one round, and one about an end that has been answered otherwise is refused.
    """

    answers: Fence | None = None


class Redrive(Reopening, frozen=True):
    """Puts a dead letter back to pending."""


class Rerun(Reopening, frozen=True):
    """Runs any finished job again; with `from_step` from that one of its recorded steps on."""

    from_step: Annotated[str, Meta(min_length=1, max_length=TOKEN_MAX_BYTES)] | None = None


class Drop(Control, frozen=True):
    """Settles a dead letter: it is not to be redriven."""


class Pause(Control, frozen=True):
    """Suspends a job that does not run."""


class Resume(Control, frozen=True):
    """Ends a job's pause, or the suspension of one whose attempts were used up."""


class Approve(Control, frozen=True):
    """Says yes to a job that waits for approval. `data` reaches the task.

    To one that waits for word of a step's outcome, `data` says it: `{"done": true, "result": ...}`, or
    `{"done": false}`.
    """

    data: msgspec.Raw = msgspec.Raw(b"null")


class Reject(Control, frozen=True):
    """Says no to a job that waits for approval: it is dead-lettered."""


class Signal(Control, frozen=True):
    """Data for a job under a name; a job that waits for that name goes on."""

    name: Token
    data: msgspec.Raw = msgspec.Raw(b"null")


class Edit(Control, frozen=True):
    """Changes a job that has not started."""

    priority: Priority | None = None
    not_before: Annotated[datetime.datetime, Meta(tz=True)] | None = None
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Declare(Command, frozen=True):
    """Gives the queue a policy, as its next version; refused where it is not at `version` by now."""

    policy: QueuePolicy
    reason: Reason = "declared"
    version: Annotated[int, Meta(ge=0)] | None = None


class Plan(Command, frozen=True):
    """Does one thing to many jobs of the subject's queue, one by one, as a recorded operation.

    With `dry_run` it only says how many are meant. See `OperationPlanned` for the limits.
    """

    verb: OperationVerb
    filter: Filter = Filter()
    reason: Reason = "requested"
    limit: Annotated[int, Meta(ge=0, le=100_000_000)] = 0
    rate_per_s: Annotated[float, Meta(gt=0, le=100_000)] | None = None
    canary: Annotated[int, Meta(ge=0, le=1_000)] = 0
    stop_after: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    dry_run: bool = False


class SealBatch(Command, frozen=True):
    """Says how many jobs a batch has, so that its end can be told."""

    batch: Token
    size: Annotated[int, Meta(ge=1, le=100_000_000)]
    reason: Reason = "requested"


class Erase(Command, frozen=True):
    """Destroys the key of a subject of the tenant, or of a job of the subject's queue: give one of them.

    All content under it is unreadable from then on, for good. Refused while a job under it has not ended, or
    is held.
    """

    id: Token | None = None
    data_subject: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    reason: Reason = "requested"


class PlaceHold(Command, frozen=True):
    """Jobs of the queue that `filter` matches, now or later, are not erased while the hold stands."""

    name: Token
    filter: Filter
    reason: Reason = "requested"


class LiftHold(Command, frozen=True):
    """Ends a hold of the queue."""

    name: Token
    reason: Reason = "requested"


class DeclareSchedule(Command, frozen=True):
    """Gives a schedule of the subject's queue its spec, as its next version; `input` is its jobs'."""

    name: Token
    spec: ScheduleSpec
    input: msgspec.Raw = msgspec.Raw(b"null")
    reason: Reason = "declared"


class OfSchedule(Command, frozen=True):
    """Base of what is asked of one schedule."""

    name: Token
    reason: Reason = "requested"


class PauseSchedule(OfSchedule, frozen=True):
    """No time is due until it is resumed."""


class ResumeSchedule(OfSchedule, frozen=True):
    """Due again from now on."""


class DeleteSchedule(OfSchedule, frozen=True):
    """Ends a schedule; the jobs that it started go on."""


class TriggerSchedule(OfSchedule, frozen=True):
    """Starts its job now, beside the due times; `overlap` is for this once."""

    overlap: Overlap | None = None


class Backfill(Command, frozen=True, kw_only=True):
    """Runs the due times of a schedule between two moments, both included."""

    name: Token
    from_: Annotated[datetime.datetime, Meta(tz=True)] = msgspec.field(name="from")
    to: Annotated[datetime.datetime, Meta(tz=True)]
    limit: Annotated[int, Meta(ge=1, le=400)] = 400
    overlap: Overlap = Overlap.QUEUE
    reason: Reason = "requested"


class SetPrice(Command, frozen=True):
    """What a million tokens of a model cost from a time on, in micro-dollars; from now if it is left out."""

    model: ModelName
    input_microusd: Annotated[int, Meta(ge=0, le=10**12)]
    output_microusd: Annotated[int, Meta(ge=0, le=10**12)]
    from_: Annotated[datetime.datetime, Meta(tz=True)] | None = msgspec.field(name="from", default=None)
    reason: Reason = "requested"


class ListPrices(Command, frozen=True):
    """Asks for the tenant's price table, or for the prices of one model."""

    model: ModelName | None = None


class DeclareTenant(Command, frozen=True):
    """Sets the policy of the subject's tenant, for all queues whose own policy leaves it open."""

    policy: TenantPolicy
    reason: Reason = "requested"


class GetTenant(Command, frozen=True):
    """Asks for the tenant's policy and quotas, and what of them is used."""


class PauseQueue(Command, frozen=True):
    """No more grants in the subject's queue; submits are taken."""

    reason: Reason = "requested"


class DrainQueue(Command, frozen=True):
    """No more submits to the subject's queue; what is there is worked off."""

    reason: Reason = "requested"


class ResumeQueue(Command, frozen=True):
    """Opens the subject's queue again."""

    reason: Reason = "requested"


class SignalCame(msgspec.Struct, frozen=True, gc=False):
    """A signal for a job; `seq` orders them."""

    name: str
    seq: int
    data: msgspec.Raw


class Lease(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The right to run one attempt for `lease_s` seconds from its grant, and from each renewal.

    `steps` of the job are recorded: `recall` gives them. With `compensates` the attempt is to undo what they
    did. `tools` is what version `policy` of the queue's policy says of tools, of which the round has called
    `tool_calls`. Where there is a `digest_key`, parameters are digested with it, by HMAC-SHA256.
    `progress` is the newest that was said in the round.
    `network` is whether an isolated attempt may use one. `release` is the digest of the release to run.
    `trace` is the trace context that the job was submitted with, and `waited_ms` how long it was ready before
    its first lease. The work on a `strict` one ends before the lease can be over by the worker's own
    clock; it was granted when its acquire had waited for `parked_s`, or before it where that is negative.
    """

    id: str
    task: str
    token: int
    attempt: int
    input: msgspec.Raw
    lease_s: float = 30.0
    attempt_timeout_s: float = 900.0
    signals: tuple[SignalCame, ...] = ()
    steps: int = 0
    compensates: bool = False
    reproduces: Reproduces | None = None
    tools: ToolPolicy | None = None
    policy: int = 0
    tool_calls: int = 0
    digest_key: bytes = b""
    progress: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    network: bool = False
    release: str | None = None
    trace: str | None = None
    waited_ms: int | None = None
    strict: bool = False
    parked_s: float = 0.0


class Acquired(Answer, frozen=True):
    """`lanes` is how many the queue has: each is to be asked for leases by its own name."""

    leases: tuple[Lease, ...] = ()
    lanes: int = 1


class Renewed(Answer, frozen=True):
    """`lost` names leases that are void, by index; `cancel` the ids whose work shall end,
    `signals` by id what came since those that the holder has seen.

    One in `lost` of kind `try_later` is no verdict: the lease may be live, ask again.
    """

    lost: tuple[Rejection, ...] = ()
    cancel: tuple[str, ...] = ()
    signals: dict[str, tuple[SignalCame, ...]] | None = None


class LanesTold(Answer, frozen=True):
    """What was asked of a queue holds there. Who asks over NATS asks the same of each of its `lanes`, as
    Writ's client does, and its API.
    """

    lanes: int = 1


class Planned(Answer, frozen=True):
    """`matched` jobs are meant, some of them named in `sample`; `operation` is the id, None of a dry run."""

    operation: str | None = None
    matched: int = 0
    sample: tuple[str, ...] = ()


class Erased(Answer, frozen=True):
    """The content of so many jobs is gone; 0 where it was before.

    They are of one partition: for a data subject, ask on the queues `beside` too, one in each other.
    """

    jobs: int = 0
    beside: tuple[str, ...] = ()


class Started(Answer, frozen=True):
    """The ids of the jobs that a trigger or a backfill started."""

    jobs: tuple[str, ...] = ()


class TenantTold(Answer, frozen=True):
    """A tenant's policy, its quotas, and what of them it uses; versions 0 where nobody said anything."""

    version: int = 0
    policy: TenantPolicy = TenantPolicy()
    quotas_version: int = 0
    quotas: Quotas = NO_QUOTAS
    used: Used = Used()


class PriceTable(Answer, frozen=True):
    """A price table by model and time."""

    version: int = 0
    table: tuple[Price, ...] = ()


class Reported(Answer, frozen=True):
    """`refused` names the reports, or releases or starts, that changed nothing, by index."""

    refused: tuple[Rejection, ...] = ()


class RaiseAlarm(Command, frozen=True, kw_only=True):
    """What a component of Writ tells the leader. `tenant` is whose people are to know, `about` a stream."""

    tenant: Token
    alarm: AlarmKind
    about: Token
    reason: Reason


SYSTEM_VERBS: dict[str, type[Command]] = {"raise_alarm": RaiseAlarm, "note_denial": NoteDenial}
"""What parts of Writ ask of the orchestrator, in the tenant that no principal can be in."""

LEASE_VERBS: dict[str, type[Command]] = {
    "acquire": Acquire,
    "withdraw": Withdraw,
    "renew": Renew,
    "start": Start,
    "complete": Complete,
    "fail": Fail,
    "release": Release,
    "snooze": Snooze,
    "suspend": Suspend,
    "progress": Progress,
    "note": Note,
    "recall": Recall,
    "read_asset": ReadAsset,
}
CONTROL_VERBS: dict[str, type[Command]] = {
    "cancel": Cancel,
    "terminate": Terminate,
    "redrive": Redrive,
    "drop": Drop,
    "rerun": Rerun,
    "pause": Pause,
    "resume": Resume,
    "approve": Approve,
    "reject": Reject,
    "signal": Signal,
    "edit": Edit,
    "seal_batch": SealBatch,
    "erase": Erase,
    "place_hold": PlaceHold,
    "lift_hold": LiftHold,
    "plan": Plan,
    "declare_schedule": DeclareSchedule,
    "pause_schedule": PauseSchedule,
    "resume_schedule": ResumeSchedule,
    "delete_schedule": DeleteSchedule,
    "trigger_schedule": TriggerSchedule,
    "backfill_schedule": Backfill,
    "declare": Declare,
    "pause_queue": PauseQueue,
    "drain_queue": DrainQueue,
    "resume_queue": ResumeQueue,
    "set_price": SetPrice,
    "list_prices": ListPrices,
    "declare_tenant": DeclareTenant,
    "get_tenant": GetTenant,
    **HOSTING_VERBS,
    **UPGRADE_VERBS,
    **SHARD_VERBS,
    **ASSET_VERBS,
    **FLEET_VERBS,
    **ACCESS_VERBS,
    **RELEASE_VERBS,
}

CONTROL_ANSWERS: dict[type[Command], type[Answer]] = {
    **dict.fromkeys((Declare, PauseQueue, DrainQueue, ResumeQueue), LanesTold),
    Plan: Planned,
    TriggerSchedule: Started,
    Backfill: Started,
    ListPrices: PriceTable,
    GetTenant: TenantTold,
    Erase: Erased,
    **HOSTING_ANSWERS,
    **SHARD_ANSWERS,
    **ASSET_ANSWERS,
    **ACCESS_ANSWERS,
    **RELEASE_ANSWERS,
}
"""What is answered with more than an Answer."""
