"""The guard of one attempt: parent and reaper of all that it starts, by whatever way it was started.

It runs no user code, is confined by nothing that confines the attempt, and ends last.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from ..tasks import Task
from . import kernel
from .child import live
from .frames import KILL, OUT_OF_MEMORY, TOO_MANY, Setup, Spawn, Status, encode
from .limits import MIB

LOOK_S: Final = 0.5
_KILL_S: Final = 5.0


class Start(NamedTuple):
    """All that an attempt is started with."""

    setup: Setup
    spawn: Spawn
    tasks: Mapping[str, Task[..., Any]]
    readable: list[str]
    listable: list[str]
    link: int
    out: int
    err: int
    line: int


def guard(start: Start) -> None:
    """Starts the child, watches over it, and says how it ended when nothing of it is left."""
    kernel.adopt_orphans()
    child = os.fork()
    if child == 0:
        try:
            os.close(start.line)
            live(start)
        finally:
            os._exit(1)
    for descriptor in (start.link, start.out, start.err):
        os.close(descriptor)
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            os.close(descriptor)
    watch = _Watch(start, child)
    try:
        watch.until_over()
        kill_all()
        with contextlib.suppress(OSError):
            os.write(start.line, encode(Status(watch.status, watch.why, watch.cpu_s)))
    finally:
        shutil.rmtree(start.spawn.folder, ignore_errors=True)
        if watch.alone:
            with contextlib.suppress(OSError):  # the last of the worker's guards finds it empty
                os.rmdir(os.path.dirname(start.spawn.folder))
    os._exit(0)


class _Watch:
    """Looks at an attempt until its child has ended."""

    def __init__(self, start: Start, child: int) -> None:
        self._line = start.line
        self._limits = start.setup.limits
        self._child = child
        self.status = 0
        self.why = ""
        self.cpu_s = 0.0
        self.alone = False
        """The worker is gone."""

    def until_over(self) -> None:
        ended = os.pidfd_open(self._child)
        listening = [self._line, ended]
        while True:
            ready, _, _ = select.select(listening, [], [], LOOK_S)
            if ended in ready:
                break
            if self._line in ready:
                said = os.read(self._line, 64)
                self.alone = not said
                if self.alone or KILL in said:
                    kill_all(reap=False)
                    listening = [ended]  # no more is to be heard
                else:
                    _tell_all(signal.SIGTERM)
            elif not self.why:
                self._look()
        os.close(ended)
        _, self.status, used = os.wait4(self._child, 0)
        self.cpu_s = used.ru_utime + used.ru_stime

    def _look(self) -> None:
        """Ends an attempt that is past the limits of what its processes use together."""
        found = descendants(os.getpid())
        if sum(map(_threads, found)) > self._limits.processes:
            self.why = TOO_MANY
        elif len(found) > 1 and sum(map(_memory, found)) > self._limits.memory_mib * MIB:
            self.why = OUT_OF_MEMORY
        if self.why:
            kill_all(reap=False)


def kill_all(*, reap: bool = True) -> None:
    """Kills every process below this one; with `reap` returns when none is left.

    They are stopped before they are killed, so that none starts another meanwhile.
    """
    end = time.monotonic() + _KILL_S
    while time.monotonic() < end and not (reap and _none_left()):
        stopped: set[int] = set()
        while fresh := set(descendants(os.getpid())) - stopped:
            _signal(fresh, signal.SIGSTOP)
            stopped |= fresh
        _signal(stopped, signal.SIGKILL)
        if not reap:
            return
        time.sleep(0.005)


def _none_left() -> bool:
    """Takes in what has ended; whether no child is left, and so no descendant."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            return False


def _tell_all(number: int) -> None:
    _signal(descendants(os.getpid()), number)


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def descendants(of: int, besides: Iterable[int] = ()) -> list[int]:
    """The processes that live below one, but for some of its children and what is below those."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    state, parent = file.read().rpartition(b") ")[2].split()[:2]
                if state != b"Z":
                    children.setdefault(int(parent), []).append(int(name))
    left_out = set(besides)
    found = [pid for pid in children.get(of, ()) if pid not in left_out]
    for pid in found:  # it grows meanwhile
        found += children.get(pid, ())
    return found


def _threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def _memory(pid: int) -> int:
    """Bytes that a process uses, its share of what it shares counted."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return 0
