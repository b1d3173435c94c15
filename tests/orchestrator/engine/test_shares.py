"""Tenants share one engine: a flood of one does not hold up another's submits and requests, nor lose any."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from writ.broker.errors import SubmitNotStored
from writ.orchestrator.access_desk import Founder
from writ.orchestrator.engine import BEAT_S
from writ.orchestrator.inbox import FLOOD_RECORDS, LIGHT_RECORDS
from writ.orchestrator.turns import Turns
from writ.schemas import bounds
from writ.schemas.events import Barrier, CommandRejected, JobSubmitted
from writ.schemas.ids import derived_job_id
from writ.schemas.principals import AccessDenied, Role

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any


async def send(twin: Twin, tenant: str, jobs: object, who: str = "owner") -> int:
    return await twin.intake.submit(tenant, who, "mail", msgspec.json.encode(jobs))


async def taken(twin: Twin, kind: type = JobSubmitted) -> list[tuple[str, str]]:
    """Tenant and key of the jobs, in the order in which they were taken in."""
    return [(r.tenant, r.key) for r in await twin.records() if isinstance(r.events[0], kind)]


async def test_a_flood_of_one_tenant_delays_no_submit_of_another(shared: Twin) -> None:
    """Must hold: whatever waits of others, a submit is decided in one of the next two rounds."""
    shared.log.hold.clear()  # what follows waits behind one append
    await send(shared, "acme", {"task": "t", "id": "first"})
    await shared.settled()
    for _ in range(40):
        await send(shared, "acme", [{"task": "t"}] * 500)
    await send(shared, "default", {"task": "t", "id": "quiet"})
    await shared.settled()
    before = len(shared.log.appends)
    shared.log.hold.set()
    for _ in range(50_000):
        await asyncio.sleep(0)
        if len(await taken(shared)) == 20_002:
            break
    jobs = await taken(shared)
    assert len(set(jobs)) == 20_002, "each once, and none is lost"
    place = jobs.index(("default", "mail~quiet"))
    records = 0
    rounds = 0
    for size in shared.log.appends[before:]:
        rounds += 1
        records += size
        if records > place:
            break
    assert rounds <= 3
    assert max(shared.log.appends[before:]) <= 16 + 30, "rounds are short where others may wait"
    mine = [int(key.rpartition("-")[2]) for tenant, key in jobs if tenant == "acme" and "first" not in key]
    assert mine[:500] == list(range(500)), "a tenant's own submits stay in their order"
    await shared.check()


async def test_what_one_asks_for_now_and_then_is_not_stored_with_anothers_flood(shared: Twin) -> None:
    """A few records are one sync of the disk each, many are several: who waits for one waits for no more."""
    before, place = len(shared.log.appends), len(await shared.records())
    for number in range(5):
        shared.log.hold.clear()
        await send(shared, "acme", {"task": "t"})
        await shared.settled()  # what follows waits behind one append
        await send(shared, "acme", [{"task": "t"}] * 40)
        await send(shared, "default", {"task": "t", "id": f"quiet-{number}"})
        await shared.settled()
        shared.log.hold.set()
        await shared.settled()
    records, rounds = await shared.records(), dict[str, int]()
    for size in shared.log.appends[before:]:
        rounds |= {each.key: size for each in records[place : place + size] if each.tenant == "default"}
        place += size
    assert rounds == {f"mail~quiet-{number}": 1 for number in range(5)}
    await shared.check()


async def test_rounds_are_short_while_others_ask_now_and_then(shared: Twin) -> None:
    """Must hold: no append takes longer than it must while somebody may come at any moment."""
    await send(shared, "default", {"task": "t", "id": "quiet"})
    await shared.settled()
    before = len(shared.log.appends)
    for _ in range(8):
        await send(shared, "acme", [{"task": "t"}] * 500)
    for number in range(20):
        for _ in range(50):
            await asyncio.sleep(0)
        await send(shared, "default", {"task": "t", "id": f"quiet-{number}"})
    while len(await taken(shared)) < 8 * 500 + 21:  # noqa: ASYNC110 - in virtual time
        await asyncio.sleep(0.01)
    sizes = shared.log.appends[before:]
    assert sizes[:900].count(FLOOD_RECORDS) > 880
    assert max(sizes[:900]) <= LIGHT_RECORDS, "when little of the flood is left"
    assert max(sizes) > 16, "nobody else has asked for long"
    mine = [int(key.rpartition("-")[2]) for tenant, key in await taken(shared) if tenant == "acme"]
    assert mine == list(range(500)) * 8, "a tenant's own submits stay in their order"
    await shared.check()


async def test_of_a_refused_job_of_an_array_it_is_told_which_it_was_however_it_is_cut(shared: Twin) -> None:
    """Without its index, whoever waits for another job of the array would take it for that one's."""
    await send(shared, "default", {"task": "t", "id": "quiet"})
    await send(shared, "acme", {"task": "t", "id": "twice", "input": 1})
    await shared.settled()
    shared.log.hold.clear()
    await send(shared, "acme", {"task": "t"})
    await shared.settled()  # what follows waits behind one append
    before = len(shared.log.appends)
    await send(shared, "acme", [{"task": "t", "id": "twice", "input": 2}] + [{"task": "t"}] * 99)
    await send(shared, "default", {"task": "t", "id": "quiet-1"})
    shared.log.hold.set()
    while len(await taken(shared)) < 103:  # noqa: ASYNC110 - in virtual time
        await asyncio.sleep(0.01)
    assert shared.log.appends[before:].count(FLOOD_RECORDS) > 9, "it was cut"
    told = [event for r in await shared.records() for event in r.events if isinstance(event, CommandRejected)]
    assert [each.index for event in told for each in event.refused] == [0]
    await shared.check()


