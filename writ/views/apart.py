"""A second process that folds views which are far behind: the hold on it, and what runs in it.

The process of the views starts it, `python -m writ.views.apart`. It reads the log for itself, folds the files
that it is told of up to the log's end, and ends.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import msgspec

from writ.broker.archive import ArchivedLog
from writ.broker.connect import Target, connect
from writ.broker.log import JetStreamLog
from writ.children.keeper import Child, ChildFailed
from writ.children.life import work
from writ.projections.feed import Feeds
from writ.projections.helping import WINDOW_RECORDS, catch_up
from writ.projections.registry import OPTIONAL, VIEWS

from .keeper import Settings

log = logging.getLogger("writ.node")

_GATHER_S: Final = 0.6
"""Views that ask within so long are folded by one process with one reading. They take up to half a second to
notice that they are to be built anew, and the process as long to load what it needs."""

_SWITCH_S: Final = 0.001
"""A query gets its turn so soon while a thread folds a long batch; Python's own 5 ms count several times."""

_GARBAGE: Final = (50_000, 20, 100)
"""Records come by the ten thousand and hold no cycles, so that Python need not look through them so often."""

_BROKER_S: Final = 20.0


class Task(msgspec.Struct, frozen=True):
    """What the process is told: views by name, each with the file to fold."""

    settings: Settings
    files: tuple[tuple[str, str], ...]


class Apart:
    """The hold of the views' process on a second one, which is there while something is far behind."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asked: list[tuple[str, str]] = []
        self._next: asyncio.Task[None] | None = None
        self._one = asyncio.Lock()
        self._runs: set[asyncio.Task[None]] = set()

    async def fold(self, name: str, path: Path) -> None:
        """Has a view's file folded up to where the log ends: a `Helper`."""
        self._asked.append((name, str(path)))
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
            child = Child[Task]("views apart", "writ.views.apart")
            try:
                try:
                    await child.spawn()
                    await asyncio.sleep(_GATHER_S)
                finally:  # whoever asks from now on has the next one
                    self._next = None
                    files, self._asked = self._asked, []
                await child.open(Task(self._settings, tuple(files)))
                log.info("process %s folds %s", child.pid, ", ".join([name for name, _ in files]))
                log.info("the process that folds views apart %s", await child.ended())
            except (OSError, ChildFailed) as error:
                log.warning("views are folded without help: %s", error)
            finally:
                await child.stop()


def tune() -> None:
    """Sets the interpreter of a process that folds."""
    sys.setswitchinterval(_SWITCH_S)
    gc.set_threshold(*_GARBAGE)


async def _do(task: Task) -> None:
    settings, makes = task.settings, {make().name: make for make in (*VIEWS, *OPTIONAL)}
    target = Target(settings.url, Path(settings.log_key))
    async with AsyncExitStack() as parts:
        link = await connect(target, "writ:view", inbox_prefix="_INBOX", wait_s=_BROKER_S)
        parts.push_async_callback(link.close)
        live = JetStreamLog(link, settings.partition, settings.log_epoch)
        feeds = Feeds(ArchivedLog.beside(Path(settings.directory), live), window=WINDOW_RECORDS)
        parts.push_async_callback(feeds.close)
        async with asyncio.TaskGroup() as group:
            for name, path in task.files:
                group.create_task(catch_up(Path(path), feeds, makes[name]()))


if __name__ == "__main__":
    tune()
    sys.exit(work(Task, _do))
