"""Waits of tasks, over the orchestrator itself: what ends an attempt, and what the next one goes on with."""

from __future__ import annotations

import asyncio
import datetime
import math
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from writ import ChildFailed, Context, JobFailed, Retry, State, WaitTimedOut, task, testing
from writ.broker.memory import MemoryIntake
from writ.broker.ports import Stored
from writ.orchestrator.replay.verify import verify
from writ.schemas.events import AttemptFailed, JobSnoozed, JobSubmitted, ProgressReported
from writ.testing import System
from writ.workers import Task
from writ.workers.children import TAKEN_WITHIN_S

QUEUE = "q"
SOON = Retry(max_attempts=3, initial_interval_s=1)
ran: Counter[str] = Counter()


@task
async def double(n: int) -> int:
    ran["double"] += 1
    return 2 * n


@task
async def moody(name: str, ctx: Context) -> str:
    """Fails in its first job."""
    ran[name] += 1
    if name == "bad" and ran[name] == 1:
        raise ValueError("in a mood")
    return name


@task
async def tree(depth: int, ctx: Context) -> int:
    """As many levels of children; how many jobs that were."""
    if depth == 0:
        return 1
    below: list[int] = await ctx.run_all([{"task": tree, "input": {"depth": depth - 1}}] * 2)
    return 1 + sum(below)


@task
async def signals(ctx: Context) -> list[Any]:
    first = await ctx.wait_for_signal("go")
    await ctx.step("between", lambda: ran.update(["between"]))
    return [first, await ctx.wait_for_signal("go"), await ctx.wait_for_signal("stop")]


@task
async def patient(ctx: Context, timeout_s: float = 60) -> str:
    try:
        return str(await ctx.wait_for_signal("never", timeout_s=timeout_s))
    except WaitTimedOut as late:
        return late.text


@task
async def nobody_says_yes(ctx: Context) -> None:
    await ctx.request_approval("may I?", timeout_s=60)


@task
async def sleeps(ctx: Context) -> float:
    begun = await ctx.step("begun", lambda: 1.0)
    await ctx.sleep(3600)
    await ctx.sleep_until(datetime.datetime(2026, 1, 1, 2, tzinfo=datetime.UTC))
    return begun


@task
def plainly(ctx: Context) -> list[Any]:
    doubled = ctx.run_sync(double, {"n": 4})
    ctx.sleep_sync(60)
    said = ctx.wait_for_signal_sync("go", timeout_s=600)
    ctx.checkpoint_sync("here")
    if ctx.details is None:
        raise ValueError("once more")
    return [doubled, said, ctx.details]


@task
async def mother(ctx: Context, calls: list[dict[str, Any]]) -> list[Any]:
    return await ctx.run_all(calls)


@task
async def forgiving(ctx: Context) -> str:
    try:
        await ctx.run("moody", {"name": "bad"}, retry=Retry(max_attempts=1))
    except ChildFailed as failed:
        return failed.text
    return "no failure"


@task
async def boundless(ctx: Context) -> None:
    await ctx.run("double", {"n": 1}, attempt_timeout_s=math.inf)


@task
async def grouped(ctx: Context) -> str:
    """Waits in a task group."""
    async with asyncio.TaskGroup() as group:
        group.create_task(ctx.wait_for_signal("go"))
    return "gone"


@task
async def polls(ctx: Context) -> int:
    if ctx.attempt < 3:
        ctx.snooze(600)
    return ctx.attempt


@task
async def counts(ctx: Context) -> list[Any]:
    """Says how far it is, and goes on from there."""
    before = ctx.details
    start = 0 if before is None else before["at"]
    for at in range(start, 400):
        ctx.progress(f"{at} of 400")
        ctx.heartbeat({"at": at})
        await asyncio.sleep(0.1)
        if at == 205 and ctx.attempt == 1:
            raise ConnectionError("away")
    return [before, ran["counted"]]


@task
async def marks(ctx: Context) -> Any:
    if ctx.details is None:
        await ctx.checkpoint({"page": 7})
        await asyncio.sleep(86_400)
    return ctx.details


TASKS: list[Task[..., Any]] = [
    double, moody, tree, signals, patient, nobody_says_yes, sleeps, plainly, mother, forgiving, grouped,
    polls, counts, marks, boundless,
]  # fmt: skip


def system(concurrency: int = 10) -> System:
    ran.clear()
    return System(TASKS, QUEUE, concurrency=concurrency)


