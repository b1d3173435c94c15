"""No page of any list does more work than a page may, however long the list: counted in steps of SQLite.

`make bench-pages` asks the same questions of a million jobs, and looks at the clock.
"""

from __future__ import annotations

import asyncio
import importlib
import sqlite3
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from writ.broker.memory import MemoryIntake, MemoryLog
from writ.projections import finding, paging, reading, shown
from writ.projections.feed import Feeds
from writ.projections.queries import Queries
from writ.projections.registry import VIEWS
from writ.projections.runner import Runner

ROOT: Final = Path(__file__).resolve().parent.parent.parent
JOBS: Final = 4_000
SCANNED: Final = 40
LIMIT: Final = 10
STEPS_MAX: Final = 3_400
"""For pages of so many rows. To look at every job of the tenant takes several times as many."""

SUMMED_STEPS_MAX: Final = 10_000
"""Where a row of the page is the sum of many."""

COUNTED: Final = 50
FIELDS: Final = {"dead": "causes", "tool_calls": "calls", "traffic": "queues", "audit": "acts"}
"""Of the answers whose rows are not in a field that is called as the verb is."""


class Steps:
    """Steps that SQLite has taken for all connections that were made since."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken = 0
        self._connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", self._counting)

    def _counting(self, *args: Any, **named: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = self._connect(*args, **named)
        db.set_progress_handler(self._count, COUNTED)
        return db

    def _count(self) -> int:
        self.taken += COUNTED
        return 0


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, int]:
    """The benchmark, its views of few jobs, and the newest sequence in them."""
    sys.path.insert(0, str(ROOT))
    try:
        pages: Any = importlib.import_module("benchmarks.pages")
    finally:
        sys.path.remove(str(ROOT))
    directory = tmp_path_factory.mktemp("views")
    return pages, directory, asyncio.run(pages.fill(directory, JOBS))


@asynccontextmanager
async def asking(directory: Path) -> AsyncGenerator[Any]:
    """What answers a question of the owner, by verb."""
    log = MemoryLog()
    feeds = Feeds(log)
    runners = [Runner(directory / f"{make().name}.db", feeds, make) for make in VIEWS]
    for runner in runners:
        await runner.open()
    queries = Queries(runners, log, MemoryIntake(), "0")

    async def ask(verb: str, question: dict[str, Any]) -> dict[str, Any]:
        body = msgspec.json.encode(question)
        answer: dict[str, Any] = msgspec.json.decode(
            await queries.answer(f"writ.query.default.owner.{verb}", body)
        )
        assert answer.get("error") is None, (verb, question, answer)
        return answer

    try:
        yield ask
    finally:
        await queries.close()
        for runner in runners:
            await runner.close()
        await feeds.close()


def scan_little(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    for module in (paging, finding, reading, shown):
        monkeypatch.setattr(module, "SCANNED_MAX", rows)


async def test_no_page_takes_more_steps_than_a_page_may(
    filled: tuple[Any, Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In small: a page of any list answers in under 50 ms at one million jobs."""
    pages, directory, last = filled
    scan_little(monkeypatch, SCANNED)
    steps = Steps(monkeypatch)
    taken: list[tuple[int, str, Any]] = []
    async with asking(directory) as ask:
        for verb, filters in pages.lists(last).items():
            if verb == "cost":
                continue  # one sum over counters, and no page
            for question in pages.questions({**filters, "limit": [LIMIT]}):
                before = steps.taken
                await ask(verb, {"limit": LIMIT, **question})
                taken.append((steps.taken - before, verb, question))
    assert len(taken) > 1_000
    allowed = {"traffic": SUMMED_STEPS_MAX}
    over = [each for each in taken if each[0] > allowed.get(each[1], STEPS_MAX)]
    assert not over, sorted(over, key=lambda each: -each[0])[:5]


async def test_short_pages_miss_and_repeat_nothing(
    filled: tuple[Any, Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a page looks at: all pages together are the list."""
    pages, directory, last = filled
    async with asking(directory) as ask:

        async def everything(verb: str, question: dict[str, Any], limit: int) -> list[Any]:
            rows: list[Any] = []
            cursor: str | None = None
            while True:
                answer = await ask(verb, {**question, "limit": limit, "cursor": cursor})
                rows += answer.get(FIELDS.get(verb, verb), [])
                cursor = answer.get("next")
                if cursor is None:
                    return rows

        for verb, filters in pages.lists(last).items():
            if verb == "cost":
                continue
            single = [
                {name: values[-1]} for name, values in filters.items() if name not in ("limit", "cursor")
            ]
            for question in ({}, *single):
                with monkeypatch.context() as scanning:
                    scan_little(scanning, 1_000_000)
                    whole = await everything(verb, question, 500)
                with monkeypatch.context() as scanning:
                    scan_little(scanning, 37)
                    parts = await everything(verb, question, 100)
                assert parts == whole, (verb, question)
                assert whole or question, verb