async def test_a_new_tenant_costs_no_job_of_an_array_that_is_half_decided(
    shared: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Must hold: what is acknowledged is not forgotten, also where what was read of it is read again."""
    read = shared.intake.read
    again = asyncio.Event()

    async def late(*words: Any) -> Any:
        await again.wait()
        async for messages in read(*words):
            yield messages

    shared.log.hold.clear()
    for _ in range(4):
        await send(shared, "acme", [{"task": "t"}] * 490)
    await shared.settled()
    monkeypatch.setattr(shared.intake, "read", late)
    body = msgspec.json.encode({"name": "globex", "key": "U" + "C" * 55})
    asking = shared.hub.request("default", "owner", "create_tenant", "-", body, "control")
    creating = asyncio.create_task(asking)
    await shared.settled()
    shared.log.hold.set()
    await creating
    await asyncio.sleep(4 * BEAT_S)  # what is decided on is forgotten meanwhile
    some = len(await taken(shared))
    assert 0 < some < 490, "it is in the middle of an array"
    again.set()
    await asyncio.sleep(20 * BEAT_S)
    assert len(await taken(shared)) == 4 * 490
    await shared.check()


async def test_what_gathered_of_those_who_ask_now_and_then_is_stored_at_once(shared: Twin) -> None:
    """Must hold: one slow append costs them one round more, and not one for each few of their jobs."""
    await send(shared, "default", {"task": "t", "id": "quiet"})
    await shared.settled()
    shared.log.hold.clear()
    await send(shared, "acme", {"task": "t"})
    await shared.settled()  # what follows waits behind one append
    before, place = len(shared.log.appends), len(await taken(shared))
    for _ in range(2):
        await send(shared, "acme", [{"task": "t"}] * 500)
    for number in range(7):
        await send(shared, "default", {"task": "t", "id": f"quiet-{number}"})
    await shared.settled()
    shared.log.hold.set()
    while len(await taken(shared)) < 1_009:  # noqa: ASYNC110 - in virtual time
        await asyncio.sleep(0.01)
    tenants = [tenant for tenant, _ in (await taken(shared))[place:]]
    rounds = list[list[str]]()
    for size in shared.log.appends[before:]:
        rounds.append(tenants[:size])
        del tenants[:size]
    assert ["default"] * 7 in rounds[:4]
    assert ["acme"] * FLOOD_RECORDS in rounds[:4], "and the flood has its turn"
    await shared.check()


async def test_what_a_tenant_has_waiting_is_limited_and_forgotten_as_it_is_stored(shared: Twin) -> None:
    await shared.crash()
    most = bounds.SUBMITS_WAITING_MAX
    for _ in range(most):
        await send(shared, "acme", {"task": "t"})
    with pytest.raises(
        SubmitNotStored, match=r"maximum messages per subject exceeded \(10077\); too much waits"
    ):
        await send(shared, "acme", {"task": "t"})
    await send(shared, "default", {"task": "t", "id": "another"})
    await shared.start("next")
    begun = asyncio.get_running_loop().time()
    while await shared.intake.first_seq() <= most:  # noqa: ASYNC110 - in virtual time
        await asyncio.sleep(0.01)
    assert asyncio.get_running_loop().time() - begun < BEAT_S, (
        "room is made as soon as a part of it is stored"
    )
    await send(shared, "acme", {"task": "t", "id": "last"})
    await asyncio.sleep(2)
    jobs = await taken(shared)
    assert len(jobs) == len(set(jobs)) == most + 2
    await shared.check()


async def test_no_tenant_has_more_live_jobs_than_are_left_to_the_others(shared: Twin) -> None:
    await shared.stop()
    shared.live_max = 10
    await shared.start()
    await send(shared, "acme", [{"task": "t", "id": f"a{n}"} for n in range(12)])
    await shared.settled()
    await send(shared, "default", [{"task": "t", "id": f"d{n}"} for n in range(12)])
    await shared.settled()
    jobs = await taken(shared)
    assert [sum(tenant == whose for tenant, _ in jobs) for whose in ("acme", "default")] == [5, 3]
    refused = [r.events[0] for r in await shared.records() if isinstance(r.events[0], CommandRejected)]
    assert [each.count for each in refused] == [7, 9]
    assert refused[0].refused[0].reason == (
        "the partition has 5 jobs that have not ended, and takes at most 10 (writ up --live-max); 5 of them "
        "are the tenant's, and a tenant gets no more than the 5 that are left; submit again when some have "
        "ended"
    )
    await shared.check()


async def test_requests_of_tenants_take_turns(shared: Twin) -> None:
    shared.log.hold.clear()
    await send(shared, "acme", {"task": "t", "id": "a"})
    await shared.settled()
    answered: list[str] = []

    async def ask(tenant: str, number: int) -> None:
        body = msgspec.json.encode({"id": f"none-{number}"})
        await shared.hub.request(tenant, "owner", "cancel", "mail", body, "control")
        answered.append(tenant)

    asking = [asyncio.create_task(ask("acme", n)) for n in range(300)]
    await shared.settled()
    asking.append(asyncio.create_task(ask("default", 0)))
    await shared.settled()
    shared.log.hold.set()
    await asyncio.gather(*asking)
    assert answered.index("default") <= 16
    await shared.check()


async def test_nothing_is_lost_or_taken_twice_when_leaders_vanish_under_a_flood(shared: Twin) -> None:
    """The position of each tenant is its own: a new leader goes on from each."""
    sent: set[tuple[str, str]] = set()
    for number in range(30):
        for tenant, count in (("acme", 120), ("default", 1)):
            seq = await send(shared, tenant, [{"task": "t"}] * count)
            sent |= {(tenant, f"mail~{derived_job_id(1, seq, index)}") for index in range(count)}
        if number % 5 == 4:
            for _ in range(40 * (number // 5) + 7):
                await asyncio.sleep(0)
            await shared.crash()
            await shared.start(f"engine-{number}")
    await asyncio.sleep(60)
    jobs = await taken(shared)
    assert len(jobs) == len(set(jobs))
    assert set(jobs) == sent
    await asyncio.sleep(3)
    assert await shared.intake.first_seq() > await shared.intake.last_seq(), "all of it is purged"
    await shared.check()


async def test_a_tenant_that_is_made_while_the_engine_leads_gets_a_line_of_its_own(
    twin: Twin, owners: dict[str, str]
) -> None:
    await twin.stop()
    twin.founders = (Founder("default", "owner", owners["default"], (Role.OWNER,)),)
    await twin.start()
    for _ in range(10):
        await send(twin, "default", {"task": "t"}, who="mallory")  # denied, and folded beyond the budget
    await send(twin, "default", {"task": "t", "id": "before"})
    made = await twin.ask("create_tenant", queue="-", who="owner", name="acme", key=owners["acme"])
    assert "error" not in made
    await send(twin, "acme", {"task": "t", "id": "first"})
    await send(twin, "default", {"task": "t", "id": "after"})
    await asyncio.sleep(5)
    assert await taken(twin) == [
        ("default", "mail~before"),
        ("acme", "mail~first"),
        ("default", "mail~after"),
    ]
    assert twin.engine is not None
    assert twin.engine._inbox.tenants == frozenset({"acme", "default"})  # pyright: ignore[reportPrivateUsage]
    await twin.check()


async def test_a_denied_array_is_told_of_once(shared: Twin) -> None:
    await send(shared, "acme", [{"task": "t"}] * 300, who="mallory")
    await asyncio.sleep(5)
    (denied,) = await taken(shared, AccessDenied)
    assert denied == ("acme", "mallory")
    settled = [r for r in await shared.records() if isinstance(r.events[0], Barrier) and r.cause == "settle"]
    assert [(r.tenant, r.source.index) for r in settled if r.source] == [("acme", 299)]
    await shared.check()


def test_whoever_had_least_goes_first_and_nobody_saves_up_turns() -> None:
    turns: Turns[str] = Turns()
    for number in range(6):
        turns.add("flood", f"f{number}")
    assert [turns.take(10) for _ in range(3)] == ["f0", "f1", "f2"]
    turns.add("late", "l0")
    turns.add("late", "l1")
    order = [turns.take(10) for _ in range(5)]
    assert order[0] == "l0"
    assert set(order[:3]) == {"l0", "l1", "f3"}
    assert len(turns) == 0
    assert turns.next() is None