async def kinds(system: System, *wanted: type) -> list[Any]:
    return [
        event for record in await system.records() for event in record.events if isinstance(event, wanted)
    ]


async def settle(system: System, job: Any) -> None:
    """Until the job waits again."""
    await asyncio.sleep(1)
    await system.when(job, State.SUSPENDED)


@testing.virtual
async def test_signals_are_had_once_each_in_their_order_also_those_that_came_before() -> None:
    async with system() as s:
        job = await s.client.submit(QUEUE, "signals", id="a")
        await s.when(job, State.SUSPENDED)
        await s.client.signal("a", QUEUE, "stop", "early")
        await s.client.signal("a", QUEUE, "go", 1)
        await settle(s, job)
        await s.client.signal("a", QUEUE, "go", 2)
        assert await s.client.result(job) == [1, 2, "early"]
        assert ran["between"] == 1, "a step ahead of a wait is not repeated"
        assert not await kinds(s, AttemptFailed)
        assert (await verify(s.log)).ok


@testing.virtual
async def test_a_wait_that_runs_out_is_told_to_the_task_and_fails_it_where_it_is_not_caught() -> None:
    async with system() as s:
        job = await s.client.submit(QUEUE, "patient")
        assert await s.client.result(job) == "signal never did not come within 60 s"
        job = await s.client.submit(QUEUE, "nobody_says_yes", retry=Retry(max_attempts=1))
        with pytest.raises(JobFailed) as failed:
            await s.client.result(job)
        assert (failed.value.error.type, failed.value.error.class_) == ("WaitTimedOut", "timeout")  # type: ignore[union-attr]


@testing.virtual
async def test_a_task_sleeps_without_holding_a_slot() -> None:
    async with system(concurrency=1) as s:
        job = await s.client.submit(QUEUE, "sleeps")
        await s.when(job, State.SCHEDULED)
        assert await s.client.result(await s.client.submit(QUEUE, "double", {"n": 1})) == 2
        assert await s.client.result(job) == 1.0
        assert s.now >= datetime.datetime(2026, 1, 1, 2, tzinfo=datetime.UTC)
        assert len(await kinds(s, JobSnoozed)) == 2


@testing.virtual
async def test_a_plain_function_waits_as_well() -> None:
    async with system(concurrency=1) as s:
        job = await s.client.submit(QUEUE, "plainly", retry=SOON)
        await s.when(job, State.SCHEDULED)
        await asyncio.sleep(61)
        assert (await s.client.job(job.id)).state is State.SUSPENDED
        await s.client.signal(job.id, QUEUE, "go", "now")
        assert await s.client.result(job) == [8, "now", "here"]
        assert ran["double"] == 1


@testing.virtual
async def test_levels_of_children_finish_on_one_slot() -> None:
    async with system(concurrency=1) as s:
        job = await s.client.submit(QUEUE, "tree", {"depth": 3}, id="root")
        assert await s.client.result(job) == 15
        ids = {record.key for record in await s.records() if isinstance(record.events[0], JobSubmitted)}
        assert {"q~root", "q~root:1:1", "q~root:1:2:1:1"} <= ids, "a child's id tells whose it is"
        assert len(ids) == 15
        assert not await kinds(s, AttemptFailed)
        assert (await verify(s.log)).ok


@testing.virtual
async def test_a_child_that_failed_is_started_again_and_the_others_are_not() -> None:
    async with system() as s:
        calls = [
            {"task": "moody", "input": {"name": name}, "retry": {"max_attempts": 1}}
            for name in ("good", "bad", "fine")
        ]
        job = await s.client.submit(QUEUE, "mother", {"calls": calls}, id="m", retry=SOON)
        assert await s.client.result(job) == ["good", "bad", "fine"]
        assert ran == {"good": 1, "bad": 2, "fine": 1}
        (failure,) = [each for each in await kinds(s, AttemptFailed) if each.error.type == "ChildFailed"]
        assert b"q~m:1:2 is dead" in bytes(failure.error.text.plain)
        assert (await s.client.job("m:1:2@2", QUEUE)).state is State.COMPLETED


@testing.virtual
async def test_a_task_may_catch_the_failure_of_a_child() -> None:
    async with system() as s:
        said = await s.client.result(await s.client.submit(QUEUE, "forgiving"))
        assert "ValueError: in a mood" in said


