"""Views that run, for the tests of this room."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from writ.broker.ports import Log
from writ.projections.feed import QUIET_S, Feeds
from writ.projections.helping import Helper
from writ.projections.jobs import JobsView
from writ.projections.runner import Runner
from writ.projections.snapshots import Snapshots
from writ.projections.view import View

Until = Callable[[Callable[[], object]], Awaitable[None]]
Running = Callable[..., AbstractAsyncContextManager[Runner]]


@pytest.fixture
def running(tmp_path: Path) -> Running:
    """Runs a view over a log while the context lasts: `async with running(log) as runner`."""

    @asynccontextmanager
    async def run(
        log: Log,
        name: str = "jobs.db",
        batch_max: int = 1_024,
        kept_max: int = 1_000,
        make: Callable[[], View] | None = None,
        quiet_s: float = QUIET_S,
        helper: Helper | None = None,
        snapshots: Snapshots | None = None,
    ) -> AsyncGenerator[Runner]:
        feeds = Feeds(log, quiet_s=quiet_s)
        made = make or (lambda: JobsView(kept_max))
        runner = Runner(tmp_path / name, feeds, made, batch_max=batch_max, helper=helper, snapshots=snapshots)
        await runner.open()
        task = asyncio.create_task(runner.run())
        try:
            yield runner
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await runner.close()
            await feeds.close()

    return run


@pytest.fixture
def dump() -> Callable[[Path], str]:
    """Every table of a view's file, as SQL text."""

    def tables(path: Path) -> str:
        db = sqlite3.connect(path)
        try:
            return "\n".join(db.iterdump())
        finally:
            db.close()

    return tables


@pytest.fixture
def until() -> Until:
    """Waits for a condition, at most 20 s."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - conditions of others, who signal nothing
                await asyncio.sleep(0.005)

    return wait
