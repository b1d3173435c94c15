"""One attempt in a worker's hands: from its lease to what is reported of it."""

from __future__ import annotations

import asyncio
import traceback
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from writ.schemas.bounds import ERROR_TEXT_MAX_CHARS, INLINE_MAX_BYTES
from writ.schemas.commands import Lease
from writ.schemas.errors import ErrorClass

from .context import Context
from .errors import Cancelled, FailJob, RetryAfter
from .tasks import InputMismatch, Task

if TYPE_CHECKING:
    from .line import Line

_TYPE_MAX_CHARS: Final = 256
_MESSAGE_MAX_CHARS: Final = 4_000
_FRAMES: Final = 40
_MS: Final = 1_000
_encode = msgspec.json.Encoder().encode


class Stop(Enum):
    """Why work shall end before its time; the value is said to the task."""

    CANCEL = "the job was cancelled"
    LOST = "the lease was lost: another worker may have the job"
    TIMEOUT = "the attempt ran longer than attempt_timeout_s"
    RELEASE = "the worker is draining"


class Fault(msgspec.Struct, frozen=True):
    """A failed attempt as it will be reported."""

    class_: ErrorClass
    type: str
    text: str
    retry_after_s: float | None = None


class Run:
    """A lease being worked on. The keeper owns it; the hands fill in the outcome, then give it back.

    `stop` is set by the keeper and read by all. `taken_us` is when the lease came, `began_us` when user code
    did, by the worker's own monotonic clock.
    """

    __slots__ = (
        "began_us",
        "ended",
        "fault",
        "handle",
        "lease",
        "line",
        "output",
        "run_ms",
        "start_sent",
        "stop",
        "taken_us",
        "task",
    )

    def __init__(self, lease: Lease, line: Line, task: Task[..., Any], taken_us: int) -> None:
        self.lease = lease
        self.line = line
        self.task = task
        self.taken_us = taken_us
        self.began_us = 0
        self.stop: Stop | None = None
        self.handle: asyncio.Task[None] | None = None
        self.output = b"null"
        self.fault: Fault | None = None
        self.run_ms = 0
        self.ended = False
        self.start_sent = False

    @property
    def queue(self) -> str:
        return self.line.queue

    def arguments(self) -> dict[str, Any]:
        """The arguments of the call. Raises InputMismatch."""
        arguments = self.task.arguments(self.lease.input)
        name = self.task.context_name
        if name is not None:
            arguments[name] = Context(self, self.line.tenant)
        return arguments

    def returned(self, value: Any, now_us: int) -> None:
        """The function came back with a value."""
        self.run_ms = max(0, now_us - self.began_us) // _MS
        try:
            output = _encode(value)
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            self.fault = Fault(
                ErrorClass.APPLICATION,
                "OutputNotSerializable",
                f"the output cannot be written as JSON: {error}",
            )
            return
        if len(output) > INLINE_MAX_BYTES:
            reason = f"output has {len(output)} bytes; at most {INLINE_MAX_BYTES} are carried inline"
            self.fault = Fault(ErrorClass.APPLICATION, "OutputTooLarge", reason)
            return
        self.output = output

    def raised(self, error: BaseException, now_us: int) -> None:
        """The function raised."""
        self.run_ms = max(0, now_us - self.began_us) // _MS if self.began_us else 0
        self.fault = fault_of(error, self.stop)


def fault_of(error: BaseException, stop: Stop | None) -> Fault:
    """An exception as a failure: the class decides what happens next."""
    if stop is Stop.TIMEOUT:
        return Fault(ErrorClass.TIMEOUT, "AttemptTimeout", stop.value)
    if stop is Stop.CANCEL:
        return Fault(ErrorClass.CANCELLED, "Cancelled", _words(error) or stop.value)
    kind = type(error).__name__[:_TYPE_MAX_CHARS]
    if isinstance(error, Cancelled):
        return Fault(ErrorClass.CANCELLED, kind, _words(error))
    if isinstance(error, InputMismatch):
        return Fault(ErrorClass.APPLICATION, kind, _words(error))
    text = describe(error)
    if isinstance(error, FailJob):
        return Fault(ErrorClass.POLICY, kind, text)
    if isinstance(error, RetryAfter):
        return Fault(ErrorClass.APPLICATION, kind, text, error.seconds)
    return Fault(ErrorClass.APPLICATION, kind, text)


def describe(error: BaseException) -> str:
    """The message, then the traceback from user code on, within 10,000 characters."""
    message = _words(error)
    if len(message) > _MESSAGE_MAX_CHARS:
        message = f"{message[:_MESSAGE_MAX_CHARS]} [cut: {len(message)} characters in all]"
    trace = error.__traceback__
    frames = traceback.format_exception(type(error), error, trace.tb_next if trace else None, limit=-_FRAMES)
    stack = "".join(frames)
    room = ERROR_TEXT_MAX_CHARS - len(message) - 100
    if len(stack) > room:
        half = room // 2
        stack = f"{stack[:half]}\n[cut: {len(stack)} characters in all]\n{stack[-half:]}"
    return _clean(f"{message}\n\n{stack}")


def _words(error: BaseException) -> str:
    try:
        return _clean(str(error))
    except Exception as broken:  # a __str__ of the user's own may do anything
        return f"(its text cannot be had: {type(broken).__name__})"


def _clean(text: str) -> str:
    """Without lone surrogates, which JSON cannot carry."""
    return text.encode("utf-8", "replace").decode()
