"""What a process of the node runs in: told by its parent what it needs, gone when its parent is."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Final, TypeVar

import msgspec

from writ.cli.processes import log_to_stderr, new_loop, when_stdin_ends

from .keeper import FAILED, READY

log = logging.getLogger("writ.node")

_PATIENCE_S: Final = 1.0
_LINE_MAX: Final = 1_000

NICE: Final = 5
"""What is read may be late, as it says how late it is; the engine's answers may not. So where both want the
same core the engine gets three quarters of it, and a view that has a long way to catch up holds nobody up."""

S = TypeVar("S", bound=msgspec.Struct)
Open = Callable[[S, AsyncExitStack], Awaitable[None]]
"""Makes the process ready; what it opens is closed with the stack."""


def live(settings_type: type[S], open_: Open[S], nice: int = NICE) -> int:
    """Runs until standard input ends or SIGTERM comes, by so much nicer than the node; the exit code."""

    async def serve(settings: S) -> None:
        await _serve(settings, open_, nice)

    return _run(settings_type, serve)


def work(settings_type: type[S], do: Callable[[S], Awaitable[None]]) -> int:
    """Runs to the end of `do`, as nice as who started it; the exit code.

    Where standard input ends before, or SIGTERM comes, it ends at once, whatever it does.
    """

    async def tell_and_do(settings: S) -> None:
        _say(READY)
        await do(settings)

    return _run(settings_type, tell_and_do)


async def ended(task: asyncio.Task[None]) -> None:
    """Ends a task that never ends by itself."""
    while not task.done():  # more than once, as `wait_for` of Python 3.11 may swallow a cancellation
        task.cancel()
        await asyncio.wait({task}, timeout=0.5)


def _run(settings_type: type[S], what: Callable[[S], Coroutine[None, None, None]]) -> int:
    log_to_stderr()
    settings = _settings(settings_type)
    if settings is None:
        return 0
    when_stdin_ends(_PATIENCE_S)
    try:
        with asyncio.Runner(loop_factory=new_loop()) as runner:
            runner.run(what(settings))
    except asyncio.CancelledError:
        return 0
    except Exception as error:
        log.exception("the process cannot go on")
        _say(f"{FAILED}{type(error).__name__}: {error}")
        return 1
    return 0


def _settings(settings_type: type[S]) -> S | None:
    """What the node says in the first line; None where it has ended before."""
    said = b""
    while not said.endswith(b"\n"):
        some = os.read(0, 65_536)
        if not some:
            return None
        said += some
    return msgspec.json.decode(said, type=settings_type)


def _say(line: str) -> None:
    os.write(1, line.replace("\n", " ")[:_LINE_MAX].encode() + b"\n")


async def _serve(settings: S, open_: Open[S], nice: int) -> None:
    """Never returns; SIGTERM cancels it."""
    serving = asyncio.current_task()
    assert serving is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    async with AsyncExitStack() as parts:
        await open_(settings, parts)
        _be_nice(nice)  # not sooner: the node waits for all before this
        _say(READY)
        await asyncio.get_running_loop().create_future()


def _be_nice(nice: int) -> None:
    """All threads: on Linux each has a niceness of its own, and those there are were made before."""
    priority = os.nice(nice)
    if sys.platform == "linux":
        for thread in threading.enumerate():
            if thread.native_id is not None:
                os.setpriority(os.PRIO_PROCESS, thread.native_id, priority)
