"""Views that run, for the tests of this room."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from writ.broker.ports import Log
from writ.projections.jobs import JobsView
from writ.projections.runner import Runner

Running = Callable[..., AbstractAsyncContextManager[Runner]]


@pytest.fixture
def running(tmp_path: Path) -> Running:
    """Runs the jobs view over a log while the context lasts: `async with running(log) as runner`."""

    @asynccontextmanager
    async def run(
        log: Log, name: str = "jobs.db", batch_max: int = 1_024, kept_max: int = 1_000
    ) -> AsyncGenerator[Runner]:
        runner = Runner(tmp_path / name, log, JobsView(kept_max), batch_max=batch_max)
        await runner.open()
        task = asyncio.create_task(runner.run())
        try:
            yield runner
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await runner.close()

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
