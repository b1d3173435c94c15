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
    assert await twin.acquire(again=True) == [other, first]
    assert await twin.acquire(again=True, worker="w2") == [], "another worker's"
    assert len(await twin.events(LeaseGranted)) == 2

    await twin.report("complete", first, output=None)
    assert await twin.acquire(again=True) == [other], "what has ended is not told"
    await twin.crash()
    await twin.start()
    assert await twin.acquire(again=True) == [other], "another leader knows it from the log"


async def test_of_more_than_one_answer_holds_the_newest_come_first_and_the_known_not_at_all(
    twin: Twin,
) -> None:
    """Jobs in hand whose inputs fill an answer do not hide the lease that was lost."""
    await twin.submit([{"task": "t", "id": f"j{number}", "input": "x" * 200_000} for number in range(2)])
    await twin.submit([{"task": "t", "id": f"j{number}", "input": "x" * 200_000} for number in (2, 3)])
    await twin.submit({"task": "t", "id": "elsewhere"}, queue="other")
    await twin.submit({"task": "t", "id": "a-lost"})
    await twin.settled()
    held = [*await twin.acquire(count=2), *await twin.acquire(count=2)]
    assert len(await twin.acquire(count=5)) == 1
    assert [lease["id"] for lease in await twin.acquire(again=True)] == ["a-lost", "j3", "j2", "j1"]
    known = [lease["token"] for lease in held]
    (lost,) = await twin.acquire(again=True, known=known)
    assert lost["id"] == "a-lost"
    assert await twin.acquire(again=True, known=[*known, lost["token"]]) == []
    rest = await twin.acquire(again=True, known=known[1:])
    assert [lease["id"] for lease in rest] == ["a-lost", "j0"]


async def test_an_acquire_whose_answer_has_no_way_back_gets_no_lease(twin: Twin) -> None:
    """It waits at the leader still when the worker asks again: a lease in its answer would be lost."""
    lost = asyncio.create_task(twin.acquire(count=1, wait_s=20.0))
    await twin.settled()
    assert await twin.acquire(again=True) == []
    await twin.submit({"task": "t", "id": "later"})
    await twin.settled()
    assert [lease["id"] for lease in await twin.acquire()] == ["later"]
    assert await lost == [], "it waits no longer"
