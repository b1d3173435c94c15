"""Must hold: "10,000 waiting jobs hold no worker, and a parent with three levels of children on one queue
with `concurrency = 1` finishes." `make waiting-proof` is of 10,000, here it is fewer.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from writ import Client, Context, QueuePolicy, Target, Worker, task
from writ.orchestrator.replay.verify import verify
from writ.schemas.events import AttemptFailed, JobCompleted, JobSuspended, LeaseGranted, LeaseReleased
from writ.schemas.lifecycle import State
from writ.workers import Task

if TYPE_CHECKING:
    from tests.acceptance.conftest import Live
else:
    Live = Any

QUEUE = "q"
WAITING = int(os.environ.get("WRIT_WAITING_JOBS", "1000"))
WITHIN_S = 110.0


@task
async def waits(ctx: Context) -> Any:
    return await ctx.wait_for_signal("go")


@task
async def quick() -> str:
    return "done"


@task
async def level(depth: int, ctx: Context) -> int:
    """Two children a level, one after the other; how many jobs there are from here down."""
    count = 1
    for _ in range(2 if depth else 0):
        count += await ctx.run(level, {"depth": depth - 1})
    return count


TASKS: list[Task[..., Any]] = [waits, quick, level]


@asynccontextmanager
async def working(live: Live, concurrency: int) -> AsyncGenerator[tuple[Client, Worker]]:
    target = Target(live.node.url, live.node.broker.key_path("owner"))
    worker = Worker(QUEUE, TASKS, concurrency=concurrency, target=target, wait_s=0.5)
    running = asyncio.create_task(worker.run())
    try:
        async with Client(target) as client:
            yield client, worker
    finally:
        worker.drain()
        await running


def states(live: Live) -> Counter[State]:
    return Counter(job.state for job in live.state.jobs.values())


async def until(live: Live, state: State, count: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while states(live)[state] < count:  # noqa: ASYNC110 - the engine's memory tells nobody
            await asyncio.sleep(0.05)


async def test_waiting_jobs_hold_no_worker(live: Live) -> None:
    async with working(live, 20) as (client, worker):
        jobs = await client.submit_many(QUEUE, [{"task": "waits"}] * WAITING)
        await until(live, State.SUSPENDED, WAITING)
        assert (worker.running, live.state.running_in(f"default.{QUEUE}")) == (0, 0)
        assert all(job.lease is None for job in live.state.jobs.values())
        assert await client.result(await client.submit(QUEUE, "quick"), timeout_s=20) == "done"
        for job in jobs[:: WAITING // 10]:
            await client.signal(job.id, QUEUE, "go", job.id)
            assert await client.result(job, timeout_s=20) == job.id
        assert states(live) == {State.SUSPENDED: WAITING - 10, State.COMPLETED: 11}
        assert not any(job.failures or job.lease_losses for job in live.state.jobs.values())


async def test_three_levels_of_children_finish_on_one_slot(live: Live) -> None:
    async with working(live, 1) as (client, _):
        await client.declare_queue(QUEUE, QueuePolicy(concurrency=1), "one at a time")
        parent = await client.submit(QUEUE, "level", {"depth": 3}, id="parent")
        assert await client.result(parent, timeout_s=60) == 15
    records = await live.records()
    events = [event for record in records for event in record.events]
    assert sum(isinstance(event, JobCompleted) for event in events) == 15
    assert not any(isinstance(event, AttemptFailed | LeaseReleased) for event in events)
    held = 0
    for event in events:  # one lease ends before the next begins
        if isinstance(event, LeaseGranted):
            held += 1
        elif isinstance(event, JobCompleted | JobSuspended):
            held -= 1
        assert held <= 1
    await live.check()
    assert not (await verify(live.log)).faults
