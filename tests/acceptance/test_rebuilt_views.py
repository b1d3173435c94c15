"""Must hold: with every view deleted, a rebuild after the same erasures gives byte-identical tables, at any
of 50 random kill points.

And: a view that is lost starts from its snapshot, which is trusted only where the log holds its record.

And: a log with any record edited, deleted, inserted, reordered or cut makes the projections halt.

Both against the process of the views as `writ up` starts it, and a real broker. `make kill-views` takes 50
kill points; the suite takes a few of them.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from writ.broker.client import Client
from writ.broker.connect import Target, connect
from writ.broker.doors import DEFAULT_TENANT, OWNER
from writ.broker.embedded import EmbeddedBroker
from writ.broker.log import JetStreamIntake, JetStreamLog
from writ.broker.ports import Message, Stored
from writ.broker.streams import api
from writ.projections import places
from writ.projections.folded import reached_in
from writ.projections.helping import FAR_RECORDS
from writ.projections.registry import VIEWS
from writ.projections.snapshots import Snapshots
from writ.schemas.codec import decode, digest, encode
from writ.schemas.queries import ViewStatus
from writ.schemas.subjects import log_stream
from writ.views.keeper import Settings, Views

if TYPE_CHECKING:
    from tests.histories.builder import Histories

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("WRIT_KILL_POINTS", "6"))
NAMES = [make().name for make in VIEWS]


class Stage:
    """A broker whose log a test writes, and the process of the views over it."""

    def __init__(self, broker: EmbeddedBroker, link: Any, directory: Path) -> None:
        self.broker = broker
        self.directory = directory
        self.link = link
        self.views = Views(directory)
        self.settings: Settings | None = None

    def path(self, name: str) -> Path:
        return self.directory / "views" / f"{name}.db"

    async def tell(self, records: Sequence[Stored | Message]) -> None:
        """Makes the log anew, with these records."""
        log = await JetStreamLog.open(self.link)
        await api(self.link, f"STREAM.DELETE.{log_stream(0)}")
        log = await JetStreamLog.open(self.link)
        intake = await JetStreamIntake.open(self.link)
        for start in range(0, len(records), 1_000):
            part = [Message(each.subject, each.body) for each in records[start : start + 1_000]]
            await log.append(part, start, whole=True)
        key = self.broker.key_path
        self.settings = Settings(
            directory=str(self.directory),
            url=self.broker.url,
            log_key=str(key("log")),
            answer_key=str(key("answer")),
            system_key=str(key("system")),
            partition=0,
            log_epoch=log.epoch,
            submit_epoch=intake.epoch,
            version="0",
        )

    async def start(self) -> int:
        """The process, when it follows the log; its id."""
        assert self.settings is not None
        await self.views.spawn()
        await self.views.open(self.settings)
        assert self.views.pid is not None
        return self.views.pid

    async def kill(self) -> None:
        assert self.views.pid is not None
        os.kill(self.views.pid, signal.SIGKILL)
        await self.views.stop()

    def second(self) -> int | None:
        """The id of the process that folds some of the views apart, while there is one."""
        assert self.views.pid is not None
        children = Path(f"/proc/{self.views.pid}/task/{self.views.pid}/children")
        for pid in children.read_text(encoding="utf-8").split():
            if b"writ.views.apart" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        return None

    async def status(self) -> tuple[ViewStatus, ...]:
        """What `writ status` is told."""
        target = Target(self.broker.url, self.broker.key_path(OWNER), DEFAULT_TENANT, OWNER)
        async with Client(target) as client:
            return (await client.status()).views

    async def until(self, what: Callable[[ViewStatus], object]) -> tuple[ViewStatus, ...]:
        """Waits until it holds of every view."""
        async with asyncio.timeout(60):
            while True:
                found = await self.status()
                if all(what(each) for each in found):
                    return found
                await asyncio.sleep(0.02)

    def stands_at(self, last: int) -> bool:
        """Whether every view lives in a file that tells of the whole log, and none is being built."""
        return all(self.tells(name, last) and places.newer(self.path(name)) is None for name in NAMES)

    def tells(self, name: str, last: int) -> bool:
        """Whether the file that lives of a view tells of the whole log; views reach its end one by one."""
        path = self.path(name)
        return path.exists() and reached_in(path).position.seq == last

    def delete(self) -> None:
        """Every file of every view."""
        for file in (self.directory / "views").iterdir():
            file.unlink()

    def dumps(self) -> dict[str, str]:
        """All tables of each view, position and chain digest included."""
        found: dict[str, str] = {}
        for name in NAMES:
            with closing(sqlite3.connect(self.path(name))) as db:
                found[name] = "\n".join(db.iterdump())
        return found


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    broker = await EmbeddedBroker.start(tmp_path)
    link = await connect(Target(broker.url, broker.key_path("log")), "test", inbox_prefix="_INBOX")
    stage = Stage(broker, link, tmp_path)
    try:
        yield stage
    finally:
        await stage.views.stop()
        await link.close()
        await broker.stop()


def of_all_sorts(jobs: int) -> list[Message]:
    """The history of the benchmarks: tools, usage, tags, batches, schedules, holds, operations, erasures."""
    sys.path.insert(0, str(ROOT))
    try:
        population: Any = importlib.import_module("benchmarks.population")
        views: Any = importlib.import_module("benchmarks.views")
    finally:
        sys.path.remove(str(ROOT))
    told: list[Message] = views.messages(population.Population(jobs).records())
    assert sum(b"content_erased" in each.body for each in told) > 10
    return told


@pytest.mark.timeout(600)
async def test_a_rebuild_is_byte_identical_at_any_kill_point(stage: Stage) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"kill points drawn from seed {seed}")
    draw = random.Random(seed)
    told = of_all_sorts(3_500)
    last = len(told)
    assert last > FAR_RECORDS + 3_000
    await stage.tell(told)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await stage.start()
    await stage.until(lambda view: view.position == last)
    took_s = loop.time() - begun
    await stage.views.stop()
    whole = stage.dumps()
    assert all(whole.values())

    interrupted = apart = 0
    for number in range(KILLS):
        if stage.stands_at(last):
            assert stage.dumps() == whole
            if draw.random() < 0.5:
                stage.delete()
            else:
                for name in NAMES:
                    places.ask(stage.path(name))
        beside = all(stage.tells(name, last) for name in NAMES)
        if draw.random() < 0.2:
            await stage.views.spawn()  # it is killed as it starts
        else:
            await stage.start()
        await asyncio.sleep(draw.uniform(0, took_s / 2))
        if (second := stage.second()) is not None:
            apart += 1
            if draw.random() < 0.5:
                with suppress(ProcessLookupError):
                    os.kill(second, signal.SIGKILL)
                await asyncio.sleep(draw.uniform(0, took_s / 2))
        await stage.kill()
        interrupted += not stage.stands_at(last)
        if beside:
            assert stage.dumps() == whole, f"kill {number}: what lives answers as before, or the new one does"
    assert interrupted, "no kill came in the middle"
    assert apart, "no kill came while two processes folded"

    await stage.start()
    await stage.until(lambda view: view.position == last and view.building is None)
    await stage.views.stop()
    assert stage.stands_at(last)
    assert stage.dumps() == whole


@pytest.mark.parametrize("trusted", [True, False])
async def test_views_that_are_lost_come_back_from_their_snapshots_if_the_log_is_theirs(
    trusted: bool, stage: Stage, history: Histories
) -> None:
    told = history.wander(15, 400)
    last = len(told.records)
    await stage.tell(told.records)
    await stage.start()
    await stage.until(lambda view: view.position == last)
    for name in NAMES:
        await Snapshots.beside(stage.directory).take(stage.path(name))
    await stage.kill()
    whole = stage.dumps()
    stage.delete()
    if not trusted:
        await stage.tell(rewritten(list(told.records), 200))
    await stage.start()
    restored = last if trusted else None
    for view in await stage.until(lambda view: view.position == last):
        assert (view.restored, view.halted, view.away) == (restored, None, None)
    await stage.views.stop()
    assert (stage.dumps() == whole) is trusted


def edited(records: list[Stored], at: int) -> list[Stored]:
    """One digit of its log time."""
    body = records[at].body
    place = body.index(b'"at":') + 5
    digit = b"1" if body[place : place + 1] != b"1" else b"2"
    records[at] = records[at]._replace(body=body[:place] + digit + body[place + 1 :])
    return records


def rewritten(records: list[Stored], at: int) -> list[Stored]:
    """By somebody who chains all that follows anew: only who has read it before can tell."""
    prev = digest(edited(records, at)[at].body)
    for index in range(at + 1, len(records)):
        body = encode(decode(records[index].body), prev)
        records[index] = records[index]._replace(body=body)
        prev = digest(body)
    return records


def deleted(records: list[Stored], at: int) -> list[Stored]:
    return records[:at] + records[at + 1 :]


def inserted(records: list[Stored], at: int) -> list[Stored]:
    return [*records[:at], records[at - 1], *records[at:]]


def reordered(records: list[Stored], at: int) -> list[Stored]:
    return [*records[:at], records[at + 1], records[at], *records[at + 2 :]]


def cut(records: list[Stored], at: int) -> list[Stored]:
    return records[:at]


Tampering = Callable[[list[Stored], int], list[Stored]]


@pytest.mark.parametrize("tamper", [edited, deleted, inserted, reordered])
async def test_a_fold_from_the_beginning_halts_at_a_log_that_was_tampered_with(
    tamper: Tampering, stage: Stage, history: Histories
) -> None:
    told = history.wander(12, 400)
    at = random.SystemRandom().randrange(50, 350)
    await stage.tell(tamper(list(told.records), at))
    await stage.start()
    for view in await stage.until(lambda view: view.halted):
        assert view.position in (at, at + 1), "as far as the chain holds"
        assert view.halted is not None
        assert f"record {view.position + 1}: " in view.halted


@pytest.mark.parametrize("tamper", [edited, rewritten, deleted, inserted, reordered, cut])
async def test_a_view_halts_when_the_log_behind_it_was_tampered_with(
    tamper: Tampering, stage: Stage, history: Histories
) -> None:
    """It knows its last record by the digest and all that come by the chain; the rest is for a rebuild."""
    told = history.wander(13, 400)
    await stage.tell(told.records)
    await stage.start()
    last = len(told.records)
    await stage.until(lambda view: view.position == last)
    await stage.views.stop()
    at = {"edited": last - 1, "reordered": last - 2}.get(tamper.__name__)
    if at is None:
        at = random.SystemRandom().randrange(50, last - 1)
    await stage.tell(tamper(list(told.records), at))
    await stage.start()
    for view in await stage.until(lambda view: view.halted):
        assert view.position == last, "what it tells of stays what it has read"
        assert view.halted is not None
        if tamper in (cut, deleted):
            left = at if tamper is cut else last - 1
            assert view.halted == f"the log ends at record {left}, before the view's position {last}"
        else:
            assert f"record {last} of the log is another than the view has read" in view.halted


async def test_a_log_that_is_cut_while_the_views_follow_it_halts_them(
    stage: Stage, history: Histories
) -> None:
    told = history.wander(14, 200)
    await stage.tell(told.records)
    await stage.start()
    last = len(told.records)
    await stage.until(lambda view: view.position == last)
    await stage.tell(told.records[:120])
    for view in await stage.until(lambda view: view.halted):
        assert view.halted == f"the log ends at record 120, before the view's position {last}"
