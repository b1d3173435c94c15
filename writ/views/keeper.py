"""The node's hold on the process of its views: starts it, starts it again, speaks for it meanwhile.

The node writes one line of settings to the process's standard input and keeps that open: where it ends, the
node is gone, and so the process ends. On standard output it says when it is ready, and what it failed by.

This module itself imports next to nothing, so that the process can be started before the node loads the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from writ.schemas.queries import PartitionStatus, ViewStatus

log = logging.getLogger("writ.node")

READY: Final = "ready"
FAILED: Final = "failed: "

STOP_GRACE_S: Final = 10.0
_PAUSE_MIN_S: Final = 0.1
_PAUSE_MAX_S: Final = 10.0
_SOUND_S: Final = 30.0
"""After a life of so long the pauses between starts begin anew, from the shortest."""


class ViewsFailed(Exception):
    """The process of the views has ended; the text says how."""

    def __init__(self, how: str) -> None:
        self.how = how
        super().__init__(f"the process of the views {how}")


class Settings(msgspec.Struct, frozen=True):
    """What the process is told; the keys are paths of seed files, the directory is the node's."""

    directory: str
    url: str
    log_key: str
    answer_key: str
    partition: int
    log_epoch: int
    submit_epoch: int
    version: str


class Views:
    """The process of the views of the node in `directory`, from `spawn` to `stop`.

    `away` says why it is not there, where it is not.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute() / "views"
        self.away: str | None = "has not started yet"
        self._process: Process | None = None
        self._ready = asyncio.Event()
        self._life: asyncio.Task[str] | None = None

    @property
    def pid(self) -> int | None:
        """None while there is none."""
        return None if self._process is None else self._process.pid

    async def spawn(self) -> None:
        """Starts a process; it loads what it needs and waits to be told where. Raises OSError."""
        command = (sys.executable, "-P", "-m", "writ.views", str(self._directory))
        # A session of its own, so that Ctrl-C in a terminal reaches the node, which ends it.
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, start_new_session=True
        )
        self._process = process
        self._ready = ready = asyncio.Event()
        self._life = asyncio.create_task(_live(process, ready), name="views")

    async def open(self, settings: Settings) -> None:
        """Returns when the process answers queries. Raises ViewsFailed where it ends instead."""
        process, life = self._process, self._life
        assert process is not None, "spawn() comes first"
        assert process.stdin is not None
        assert life is not None
        process.stdin.write(msgspec.json.encode(settings) + b"\n")
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({life, ready}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if life.done():
            raise ViewsFailed(life.result())
        self.away = None

    async def keep(self, settings: Settings, answers: Any, standing: Callable[[], PartitionStatus]) -> None:
        """Starts the process again whenever it ends, until cancelled; see `open`, which comes before.

        While it is away, queries on the connection `answers` are told so.
        """
        from writ.broker.queries import serve_queries

        loop = asyncio.get_running_loop()
        pause_s = _PAUSE_MIN_S
        since = loop.time()

        async def answer(subject: str, _: bytes) -> bytes:
            return await self._speak_for(standing(), settings.version, subject)

        while True:
            assert self._life is not None
            self.away = await asyncio.shield(self._life)
            if loop.time() - since > _SOUND_S:
                pause_s = _PAUSE_MIN_S
            stop_answering = await serve_queries(answers, answer)
            try:
                while self.away is not None:
                    log.error("the process of the views %s; starting it again in %g s", self.away, pause_s)
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _PAUSE_MAX_S)
                    try:
                        await self.spawn()
                        await self.open(settings)
                    except ViewsFailed as failed:
                        self.away = failed.how
                    except OSError as error:
                        self.away = f"cannot be started: {error}"
            finally:
                await stop_answering()
            since = loop.time()
            log.info("the views are back, in process %s", self.pid)

    async def _speak_for(self, partition: PartitionStatus, version: str, subject: str) -> bytes:
        """The answer to a query while the process is away."""
        from writ.schemas.commands import Answer
        from writ.schemas.queries import NodeStatus
        from writ.schemas.rejections import Rejection, RejectionKind

        away = f"the process of the views {self.away}"
        if subject.rpartition(".")[2] != "status":
            reason = f"{away}; it is started again"
            return msgspec.json.encode(Answer(Rejection(RejectionKind.TRY_LATER, reason)))
        views = await asyncio.to_thread(self._absent, partition.last_seq, away)
        position = min([view.position for view in views], default=0)
        return msgspec.json.encode(NodeStatus(None, position, version, (partition,), tuple(views)))

    def _absent(self, last: int, away: str) -> list[ViewStatus]:
        """The views as their files tell of them."""
        import sqlite3

        from writ.projections.folded import reached_in
        from writ.projections.registry import VIEWS
        from writ.schemas.queries import ViewStatus

        views: list[ViewStatus] = []
        for name in [make().name for make in VIEWS]:
            position, why = 0, away
            try:
                position = reached_in(self._directory / f"{name}.db").position.seq
            except sqlite3.Error as error:
                why = f"{away}, and its position is not known: {error}"
            views.append(ViewStatus(name, position, max(0, last - position), None, why))
        return views

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
            log.error("the process of the views (pid %d) does not end; ending it by force", process.pid)
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
