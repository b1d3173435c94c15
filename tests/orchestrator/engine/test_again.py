"""A worker whose acquire was not answered learns of the leases in that answer, as the log knows them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from writ.schemas.events import LeaseGranted

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any


async def test_what_is_held_is_told_again_and_nothing_is_granted(twin: Twin) -> None:
    await twin.submit([{"task": "t", "id": f"j{number}"} for number in range(3)])
    await twin.settled()
    first, other = await twin.acquire(count=2)
    assert await twin.acquire(again=True) == [first, other]
    assert await twin.acquire(again=True, worker="w2") == [], "another worker's"
    assert len(await twin.events(LeaseGranted)) == 2

    await twin.report("complete", first, output=None)
    assert await twin.acquire(again=True) == [other], "what has ended is not told"
    await twin.crash()
    await twin.start()
    assert await twin.acquire(again=True) == [other], "another leader knows it from the log"


async def test_an_acquire_whose_answer_has_no_way_back_gets_no_lease(twin: Twin) -> None:
    """It waits at the leader still when the worker asks again: a lease in its answer would be lost."""
    lost = asyncio.create_task(twin.acquire(count=1, wait_s=20.0))
    await twin.settled()
    assert await twin.acquire(again=True) == []
    await twin.submit({"task": "t", "id": "later"})
    await twin.settled()
    assert [lease["id"] for lease in await twin.acquire()] == ["later"]
    assert await lost == [], "it waits no longer"
