"""A view is the fold of its log, exactly once, or it halts."""

from __future__ import annotations

import asyncio
import functools
import random
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from writ.broker.ports import Stored
from writ.projections import places
from writ.projections.feed import Feeds
from writ.projections.jobs import JobsView
from writ.projections.metrics import MetricsView
from writ.projections.runner import Runner
from writ.projections.traffic import TrafficView
from writ.projections.view import View, Write
from writ.schemas.chain import Position
from writ.schemas.events import HistoryLong
from writ.schemas.lifecycle import State
from writ.schemas.records import Record

if TYPE_CHECKING:
    from tests.histories.builder import Histories
    from tests.projections.conftest import Running, Until

FOR_EVER = 10**9


@pytest.mark.parametrize("seed", range(12))
async def test_a_rebuild_gives_the_same_bytes_whatever_the_batches_and_restarts(
    seed: int, history: Histories, running: Running, dump: Callable[[Path], str]
) -> None:
    told = history.wander(seed, 400)
    last = len(told.records)
    async with running(told.log(seed), "whole.db") as runner:
        assert await runner.wait_for(last, 20)
        whole = runner.path
    draw = random.Random(seed)
    parts = whole.with_name("parts.db")
    stops = sorted(draw.sample(range(1, last), 4))
    for stop in [*stops, last]:
        part = history.log(told.records[:stop], seed=draw.randrange(99), chunk_max=draw.choice((1, 7, 90)))
        async with running(part, "parts.db", draw.choice((1, 3, 50)), draw.choice((1, 5, 1_000))) as runner:
            assert await runner.wait_for(stop, 20), runner.halted
            assert runner.path == parts
    assert dump(whole) == dump(parts)


@pytest.mark.parametrize("make", [JobsView, MetricsView, TrafficView])
async def test_what_is_kept_in_memory_changes_nothing(
    make: Callable[[int], View], history: Histories, running: Running, dump: Callable[[Path], str]
) -> None:
    told = history.wander(31, 600)
    dumps: list[str] = []
    for kept_max in (0, 3, 100_000):
        name = f"kept-{kept_max}.db"
        async with running(told.log(), name, 7, make=functools.partial(make, kept_max)) as runner:
            assert await runner.wait_for(len(told.records), 20), runner.halted
            dumps.append(dump(runner.path))
    assert len(set(dumps)) == 1


async def test_views_that_begin_together_share_one_reading(history: Histories, tmp_path: Path) -> None:
    """Also where one is late to take its place: what it needs is not forgotten before."""
    told = history.wander(4, 9_000)
    feeds = Feeds(told.log(), window=512)
    first, late = await feeds.follow(Position()), await feeds.follow(Position())
    seen = len((await first.next(400)).records)
    while seen < 512:
        seen += len((await first.next(400)).records)
    assert (await late.next(400)).records[0].seq == 1
    assert feeds.readings == 1
    first.leave()
    late.leave()
    await feeds.close()


async def test_the_rows_are_the_jobs_of_the_history(
    history: Histories, running: Running, dump: Callable[[Path], str]
) -> None:
    told = history.wander(77, 500)
    async with running(told.log()) as runner:
        assert await runner.wait_for(len(told.records), 20)
        text = dump(runner.path)
    for job in told.jobs.values():
        assert f"'{job.queue}','{job.id}','{job.state}'" in text
    for state in State:
        count = sum(job.state is state for job in told.jobs.values())
        assert text.count(f"'{state}','mail.") == count


async def test_a_view_follows_a_growing_log(history: Histories, running: Running) -> None:
    told = history()
    told.submitted()
    log = told.log()
    async with running(log) as runner:
        assert await runner.wait_for(1, 30)
        waiting = asyncio.create_task(runner.wait_for(3, 30))
        told.job().granted().completed()
        log.stored[:] = told.records
        log.grew()
        assert await waiting
        assert (runner.position, runner.epoch) == (3, 1)
        assert not await runner.wait_for(4, 0.01)


async def test_a_deleted_file_is_rebuilt(
    history: Histories, running: Running, dump: Callable[[Path], str]
) -> None:
    told = history.wander(5, 100)
    dumps: list[str] = []
    for _ in range(2):
        async with running(told.log()) as runner:
            assert runner.position == 0
            assert await runner.wait_for(len(told.records), 30)
        dumps.append(dump(runner.path))
        for file in runner.path.parent.glob("jobs*.db*"):
            file.unlink()
        assert not runner.path.exists()
    assert dumps[0] == dumps[1]


