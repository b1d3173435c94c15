"""What the simulator found: leaders that were away, or deposed, without knowing; a round undone in part."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import pytest

from writ.broker.memory import MemoryLog
from writ.broker.ports import Message
from writ.schemas.events import Barrier, LeaseExpired, TimeResumed
from writ.schemas.lifecycle import State

if TYPE_CHECKING:
    from writ.testing import VirtualLoop

    from .conftest import Tools, Twin


async def granted(twin: Twin, **job: Any) -> dict[str, Any]:
    await twin.submit({"task": "t", "id": "a", **job})
    (lease,) = await twin.acquire(wait_s=1)
    return lease


async def test_a_job_that_was_due_and_granted_in_a_round_that_was_not_stored(
    twin: Twin, tools: Tools
) -> None:
    """Both steps are undone: the engine used to end with a KeyError."""
    await twin.submit({"task": "t", "id": "a", "delay_s": 5})
    waiting = asyncio.create_task(twin.acquire(wait_s=60))
    await asyncio.sleep(4.9)
    twin.log.script += tools.full()
    with pytest.raises(AssertionError):
        await waiting  # answered with try_later
    (lease,) = await twin.acquire(wait_s=60)
    assert lease["id"] == "a"
    await twin.check()


async def test_a_leader_that_was_stopped_gives_leases_their_time_back(twin: Twin) -> None:
    """Nobody could renew while it stood still, and nobody else took over."""
    lease = await granted(twin, lease_s=10)
    loop = cast("VirtualLoop", asyncio.get_running_loop())
    loop.now_s += 600
    await asyncio.sleep(5)
    assert "lost" not in await twin.report("renew", lease)
    assert not await twin.events(LeaseExpired)
    assert await twin.events(TimeResumed)
    await twin.check()


async def test_a_lease_that_ended_while_the_broker_was_away_has_not_ended(twin: Twin, tools: Tools) -> None:
    """The end of the lease was decided, and could not be stored: it is not stored later on."""
    lease = await granted(twin, lease_s=10)
    twin.log.script.append(tools.unknown(0, after_s=60))
    await asyncio.sleep(75)
    assert not twin.log.script
    assert "lost" not in await twin.report("renew", lease)
    assert not await twin.events(LeaseExpired)
    assert twin.job("a").state is State.RUNNING
    await twin.check()


async def test_a_log_that_takes_its_time_takes_no_lease(twin: Twin) -> None:
    """No renewal is decided while an append is on its way."""
    lease = await granted(twin, lease_s=10)

    async def slow(log: MemoryLog, messages: Sequence[Message], after: int, whole: bool) -> None:
        await asyncio.sleep(60)
        await log.append(messages, after, whole=whole)

    twin.log.script.append(slow)
    await twin.submit({"task": "t", "id": "b"})
    await asyncio.sleep(59)
    renewing = asyncio.create_task(twin.report("renew", lease))
    assert "lost" not in await renewing
    assert not await twin.events(LeaseExpired)
    await twin.check()


async def test_a_full_log_takes_no_lease(twin: Twin, tools: Tools) -> None:
    lease = await granted(twin, lease_s=10)
    twin.log.script += tools.full(300)
    await twin.submit({"task": "t", "id": "b"})
    await asyncio.sleep(30)
    assert twin.log.script
    twin.log.script.clear()
    await asyncio.sleep(1)
    assert "lost" not in await twin.report("renew", lease)
    assert not await twin.events(LeaseExpired)
    await twin.check()


async def test_an_idle_leader_finds_out_that_another_one_leads(twin: Twin) -> None:
    """It has nothing to append by itself, so a beat of the other makes it try."""
    assert twin.engine is not None
    engine, rival = twin.engine, twin.hub.host()
    await rival.beat(0, "rival")
    await asyncio.sleep(0.1)
    assert engine.leading.is_set()
    assert await twin.events(Barrier)
    (last,) = (await twin.records())[-1:]
    stolen = Message("writ.log.0._writ.partition.0", b"{}")
    await twin.log.inner.append([stolen], last.seq)
    await rival.beat(0, "rival")
    await asyncio.sleep(0.1)
    assert not engine.leading.is_set()
