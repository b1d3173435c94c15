"""Failed attempts: what user code raised, as it will be reported."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable
from enum import Enum
from typing import Final

import msgspec

from writ.schemas.bounds import ERROR_TEXT_MAX_CHARS
from writ.schemas.errors import ErrorClass

from .errors import Cancelled, FailJob, RetryAfter
from .steps import CallFailed
from .tasks import InputMismatch

_TYPE_MAX_CHARS: Final = 256
_MESSAGE_MAX_CHARS: Final = 4_000
_FRAMES: Final = 40
_OURS: Final = "writ.workers."


Clean = Callable[[str], str]


class Stop(Enum):
    """Why work shall end before its time; the value is said to the task."""

    CANCEL = "the job was cancelled"
    LOST = "the lease was lost: another worker may have the job"
    TIMEOUT = "the attempt ran longer than attempt_timeout_s"
    RELEASE = "the worker is draining"
    LAPSED = "the lease could not be renewed in time: another worker may have the job soon"


GRACE_S: Final = 2.0
"""From being told to stop to SIGTERM, and from there to SIGKILL."""


class Fault(msgspec.Struct, frozen=True):
    """A failed attempt as it will be reported. Where it `crashed`, its process died; a `permanent` one
    would fail again, whoever tried.
    """

    class_: ErrorClass
    type: str
    text: str
    retry_after_s: float | None = None
    crashed: bool = False
    permanent: bool = False


def fault_of(error: BaseException, stop: Stop | None, clean: Clean = str) -> Fault:
    """An exception as a failure: the class decides what happens next. `clean` leaves secrets out."""
    if stop is Stop.TIMEOUT:
        return Fault(ErrorClass.TIMEOUT, "AttemptTimeout", stop.value)
    if stop is Stop.CANCEL:
        return Fault(ErrorClass.CANCELLED, "Cancelled", _words(error) or stop.value)
    kind = type(error).__name__[:_TYPE_MAX_CHARS]
    if isinstance(error, Cancelled):
        return Fault(ErrorClass.CANCELLED, kind, _words(error))
    if isinstance(error, InputMismatch):
        return Fault(ErrorClass.APPLICATION, kind, _words(error), permanent=True)
    if isinstance(error, CallFailed):
        return Fault(error.class_, error.type, error.text)
    text = describe(error, clean)
    if isinstance(error, FailJob):
        return Fault(ErrorClass.POLICY, kind, text)
    if isinstance(error, RetryAfter):
        return Fault(ErrorClass.APPLICATION, kind, text, error.seconds)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Fault(ErrorClass.SYSTEM, "DiskFull", text)
    return Fault(ErrorClass.APPLICATION, kind, text)


def steers(error: BaseException) -> bool:
    """Whether an error is not a step's or a tool's own, but tells what shall become of the attempt."""
    return isinstance(error, FailJob | RetryAfter | Cancelled) or not isinstance(error, Exception)


def describe(error: BaseException, clean: Clean = str) -> str:
    """The message, then the traceback from user code on, within 10,000 characters."""
    message = clean(_words(error))  # before it is cut, which might cut a secret
    if len(message) > _MESSAGE_MAX_CHARS:
        message = f"{message[:_MESSAGE_MAX_CHARS]} [cut: {len(message)} characters in all]"
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(_OURS):
        trace = trace.tb_next
    frames = traceback.format_exception(type(error), error, trace, limit=-_FRAMES)
    stack = clean("".join(frames))
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
