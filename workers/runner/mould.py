"""The mould: a process that has imported the tasks' module, and forks a guard for each attempt.

Started with a clean environment as `python -m writ.workers.runner.mould DESCRIPTOR`. It ends when the worker
closes its end, and the guards see to theirs.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import sys
from collections.abc import Mapping
from typing import Any, Final

from ..errors import LoadError
from ..load import load
from ..tasks import Task, schemas_of
from . import kernel, places
from .frames import MESSAGE_MAX_BYTES, Broken, Loaded, Setup, encode, read_setup, read_spawn
from .guard import Start, descendants, guard

_LOOK_S: Final = 1.0


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    setup = read_setup(control.recv(MESSAGE_MAX_BYTES))
    sys.path[:] = setup.path
    try:
        tasks = {task.name: task for module in setup.modules for task in load(module)}
    except LoadError as error:
        control.send(encode(Broken(str(error))))
        return
    except BaseException as error:
        words = f"{', '.join(setup.modules)} cannot be imported: {type(error).__name__}: {error}"
        control.send(encode(Broken(words[:4_000])))
        return
    kernel.adopt_orphans()
    roots = places.imported_roots()
    gc.collect()
    gc.freeze()  # so that children share these pages
    said = encode(Loaded(tuple(tasks), roots, schemas_of(tasks) if setup.asked else {}))
    if len(said) > MESSAGE_MAX_BYTES:
        said = encode(Loaded(tuple(tasks), roots))
    try:
        control.send(said)
    except BrokenPipeError:
        return  # the worker has ended meanwhile
    _serve(control, setup, tasks, roots)


def _serve(
    control: socket.socket, setup: Setup, tasks: Mapping[str, Task[..., Any]], roots: tuple[str, ...]
) -> None:
    readable = places.readable(roots, setup.secrets)
    listable = places.listable(roots)
    guards: set[int] = set()
    while True:
        ready, _, _ = select.select([control], [], [], _LOOK_S if guards else None)
        _reap(guards)
        if not ready:
            continue
        try:
            data, descriptors, _, _ = socket.recv_fds(control, MESSAGE_MAX_BYTES, 4)
        except ConnectionResetError:
            return  # the worker has ended with something of ours unread
        if not data:
            return
        start = Start(setup, read_spawn(data), tasks, readable, listable, *descriptors)
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                control.close()
                guard(start)
            os._exit(1)
        guards.add(pid)
        for descriptor in descriptors:
            os.close(descriptor)


def _reap(guards: set[int]) -> None:
    """Forgets guards that have ended; what one left behind that was killed is killed here."""
    orphaned = False
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            break
        orphaned = orphaned or (pid in guards and os.WIFSIGNALED(status))
        guards.discard(pid)
    if orphaned:
        for pid in descendants(os.getpid(), besides=guards):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)


if __name__ == "__main__":
    main()
