"""Queues with lanes, from end to end in memory: client, orchestrator, worker and views."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from writ.broker.client import Client
from writ.broker.errors import Refused, SubmitRefused
from writ.broker.results import JobHandle
from writ.schemas.ids import lane_for, lanes_of, queue_fault, queue_of, shard_of
from writ.schemas.policy import QueuePolicy
from writ.schemas.principals import covers
from writ.schemas.queues import Mode
from writ.testing import System, virtual
from writ.workers import task

LANES = 4
ORDERS = "orders"


@task
async def pack(number: int) -> int:
    return number


def another(system: System) -> Client:
    """A client that has heard of nothing yet."""
    return Client(system.client.target, wire=system.wire, clock=system.clock)


def test_each_lane_is_in_a_shard_of_its_own_and_neighbours_are_in_different_partitions() -> None:
    for queue in (ORDERS, "billing/eu", "q"):
        shards = [shard_of("default", lane) for lane in lanes_of(queue, 32)]
        assert len(set(shards)) == 32
        assert sorted(shard % 2 for shard in shards[:LANES]) == [0, 0, 1, 1]
        assert sorted(shard % 4 for shard in shards[:LANES]) == [0, 1, 2, 3]


@virtual
async def test_jobs_of_a_queue_with_lanes_are_spread_and_each_is_done_once() -> None:
    async with System([pack], ORDERS) as system:
        await system.client.declare_queue(ORDERS, QueuePolicy(lanes=LANES))
        jobs = [{"task": "pack", "input": {"number": n}} for n in range(40)]
        handles = await system.client.submit_many(ORDERS, jobs)
        assert [await system.client.result(job) for job in handles] == list(range(40))
        assert {job.queue for job in handles} == set(lanes_of(ORDERS, LANES))
        counts = (await system.client.jobs(queue=ORDERS, limit=100)).jobs
        assert len(counts) == 40, "the list of the queue has the jobs of its lanes"
        again = await system.client.submit(ORDERS, "pack", {"number": 1}, id=handles[1].id)
        assert again.queue == handles[1].queue, "a retry of a submit comes to the same lane"


@virtual
async def test_a_client_that_knows_nothing_of_lanes_learns_of_them_by_its_first_unique_key() -> None:
    async with System() as system:
        await system.client.declare_queue(ORDERS, QueuePolicy(lanes=LANES))
        client = another(system)
        plain = await client.submit(ORDERS, "pack", {"number": 0})
        assert plain.queue == ORDERS, "a job without a key stays in the queue itself"
        first = await client.submit(ORDERS, "pack", {"number": 1}, unique_key="k")
        assert first.queue == lane_for(ORDERS, LANES, "k")
        assert first.existing is False
        second = await client.submit(ORDERS, "pack", {"number": 2}, unique_key="k")
        assert (second.queue, second.id, second.existing) == (first.queue, first.id, True)
        assert (await client.job(plain.id, ORDERS)).queue == ORDERS
        assert (await client.job(first.id, ORDERS)).queue == first.queue
        assert await client.lanes(ORDERS) == LANES


@virtual
async def test_many_with_unique_keys_come_to_the_lanes_that_they_pick() -> None:
    async with System([pack], ORDERS) as system:
        await system.client.declare_queue(ORDERS, QueuePolicy(lanes=LANES))
        client = another(system)
        jobs = [{"task": "pack", "input": {"number": n}, "unique_key": f"k{n}"} for n in range(12)]
        handles = await client.submit_many(ORDERS, jobs)
        assert [job.queue for job in handles] == [lane_for(ORDERS, LANES, f"k{n}") for n in range(12)]
        assert [await client.result(job) for job in handles] == list(range(12))


@virtual
async def test_a_plain_publisher_is_told_the_lane_of_its_key_and_a_key_is_live_once_in_the_queue() -> None:
    """Must hold: with lanes a unique_key is live once in the whole queue."""
    async with System() as system:
        await system.client.declare_queue(ORDERS, QueuePolicy(lanes=LANES))
        right = lane_for(ORDERS, LANES, "k")
        wire = system.wire
        for name in (ORDERS, *lanes_of(ORDERS, LANES)):
            body = b'{"task": "pack", "unique_key": "k"}'
            await wire.publish_submit(f"writ.submit.default.owner.{name}", body, f"m-{name}")
        async with asyncio.timeout(60):
            while len(await system.records()) < 10:  # noqa: ASYNC110 - of the log, which has no event
                await asyncio.sleep(0.1)
        live = [job for job in system.engine.state.jobs.values() if job.unique_key == "k"]
        assert [job.queue for job in live] == [right]
        refused = [
            why
            for record in await system.records()
            for event in record.events
            for why in getattr(event, "refused", ())
        ]
        assert len(refused) == LANES
        assert {(why.field, why.lanes) for why in refused} == {("unique_key", LANES)}
        assert all(right in why.reason for why in refused)


@virtual
async def test_each_unique_key_and_each_lane_is_first_in_first_out() -> None:
    """Must hold: first in first out in each lane, and so for each unique_key."""
    seen: dict[str, list[int]] = defaultdict(list)

    @task(name="note")
    async def note(number: int, lane: str) -> None:
        seen[lane].append(number)

    async with System([note], ORDERS, concurrency=1) as system:
        await system.client.declare_queue(ORDERS, QueuePolicy(lanes=LANES))
        handles: list[JobHandle] = []
        for number in range(40):
            key = f"k{number}"
            lane = lane_for(ORDERS, LANES, key)
            given = {"number": number, "lane": lane}
            handles.append(await system.client.submit(ORDERS, "note", given, unique_key=key))
        for job in handles:
            await system.client.result(job)
        assert set(seen) == set(lanes_of(ORDERS, LANES))
        assert all(numbers == sorted(numbers) for numbers in seen.values())
        for round_ in range(5):  # one key again and again: each time after the job before has ended
            job = await system.client.submit(
                ORDERS, "note", {"number": 100 + round_, "lane": "k"}, unique_key="k"
            )
            await system.client.result(job)
        assert seen["k"] == [100, 101, 102, 103, 104]


@virtual
async def test_pause_and_policy_of_a_queue_reach_all_lanes() -> None:
    async with System([pack], ORDERS) as system:
        client = system.client
        await client.declare_queue(ORDERS, QueuePolicy(lanes=LANES))
        await client.pause_queue(ORDERS, "a look")
        names = (ORDERS, *lanes_of(ORDERS, LANES))
        assert {(await client.queues(name)).queues[0].mode for name in names} == {Mode.PAUSED}
        jobs = await client.submit_many(ORDERS, [{"task": "pack", "input": {"number": n}} for n in range(8)])
        await asyncio.sleep(10)
        assert {(await client.job(job.id, ORDERS)).state.value for job in jobs} == {"pending"}
        await client.resume_queue(ORDERS)
        assert sorted([await client.result(job) for job in jobs]) == list(range(8))
        await client.declare_queue(ORDERS, QueuePolicy(lanes=LANES, priority=1))
        assert {(await client.queues(name)).queues[0].policy.priority for name in names} == {1}


@virtual
async def test_the_number_of_lanes_is_for_good_and_comes_to_no_queue_with_a_live_unique_key() -> None:
    async with System() as system:
        client = system.client
        live = await client.submit(ORDERS, "pack", {"number": 1}, unique_key="k")
        with pytest.raises(Refused, match=r"live job orders~.* has the unique_key k"):
            await client.declare_queue(ORDERS, QueuePolicy(lanes=LANES))
        await client.cancel(live.id, ORDERS)
        await client.declare_queue(ORDERS, QueuePolicy(lanes=LANES))
        with pytest.raises(Refused, match="the queue has 4 for good"):
            await client.declare_queue(ORDERS, QueuePolicy(lanes=LANES + 1))
        with pytest.raises(Refused, match="the queue has 4 for good"):
            await client.declare_queue(ORDERS, QueuePolicy())
        with pytest.raises(Refused, match="orders#4 is no lane"):
            await client.declare_queue("orders#4", QueuePolicy(lanes=LANES))
        with pytest.raises(Refused, match=r"picks orders#. of the 4 lanes"):
            await client.rerun(live.id, ORDERS)  # it ended before there were lanes


@virtual
async def test_what_is_no_lane_takes_no_jobs_and_batches_stay_in_the_queue_itself() -> None:
    async with System() as system:
        client = system.client
        with pytest.raises(SubmitRefused, match="bills#2 is no lane that was declared"):
            await client.submit("bills#2", "pack", {"number": 1}, unique_key="k")
        await client.declare_queue(ORDERS, QueuePolicy(lanes=LANES))
        job = await client.submit(ORDERS, "pack", {"number": 1}, batch="b")
        assert job.queue == ORDERS
        with pytest.raises(SubmitRefused, match="a batch is of one queue"):
            await client.submit(ORDERS, "pack", {"number": 1}, batch="b", unique_key="k")


@virtual
async def test_what_is_asked_of_a_job_by_its_queue_reaches_the_lane_that_has_it() -> None:
    async with System() as system:
        client = system.client
        await client.declare_queue(ORDERS, QueuePolicy(lanes=LANES))
        job = await client.submit(ORDERS, "pack", {"number": 1}, unique_key="k")
        after = await client.submit(ORDERS, "pack", {"number": 2}, after=[job])
        await client.cancel(job.id, ORDERS)
        assert (await client.job(job.id, job.queue)).state.value == "cancelled"
        assert (await client.accepted(after)).state.value == "dead"
        assert queue_of(job.queue) == ORDERS


def test_a_role_in_a_queue_is_one_in_its_lanes_and_in_nothing_else() -> None:
    assert covers(ORDERS, "orders#2")
    assert covers("*", "orders#2")
    assert not covers("order", "orders#2")
    assert not covers(ORDERS, "orders-2")
    assert not covers("orders#2", ORDERS)


@pytest.mark.parametrize("name", ["orders#", "orders#w", "orders#10", "#1", "orders#1#2", "a b#1"])
def test_what_names_no_lane_is_refused(name: str) -> None:
    assert queue_fault(name) is not None
    assert queue_fault("orders#v") is None
