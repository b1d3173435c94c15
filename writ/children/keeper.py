"""The node's hold on a process of its own: starts it, and starts it again whenever it ends.

The node writes one line of settings to the process's standard input and keeps that open: where it ends, the
node is gone, and so the process ends. On standard output it says when it is ready, and what it failed by.

This module itself imports next to nothing, so that a process can be started before the node loads the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Generic, TypeVar

import msgspec

log = logging.getLogger("writ.node")

READY: Final = "ready"
FAILED: Final = "failed: "

STOP_GRACE_S: Final = 10.0
_PAUSE_MIN_S: Final = 0.1
_PAUSE_MAX_S: Final = 10.0
_SOUND_S: Final = 30.0
"""After a life of so long the pauses between starts begin anew, from the shortest."""

S = TypeVar("S", bound=msgspec.Struct)


class ChildFailed(Exception):
    """A process of the node has ended; the text says which and how."""

    def __init__(self, name: str, how: str) -> None:
        self.how = how
        super().__init__(f"the process of {name} {how}")


class Child(Generic[S]):
    """A process of the node, `python -m <module>`, from `spawn` to `stop`; `S` is what it is told.

    `away` says why it is not there, where it is not. `fds` are open in the process under the same numbers.
    """

    def __init__(self, name: str, module: str, *words: str, fds: Sequence[int] = ()) -> None:
        self.name = name
        self.away: str | None = "has not started yet"
        self._command = (sys.executable, "-P", "-m", module, *words)
        self._fds = fds
        self._process: Process | None = None
        self._ready = asyncio.Event()
        self._life: asyncio.Task[str] | None = None

    @property
    def pid(self) -> int | None:
        """None while there is none."""
        return None if self._process is None else self._process.pid

    async def spawn(self) -> None:
        """Starts a process; it loads what it needs and waits to be told where. Raises OSError."""
        # A session of its own, so that Ctrl-C in a terminal reaches the node, which ends it.
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, start_new_session=True, pass_fds=self._fds
        )
        self._process = process
        self._ready = ready = asyncio.Event()
        self._life = asyncio.create_task(_live(process, ready), name=self.name)

    async def open(self, settings: S) -> None:
        """Returns when the process says that it is ready. Raises ChildFailed where it ends instead."""
        process, life = self._process, self._life
        assert process is not None, "spawn() comes first"
        assert process.stdin is not None
        assert life is not None
        with contextlib.suppress(
            OSError, RuntimeError
        ):  # it has ended, as `life` tells; uvloop's is the second
            process.stdin.write(msgspec.json.encode(settings) + b"\n")
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({life, ready}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if life.done():
            raise ChildFailed(self.name, life.result())
        self.away = None

    async def ended(self) -> str:
        """How the process ended, when it has. `spawn` comes before."""
        assert self._life is not None, "spawn() comes first"
        return await asyncio.shield(self._life)

    async def keep(self, settings: S) -> None:
        """Starts the process again whenever it ends, until cancelled; also where it never began."""
        loop = asyncio.get_running_loop()
        pause_s = 0.0
        since = loop.time()
        while True:
            if self._life is not None:
                self.away = await asyncio.shield(self._life)
                if pause_s == 0 or loop.time() - since > _SOUND_S:
                    pause_s = _PAUSE_MIN_S
            async with self._absence(settings):
                while self.away is not None:
                    if pause_s:
                        log.error(
                            "the process of %s %s; starting it again in %g s", self.name, self.away, pause_s
                        )
                        await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s or _PAUSE_MIN_S, _PAUSE_MAX_S)
                    try:
                        await self.spawn()
                        await self.open(settings)
                    except ChildFailed as failed:
                        self.away = failed.how
                    except OSError as error:
                        self.away = f"cannot be started: {error}"
            since = loop.time()
            log.info("%s: process %s is ready", self.name, self.pid)

    def _absence(self, settings: S) -> AbstractAsyncContextManager[object]:
        """What goes on while the process is away."""
        return contextlib.nullcontext()

    async def stop(self) -> None:
        """Ends the process in order, by force after 10 s; returns when it is gone. `keep` must have ended."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert self._life is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await asyncio.shield(self._life)
        except TimeoutError:
            log.error("the process of %s (pid %d) does not end; ending it by force", self.name, process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await self._life


async def _live(process: Process, ready: asyncio.Event) -> str:
    """Returns when the process has ended; how it did."""
    assert process.stdout is not None
    why = ""
    async for line in process.stdout:
        said = line.decode(errors="replace").rstrip()
        if said == READY:
            ready.set()
        elif said.startswith(FAILED):
            why = said.removeprefix(FAILED)
    code = await process.wait()
    if why:
        return f"failed by {why}"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"
