"""How attempts in processes of their own end, in the words of docs/isolation.md."""

from __future__ import annotations

import errno
import os
import signal
from typing import Final

from writ.schemas.errors import ErrorClass

from ..faults import Clean, Fault, Stop, describe
from .frames import BROKEN, OUT_OF_MEMORY, TOO_MANY, Status
from .limits import AttemptLimits

_TOLD_MAX_CHARS: Final = 2_000


def overstepped(error: BaseException, limits: AttemptLimits, clean: Clean) -> Fault | None:
    """The failure that an exception is, where it tells of a limit that was met; None where of none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            limits.give_room()
            return _out_of_memory(limits)
        if isinstance(cause, OSError) and cause.errno == errno.EFBIG:
            text = f"a file was to grow past --file-mib {limits.file_mib}\n\n{describe(error, clean)}"
            return Fault(ErrorClass.APPLICATION, "FileTooLarge", text)
        cause = cause.__cause__
    return None


def fault_of_end(stop: Stop | None, status: Status | None, limits: AttemptLimits, stderr: str) -> Fault:
    """The failure of an attempt whose process ended without saying how.

    `stop` is why it was to end, if it was; `status` is None where its guard is gone, too; `stderr` is the end
    of what it wrote there.
    """
    if stop is Stop.TIMEOUT:
        return Fault(
            ErrorClass.TIMEOUT, "AttemptTimeout", f"{stop.value}; it did not stop when told: it was killed"
        )
    if stop is Stop.CANCEL:
        return Fault(
            ErrorClass.CANCELLED, "Cancelled", f"{stop.value}; it did not stop when told: it was killed"
        )
    if stop is not None:
        return Fault(ErrorClass.SYSTEM, "Stopped", stop.value)
    if status is None:
        return _crash(
            "GuardLost", "the guard of the attempt's process was killed, and the attempt with it", stderr
        )
    if status.why == OUT_OF_MEMORY:
        return _out_of_memory(limits)
    if status.why == TOO_MANY:
        text = f"the task had more than --processes {limits.processes} processes and threads: all were killed"
        return Fault(ErrorClass.APPLICATION, "TooManyProcesses", text)
    if status.why == BROKEN:
        return _crash(
            "ProtocolBroken", "the attempt's process sent what is no message: it was killed", stderr
        )
    if not os.WIFSIGNALED(status.status):
        code = os.waitstatus_to_exitcode(status.status)
        text = f"the attempt's process ended by itself with status {code}, before the task had ended"
        return _crash("ProcessExited", text, stderr)
    number = os.WTERMSIG(status.status)
    if limits.cpu_s is not None and (number == signal.SIGXCPU or status.cpu_s >= limits.cpu_s):
        text = f"the task used more CPU time than --cpu-s {limits.cpu_s}: it was killed"
        return Fault(ErrorClass.TIMEOUT, "CpuTimeout", text)
    name = _name(number)
    text = f"the attempt's process was killed by {name}"
    if number == signal.SIGKILL:
        text += "; the kernel does so where the machine is out of memory"
    return _crash(name, text, stderr)


def _out_of_memory(limits: AttemptLimits) -> Fault:
    text = f"the task used up its memory: --memory-mib is {limits.memory_mib}"
    return Fault(ErrorClass.APPLICATION, "OutOfMemory", text)


def _crash(type_: str, text: str, stderr: str) -> Fault:
    last = stderr[-_TOLD_MAX_CHARS:].strip()
    if last:
        text = f"{text}\n\nthe end of its stderr:\n{last}"
    return Fault(ErrorClass.SYSTEM, type_, text, crashed=True)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
