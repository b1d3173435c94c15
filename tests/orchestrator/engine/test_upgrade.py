"""Nodes of two versions of records over one log: the older is written until all read the newer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest

from writ.broker.ports import NotStored, Stored
from writ.orchestrator.snapshots import Snapshots, fold_one
from writ.orchestrator.state import Partition
from writ.schemas.chain import Position, TooNew
from writ.schemas.events import CommandRejected, LeaderElected
from writ.schemas.records import LOGIC
from writ.schemas.upgrading import RECORDS, Member, RecordsRaised, not_yet, written

if TYPE_CHECKING:
    from writ.orchestrator.engine import Engine

    from ...histories.builder import Histories
    from .conftest import Tools, Twin
else:
    Engine = Histories = Tools = Twin = Any

OLD, NEW = RECORDS - 1, RECORDS


@pytest.fixture
async def bare(twin: Twin, snapshot: Callable[[Partition], dict[str, Any]]) -> AsyncIterator[Twin]:
    """A twin with an empty log, and no engine yet."""
    bare = type(twin)(snapshot)
    try:
        yield bare
    finally:
        await bare.crash()


async def newest_version(twin: Twin) -> int:
    """The oldest version of records that knows every event of the log as it is stored."""
    stored = [event for part in [p async for p in twin.log.read()] for m in part for event in events_of(m)]
    return next(
        version
        for version in range(1, RECORDS + 1)
        if all(
            event["type"] not in not_yet(version) and event["v"] <= written(version).get(event["type"], 1)
            for event in stored
        )
    )


def events_of(message: Stored) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(message.body)["events"]
    return found


async def hand_over(twin: Twin, to: Engine) -> None:
    """The leader is told to stop, and the other leads."""
    engine, task = next(each for each in twin.running if each[0].leading.is_set())
    twin.running.remove((engine, task))
    engine.stop()
    await task
    await to.leading.wait()
    twin.engine = to


async def begin(twin: Twin, reads: int) -> Engine:
    engine = twin.stand("first", reads=reads)
    await engine.leading.wait()
    return engine


async def stand_by(twin: Twin, name: str, reads: int) -> Engine:
    engine = twin.stand(name, reads=reads)
    await engine.is_led.wait()
    return engine


async def one_job(twin: Twin, job_id: str) -> None:
    await twin.submit({"id": job_id, "task": "t"})
    (lease,) = await twin.acquire(wait_s=1)
    assert lease["id"] == job_id
    await twin.report("complete", lease)


async def test_an_empty_log_is_begun_in_the_newest_version(bare: Twin) -> None:
    engine = await begin(bare, NEW)
    assert engine.state.raised == {NEW: 1}
    assert await newest_version(bare) == NEW
    await bare.check()


async def test_who_is_held_back_begins_a_log_that_an_older_writ_reads(bare: Twin) -> None:
    await begin(bare, OLD)
    await one_job(bare, "a")
    assert await newest_version(bare) == OLD
    await bare.check()


async def test_a_newer_leader_writes_what_the_older_reads_and_both_lead_in_turn(bare: Twin) -> None:
    await begin(bare, OLD)
    await one_job(bare, "a")
    newer = await stand_by(bare, "newer", NEW)
    await hand_over(bare, newer)
    await one_job(bare, "b")
    assert await newest_version(bare) == OLD
    older = await stand_by(bare, "older again", OLD)
    await hand_over(bare, older)
    await one_job(bare, "c")
    assert older.state.records == OLD
    await bare.check()


async def test_the_log_is_raised_once_nobody_takes_part_who_does_not_read_it(bare: Twin) -> None:
    older = await begin(bare, OLD)
    newer = await stand_by(bare, "newer", NEW)
    answer = await bare.ask("raise_records", who="owner")
    assert f"version {NEW}: first up to {OLD}" in answer["error"]["reason"]
    await hand_over(bare, newer)
    held_back = await stand_by(bare, "held back", OLD)
    answer = await bare.ask("raise_records", who="owner")
    assert f"held back up to {OLD}" in answer["error"]["reason"]
    assert len(await bare.events(CommandRejected)) == 2
    held_back.stop()
    await bare.running.pop()[1]
    assert "error" not in await bare.ask("raise_records", who="owner", reason="all are new")
    (raised,) = await bare.events(RecordsRaised)
    assert raised == RecordsRaised(NEW, OLD, (Member("newer", NEW),), "all are new")
    assert newer.state.records == NEW
    assert older.state.records == OLD
    again = await stand_by(bare, "again", NEW)
    await hand_over(bare, again)
    *_, elected = await bare.events(LeaderElected)
    assert isinstance(elected, LeaderElected)
    assert elected.records == NEW
    assert "error" not in await bare.ask("raise_records", who="owner")
    assert len(await bare.events(RecordsRaised)) == 1
    await bare.check()


@pytest.mark.parametrize("from_snapshot", [False, True])
async def test_an_older_writ_refuses_a_raised_log_at_its_start(
    bare: Twin, tools: Tools, *, from_snapshot: bool
) -> None:
    """Never halfway: it has appended nothing, and says which record it does not read."""
    await begin(bare, OLD)
    newer = await stand_by(bare, "newer", NEW)
    await hand_over(bare, newer)
    assert "error" not in await bare.ask("raise_records", who="owner")
    await one_job(bare, "a")
    if from_snapshot:
        bare.snapshots = snapshots = Snapshots(tools.objects(), 0)
        await snapshots.put(await bare.folded(), 1)
    await bare.crash()
    last = await bare.log.last_seq()
    older = bare.stand("older", reads=OLD)
    with pytest.raises(TooNew, match=f"records are of version {NEW}; this orchestrator reads up to {OLD}"):
        await bare.running.pop()[1]
    assert not older.leading.is_set()
    assert await bare.log.last_seq() == last


async def test_a_standby_that_the_roll_did_not_find_stops_following(bare: Twin) -> None:
    await begin(bare, NEW - 1)
    newer = await stand_by(bare, "newer", NEW)
    await hand_over(bare, newer)
    unheard = await stand_by(bare, "unheard", OLD)
    for host in bare.hub.hosts:
        host._attending = {0: Member("newer", NEW)}  # pyright: ignore[reportPrivateUsage]
    assert "error" not in await bare.ask("raise_records", who="owner")
    with pytest.raises(TooNew, match="reads up to"):
        await bare.running.pop()[1]
    assert not unheard.leading.is_set()
    bare.engine = newer
    await one_job(bare, "a")
    await bare.check()


async def test_a_raise_that_was_not_stored_has_not_been(bare: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    await begin(bare, OLD)
    newer = await stand_by(bare, "newer", NEW)
    await hand_over(bare, newer)

    async def full(*_: object, **__: object) -> None:
        raise NotStored("the log is full")

    with monkeypatch.context() as patch:
        patch.setattr(bare.log, "append", full)
        answer = await bare.ask("raise_records", who="owner")
    assert answer["error"]["kind"] == "try_later"
    assert newer.state.records == OLD
    await one_job(bare, "a")
    assert await newest_version(bare) == OLD
    await bare.check()


async def test_what_a_newer_logic_decided_is_not_followed(history: Histories) -> None:
    forged = history().elected().forge(1, logic=LOGIC + 1)
    (stored, *_) = forged.records
    with pytest.raises(TooNew, match=f"logic {LOGIC + 1} of a newer Writ decided it; this one knows {LOGIC}"):
        fold_one(Partition(0, 1), Position(), stored)


async def test_the_loop_time_of_a_roll_is_not_the_engines(bare: Twin) -> None:
    """While the roll is called, the leader goes on."""
    engine = await begin(bare, NEW)
    called, go_on = asyncio.Event(), asyncio.Event()

    async def slow(partition: int) -> tuple[Member, ...]:
        called.set()
        await go_on.wait()
        return ()

    for host in bare.hub.hosts:
        host.roll = slow  # type: ignore[method-assign]
    asked = asyncio.create_task(bare.ask("raise_records", who="owner", version=NEW))
    await called.wait()
    await one_job(bare, "a")
    go_on.set()
    assert "error" not in await asked
    assert engine.state.raised == {NEW: 1}
