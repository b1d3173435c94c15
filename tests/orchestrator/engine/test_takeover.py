"""A standby follows the log, and leads soon after its leader is gone: at once where that one says so."""

from __future__ import annotations

# What a standby has followed is told to nobody.
# pyright: reportPrivateUsage=false
import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from writ.orchestrator.engine import JITTER_S, SILENCE_S, Engine
from writ.orchestrator.snapshots import Snapshots, recover
from writ.schemas.events import LeaderElected
from writ.schemas.lifecycle import State

if TYPE_CHECKING:
    from .conftest import Tools, Twin
else:
    Tools = Twin = Any

HAND_OVER_S = 0.2


def followed(engine: Engine) -> int:
    """The sequence to which a standby has followed the log."""
    return engine._following.state.seq


async def standby(twin: Twin) -> tuple[Engine, asyncio.Task[None]]:
    """Another engine that has had its time to stand by."""
    twin.stand("another")
    await asyncio.sleep(1)
    engine, task = twin.running[-1]
    assert not engine.leading.is_set()
    return engine, task


async def kill(twin: Twin, which: int) -> None:
    """One engine vanishes, and nobody hears of it."""
    engine, task = twin.running.pop(which)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    twin.hub.servers.clear()
    for host in twin.hub.hosts:
        host._leading.pop(0, None)
    twin.engine = twin.running[0][0]
    assert engine is not twin.engine


async def test_a_standby_has_what_its_leader_has(twin: Twin) -> None:
    other, _ = await standby(twin)
    for each in "abc":
        await twin.submit({"id": each, "task": "t"})
    await twin.settled()
    (lease,) = await twin.acquire()
    await twin.report("complete", lease)
    await twin.settled()
    assert followed(other) == await twin.log.last_seq()
    job = other._following.state.job("default", "mail", "a")
    assert job is not None
    assert job.state is State.COMPLETED


async def test_a_silent_leader_is_replaced_within_the_silence(twin: Twin) -> None:
    """Under load too: its newest record is its last sign of life."""
    other, _ = await standby(twin)
    for number in range(20):
        await twin.submit({"id": f"j{number}", "task": "t"})
        await asyncio.sleep(0.2)
    begun = asyncio.get_running_loop().time()
    await kill(twin, 0)
    await other.leading.wait()
    assert asyncio.get_running_loop().time() - begun <= SILENCE_S + JITTER_S
    (lease,) = await twin.acquire()
    assert lease["id"] == "j0"
    await twin.check()


async def test_a_leader_that_is_asked_to_stop_hands_over_at_once(twin: Twin) -> None:
    other, _ = await standby(twin)
    (old, task) = twin.running.pop(0)
    begun = asyncio.get_running_loop().time()
    old.stop()
    await task
    await other.leading.wait()
    assert asyncio.get_running_loop().time() - begun < HAND_OVER_S
    twin.engine = other
    await twin.submit({"id": "a", "task": "t"})
    await twin.settled()
    elected = [e for e in await twin.events() if isinstance(e, LeaderElected)]
    assert [e.leader for e in elected] == [old.name, other.name]
    await twin.check()


async def test_of_several_standbys_one_leads(twin: Twin) -> None:
    await standby(twin)
    twin.stand("third")
    await asyncio.sleep(1)
    (old, task) = twin.running.pop(0)
    old.stop()
    await task
    await asyncio.sleep(SILENCE_S)
    assert sum(engine.leading.is_set() for engine, _ in twin.running) == 1


@pytest.mark.parametrize("ends", ["kill", "stop"])
async def test_a_standby_lets_jobs_rest_as_its_leader_does(twin: Twin, tools: Tools, ends: str) -> None:
    twin.snapshots = snapshots = Snapshots(tools.objects(), 0)
    other, _ = await standby(twin)
    for each in "abc":
        await twin.submit({"id": each, "task": "t"})
    await twin.settled()
    await twin.report("complete", *await twin.acquire(2))
    state, at = await recover(twin.log, snapshots)
    await snapshots.put(state, at.epoch)
    await asyncio.sleep(6)
    await twin.submit({"id": "d", "task": "t"})
    await asyncio.sleep(1)
    assert {job.id for job in other._following.state.jobs.here.values()} == {"c", "d"}
    if ends == "kill":
        await kill(twin, 0)
    else:
        old, task = twin.running.pop(0)
        old.stop()
        await task
    await other.leading.wait()
    twin.engine = other
    assert "error" not in await twin.ask("rerun", id="a", reason="again")
    await twin.check()
