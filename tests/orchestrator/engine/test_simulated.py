"""What the simulation found, each at its smallest."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from writ.orchestrator.state import Partition
from writ.schemas.lifecycle import State
from writ.schemas.schedules import ScheduleFired, ScheduleSkipped

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any


async def declare(twin: Twin, **policy: Any) -> None:
    assert "error" not in await twin.ask("declare", policy=policy)


async def submit(twin: Twin, *jobs: dict[str, Any]) -> None:
    for job in jobs:
        await twin.submit({"task": "send"} | job)
    await twin.settled()


class OneRound:
    """What is asked within is decided in one round: the log takes its time with the one before."""

    def __init__(self, twin: Twin) -> None:
        self._twin = twin

    async def __aenter__(self) -> None:
        self._twin.log.hold.clear()
        self._before = asyncio.create_task(self._twin.ask("pause_queue", queue="another"))
        await self._twin.settled()

    async def __aexit__(self, *_: object) -> None:
        await self._twin.settled()
        self._twin.log.hold.set()
        await self._before
        await self._twin.settled()


async def test_a_grant_stands_behind_what_made_room_for_it(twin: Twin) -> None:
    """Else a log that was stored in part has more running than the limit."""
    await declare(twin, concurrency=1)
    await submit(twin, {"id": "a"})
    (held,) = await twin.acquire()
    waiting = asyncio.create_task(twin.acquire(wait_s=20, worker="w2"))
    await twin.settled()
    async with OneRound(twin):
        await twin.submit({"task": "send", "id": "b"})
        await twin.settled()
        done = asyncio.create_task(twin.report("complete", held))
    await done
    assert [lease["id"] for lease in await waiting] == ["b"]
    state = Partition(twin.log.partition, twin.log.epoch)
    for record in await twin.records():
        state.evolve(record)
        assert state.running_in("default.mail") <= 1


async def test_a_turn_is_not_taken_back_where_the_later_record_was_granted_first(twin: Twin) -> None:
    options = {"fairness_key": "a", "delay_s": 1}
    await submit(twin, {"id": "a", **options}, {"id": "b", "priority": 1, **options})
    assert [lease["id"] for lease in await twin.acquire(2, wait_s=5)] == ["b", "a"]
    await twin.check()


async def test_jobs_without_a_fairness_key_do_not_starve_the_others(twin: Twin) -> None:
    await submit(twin, *({"id": f"free{n}"} for n in range(3)), {"id": "a", "fairness_key": "a"})
    assert [lease["id"] for _ in range(3) for lease in await twin.acquire(1)] == ["free0", "a", "free1"]
    await twin.check()


async def test_of_several_with_a_unique_key_the_one_not_replaced_is_replaced_next(twin: Twin) -> None:
    """They may all have come at one log time, and the name is not to decide then."""
    await declare(twin, on_clash="replace")
    await submit(twin, {"id": "y", "unique_key": "u"})
    assert [lease["id"] for lease in await twin.acquire()] == ["y"]
    await submit(twin, {"id": "b", "unique_key": "u"}, {"id": "c", "unique_key": "u"})
    assert twin.engine is not None
    jobs = twin.engine.state.jobs.values()
    assert len({job.round_at for job in jobs}) == 1
    assert [job.id for job in jobs if job.cancel is None and job.finished_at is None] == ["c"]
    await twin.check()


async def test_a_job_does_not_replace_its_parent_or_one_that_it_comes_after(twin: Twin) -> None:
    await declare(twin, on_clash="replace")
    await submit(twin, {"id": "a", "unique_key": "u"})
    await submit(twin, {"id": "b", "unique_key": "u", "parent": "mail~a"})
    await submit(twin, {"id": "c", "unique_key": "u", "after": ["mail~a"]})
    assert twin.job("a").state is State.PENDING
    refused = [record for record in await twin.records() if record.kind == "principal"]
    assert len(refused) == 2
    assert "cannot replace one that it is a child of" in repr(refused[0].events)
    await twin.check()


async def test_a_due_time_that_has_to_wait_for_others_is_not_pending(twin: Twin) -> None:
    """A queue with room for two takes them all: only one of them is ever pending."""
    await declare(twin, pending_max=2)
    spec = {"task": "report", "every_s": 60, "overlap": "queue", "catch_up_max": 5}
    await twin.ask("declare_schedule", name="m", spec=spec)
    await twin.crash()
    await asyncio.sleep(305)
    await twin.start()
    await twin.settled()
    assert len(await twin.events(ScheduleFired)) == 5
    assert await twin.events(ScheduleSkipped) == []
    await twin.check()


async def test_a_child_that_is_run_again_outlives_its_parents_end_with_every_leader(twin: Twin) -> None:
    await submit(twin, {"id": "p"}, {"id": "c", "parent": "mail~p"})
    await twin.ask("terminate", id="p")
    assert twin.job("c").state is State.CANCELLED
    await asyncio.sleep(1)
    await twin.ask("rerun", id="c")
    await twin.crash()
    await twin.start()
    await twin.settled()
    assert twin.job("c").state is State.PENDING
    await twin.check()
