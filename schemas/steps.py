"""Recorded steps, tool calls and usage: what an attempt does outside, as the log keeps it.

    step_intended         a step is about to run: its name, and the digest of its parameters
    step_done             it ran, with its result; a later attempt takes that for an answer
    step_failed           it raised
    step_compensated      what it had done was undone, as its job dies for good
    tool_called           a governed tool was called, or the call was denied
    usage_recorded        tokens of a model were used, with what they cost
    compensation_due      the job would have ended; first what its steps did is undone
    compensation_ended    that is done, and the job ends in the same record

Steps are numbered from 1 in the order in which the task asks for them, over all attempts of a round. One
whose intention is recorded and nothing behind it, by an attempt that is over, has an *unknown* outcome.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from .bounds import TOKEN_MAX_BYTES
from .errors import AttemptError
from .facts import Fact
from .ids import KEY_PATTERN
from .sealed import Sealed
from .states import DeadReason


class OnUnknown(StrEnum):
    """What is done about a step whose outcome is unknown, before its job goes on."""

    ASK = "ask"
    """A person says whether it was done."""

    PROBE = "probe"
    """A function of the task's finds out."""

    COMPENSATE = "compensate"
    """What it may have done is undone, and it runs again."""

    REPEAT = "repeat"
    """It is declared idempotent, and runs again."""


class StepBy(StrEnum):
    """How the outcome of a step came to be known."""

    RAN = "ran"
    PROBED = "probed"
    TOLD = "told"
    """By a person, with an approval."""

    RECORDED = "recorded"
    """In a reproduction: the answer is that of the first run."""


class ToolOutcome(StrEnum):
    """What became of a call of a tool."""

    DONE = "done"
    FAILED = "failed"
    DENIED = "denied"


class Reproduces(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The run that a job reproduces: a job of its queue by its key, up to the end that record `end` tells."""

    job: Annotated[str, Meta(max_length=TOKEN_MAX_BYTES, pattern=KEY_PATTERN)]
    end: Annotated[int, Meta(ge=1)]


class StepIntended(Fact, frozen=True):
    """`params` is SHA-256, in hex, of the parameters as JSON; keyed where the job's content is sealed.

    `compensable` steps can be undone.

    `again` says what was done about the unknown outcome of the same step before.
    """

    attempt: int
    token: int
    step: int
    name: str
    params: str
    on_unknown: OnUnknown = OnUnknown.ASK
    compensable: bool = False
    again: OnUnknown | None = None


class StepDone(Fact, frozen=True):
    """`run_ms` is the worker's own measure; no `result` is `null`."""

    attempt: int
    token: int
    step: int
    result: Sealed | None = None
    run_ms: int | None = None
    by: StepBy = StepBy.RAN


class StepFailed(Fact, frozen=True):
    attempt: int
    token: int
    step: int
    error: AttemptError
    run_ms: int | None = None
    by: StepBy = StepBy.RAN


class StepCompensated(Fact, frozen=True):
    attempt: int
    token: int
    step: int
    run_ms: int | None = None


class ToolCalled(Fact, frozen=True):
    """One call, or `denied` before it was made, by `rule` of version `policy` of the queue's policy.

    `schema` is the tool's version, or SHA-256 of its signature in hex. `params` are redacted; `digest` is
    SHA-256, in hex, of the parameters as they were. `step` is the recorded step that the call was part of.
    Without `result`, where the outcome is `done`, the answer was not kept: it was too large.
    """

    attempt: int
    token: int
    tool: str
    schema: str
    params: Sealed
    digest: str
    outcome: ToolOutcome
    policy: int = 0
    rule: str | None = None
    error: AttemptError | None = None
    result: Sealed | None = None
    run_ms: int | None = None
    step: int | None = None
    by: StepBy = StepBy.RAN


class UsageRecorded(Fact, frozen=True):
    """`cost_microusd` by version `prices` of the price table; None where that has no price of the model."""

    attempt: int
    token: int
    model: str
    input_tokens: int
    output_tokens: int
    cost_microusd: int | None = None
    prices: int = 0


class CompensationDue(Fact, frozen=True):
    """The job would have been dead-lettered as `dead`, or cancelled where that is None, by `rule`."""

    rule: str
    dead: DeadReason | None = None
    cause: str | None = None


class CompensationEnded(Fact, frozen=True):
    attempt: int
    token: int
    run_ms: int | None = None


NOTED: Final[tuple[type[Fact], ...]] = (
    StepIntended,
    StepDone,
    StepFailed,
    StepCompensated,
    ToolCalled,
    UsageRecorded,
)
"""What the holder of a lease notes while its attempt runs; it moves no job."""

STEP_EVENTS: Final[tuple[type[Fact], ...]] = (*NOTED, CompensationDue, CompensationEnded)


class StepState(StrEnum):
    """What the record says of a step."""

    INTENDED = "intended"
    DONE = "done"
    FAILED = "failed"
    COMPENSATED = "compensated"


class RecordedStep(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One step of a job. `seq` is the record of its newest intention, and `token` that of its attempt.

    A failure is `passed` when the task went on from it to another step: then it is an answer like any other.
    """

    name: str
    params: str
    state: StepState
    attempt: int
    token: int
    seq: int
    on_unknown: OnUnknown = OnUnknown.ASK
    compensable: bool = False
    result: Sealed | None = None
    error: AttemptError | None = None
    passed: bool = False

    @property
    def owes(self) -> bool:
        """Whether it is to be undone when the job dies for good."""
        return self.compensable and self.state in (StepState.INTENDED, StepState.DONE)

    @property
    def size_bytes(self) -> int:
        """What its content weighs."""
        text = self.error.text if self.error is not None else None
        return sum(each.size_bytes for each in (self.result, text) if each is not None)


class Compensation(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The end that waits for what a job's steps did to be undone, see `CompensationDue`."""

    rule: str
    dead: DeadReason | None = None
    cause: str | None = None


Steps = tuple[RecordedStep, ...]


def stepped(steps: Steps, event: Fact, seq: int) -> Steps:
    """The recorded steps after an event of record `seq`; the same where it is about none of them."""
    match event:
        case StepIntended(step=number) if number <= len(steps) + 1:
            step = RecordedStep(
                event.name,
                event.params,
                StepState.INTENDED,
                event.attempt,
                event.token,
                seq,
                event.on_unknown,
                event.compensable,
            )
            before = tuple([_passed(each, event.token) for each in steps])
            return (*before[: number - 1], step, *before[number:])
        case StepDone(step=number, result=result) if number <= len(steps):
            return _put(steps, number, replace(steps[number - 1], state=StepState.DONE, result=result))
        case StepFailed(step=number, error=error) if number <= len(steps):
            return _put(steps, number, replace(steps[number - 1], state=StepState.FAILED, error=error))
        case StepCompensated(step=number) if number <= len(steps):
            return _put(steps, number, replace(steps[number - 1], state=StepState.COMPENSATED))
        case _:
            return steps


def _passed(step: RecordedStep, token: int) -> RecordedStep:
    """A step after its attempt asks for another one."""
    if step.state is StepState.FAILED and step.token == token and not step.passed:
        return replace(step, passed=True)
    return step


def _put(steps: Steps, number: int, step: RecordedStep) -> Steps:
    return (*steps[: number - 1], step, *steps[number:])


def owing(steps: Steps) -> tuple[int, ...]:
    """The numbers of the steps that are to be undone, last first."""
    return tuple([number for number in range(len(steps), 0, -1) if steps[number - 1].owes])
