"""A second process that folds views which are far behind: the hold on it, and what runs in it.

The process of the views starts it, `python -m writ.views.apart`, and hands on what it reads of the log. The
second one folds that into the files that it is told of, and ends with it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from writ.broker.ports import AppendFailed
from writ.children.keeper import Child, ChildFailed
from writ.children.life import work
from writ.projections.feed import Bodies, Feeds, Halted
from writ.projections.folded import Folded, reached_in
from writ.projections.helping import catch_up, handed_on
from writ.projections.registry import OPTIONAL, VIEWS
from writ.schemas.chain import Position

if TYPE_CHECKING:
    from writ.projections.feed import Follower

log = logging.getLogger("writ.node")

_MEET_S: Final = 0.05
"""Views that are opened together ask within so long; the reading waits for them."""

_GATHER_S: Final = 0.6
"""Who asks within so long joins them. Views take up to half a second to notice that they are to be built
anew, and the process as long to load what it needs."""

_AHEAD_BYTES: Final = 16 * 1024 * 1024
"""So much that is handed on may wait for the process, such as while it loads. Then the reading waits, too."""

_SIZE_BYTES: Final = 4

_SWITCH_S: Final = 0.001
"""A query gets its turn so soon while a thread folds a long batch; Python's own 5 ms count several times."""

_GARBAGE: Final = (50_000, 20, 100)
"""Records come by the ten thousand and hold no cycles, so that Python need not look through them so often."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Bodies).decode


class Task(msgspec.Struct, frozen=True):
    """What the process is told: views by name, each with the file to fold; and what it is handed.

    That comes over the socket with the number `source`, from a position on.
    """

    files: tuple[tuple[str, str], ...]
    at: Position
    source: int


class _Asked(NamedTuple):
    view: str
    path: Path
    at: Position


class Apart:
    """The hold of the views' process on a second one, which is there while something is far behind."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds = feeds
        self._asked: list[_Asked] = []
        self._from: Position | None = None
        """From where on the next one is handed what was read, when that is settled."""
        self._next: asyncio.Task[None] | None = None
        self._one = asyncio.Lock()
        self._runs: set[asyncio.Task[None]] = set()

    async def fold(self, name: str, path: Path) -> None:
        """Has a view's file folded up to where the log ends: a `Helper`. Raises sqlite3.Error."""
        at = (await asyncio.to_thread(reached_in, path)).position
        while self._next is not None and self._from is not None and at.seq < self._from.seq:
            await asyncio.wait({self._next})  # what is handed on begins too late for this file
        self._asked.append(_Asked(name, path, at))
        if self._next is None:
            self._next = asyncio.create_task(self._run(), name="views apart")
            self._runs.add(self._next)
            self._next.add_done_callback(self._runs.discard)
        await asyncio.shield(self._next)

    async def close(self) -> None:
        """Ends the process, at whatever it is: a file holds whole batches."""
        runs = list(self._runs)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)

    async def _run(self) -> None:
        async with self._one:
            followers: list[Follower] = []
            try:
                followers.append(await self._feeds.follow(self._asked[0].at))
                await asyncio.sleep(_MEET_S)
                self._from = min([asked.at for asked in self._asked], key=lambda at: at.seq)
                if self._from.seq < followers[0].at.seq:
                    followers.append(await self._feeds.follow(self._from))
                    followers[0].leave()
                await self._help(followers[-1], self._from)
            except (OSError, ChildFailed, AppendFailed, Halted) as error:
                log.warning("views are folded without help: %s", error)
            finally:
                self._take_asked()
                for follower in followers:
                    follower.leave()

    def _take_asked(self) -> list[_Asked]:
        """Who has asked; whoever asks from now on has the next process."""
        if self._next is asyncio.current_task():
            self._next = self._from = None
            asked, self._asked = self._asked, []
            return asked
        return []

    async def _help(self, follower: Follower, at: Position) -> None:
        """Raises OSError, ChildFailed."""
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        child = Child[Task]("views apart", "writ.views.apart", fds=(number,))
        handing = asyncio.create_task(self._hand_on(ours, follower))
        try:
            with theirs:
                await child.spawn()
            await asyncio.sleep(_GATHER_S)
            files = tuple([(asked.view, str(asked.path)) for asked in self._take_asked()])
            await child.open(Task(files, at, number))
            log.info("process %s folds %s", child.pid, ", ".join([name for name, _ in files]))
            log.info("the process that folds views apart %s", await child.ended())
        finally:
            handing.cancel()
            await child.stop()
            await asyncio.wait({handing})

    async def _hand_on(self, ours: socket.socket, follower: Follower) -> None:
        _, writer = await asyncio.open_unix_connection(sock=ours)
        writer.transport.set_write_buffer_limits(_AHEAD_BYTES)
        try:
            async for bodies in handed_on(self._feeds, follower):
                part = _encode(bodies)
                writer.writelines([len(part).to_bytes(_SIZE_BYTES), part])
                await writer.drain()
        except (Halted, OSError) as error:  # the process ends with what it has
            log.info("no more is handed on to the process that folds views apart: %s", error)
        finally:
            follower.leave()
            writer.close()


def tune() -> None:
    """Sets the interpreter of a process that folds."""
    sys.setswitchinterval(_SWITCH_S)
    gc.set_threshold(*_GARBAGE)


async def _do(task: Task) -> None:
    makes = {make().name: make for make in (*VIEWS, *OPTIONAL)}
    async with AsyncExitStack() as parts:
        reader, writer = await asyncio.open_unix_connection(
            sock=socket.socket(fileno=task.source), limit=_AHEAD_BYTES
        )
        parts.callback(writer.close)
        files: list[Folded] = []
        for name, path in task.files:
            files.append(await Folded.open(Path(path), makes[name]()))
            parts.push_async_callback(files[-1].close)
        await catch_up(files, task.at, _parts(reader))


async def _parts(reader: asyncio.StreamReader) -> AsyncIterator[Bodies]:
    """What is handed on, up to where that ends."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            size_bytes = int.from_bytes(await reader.readexactly(_SIZE_BYTES))
            yield _decode(await reader.readexactly(size_bytes))


if __name__ == "__main__":
    tune()
    sys.exit(work(Task, _do))
