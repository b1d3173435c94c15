"""What the holder of a lease notes of its attempt, and the recorded steps that a later one is given."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from .bounds import AFTER_MAX, LEASES_PER_REQUEST_MAX, NAME_MAX_CHARS, NOTES_PER_REPORT_MAX
from .errors import AttemptError, ErrorClass
from .forms import Answer, Command, Fence, JobKey, RunMs, Token
from .sealed import unseal
from .states import State
from .steps import OnUnknown, RecordedStep, StepBy, StepState, ToolOutcome

StepNumber = Annotated[int, Meta(ge=1, le=2**31)]
Name = Annotated[str, Meta(min_length=1, max_length=NAME_MAX_CHARS)]
ModelName = Annotated[str, Meta(min_length=1, max_length=NAME_MAX_CHARS)]
DIGEST_PATTERN = r"^[0-9a-f]{64}$(?!\n)"
Digest = Annotated[str, Meta(pattern=DIGEST_PATTERN)]
Tokens = Annotated[int, Meta(ge=0, le=10**12)]
_NULL = msgspec.Raw(b"null")


class Remark(
    msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True, tag_field="note"
):
    """Base of one thing noted; each becomes one event."""


class StepIntent(Remark, frozen=True, tag="step_intended"):
    """A step is about to run: the next one, or the same again. See `StepIntended`."""

    step: StepNumber
    name: Name
    params: Digest
    on_unknown: OnUnknown = OnUnknown.ASK
    compensable: bool = False
    again: OnUnknown | None = None


class StepResult(Remark, frozen=True, tag="step_done"):
    """It ran, with a result of at most 256 KiB."""

    step: StepNumber
    result: msgspec.Raw = _NULL
    run_ms: RunMs | None = None
    by: StepBy = StepBy.RAN


class StepFault(Remark, frozen=True, tag="step_failed"):
    """It raised. Text beyond 10,000 characters is cut by the orchestrator."""

    step: StepNumber
    class_: ErrorClass = msgspec.field(name="class")
    type: Annotated[str, Meta(max_length=256)]
    text: str = ""
    run_ms: RunMs | None = None
    by: StepBy = StepBy.RAN


class StepUndone(Remark, frozen=True, tag="step_compensated"):
    """What it did was undone."""

    step: StepNumber
    run_ms: RunMs | None = None


class ToolCall(Remark, frozen=True, tag="tool_called"):
    """A call of a tool that was made, or denied by `rule`. See `ToolCalled`.

    An answer that is too large to be kept is left out of `result`.
    """

    tool: Name
    schema: Annotated[str, Meta(max_length=NAME_MAX_CHARS)]
    params: msgspec.Raw
    digest: Digest
    outcome: ToolOutcome
    policy: Annotated[int, Meta(ge=0)] = 0
    rule: Annotated[str, Meta(max_length=1_000)] | None = None
    class_: ErrorClass = msgspec.field(name="class", default=ErrorClass.APPLICATION)
    type: Annotated[str, Meta(max_length=256)] = ""
    text: str = ""
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    run_ms: RunMs | None = None
    step: StepNumber | None = None
    by: StepBy = StepBy.RAN


class TokensUsed(Remark, frozen=True, tag="usage_recorded"):
    """Tokens of a model; the orchestrator puts the price to them."""

    model: ModelName
    input_tokens: Tokens = 0
    output_tokens: Tokens = 0


AnyRemark = StepIntent | StepResult | StepFault | StepUndone | ToolCall | TokensUsed


class Noted(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """What one attempt notes, all or nothing, as one record.

    The holder numbers its notes from 1 on over the lease; `first` is the number of the first one here. What
    the log has already is not stored again.
    """

    id: Token
    token: Fence
    first: Annotated[int, Meta(ge=1)]
    notes: Annotated[tuple[AnyRemark, ...], Meta(min_length=1, max_length=NOTES_PER_REPORT_MAX)]


class Note(Command, frozen=True):
    """Notes of attempts that a worker runs: steps, tool calls and usage."""

    worker: Token
    reports: Annotated[tuple[Noted, ...], Meta(min_length=1, max_length=LEASES_PER_REQUEST_MAX)]


class Recall(Command, frozen=True):
    """Asks for the recorded steps of a job behind the first `after`, and of `children` how they stand."""

    worker: Token
    id: Token
    token: Fence
    after: Annotated[int, Meta(ge=0)] = 0
    children: Annotated[tuple[JobKey, ...], Meta(max_length=AFTER_MAX)] = ()


class StepSeen(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One recorded step, as a worker is given it. `error` is the text of a failure, `type` its type."""

    name: str
    params: str
    state: StepState
    attempt: int
    seq: int
    on_unknown: OnUnknown = OnUnknown.ASK
    compensable: bool = False
    result: msgspec.Raw = _NULL
    class_: ErrorClass | None = msgspec.field(name="class", default=None)
    type: str = ""
    text: str = ""
    passed: bool = False


class ChildSeen(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """How a child stands, as its parent's worker is told. Without `state` no child of that key is known.

    `why` is what ended it, where that is not its completion; the output of one that completed may be left
    out where the answer has no room for it, and `cut` says so: ask for it alone. `afar` says that it is of
    another partition, of which this one learns how it stands once its parent waits for it.
    """

    key: str
    state: State | None = None
    output: msgspec.Raw = _NULL
    why: str = ""
    cut: bool = False
    afar: bool = False


class Recalled(Answer, frozen=True):
    """Some recorded steps in their order; `total` is how many there are. `children` as asked for.

    `dealt` is the last submit of the tenant, by its sequence in the intake, that has become a job or was
    refused by now; 0 where the leader does not know yet.
    """

    steps: tuple[StepSeen, ...] = ()
    total: int = 0
    children: tuple[ChildSeen, ...] = ()
    dealt: int = 0


def seen(step: RecordedStep) -> StepSeen:
    """A recorded step as a worker is given it. Raises ValueError where its content is sealed under a key."""
    error = step.error
    return StepSeen(
        step.name,
        step.params,
        step.state,
        step.attempt,
        step.seq,
        step.on_unknown,
        step.compensable,
        _NULL if step.result is None else msgspec.Raw(unseal(step.result)),
        None if error is None else error.class_,
        "" if error is None else error.type,
        "" if error is None else text_of(error),
        step.passed,
    )


def text_of(error: AttemptError) -> str:
    """An error's text. Raises ValueError where it is sealed under a key."""
    return "" if error.text is None else msgspec.json.decode(unseal(error.text), type=str)