@testing.virtual
async def test_a_child_that_cannot_be_submitted_fails_its_parent_with_the_field() -> None:
    async with system() as s:
        calls = [{"task": "double", "input": {"n": 1}, "priority": 9}]
        job = await s.client.submit(QUEUE, "mother", {"calls": calls})
        with pytest.raises(JobFailed, match="priority"):
            await s.client.result(job)
        with pytest.raises(JobFailed, match="submitted: attempt_timeout_s: it is inf; give a finite number"):
            await s.client.result(await s.client.submit(QUEUE, "boundless"))


@testing.virtual
async def test_a_child_may_wait_long_behind_others_in_the_intake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Must hold: nobody takes one for refused that nobody has dealt with yet."""
    read = MemoryIntake.read
    held_up_s = 0.0

    async def slowly(intake: MemoryIntake, *words: Any) -> AsyncIterator[list[Stored]]:
        async for messages in read(intake, *words):
            await asyncio.sleep(held_up_s)
            yield messages

    monkeypatch.setattr(MemoryIntake, "read", slowly)
    async with system() as s:
        job = await s.client.submit(QUEUE, "mother", {"calls": [{"task": "double", "input": {"n": 4}}]})
        held_up_s = 10 * TAKEN_WITHIN_S
        assert await s.client.result(job) == [8]
        assert not await kinds(s, AttemptFailed)


@testing.virtual
async def test_a_child_that_is_refused_fails_its_parent() -> None:
    async with system() as s:
        await s.client.drain_queue("closed", "no more")
        calls = [{"task": "double", "queue": "closed", "input": {"n": 1}}]
        job = await s.client.submit(QUEUE, "mother", {"calls": calls})
        with pytest.raises(JobFailed, match="writ audit"):
            await s.client.result(job)


@testing.virtual
async def test_the_children_of_a_job_that_is_cancelled_are_cancelled() -> None:
    async with system() as s:
        calls = [{"task": "patient", "input": {"timeout_s": 9_000}}]
        job = await s.client.submit(QUEUE, "mother", {"calls": calls}, id="m")
        await s.when(job, State.SUSPENDED)
        await s.client.cancel("m", QUEUE, "enough")
        await asyncio.sleep(1)
        assert (await s.client.job("m:1", QUEUE)).state is State.CANCELLED


@testing.virtual
async def test_a_wait_within_a_task_group_ends_the_attempt_as_any() -> None:
    async with system() as s:
        job = await s.client.submit(QUEUE, "grouped")
        await s.when(job, State.SUSPENDED)
        await s.client.signal(job.id, QUEUE, "go")
        assert await s.client.result(job) == "gone"


@testing.virtual
async def test_a_task_that_snoozes_begins_anew_and_has_not_failed() -> None:
    async with system() as s:
        job = await s.client.submit(QUEUE, "polls", retry=Retry(max_attempts=1))
        assert await s.client.result(job) == 3
        assert s.now >= datetime.datetime(2026, 1, 1, 0, 20, tzinfo=datetime.UTC)


@testing.virtual
async def test_what_is_said_of_progress_is_bounded_and_the_newest_reaches_the_next_attempt() -> None:
    async with system() as s:
        job = await s.client.submit(QUEUE, "counts", retry=SOON)
        before, _ = await s.client.result(job)
        assert before == {"at": 205}, "what was said last is stored ahead of the failure"
        told = await kinds(s, ProgressReported)
        assert 30 < len(told) < 60, "about once a second"
        assert (await s.client.job(job.id)).progress


@testing.virtual
async def test_a_checkpoint_outlives_an_attempt_that_ran_too_long() -> None:
    async with system() as s:
        job = await s.client.submit(QUEUE, "marks", retry=SOON, attempt_timeout_s=30)
        assert await s.client.result(job) == {"page": 7}


@testing.virtual
async def test_an_input_that_never_fits_is_not_tried_again() -> None:
    """Must hold: a mismatch is an `application` error that names the field; it is permanent."""
    async with System(TASKS, QUEUE) as system:
        job = await system.client.submit(QUEUE, "double", {"n": "two"}, retry=SOON)
        with pytest.raises(JobFailed, match="InputMismatch is permanent") as failed:
            await system.client.result(job)
        assert failed.value.error is not None
        assert (failed.value.error.class_, failed.value.error.text) == (
            "application",
            "input.n: Expected `int`, got `str`",
        )
        view = await system.client.job(job.id, QUEUE)
        assert (view.attempt, view.dead_reason) == (1, "non_retryable")
        assert (await verify(system.log)).ok
