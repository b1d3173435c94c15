"""The next round is decided while a long one is being stored: it stands or falls with the one before it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from writ.broker.memory import MemoryLog
from writ.broker.ports import Message, WrongLastSequence
from writ.orchestrator.engine import AHEAD_FROM
from writ.schemas.events import JobSubmitted

if TYPE_CHECKING:
    from .conftest import Tools, Twin

MANY = AHEAD_FROM + 36


def jobs(name: str) -> list[dict[str, Any]]:
    return [{"task": "t", "id": f"{name}{n}"} for n in range(MANY)]


def open_rounds(twin: Twin) -> int:
    assert twin.engine is not None
    return len(twin.engine.open)


async def two_rounds(twin: Twin) -> asyncio.Task[dict[str, Any]]:
    """One round on its way to the log, and one on top of it, which holds a cancel of the first one's job."""
    twin.log.hold.clear()
    await twin.submit(jobs("a"))
    await twin.settled()
    asking = asyncio.create_task(twin.ask("cancel", id="a0"))
    await twin.submit(jobs("b"))
    await twin.settled()
    assert open_rounds(twin) == 2
    assert twin.job("b0").key == "mail~b0"
    assert not await twin.events(JobSubmitted)
    return asking


async def whole(twin: Twin) -> None:
    """Each job is there once, and memory is what the log tells."""
    await twin.settled()
    assert not open_rounds(twin)
    assert len(await twin.events(JobSubmitted)) == 2 * MANY
    assert len((await twin.folded()).jobs) == 2 * MANY
    await twin.check()


async def test_it_is_stored_next_and_answered_then(twin: Twin) -> None:
    asking = await two_rounds(twin)
    second = asyncio.Event()

    async def first(log: MemoryLog, messages: Sequence[Message], after: int, whole: bool) -> None:
        await log.append(messages, after, whole=whole)

    async def held(log: MemoryLog, messages: Sequence[Message], after: int, whole: bool) -> None:
        await second.wait()
        await log.append(messages, after, whole=whole)

    twin.log.script += [first, held]
    twin.log.hold.set()
    await asyncio.sleep(5)
    assert len(await twin.events(JobSubmitted)) == MANY
    assert not asking.done()
    second.set()
    assert "error" not in await asking
    assert twin.log.appends[-2:] == [MANY, MANY + 1]
    await whole(twin)


async def test_it_is_taken_back_with_one_that_the_log_does_not_take(twin: Twin, tools: Tools) -> None:
    asking = await two_rounds(twin)
    twin.log.script += tools.full(1)
    twin.log.hold.set()
    assert (await asking)["error"]["kind"] == "try_later"
    await asyncio.sleep(1)
    await whole(twin)


@pytest.mark.parametrize("stored", [0, 30, None])
async def test_it_is_decided_anew_where_the_fate_of_the_one_before_is_unknown(
    twin: Twin, tools: Tools, stored: int | None
) -> None:
    asking = await two_rounds(twin)
    twin.log.script.append(tools.unknown(stored))
    twin.log.hold.set()
    assert (await asking)["error"]["kind"] == "try_later"
    await asyncio.sleep(1)
    await whole(twin)


async def test_it_is_disowned_with_one_whose_place_another_leader_took(twin: Twin) -> None:
    asking = await two_rounds(twin)

    async def too_late(log: MemoryLog, messages: Sequence[Message], after: int, whole: bool) -> None:
        raise WrongLastSequence("wrong last sequence")

    twin.log.script.append(too_late)
    twin.log.hold.set()
    assert "deposed" in (await asking)["error"]["reason"]
    await asyncio.sleep(60)
    await whole(twin)


async def test_it_waits_where_the_log_takes_long(twin: Twin) -> None:
    """Renewals that came meanwhile are not in memory: whose lease is over is not to be said now."""
    twin.log.hold.clear()
    await twin.submit(jobs("a"))
    await asyncio.sleep(2)
    await twin.submit(jobs("b"))
    await twin.settled()
    assert open_rounds(twin) == 1
    twin.log.hold.set()
    await whole(twin)


async def test_an_engine_that_stops_stores_what_it_has_decided(twin: Twin) -> None:
    asking = await two_rounds(twin)
    await twin.stop()
    assert "error" not in await asking
    assert len((await twin.folded()).jobs) == 2 * MANY
