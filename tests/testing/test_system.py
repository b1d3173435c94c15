"""The test kit: whole systems in memory, in virtual time, as users have them in their own tests."""

from __future__ import annotations

import asyncio
import datetime
import threading
import time
from collections import Counter

import pytest

from writ import (
    Approval,
    Context,
    JobFailed,
    QueuePolicy,
    Retry,
    ScheduleSpec,
    State,
    StepPolicy,
    task,
    testing,
    tool,
)
from writ.orchestrator.replay.verify import verify

done: Counter[str] = Counter()


@task
async def add(a: int, b: int = 1) -> int:
    return a + b


@task
async def twice(ctx: Context) -> str:
    """Fails once, behind a step."""
    await ctx.step("once", lambda: done.update([ctx.id]))
    if ctx.attempt == 1:
        raise ConnectionError("the service is away")
    return f"attempt {ctx.attempt}, step done {done[ctx.id]} times"


@tool
async def rate(currency: str) -> float:
    return 1.25


@task
async def pay(euros: int, ctx: Context) -> dict[str, object]:
    dollars = euros * await rate("USD")
    said = await ctx.request_approval(f"pay {dollars}?")
    await ctx.step("transfer", lambda: done.update(["transfer"]), policy=StepPolicy(idempotent=True))
    return {"paid": dollars, "said": said}


@task
def threaded(ctx: Context) -> str:
    ctx.step_sync("look", lambda: 1)
    return threading.current_thread().name


def test_one_task_is_run_with_its_retries() -> None:
    assert testing.run_task(add, {"a": 1}) == 2
    assert testing.run_task(twice, id="t1") == "attempt 2, step done 1 times"
    with pytest.raises(JobFailed, match=r"input\.a"):
        testing.run_task(add, {"a": "one"}, retry=Retry(max_attempts=1))


@testing.virtual
async def test_a_person_approves() -> None:
    async with testing.System([pay], "billing") as system:
        job = await system.client.submit("billing", "pay", {"euros": 8})
        view = await system.when(job, "suspended")
        assert (view.state, done["transfer"]) == (State.SUSPENDED, 0)
        await asyncio.sleep(3 * 3600)
        await system.client.approve(job.id, "billing", "within budget", data={"up_to": 20})
        assert await system.client.result(job) == {"paid": 10.0, "said": {"up_to": 20}}
        assert done["transfer"] == 1
        assert system.now >= datetime.datetime(2026, 1, 1, 3, tzinfo=datetime.UTC)
        assert (await verify(system.log)).ok


@testing.virtual
async def test_waiting_takes_no_time() -> None:
    async with testing.System([add], "q") as system:
        begun = time.monotonic()
        job = await system.client.submit("q", "add", {"a": 1}, delay_s=600)
        assert await system.client.result(job) == 2
        assert system.now >= datetime.datetime(2026, 1, 1, 0, 10, tzinfo=datetime.UTC)
        assert time.monotonic() - begun < 300, "ten minutes were waited for"


@testing.virtual
async def test_a_schedule_fires() -> None:
    async with testing.System([add], "q") as system:
        spec = ScheduleSpec(task="add", cron="*/20 * * * *")
        await system.client.declare_schedule("q", "hourly", spec, {"a": 1}, "as agreed")
        await asyncio.sleep(3601)
        page = await system.client.jobs(schedule="hourly", states=[State.COMPLETED])
        assert len(page.jobs) == 3


@testing.virtual
async def test_policies_hold() -> None:
    async with testing.System([add], "q") as system:
        policy = QueuePolicy(rate_per_s=0.1, burst=1)
        await system.client.declare_queue("q", policy, "as agreed")
        jobs = [await system.client.submit("q", "add", {"a": n}) for n in range(4)]
        assert [await system.client.result(job) for job in jobs] == [1, 2, 3, 4]
        assert system.now >= datetime.datetime(2026, 1, 1, 0, 0, 30, tzinfo=datetime.UTC)


@testing.virtual
async def test_a_submit_that_nobody_approves_in_time_dies() -> None:
    async with testing.System([add], "q") as system:
        job = await system.client.submit("q", "add", {"a": 1}, approval=Approval(timeout_s=60))
        with pytest.raises(JobFailed):
            await system.client.result(job)


@testing.virtual
async def test_a_plain_function_runs_on_a_thread_and_takes_steps() -> None:
    async with testing.System([threaded]) as system:
        job = await system.client.submit("test", "threaded")
        assert (await system.client.result(job)).startswith("writ-testing")


def test_one_seed_is_one_history() -> None:
    async def history() -> list[tuple[int, str, int]]:
        async with testing.System([twice], "q", seed=7) as system:
            job = await system.client.submit("q", "twice")
            await system.client.result(job)
            return [(record.seq, record.key, record.at) for record in await system.records()]

    assert testing.run(history()) == testing.run(history())


async def test_outside_of_virtual_time_it_says_what_to_do() -> None:
    with pytest.raises(TypeError, match="decorate the test"):
        async with testing.System([add]):
            pass
