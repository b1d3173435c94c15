"""What a task says of its steps, and what it may hear of them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from writ.schemas.errors import ErrorClass
from writ.schemas.steps import OnUnknown

from .errors import FailJob

T = TypeVar("T")


class NotDone:
    """What a probe returns, the class itself, where it finds that the step was not done."""


@dataclass(frozen=True, slots=True)
class StepPolicy:
    """What is done where a step's outcome is unknown, as its attempt ended within it, and how it is undone.

    An `idempotent` step runs again. `probe`, called with the step's parameters, returns its result, or
    NotDone, and then it runs again. `compensate` undoes what the step did when the job dies for good; it is
    called with the step's result, or with None where that is unknown, and may be called twice. Without
    `idempotent` and `probe` a person is asked; `on_unknown` says otherwise, such as "compensate".
    """

    idempotent: bool = False
    probe: Callable[..., Any] | None = None
    compensate: Callable[[Any], Any] | None = None
    on_unknown: str | None = None

    @property
    def unknown(self) -> OnUnknown:
        """What is done where the outcome is unknown. Raises ValueError where that cannot be done."""
        if self.on_unknown is not None:
            wanted = OnUnknown(self.on_unknown)
        elif self.idempotent:
            wanted = OnUnknown.REPEAT
        else:
            wanted = OnUnknown.ASK if self.probe is None else OnUnknown.PROBE
        held = {
            OnUnknown.REPEAT: self.idempotent,
            OnUnknown.PROBE: self.probe is not None,
            OnUnknown.COMPENSATE: self.compensate is not None,
            OnUnknown.ASK: True,
        }
        if not held[wanted]:
            needs = {OnUnknown.REPEAT: "idempotent=True"}.get(wanted, f"{wanted}=a function")
            raise ValueError(f"on_unknown is {wanted.value!r}; give {needs} with it")
        return wanted


ASK: Final = StepPolicy()


class CallFailed(Exception):
    """A step or a tool raised, here or in the attempt that is answered from: the same either way.

    `name` is the step's or the tool's; `type` is the name of what it raised, and `text` its text.
    """

    def __init__(self, name: str, type_: str, text: str, class_: ErrorClass = ErrorClass.APPLICATION) -> None:
        super().__init__(f"{name!r} failed with {type_}: {text.partition(chr(10))[0]}")
        self.name = name
        self.type = type_
        self.text = text
        self.class_ = class_


class StepFailed(CallFailed):
    """A step raised."""


class ToolFailed(CallFailed):
    """A tool raised."""


class WaitTimedOut(StepFailed):
    """What a task waited for did not come in time."""


class ChildFailed(StepFailed):
    """A child ended otherwise than completed; `name` is its key, `<queue>~<id>`."""


def step_failed(name: str, type_: str, text: str, class_: ErrorClass | None) -> StepFailed:
    """The failure of a step, as its record tells it."""
    kinds: dict[str, type[StepFailed]] = {each.__name__: each for each in (WaitTimedOut, ChildFailed)}
    return kinds.get(type_, StepFailed)(name, type_, text, class_ or ErrorClass.APPLICATION)


class OutcomeUnknown(Exception):
    """Raised by a step that cannot tell whether it did what it was to do, such as after a time-out."""


class StepRefused(FailJob):
    """A step that cannot be recorded, or is not the one in the record."""


class NotReproducible(FailJob):
    """A reproduction asks for what the record of the first run does not answer."""


class ToolDenied(FailJob):
    """The queue's policy does not let the task call this tool."""


class Rewind(BaseException):
    """Ends the task of a job that is dying, where its last step that can be undone was answered."""


class Sleep(BaseException):
    """Ends the task, whose job waits from here on: what is told to the orchestrator."""

    def __init__(self, verb: Literal["suspend", "snooze"], **fields: Any) -> None:
        super().__init__("the job waits, and goes on from here in its next attempt; let this pass")
        self.verb: Literal["suspend", "snooze"] = verb
        self.fields = fields


def drive(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits by blocking its thread, and so never suspends."""
    try:
        work.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    work.close()
    raise RuntimeError("a step of a plain function waits for a coroutine; give it a plain function")