async def test_a_file_of_another_version_is_built_anew_beside_it(
    history: Histories, running: Running, dump: Callable[[Path], str], until: Until
) -> None:
    told = history.wander(5, 50)
    go_on = threading.Event()

    class NextView(JobsView):
        version = JobsView.version + 1

        def load(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
            assert go_on.wait(20)
            super().load(db, records)

    async with running(told.log()) as runner:
        assert await runner.wait_for(len(told.records), 30)
        before, first = dump(runner.path), runner.path.resolve()
    async with running(told.log(), make=NextView) as runner:
        await until(lambda: runner.building is not None)
        assert runner.outdated
        assert (runner.position, runner.building) == (len(told.records), 0)
        assert dump(runner.path) == before, "it is read as it was"
        go_on.set()
        await until(lambda: not runner.outdated)
        assert await runner.wait_for(len(told.records), 30)
        assert places.live(runner.path) != first
        await until(lambda: not first.exists())
    assert dump(runner.path) == before
    assert places.newer(runner.path) is None


def with_body(stored: Stored, old: bytes, new: bytes) -> Stored:
    assert old in stored.body
    return stored._replace(body=stored.body.replace(old, new))


SPOILED: dict[str, tuple[Callable[[Stored], Stored], str]] = {
    "sequence": (lambda r: with_body(r, b'"seq":5', b'"seq":6'), "record 5: its body says sequence 6"),
    "epoch": (lambda r: with_body(r, b'"epoch":1', b'"epoch":2'), "its body says epoch 2"),
    "subject": (lambda r: r._replace(subject=r.subject + "x"), "its subject is"),
    "chain": (lambda r: with_body(r, b'"prev":"', b'"prev":"0'), "its prev is"),
    "gap": (lambda r: r._replace(seq=6), "record 5: missing"),
    "garbage": (lambda r: r._replace(body=b"{}"), "cannot be read"),
}


@pytest.mark.parametrize("batch_max", [1, 3, 100])
@pytest.mark.parametrize("how", SPOILED)
async def test_a_record_that_cannot_stand_there_halts_the_view_just_before_it(
    how: str, batch_max: int, history: Histories, running: Running
) -> None:
    spoil, reason = SPOILED[how]
    told = history.wander(1, 20)
    records = [*told.records[:4], spoil(told.records[4]), *told.records[5:]]
    async with running(history.log(records), batch_max=batch_max) as runner:
        assert not await runner.wait_for(FOR_EVER, 30)
        assert runner.position == 4
        assert runner.halted is not None
        assert reason in runner.halted


@pytest.mark.parametrize("make", [JobsView, MetricsView])
@pytest.mark.parametrize("batch_max", [1, 3, 100])
async def test_a_second_submit_halts_the_view(
    batch_max: int, make: Callable[[], View], history: Histories, running: Running
) -> None:
    """In one batch the lifecycle refuses it; when the first is stored, its row does."""
    told = history()
    told.submitted().granted().completed()
    told.job("b").submitted()
    told.put(told.forged(1, seq=5))
    async with running(told.log(), batch_max=batch_max, make=make) as runner:
        assert not await runner.wait_for(FOR_EVER, 30)
        assert runner.position == 4
        refusal = "already_submitted" if batch_max == 100 else "cannot be stored: UNIQUE constraint failed"
        assert (runner.halted or "").startswith("record 5: ")
        assert refusal in (runner.halted or "")


async def test_a_beat_of_a_lease_that_is_not_live_halts_the_view(
    history: Histories, running: Running
) -> None:
    told = history()
    told.submitted().granted().renewed().completed()
    told.put(told.forged(3, seq=5))
    async with running(told.log()) as runner:
        assert not await runner.wait_for(FOR_EVER, 30)
        assert "not live" in (runner.halted or "")


async def test_a_batch_that_could_not_be_written_is_applied_once_as_soon_as_it_can_be(
    history: Histories, running: Running, dump: Callable[[Path], str], until: Until
) -> None:
    told = history.wander(6, 200)
    mended = threading.Event()

    class Failing(JobsView):
        left = 3

        def writes(self) -> list[Write]:
            self.left -= 1
            broken = self.left <= 0 and not mended.is_set()
            return super().writes() + ([Write("INSERT INTO nowhere VALUES (?)", [(1,)])] if broken else [])

    async with running(told.log(), "sound.db") as runner:
        assert await runner.wait_for(len(told.records), 30)
        sound = dump(runner.path)
    async with running(told.log(chunk_max=20), "failing.db", 20, make=Failing) as runner:
        await until(lambda: runner.away is not None)
        assert "no such table: nowhere" in (runner.away or "")
        assert 0 < runner.position <= 40
        mended.set()
        assert await runner.wait_for(len(told.records), 30)
        assert runner.away is None
    assert dump(runner.path) == sound


async def test_a_view_that_fails_on_a_record_halts_just_before_it(
    history: Histories, running: Running
) -> None:
    told = history.wander(6, 50)

    class Failing(JobsView):
        def fold(self, records: Sequence[Record]) -> None:
            if any(record.seq == 30 for record in records):
                raise KeyError("a bug")
            super().fold(records)

    async with running(told.log(), make=Failing) as runner:
        assert not await runner.wait_for(FOR_EVER, 30)
        assert runner.halted == "record 30: cannot be folded: KeyError('a bug')"
        assert runner.position == 29


async def test_an_incident_leaves_its_job_as_it_was(
    history: Histories, running: Running, dump: Callable[[Path], str]
) -> None:
    """What is warned of is no transition: every record before and behind it is taken as ever."""
    told = history()
    job = told.job("a").submitted()
    told.add("incident", "mail~a", (HistoryLong(10_000, 10_000),))
    job.granted("w1").completed()
    async with running(told.log()) as runner:
        assert await runner.wait_for(len(told.records), 30)
        assert runner.halted is None
    assert "'completed'" in dump(runner.path)


@pytest.mark.parametrize("chunk_max", [1, 100])
async def test_a_view_that_is_behind_takes_all_that_waits_and_no_more_than_its_limit(
    chunk_max: int, history: Histories, running: Running
) -> None:
    told = history.wander(8, 100)
    sizes: list[int] = []

    class Noting(JobsView):
        def load(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
            sizes.append(len(records))
            super().load(db, records)

    async with running(told.log(0, chunk_max), batch_max=40, make=Noting) as runner:
        assert await runner.wait_for(len(told.records), 30)
    assert sum(sizes) == len(told.records)
    assert max(sizes) == 40, "the log comes faster than it is stored"


async def test_a_batch_that_is_stored_while_its_run_is_cancelled_is_applied_once(
    history: Histories, running: Running, tmp_path: Path, dump: Callable[[Path], str]
) -> None:
    told = history.wander(9, 60)
    entered, left = threading.Event(), threading.Event()

    class Slow(JobsView):
        def load(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
            entered.set()
            assert left.wait(20)
            super().load(db, records)

    async with running(told.log(), "whole.db") as runner:
        assert await runner.wait_for(len(told.records), 30)
        whole = dump(runner.path)
    feeds = Feeds(told.log())
    runner = Runner(tmp_path / "cancelled.db", feeds, Slow)
    await runner.open()
    task = asyncio.create_task(runner.run())
    assert await asyncio.to_thread(entered.wait, 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    left.set()
    task = asyncio.create_task(runner.run())
    assert await runner.wait_for(len(told.records), 30)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await runner.close()
    await feeds.close()
    assert dump(runner.path) == whole


async def test_a_log_that_lost_records_halts_the_view(history: Histories, running: Running) -> None:
    told = history.wander(2, 30)
    async with running(told.log()) as runner:
        assert await runner.wait_for(len(told.records), 30)
    async with running(history.log(told.records[:10])) as runner:
        assert not await runner.wait_for(FOR_EVER, 30)
        assert "ends at record 10" in (runner.halted or "")


@pytest.mark.parametrize("longer", [0, 30])
async def test_another_log_in_its_place_halts_the_view(
    longer: int, history: Histories, running: Running
) -> None:
    told, other = history.wander(2, 30), history.wander(3, 60)
    async with running(told.log()) as runner:
        assert await runner.wait_for(len(told.records), 30)
    async with running(history.log(other.records[: len(told.records) + longer])) as runner:
        assert not await runner.wait_for(FOR_EVER, 30)
        assert "made anew" in (runner.halted or "")
        assert runner.position == len(told.records)
