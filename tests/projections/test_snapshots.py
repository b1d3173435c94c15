"""A view that was lost goes on from its snapshot, and nobody can tell by the file."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from writ.projections import places, snapshots
from writ.projections.snapshots import Snapshots, Title

if TYPE_CHECKING:
    from tests.histories.builder import Histories
    from tests.projections.conftest import Running, Until

Dump = Callable[[Path], str]
Spoil = Callable[[Path, Path], object]
"""Is handed the view's path and the folder of the snapshots."""


@pytest.fixture
def kept(tmp_path: Path) -> Snapshots:
    return Snapshots.beside(tmp_path)


def lose(path: Path, _: Path) -> None:
    places.remove(path)


def damage(path: Path, _: Path) -> None:
    path.resolve().write_bytes(b"no database" * 1_000)


@pytest.mark.parametrize("spoil", [lose, damage])
async def test_a_lost_view_goes_on_from_its_snapshot(
    spoil: Spoil, history: Histories, running: Running, dump: Dump, kept: Snapshots
) -> None:
    told = history.wander(5, 400)
    last = len(told.records)
    async with running(told.log(), "alone.db") as runner:
        assert await runner.wait_for(last, 20)
        whole = dump(runner.path)
    async with running(history.log(told.records[:300])) as runner:
        assert await runner.wait_for(300, 20)
        assert (await kept.take(runner.path)).position.seq == 300
    spoil(runner.path, kept.folder)
    async with running(told.log(), snapshots=kept) as runner:
        assert await runner.wait_for(last, 20)
        assert (runner.restored, runner.halted, runner.away) == (300, None, None)
        assert dump(runner.path) == whole
    async with running(told.log(), snapshots=kept) as runner:
        assert runner.restored is None, "it has its file"


def edit(path: Path, folder: Path) -> None:
    lose(path, folder)
    for copy in folder.glob("jobs.*.db"):
        with closing(sqlite3.connect(copy)) as db, db:
            db.execute("DELETE FROM jobs")


def entitle_wrongly(path: Path, folder: Path) -> None:
    lose(path, folder)
    title = folder / "jobs.json"
    title.write_bytes(title.read_bytes().replace(b'"stamp":1', b'"stamp":2'))


def cut_title(path: Path, folder: Path) -> None:
    lose(path, folder)
    title = folder / "jobs.json"
    title.write_bytes(title.read_bytes()[:-1])


def lose_copy(path: Path, folder: Path) -> None:
    lose(path, folder)
    for copy in folder.glob("jobs.*.db"):
        copy.unlink()


def lose_and_ask(path: Path, folder: Path) -> None:
    lose(path, folder)
    places.ask(path)


@pytest.mark.parametrize("spoil", [edit, entitle_wrongly, cut_title, lose_copy, lose_and_ask])
async def test_a_snapshot_that_is_not_what_was_written_or_not_wanted_is_passed_over(
    spoil: Spoil, history: Histories, running: Running, dump: Dump, kept: Snapshots
) -> None:
    told = history.wander(5, 300)
    last = len(told.records)
    async with running(told.log()) as runner:
        assert await runner.wait_for(last, 20)
        whole = dump(runner.path)
        await kept.take(runner.path)
    spoil(runner.path, kept.folder)
    async with running(told.log(), snapshots=kept) as runner:
        assert await runner.wait_for(last, 20)
        assert (runner.restored, runner.halted, runner.away) == (None, None, None)
        assert dump(runner.path) == whole


async def test_a_copy_is_whole_whatever_is_written_meanwhile(tmp_path: Path, kept: Snapshots) -> None:
    """Its pages are read one after the other, while others are written, and moved out of the log beside."""
    path, copies = tmp_path / "busy.db", 0
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for setting in ("journal_mode = WAL", "synchronous = OFF", "wal_autocheckpoint = 20", "cache_size = 10"):
        writer.execute(f"PRAGMA {setting}")
    writer.executescript(
        "CREATE TABLE position (epoch, seq, digest, at, source_epoch, source_seq);"
        "INSERT INTO position VALUES (1, 0, '', 0, 0, 0);"
        "CREATE TABLE sums (id INTEGER PRIMARY KEY, n INTEGER, pad BLOB)"
    )
    writer.executemany(
        "INSERT INTO sums VALUES (?, 0, zeroblob(700))", [(number,) for number in range(3_000)]
    )
    draw, done = random.Random(7), threading.Event()

    def write() -> None:
        while not done.is_set():
            writer.execute("BEGIN")
            rows = [(draw.randrange(3_000),) for _ in range(30)]
            writer.executemany("UPDATE sums SET n = n + 1, pad = randomblob(700) WHERE id = ?", rows)
            writer.execute("UPDATE position SET seq = seq + 30")
            writer.execute("COMMIT")

    writing = asyncio.create_task(asyncio.to_thread(write))
    try:
        seqs: set[int] = set()
        while len(seqs) < 30:
            title = await kept.take(path)
            seqs.add(title.position.seq)
            with closing(sqlite3.connect(kept.folder / title.file)) as copy:
                assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                assert copy.execute("SELECT sum(n) FROM sums").fetchone() == (title.position.seq,)
            copies += 1
            assert copies < 100
    finally:
        done.set()
        await writing
        writer.close()


@pytest.mark.parametrize("records", [300, 200])
async def test_a_snapshot_of_another_log_is_passed_over(
    records: int, history: Histories, running: Running, kept: Snapshots
) -> None:
    """Such as one that was restored or cut: it has another record there, or none."""
    async with running(history.wander(5, 250).log()) as runner:
        assert await runner.wait_for(250, 20)
        await kept.take(runner.path)
    lose(runner.path, kept.folder)
    other = history.wander(6, records)
    async with running(history.log(other.records[:records]), snapshots=kept) as runner:
        assert await runner.wait_for(records, 20)
        assert (runner.restored, runner.halted) == (None, None)


async def test_a_view_is_copied_when_it_has_gone_on_far_enough_and_the_newest_is_kept(
    history: Histories, running: Running, kept: Snapshots, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_LOOK_S", 0.01)
    told = history.wander(5, 350)
    log = history.log(told.records[:250])

    looks = 0
    title = kept.title

    def counted(view: str) -> Title | None:
        nonlocal looks
        looks += 1
        return title(view)

    monkeypatch.setattr(kept, "title", counted)

    def copies() -> list[str]:
        found = title("jobs")
        return [] if found is None else [found.file]

    async with running(log) as runner:
        assert await runner.wait_for(250, 20)
        keeping = asyncio.create_task(kept.keep([runner], 100))
        try:
            await until(copies)
            first = copies()
            assert [path.name for path in kept.folder.glob("*.db")] == first
            for upto in (349, 350):
                log.stored += history.log(told.records[len(log.stored) : upto]).stored
                log.grew()
                assert await runner.wait_for(upto, 20)
                if upto == 349:
                    before = looks
                    await until(lambda: looks > before + 2)  # noqa: B023 - it ends within the turn
                    assert copies() == first, "it has gone on by 99 records"
            await until(lambda: copies() != first)
            await until(lambda: [path.name for path in kept.folder.glob("*.db")] == copies())
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
