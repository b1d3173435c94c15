"""The public messages: what clients, workers and operators send, and what they are answered.

All are JSON. Unknown fields are refused by name. An answer has `error` where the whole message was refused,
and `position`, the log sequence that the answer rests on (0 where it rests on none).
"""

from __future__ import annotations

import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from .bounds import (
    ACQUIRE_WAIT_MAX_S,
    LEASES_PER_REQUEST_MAX,
    REASON_MAX_CHARS,
    RENEWALS_PER_REQUEST_MAX,
    TASK_MAX_BYTES,
    TOKEN_MAX_BYTES,
)
from .errors import ErrorClass
from .ids import TOKEN_PATTERN
from .policy import PositiveSeconds, Retry, Seconds
from .rejections import Rejection

Token = Annotated[str, Meta(min_length=1, max_length=TOKEN_MAX_BYTES, pattern=TOKEN_PATTERN)]
TaskName = Annotated[str, Meta(min_length=1, max_length=TASK_MAX_BYTES, pattern=r"^[^\x00-\x20\x7f]+$(?!\n)")]
Reason = Annotated[str, Meta(min_length=1, max_length=REASON_MAX_CHARS)]
Fence = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Attempt = Annotated[int, Meta(ge=1, le=2**63 - 1)]
RunMs = Annotated[int, Meta(ge=0, le=2**53)]


class Command(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of what is asked."""


class SubmitJob(Command, frozen=True):
    """A job to run: one message holds one, or an array of up to 500.

    `not_before` is an RFC 3339 time with an offset, `delay_s` the same as a duration; give one of them.
    Without `id` the job is named after its place in the intake stream.
    """

    task: TaskName
    input: msgspec.Raw = msgspec.Raw(b"null")
    id: Token | None = None
    priority: Annotated[int, Meta(ge=1, le=5)] = 3
    not_before: Annotated[datetime.datetime, Meta(tz=True)] | None = None
    delay_s: Seconds | None = None
    retry: Retry = Retry()
    lease_s: Annotated[float, Meta(ge=1, le=86_400)] = 30.0
    attempt_timeout_s: PositiveSeconds = 900.0
    job_timeout_s: PositiveSeconds = 86_400.0
    expires_in_s: PositiveSeconds | None = None


class Acquire(Command, frozen=True):
    """Up to `count` leases from the subject's queue, waiting up to `wait_s` while there are none.

    `tasks` narrows it to the tasks that the worker knows; empty means any.
    """

    worker: Token
    count: Annotated[int, Meta(ge=1, le=LEASES_PER_REQUEST_MAX)] = 1
    wait_s: Annotated[float, Meta(ge=0, le=ACQUIRE_WAIT_MAX_S)] = 0.0
    tasks: tuple[TaskName, ...] = ()


class Withdraw(Command, frozen=True):
    """Ends the waiting acquires of a worker in the subject's queue; each is answered with no lease."""

    worker: Token


class Held(Command, frozen=True):
    """A lease as its holder names it."""

    id: Token
    token: Fence


class Renew(Command, frozen=True):
    """One beat: all leases that the worker holds in the subject's queue."""

    worker: Token
    leases: Annotated[tuple[Held, ...], Meta(min_length=1, max_length=RENEWALS_PER_REQUEST_MAX)]


class Start(Command, frozen=True):
    """User code runs for these leases."""

    worker: Token
    leases: Annotated[tuple[Held, ...], Meta(min_length=1, max_length=LEASES_PER_REQUEST_MAX)]


class Completion(Command, frozen=True):
    """One attempt that succeeded; `null` is no output. `run_ms` is the worker's measure of the user code."""

    id: Token
    token: Fence
    output: msgspec.Raw = msgspec.Raw(b"null")
    run_ms: RunMs | None = None


class Complete(Command, frozen=True):
    worker: Token
    reports: Annotated[tuple[Completion, ...], Meta(min_length=1, max_length=LEASES_PER_REQUEST_MAX)]


class Failure(Command, frozen=True):
    """One attempt that failed. Text beyond 10,000 characters is cut by the orchestrator."""

    id: Token
    token: Fence
    class_: ErrorClass = msgspec.field(name="class")
    type: Annotated[str, Meta(max_length=256)]
    text: str = ""
    run_ms: RunMs | None = None
    retry_after_s: Seconds | None = None


class Fail(Command, frozen=True):
    worker: Token
    reports: Annotated[tuple[Failure, ...], Meta(min_length=1, max_length=LEASES_PER_REQUEST_MAX)]


class Release(Command, frozen=True):
    """Leases given back unfinished; their jobs are pending again at once."""

    worker: Token
    leases: Annotated[tuple[Held, ...], Meta(min_length=1, max_length=LEASES_PER_REQUEST_MAX)]
    reason: Reason = "drain"


class Cancel(Command, frozen=True):
    id: Token
    reason: Reason = "requested"


class Redrive(Command, frozen=True):
    id: Token
    reason: Reason = "requested"


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What any request may be answered."""

    error: Rejection | None = None
    position: int = 0


class Lease(msgspec.Struct, frozen=True, omit_defaults=True):
    """The right to run one attempt for `lease_s` seconds from its grant, and from each renewal."""

    id: str
    task: str
    token: int
    attempt: int
    input: msgspec.Raw
    lease_s: float = 30.0
    attempt_timeout_s: float = 900.0


class Acquired(Answer, frozen=True):
    leases: tuple[Lease, ...] = ()


class Renewed(Answer, frozen=True):
    """`lost` names leases that are void, by index; `cancel` the ids whose work shall end.

    One in `lost` of kind `try_later` is no verdict: the lease may be live, ask again.
    """

    lost: tuple[Rejection, ...] = ()
    cancel: tuple[str, ...] = ()


class Reported(Answer, frozen=True):
    """`refused` names the reports, or releases or starts, that changed nothing, by index."""

    refused: tuple[Rejection, ...] = ()


LEASE_VERBS: dict[str, type[Command]] = {
    "acquire": Acquire,
    "withdraw": Withdraw,
    "renew": Renew,
    "start": Start,
    "complete": Complete,
    "fail": Fail,
    "release": Release,
}
CONTROL_VERBS: dict[str, type[Command]] = {"cancel": Cancel, "redrive": Redrive}
