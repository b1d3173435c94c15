"""A view is built anew beside itself, and is there all the while."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from writ.projections import places
from writ.projections.reading import JobsReader
from writ.schemas.queries import JobsQuery

if TYPE_CHECKING:
    from tests.histories.builder import Histories, History, ListLog
    from tests.projections.conftest import Running, Until


def grow(told: History, log: ListLog, job: str) -> int:
    """One more job; its submit's sequence."""
    told.job(job).submitted()
    log.stored.append(told.records[-1])
    log.grew()
    return len(told.records)


async def test_a_view_is_read_while_it_is_built_anew_and_afterwards(
    history: Histories, running: Running, dump: Callable[[Path], str], until: Until
) -> None:
    told = history.wander(5, 300, 40)
    log = told.log()
    async with running(log) as runner:
        assert await runner.wait_for(len(told.records), 30)
        reader = JobsReader(runner.path)
        old = runner.path.resolve()
        with closing(sqlite3.connect(old)) as db:
            db.execute("DELETE FROM jobs")
            db.commit()
        spoiled = await reader.page("default", JobsQuery())
        assert (spoiled.rows, spoiled.position) == ([], len(told.records))
        places.ask(runner.path)
        waiting = asyncio.create_task(runner.wait_for(len(told.records) + 3, 20))
        for number in range(3):
            grow(told, log, f"new-{number}")
        assert await waiting
        await until(lambda: runner.path.resolve() != old and not old.exists())
        assert runner.position == len(told.records)
        assert {row.job.key for row in (await reader.page("default", JobsQuery(limit=500))).rows} == set(
            told.jobs
        )
        grow(told, log, "newest")
        assert await runner.wait_for(len(told.records), 30), "the new file follows the log"
        await reader.close()
        anew = dump(runner.path)
    async with running(told.log(), "other.db") as runner:
        assert await runner.wait_for(len(told.records), 30)
    assert dump(runner.path) == anew


async def test_a_rebuild_that_finds_the_past_edited_is_an_alarm_and_the_view_goes_on(
    history: Histories, running: Running, until: Until
) -> None:
    told = history.wander(5, 100)
    log = told.log()
    async with running(log) as runner:
        assert await runner.wait_for(len(told.records), 30)
        sound = log.stored[40]
        log.stored[40] = sound._replace(body=sound.body.replace(b'"at":', b'"at":1'))
        places.ask(runner.path)
        await until(lambda: runner.halted)
        assert "what is built anew beside it has halted: record 42: its prev is" in (runner.halted or "")
        assert runner.building == 41
        assert await runner.wait_for(grow(told, log, "new"), 30)
        log.stored[40] = sound
        before = runner.path.resolve()
        places.ask(runner.path)
        await until(lambda: runner.path.resolve() != before)
        assert runner.halted is None
        assert await runner.wait_for(grow(told, log, "newer"), 30)


async def test_a_halted_view_is_replaced_by_one_of_the_log_as_it_is(
    history: Histories, running: Running, until: Until
) -> None:
    told = history.wander(5, 100)
    async with running(told.log()) as runner:
        assert await runner.wait_for(len(told.records), 30)
    shorter = history.log(told.records[:60])
    async with running(shorter) as runner:
        await until(lambda: runner.halted)
        assert runner.position == len(told.records)
        places.ask(runner.path)
        await until(lambda: runner.halted is None)
        assert runner.position == 60


@pytest.mark.parametrize("stage", ["asked", "half", "linked"])
async def test_what_was_interrupted_goes_on(
    stage: str, history: Histories, running: Running, dump: Callable[[Path], str], until: Until
) -> None:
    """As a kill leaves it: only asked for, folded in part, or live already beside the old file."""
    told = history.wander(5, 200)
    last = len(told.records)
    async with running(told.log()) as runner:
        assert await runner.wait_for(last, 30)
        whole = dump(runner.path)
    path, old = runner.path, runner.path.resolve()
    asked = places.ask(path)
    if stage != "asked":
        async with running(history.log(told.records[:90]), "aside.db") as aside:
            assert await aside.wait_for(90, 30)
        aside.path.resolve().replace(asked)
    if stage == "linked":
        places.enlive(path, asked)
    async with running(told.log()) as runner:
        if stage == "linked":
            assert runner.position <= 90 or await runner.wait_for(last, 30)
        else:
            assert runner.position == last, "the old one answers"
        await until(lambda: path.resolve() == asked and places.newer(path) is None and not old.exists())
        assert await runner.wait_for(last, 30)
    assert dump(path) == whole


def test_names_tell_what_is_live_and_what_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    (tmp_path / "jobs.more.db").touch()
    assert (places.live(path), places.newer(path)) == (None, None)
    first = places.ask(path)
    assert (first.name, places.live(path)) == ("jobs.1.db", None)
    places.enlive(path, first)
    assert (places.live(path), places.newer(path)) == (first, None)
    second, third = places.ask(path), places.ask(path)
    assert (second.name, third.name) == ("jobs.2.db", "jobs.3.db")
    assert (places.live(path), places.newer(path)) == (first, third)
    second.with_name("jobs.2.db-wal").touch()
    places.tidy(path)
    assert (second.exists(), second.with_name("jobs.2.db-wal").exists()) == (False, False)
    assert (places.live(path), places.newer(path)) == (first, third)
    places.enlive(path, third)
    places.tidy(path)
    assert (places.live(path), places.newer(path), first.exists()) == (third, None, False)
    third.unlink()
    third.with_name("jobs.3.db-wal").touch()
    places.tidy(path)
    assert (places.live(path), path.is_symlink()) == (None, False)
    assert [each.name for each in tmp_path.iterdir()] == ["jobs.more.db"]
