"""An engine whose clock is off does not lead: log time would follow it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest

from writ.orchestrator.engine import REST_S
from writ.orchestrator.logtime import CLOCK_MAX_S
from writ.orchestrator.state import Partition
from writ.schemas.events import LeaderElected

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any

HOUR_US = 3_600 * 1_000_000
MOST_US = round(CLOCK_MAX_S * 1_000_000)


@pytest.fixture
async def apart(snapshot: Callable[[Partition], dict[str, Any]], twin: Twin) -> AsyncIterator[Twin]:
    """A twin that nobody leads yet."""
    await twin.stop()
    fresh = type(twin)(snapshot)
    yield fresh
    await fresh.crash()


@pytest.mark.parametrize("off_us", [HOUR_US, -HOUR_US, MOST_US + 1, -MOST_US - 1])
async def test_the_only_engine_says_that_its_clock_is_off_and_does_not_lead(
    apart: Twin, caplog: pytest.LogCaptureFixture, off_us: int
) -> None:
    engine = apart.stand("late", off_us)
    with caplog.at_level(logging.ERROR, "writ.orchestrator"):
        await asyncio.sleep(1)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "late does not lead: its clock told 20" in said
    assert "stored a record at 2026-01-01T00:00:00.000Z" in said
    assert f"{off_us / 1_000_000:+.3f} s off, and at most 2 s are allowed" in said
    assert not engine.leading.is_set()
    assert await apart.hub.host().who(0) is None
    with pytest.raises(ConnectionError):
        await apart.acquire()
    await asyncio.sleep(60)
    assert not engine.leading.is_set()


async def test_an_engine_leads_when_its_clock_was_set_right(apart: Twin) -> None:
    engine = apart.stand("late", -HOUR_US)
    await asyncio.sleep(1)
    apart.clocks["late"].off_us = 0
    async with asyncio.timeout(REST_S + 10):
        await engine.leading.wait()
    await apart.check()


@pytest.mark.parametrize("off_us", [MOST_US, -MOST_US])
async def test_clocks_that_differ_little_do_not_matter(apart: Twin, off_us: int) -> None:
    engine = apart.stand("near", off_us)
    await asyncio.sleep(1)
    assert engine.leading.is_set()


async def test_of_two_engines_the_one_whose_clock_is_right_leads(apart: Twin) -> None:
    late = apart.stand("late", HOUR_US)
    right = apart.stand("right")
    async with asyncio.timeout(REST_S):
        await right.leading.wait()
    await asyncio.sleep(120)
    assert (right.leading.is_set(), late.leading.is_set()) == (True, False)
    elected = [e.leader for e in await apart.events(LeaderElected) if isinstance(e, LeaderElected)]
    assert elected == ["late", "right"]
    await apart.check()


async def test_a_clock_that_is_off_costs_a_leader_that_was_elected_nothing(apart: Twin) -> None:
    """Its log time goes by the monotonic clock, and follows the other by a twentieth at most."""
    engine = apart.stand("later")
    await engine.leading.wait()
    apart.clocks["later"].off_us = HOUR_US
    await apart.submit({"task": "send", "id": "a"})
    assert [lease["id"] for lease in await apart.acquire(wait_s=5)] == ["a"]
    assert engine.leading.is_set()
