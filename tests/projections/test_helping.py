"""What is far behind is folded by a helper, and nobody can tell by the file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from writ.broker.ports import Log
from writ.projections import places
from writ.projections.feed import Batch, Feeds, Halted
from writ.projections.folded import Folded
from writ.projections.helping import FAR_RECORDS, PART_RECORDS, catch_up, handed_on
from writ.projections.jobs import JobsView
from writ.schemas.chain import Position
from writ.schemas.codec import decode, digest
from writ.schemas.records import Source

if TYPE_CHECKING:
    from tests.histories.builder import Histories
    from tests.projections.conftest import Running, Until

Dump = Callable[[Path], str]


class Helping:
    """A helper as the process of the views has it, but for the process. `until` is where its log ends."""

    def __init__(self, log: Log, until: int | None = None) -> None:
        self.log = log
        self.until = until
        self.asked: list[str] = []

    async def fold(self, name: str, path: Path) -> None:
        self.asked.append(f"{name} {path.name}")
        feeds, file = Feeds(self.log), await Folded.open(path, JobsView())
        try:
            at = file.reached.position
            parts = handed_on(feeds, await feeds.follow(at))
            await catch_up([file], at, parts)
        except Halted:
            pass
        finally:
            await file.close()
            await feeds.close()
        if self.until is not None:
            raise OSError("the helper was killed")


@pytest.mark.parametrize("far", [True, False])
async def test_a_helper_folds_what_is_far_behind_and_nothing_else(
    far: bool, history: Histories, running: Running, dump: Dump, until: Until
) -> None:
    told = history.wander(5, FAR_RECORDS if far else 500)
    last = len(told.records)
    async with running(told.log(), "alone.db") as runner:
        assert await runner.wait_for(last, 20)
        whole = dump(runner.path)
    helping = Helping(told.log())
    async with running(told.log(), helper=helping.fold) as runner:
        assert await runner.wait_for(last, 20)
        assert dump(runner.path) == whole
        places.ask(runner.path)
        await until(lambda: runner.path.resolve().name == "jobs.2.db")
        assert runner.position == last
        assert dump(runner.path) == whole
    assert helping.asked == (["jobs jobs.1.db", "jobs jobs.2.db"] if far else [])


async def test_a_helper_that_fails_on_its_way_holds_nobody_up(
    history: Histories, running: Running, dump: Dump
) -> None:
    told = history.wander(5, FAR_RECORDS)
    last = len(told.records)
    async with running(told.log(), "alone.db") as runner:
        assert await runner.wait_for(last, 20)
        whole = dump(runner.path)
    helping = Helping(history.log(told.records[:700]), 700)
    async with running(told.log(), helper=helping.fold) as runner:
        assert await runner.wait_for(last, 20)
        assert (runner.away, runner.halted) == (None, None)
        assert dump(runner.path) == whole


async def test_what_halts_a_view_halts_it_where_its_helper_stopped(
    history: Histories, running: Running, until: Until
) -> None:
    told = history.wander(5, FAR_RECORDS)
    log = told.log()
    log.stored[600] = log.stored[600]._replace(body=log.stored[600].body.replace(b'"at":', b'"at":1'))
    async with running(log, helper=Helping(log).fold) as runner:
        await until(lambda: runner.halted)
        assert "record 602: its prev is" in (runner.halted or "")
        assert runner.position == 601


async def test_files_that_stand_apart_are_folded_by_one_reading(
    history: Histories, running: Running, dump: Dump, tmp_path: Path
) -> None:
    """Such as after a kill. One that knows another record than the log has is left where it stands."""
    told = history.wander(5, 3 * PART_RECORDS)
    last = len(told.records)
    async with running(told.log(), "alone.db") as runner:
        assert await runner.wait_for(last, 20)
        whole = dump(runner.path)
    records = [decode(each.body) for each in told.records]
    known = Batch(records, Position(1, last, digest(told.records[-1].body))).first(9_000)
    files = [await Folded.open(tmp_path / f"{name}.db", JobsView()) for name in ("new", "further", "other")]
    feeds = Feeds(told.log())
    try:
        assert await files[1].apply(known) is None
        strange = known.end._replace(digest="0" * 64)
        assert await files[2].apply(Batch(known.records, strange)) is None
        parts = handed_on(feeds, await feeds.follow(Position()))
        await catch_up(files, Position(), parts)
        assert [file.reached.position.seq for file in files] == [last, last, 9_000]
        assert [dump(file.path) == whole for file in files] == [True, True, False]
    finally:
        await asyncio.gather(feeds.close(), *[file.close() for file in files])


async def test_a_file_that_another_process_has_moved_on_is_not_folded_into_twice(
    history: Histories, tmp_path: Path
) -> None:
    """Such as by the helper of a process that was killed, while the next one follows already."""
    told = history.wander(5, 60).records
    records = [decode(each.body) for each in told]
    batch = Batch(records, Position(1, records[-1].seq, digest(told[-1].body)))
    records[10] = replace(records[10], source=Source(1, 1, 3))  # as of the fourth in an array
    one, other = [await Folded.open(tmp_path / "jobs.db", JobsView()) for _ in range(2)]
    try:
        for part in (batch.first(11), batch.first(40).rest(11)):
            assert await one.apply(part) is None
        with pytest.raises(sqlite3.OperationalError, match="another process has folded into the view's file"):
            await other.apply(batch.first(20))
        await other.resume()
        assert other.reached.position == one.reached.position
        assert await other.apply(batch.rest(40)) is None
    finally:
        await asyncio.gather(one.close(), other.close())
