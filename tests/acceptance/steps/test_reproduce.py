"""Must hold: `reproduce` of 100 jobs with recorded steps calls nothing outside and differs nowhere; a planted
clock read is pointed at.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from writ import Client, Context, QueuePolicy, Retry, StepFailed, StepPolicy, Target, Worker, task, tool
from writ.broker.errors import JobEnded
from writ.orchestrator.replay.compare import Difference, compare
from writ.orchestrator.replay.verify import verify
from writ.schemas.events import JobSubmitted
from writ.schemas.recordings import Run, last_run

if TYPE_CHECKING:
    from tests.acceptance.conftest import Live
else:
    Live = Any

QUEUE = "orders"
outside: list[str] = []
"""Every call of something outside, in order."""

numbers = itertools.count()


def fetch(what: str, ctx_id: str) -> dict[str, Any]:
    """Something outside, which never answers the same."""
    outside.append(what)
    return {"what": what, "for": ctx_id, "number": next(numbers), "at": time.time()}


@tool
async def search(query: str) -> list[float]:
    outside.append(f"search {query}")
    return [time.time(), next(numbers)]


async def refuse(what: str) -> None:
    outside.append(what)
    raise ConnectionError(f"{what} is away")


@task(name="order")
async def order(number: int, ctx: Context) -> dict[str, Any]:
    """Takes its way by what it is answered: one in three fails once, one goes on from a step that failed."""
    found = await search(f"part {number}")
    first = await ctx.step("fetch", fetch, "stock", ctx.idempotency_key)
    both = await asyncio.gather(
        ctx.step("left", fetch, "left", ctx.id), ctx.step("right", fetch, f"right {first['number']}", ctx.id)
    )
    way = "none"
    if number % 3 == 1:
        try:
            await ctx.step("refuse", refuse, "depot")
        except StepFailed as error:
            way = error.type
    if number % 3 == 2 and ctx.attempt == 1:
        raise ValueError("once more")
    last = await ctx.step("ship", fetch, way, ctx.id)
    ctx.usage(model="small", input_tokens=number)
    return {"found": found, "first": first, "both": both, "last": last, "attempt": ctx.attempt}


@task(name="in_thread")
def threaded(number: int, ctx: Context) -> list[Any]:
    return [ctx.step_sync(f"step {n}", fetch, f"{number}/{n}", ctx.id) for n in range(3)]


@task(name="doomed")
async def doomed(number: int, ctx: Context) -> None:
    undo = StepPolicy(compensate=lambda done: outside.append(f"undo {done['number']}"))
    await ctx.step("take", fetch, "take", ctx.id, policy=undo)
    await ctx.step("fail", refuse, f"door {number}")


@task(name="clock")
async def clock(where: str, ctx: Context) -> dict[str, Any]:
    now = time.time()
    found = await ctx.step("fetch", fetch, f"since {now}" if where == "parameters" else "since", ctx.id)
    if where == "tool":
        await search(f"{now}")
    if where == "order":
        names = ["a", "b"] if ctx.id not in seen else ["b", "a"]
        seen.add(ctx.id)
        for name in names:
            await ctx.step(name, fetch, name, ctx.id)
    return {"found": found, "at": now if where == "output" else 0}


seen: set[str] = set()


@asynccontextmanager
async def working(live: Live) -> AsyncGenerator[Client, None]:
    """A client, while a worker runs the tasks of this page."""
    target = Target(live.node.url, live.node.broker.key_path("owner"))
    worker = Worker(QUEUE, [order, threaded, doomed, clock], target=target, concurrency=20, wait_s=0.5)
    running = asyncio.create_task(worker.run())
    try:
        async with Client(target) as client:
            yield client
    finally:
        worker.drain()
        await running


async def told(client: Client, job_id: str, end: int | None = None, *, reveal: bool = False) -> Run:
    from writ.schemas.codec import decode

    page = await client.records(job_id, QUEUE, limit=500, reveal=reveal)
    run = last_run([decode(bytes(view.record)) for view in page.records], end)
    assert run is not None
    return run


async def reproduced(client: Client, job_id: str) -> list[Difference]:
    """Runs a job again from its record, and tells what differs."""
    first = await told(client, job_id)
    handle = await client.reproduce(job_id, QUEUE)
    try:
        await client.result(handle, timeout_s=30)
    except JobEnded:
        assert first.job.state != "completed"
    return compare(await told(client, job_id, first.job.ended_by), await told(client, handle.id))


async def test_reproduced_jobs_call_nothing_outside_and_differ_nowhere(live: Live) -> None:
    """100 jobs with recorded steps, some that failed before they completed, and some that died."""
    async with working(live) as client:
        names = {0: "order", 1: "in_thread", 2: "order", 3: "doomed"}
        ids = [f"n{number}" for number in range(100)]
        retry = Retry(max_attempts=2, initial_interval_s=0.05)
        for number, job_id in enumerate(ids):
            await client.submit(QUEUE, names[number % 4], {"number": number}, id=job_id, retry=retry)
        async with asyncio.timeout(60):
            while len((await client.jobs(states=["completed", "dead"], limit=200)).jobs) < 100:  # noqa: ASYNC110 - in another process
                await asyncio.sleep(0.1)
        assert {"undo", "stock", "depot"} <= {call.split()[0] for call in outside}
        before = list(outside)
        found = await asyncio.gather(*[reproduced(client, job_id) for job_id in ids])
        assert [differences for differences in found if differences] == []
        assert outside == before, "something outside was called"
        ends = [job.state.value for job in (await client.jobs(limit=500)).jobs]
        assert (len(ends), ends.count("dead")) == (200, 50)
    assert not (await verify(live.log)).faults
    submits = [e for r in await live.records() for e in r.events if isinstance(e, JobSubmitted)]
    assert sum(event.reproduces is not None for event in submits) == 100, "the log names what they reproduce"


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ("output", "output.at"),
        ("parameters", "step 1, 'fetch', parameters"),
        ("tool", "tool search, parameters"),
        ("order", "step 2"),
    ],
)
async def test_a_planted_clock_read_is_pointed_at(live: Live, where: str, place: str) -> None:
    async with working(live) as client:
        handle = await client.submit(QUEUE, "clock", {"where": where}, id=where)
        await client.result(handle, timeout_s=30)
        found = await reproduced_anyway(client, where)
    assert found[0].where == place
    assert found[0].first != found[0].again
    if where == "order":
        assert (found[0].first, found[0].again) == ("'a'", "'b'"), "both names"
    else:
        assert len(found) == 1


async def reproduced_anyway(client: Client, job_id: str) -> list[Difference]:
    """As `reproduced`, of a job whose second run may end otherwise."""
    handle = await client.reproduce(job_id, QUEUE)
    with suppress(JobEnded):
        await client.result(handle, timeout_s=30)
    return compare(await told(client, job_id), await told(client, handle.id))


@pytest.mark.parametrize("given", [{}, {"data_subject": "Jane"}])
async def test_a_sealed_job_is_reproduced_and_erased_with_its_reproduction(
    live: Live, given: dict[str, Any]
) -> None:
    """By a key of the job, or of a subject: what is recorded of both runs is under the same."""
    async with working(live) as client:
        if not given:
            await client.declare_queue(QUEUE, QueuePolicy(erasable=True))
        handle = await client.submit(QUEUE, "order", {"number": 1}, id="sealed", **given)
        await client.result(handle, timeout_s=30)
        before = list(outside)
        again = await client.reproduce("sealed", QUEUE)
        await client.result(again, timeout_s=30)
        assert outside == before, "something outside was called"
        runs = [await told(client, each, reveal=True) for each in ("sealed", again.id)]
        assert compare(*runs) == []
        assert runs[0].job.input.key == runs[1].job.input.key == "none", "revealed"
        stored = [(await told(client, each)).job for each in ("sealed", again.id)]
        assert stored[0].input.key == stored[1].input.key != "none"
        clocked = await client.submit(QUEUE, "clock", {"where": "parameters"}, id="clocked", **given)
        await client.result(clocked, timeout_s=30)
        second = await client.reproduce("clocked", QUEUE)
        await client.result(second, timeout_s=30)
        (found,) = compare(*[await told(client, each, reveal=True) for each in ("clocked", second.id)])
        assert found.where == "step 1, 'fetch', parameters"
        assert await client.erase(QUEUE, "sealed", "asked for") == (2 if not given else 4)
        with pytest.raises(ValueError, match="was erased"):
            await client.reproduce("sealed", QUEUE)
        assert bytes((await client.job(again.id, QUEUE)).output or b"null") == b"null"
    assert not (await verify(live.log)).faults
