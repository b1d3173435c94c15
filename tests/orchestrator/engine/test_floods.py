"""A flood is kept out where it comes in: counted in jobs and by tenant, and nothing stored is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from writ.broker.errors import NoResponders
from writ.orchestrator import floods
from writ.schemas.events import JobSubmitted
from writ.schemas.ids import derived_job_id

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any

ARRAY, FEW = 100, 1_000


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has fewer jobs waiting than otherwise is kept out, as a test of so many takes long."""
    monkeypatch.setattr(floods, "KEPT_OUT_FROM", FEW)
    monkeypatch.setattr(floods, "TAKEN_AGAIN_AT", FEW // 2)


async def send(twin: Twin, tenant: str, count: int, queue: str = "mail") -> set[tuple[str, str]]:
    """The jobs that one message with so many becomes; none where it is not stored."""
    body = msgspec.json.encode([{"task": "t"}] * count if count > 1 else {"task": "t"})
    try:
        seq = await twin.intake.submit(tenant, "owner", queue, body)
    except NoResponders:
        return set()
    indexes = range(count) if count > 1 else [0]
    return {(tenant, f"{queue}~{derived_job_id(1, seq, index)}") for index in indexes}


async def jobs(twin: Twin) -> list[tuple[str, str]]:
    return [(r.tenant, r.key) for r in await twin.records() if isinstance(r.events[0], JobSubmitted)]


async def flood(twin: Twin, queues: int = 1, count: int = ARRAY) -> set[tuple[str, str]]:
    """Messages of one tenant until one is refused: what was stored of them."""
    stored: set[tuple[str, str]] = set()
    for number in range(20 * FEW // count):
        came = await send(twin, "acme", count, f"q{number % queues}")
        if not came:
            return stored
        stored |= came
        await asyncio.sleep(0.01)
    pytest.fail("nothing was refused")


async def all_are(twin: Twin, sent: set[tuple[str, str]]) -> None:
    """Waits until everything that was stored is decided on: each once, and nothing else."""
    async with asyncio.timeout(600):
        while twin.engine is None or twin.engine.state.jobs.live < len(sent):  # noqa: ASYNC110 - virtual
            await asyncio.sleep(0.1)
    found = await jobs(twin)
    assert len(found) == len(set(found))
    assert set(found) == sent
    await twin.check()


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("queues", [1, 50])
async def test_a_flood_is_counted_in_jobs_and_over_all_queues(shared: Twin, queues: int) -> None:
    """Must hold: arrays are kept out after few messages, and other queues are no way around it."""
    shared.log.hold.clear()  # nothing is decided on meanwhile
    sent = await flood(shared, queues)
    assert FEW <= len(sent) <= 2 * FEW
    assert not await send(shared, "acme", 1, "another")
    assert shared.engine is not None
    engine = shared.engine
    ((who, since),) = engine.kept_out.items()
    assert (who, await shared.intake.kept_out()) == ("acme", {"acme": since})
    quiet = await send(shared, "default", 1)
    assert quiet, "nobody else is kept out"
    shared.log.hold.set()
    await all_are(shared, sent | quiet)
    await asyncio.sleep(1)  # the intake forgets twice a second
    again = await send(shared, "acme", 1)
    assert again, "and it is taken in again"
    assert (engine.kept_out, await shared.intake.kept_out()) == ({}, {})
    assert engine.figures.floods == {"acme": 1}
    await all_are(shared, sent | quiet | again)


async def test_single_jobs_that_come_at_once_are_all_stored(shared: Twin) -> None:
    """Must hold: who publishes thousands without asking for an answer loses none of them."""
    shared.log.hold.clear()
    sent: set[tuple[str, str]] = set()
    for number in range(4_000):
        sent |= await send(shared, "acme", 1)
        if number % 100 == 0:
            await asyncio.sleep(0.05)  # it is looked at meanwhile
    assert len(sent) == 4_000
    assert await shared.intake.waiting("acme") == 4_000
    await shared.crash()


@pytest.mark.usefixtures("few")
async def test_where_a_tenant_is_alone_nothing_is_kept_out(twin: Twin) -> None:
    twin.log.hold.clear()
    sent: set[tuple[str, str]] = set()
    for _ in range(3 * FEW // ARRAY):
        sent |= await send(twin, "default", ARRAY)
        await asyncio.sleep(0.05)
    assert len(sent) == 3 * FEW
    twin.log.hold.set()
    await all_are(twin, sent)


@pytest.mark.usefixtures("few")
async def test_the_next_leader_takes_in_whom_one_that_was_killed_kept_out(shared: Twin) -> None:
    shared.log.hold.clear()
    sent = await flood(shared)
    await shared.crash()
    await shared.intake.take_of({"default"}, {"acme": 7})  # as one leaves it that has no time to open it
    assert not await send(shared, "acme", 1)
    sent |= await send(shared, "default", 1)
    shared.log.hold.set()
    await shared.start("next")
    more: set[tuple[str, str]] = set()
    async with asyncio.timeout(60):
        while not more:
            await asyncio.sleep(0.1)
            more = await send(shared, "acme", 1)
    assert await shared.intake.kept_out() == {}
    await all_are(shared, sent | more)


@pytest.mark.usefixtures("few")
async def test_a_tenant_that_is_made_meanwhile_is_taken_in(shared: Twin) -> None:
    shared.log.hold.clear()
    sent = await flood(shared)
    shared.log.hold.set()
    body = msgspec.json.encode({"name": "zeta", "key": "U" + "C" * 55})
    answer = await shared.hub.request("default", "owner", "create_tenant", "-", body, "control")
    assert b"rejected" not in answer, answer
    await asyncio.sleep(1)
    new = await send(shared, "zeta", 1)
    assert new
    await all_are(shared, sent | new)
