"""Steps, tools and usage of real tasks, told by the log: what runs again, what does not, what is undone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from writ import (
    Client,
    Context,
    JobCancelled,
    JobFailed,
    NotDone,
    OutcomeUnknown,
    QueuePolicy,
    Retry,
    StepPolicy,
    Target,
    ToolDenied,
    ToolPolicy,
    Worker,
    task,
    tool,
)
from writ.orchestrator.replay.explain import explain
from writ.orchestrator.replay.history import timeline
from writ.orchestrator.replay.verify import verify
from writ.schemas.events import type_names
from writ.schemas.steps import StepDone, StepIntended, ToolCalled, UsageRecorded
from writ.workers import Task

if TYPE_CHECKING:
    from tests.acceptance.conftest import Live
else:
    Live = Any

QUEUE = "q"
SOON = Retry(max_attempts=4, initial_interval_s=0.05)
done: Counter[str] = Counter()
order: list[str] = []


def undo(what: str) -> StepPolicy:
    return StepPolicy(compensate=lambda result: order.append(f"undo {what} {result}"))


@task
async def unsure(how: str, ctx: Context) -> Any:
    """Its step does what it is to do, and cannot tell, in its first attempt."""

    def charge() -> str:
        done[ctx.id] += 1
        if done[ctx.id] == 1:
            raise OutcomeUnknown("no answer in time")
        return f"charged {done[ctx.id]}"

    policies = {
        "ask": StepPolicy(),
        "probe": StepPolicy(probe=lambda: "found"),
        "probe in vain": StepPolicy(probe=lambda: NotDone),
        "compensate": StepPolicy(
            compensate=lambda result: order.append(f"undo {result}"), on_unknown="compensate"
        ),
        "repeat": StepPolicy(idempotent=True),
    }
    return await ctx.step("charge card", charge, policy=policies[how])


@task
async def renamed(ctx: Context) -> None:
    await ctx.step("a" if ctx.attempt == 1 else "b", lambda: done.update(["renamed"]))
    raise ValueError("again")


@task
async def dies(ctx: Context, waits: bool = False) -> None:
    await ctx.step("one", lambda: 1, policy=undo("one"))
    await ctx.step("two", lambda: 2)
    await ctx.step("three", lambda: 3, policy=undo("three"))
    if waits:
        await asyncio.sleep(60)
    raise ValueError("no luck")


def more(number: int) -> int:
    return number + 1


@task
def plainly(ctx: Context) -> list[int]:
    one = ctx.step_sync("one", lambda: done.update(["plainly"]) or 1)
    if ctx.attempt == 1:
        raise ValueError("once more")
    return [one, ctx.step_sync("two", more, one)]


@task
async def large(ctx: Context) -> None:
    def much() -> str:
        done["large"] += 1
        return "x" * 300_000

    await ctx.step("much", much)


@tool(redact=["password"])
def look(what: str, password: str = "hidden word") -> str:
    done[f"look {what}"] += 1
    return what.upper()


@tool(name="mail.send")
async def mail(to: str) -> None:
    done["mail"] += 1


@task
async def calls(ctx: Context, mails: bool = False, times: int = 1) -> list[str]:
    ctx.usage(model="small", input_tokens=3_000, output_tokens=100)
    if mails:
        await mail("a")
    return [look(f"{ctx.id} {n}") for n in range(times)]


@task
async def odd(wrong: bool) -> dict[str, int]:
    return {"cents": "many" if wrong else 5}  # type: ignore[dict-item]


TASKS: list[Task[..., Any]] = [unsure, renamed, dies, plainly, large, calls, odd]


@asynccontextmanager
async def working(live: Live) -> AsyncGenerator[Client, None]:
    target = Target(live.node.url, live.node.broker.key_path("owner"))
    worker = Worker(QUEUE, TASKS, target=target, wait_s=0.5)
    running = asyncio.create_task(worker.run())
    try:
        async with Client(target) as client:
            yield client
    finally:
        worker.drain()
        await running
    await live.check()
    assert not (await verify(live.log)).faults


_STEPS = ("step", "comp", "job_dead")


async def events(live: Live, job_id: str) -> list[str]:
    """The names of a job's events about its steps, and its death."""
    mine = [r for r in await live.records() if r.key == f"{QUEUE}~{job_id}"]
    return [name for record in mine for name in _names(record) if name.startswith(_STEPS)]


@pytest.mark.parametrize(
    ("how", "answer", "times"),
    [
        ("probe", "found", 1),
        ("probe in vain", "charged 2", 2),
        ("compensate", "charged 2", 2),
        ("repeat", "charged 2", 2),
    ],
)
async def test_an_unknown_outcome_is_settled_as_the_policy_says(
    live: Live, how: str, answer: str, times: int
) -> None:
    async with working(live) as client:
        job_id = how.replace(" ", "-")
        handle = await client.submit(QUEUE, "unsure", {"how": how}, id=job_id, retry=SOON)
        assert await client.result(handle, timeout_s=20) == answer
        assert done[job_id] == times
        found = [e for r in await live.records() for e in r.events]
        again = [e.again for e in found if isinstance(e, StepIntended)]
        assert again == ([None] if times == 1 else [None, how.partition(" ")[0]]), (
            "the record names the reason"
        )
        if how == "compensate":
            assert "undo None" in order
            assert "step_compensated" in await events(live, job_id)


@pytest.mark.parametrize(("said", "answer", "times"), [(True, "by hand", 1), (False, "charged 2", 2)])
async def test_a_person_is_asked_about_an_unknown_outcome(
    live: Live, said: bool, answer: str, times: int
) -> None:
    async with working(live) as client:
        job_id = f"ask-{said}"
        handle = await client.submit(QUEUE, "unsure", {"how": "ask"}, id=job_id, retry=SOON)
        await live.until(lambda r: r.key == f"{QUEUE}~{job_id}" and "job_suspended" in str(_names(r)))
        job = await live.job(f"{QUEUE}~{job_id}")
        assert job.wait is not None
        assert job.wait.on == ("step 1",)
        assert done[job_id] == 1
        data = {"done": True, "result": "by hand"} if said else {"done": False}
        await client.approve(job_id, QUEUE, "looked", data=data)
        assert await client.result(handle, timeout_s=20) == answer
        assert done[job_id] == times


def _names(record: Any) -> list[str]:
    return [type_names[type(event)] for event in record.events]


async def test_a_renamed_step_is_refused_with_both_names(live: Live) -> None:
    async with working(live) as client:
        handle = await client.submit(QUEUE, "renamed", {}, retry=SOON)
        with pytest.raises(JobFailed, match=r"step 1 was 'a' in attempt 1 and is 'b' now") as failed:
            await client.result(handle, timeout_s=20)
        assert str(failed.value.reason) == "policy", "trying again would not mend it"
        assert done["renamed"] == 1


async def test_a_plain_function_takes_steps_too(live: Live) -> None:
    async with working(live) as client:
        handle = await client.submit(QUEUE, "plainly", {}, retry=SOON)
        assert await client.result(handle, timeout_s=20) == [1, 2]
        assert done["plainly"] == 1, "the second attempt is answered from the record"


async def test_what_the_steps_did_is_undone_in_reverse_when_the_job_dies(live: Live) -> None:
    async with working(live) as client:
        order.clear()
        handle = await client.submit(QUEUE, "dies", {}, id="d", retry=Retry(max_attempts=1))
        with pytest.raises(JobFailed, match="failed attempt 1 of max_attempts 1"):
            await client.result(handle, timeout_s=20)
        assert order == ["undo three 3", "undo one 1"]
        ends = ["compensation_due", "step_compensated", "step_compensated", "compensation_ended"]
        assert (await events(live, "d"))[-5:] == [*ends, "job_dead_lettered"]


async def test_what_the_steps_did_is_undone_when_the_job_is_cancelled(live: Live) -> None:
    async with working(live) as client:
        order.clear()
        handle = await client.submit(QUEUE, "dies", {"waits": True}, id="c", lease_s=1)
        await live.until(lambda r: isinstance(r.events[0], StepDone) and r.events[0].step == 3)
        await client.cancel("c", QUEUE, "not wanted")
        with pytest.raises(JobCancelled, match="not wanted"):
            await client.result(handle, timeout_s=20)
        assert order == ["undo three 3", "undo one 1"]


async def test_a_result_too_large_ends_the_job_as_its_step_was_done(live: Live) -> None:
    """Tried again it would be done twice."""
    async with working(live) as client:
        handle = await client.submit(QUEUE, "large", {}, retry=SOON)
        with pytest.raises(JobFailed, match="was done, but its result has 300002 bytes"):
            await client.result(handle, timeout_s=20)
        assert done["large"] == 1


async def test_tools_are_denied_before_they_run_and_count_against_a_budget(live: Live) -> None:
    """A denial is recorded with its rule; parameters are redacted, and explain tells them."""
    async with working(live) as client:
        policy = ToolPolicy(deny=("mail.*",), max_calls=3)
        await client.declare_queue(QUEUE, QueuePolicy(tools=policy))
        handle = await client.submit(QUEUE, "calls", {"mails": True}, id="mails")
        with pytest.raises(JobFailed, match="deny lists mail") as failed:
            await client.result(handle, timeout_s=20)
        assert failed.value.error is not None
        assert (failed.value.error.class_, failed.value.error.type) == ("policy", ToolDenied.__name__)
        assert not done["mail"]
        handle = await client.submit(QUEUE, "calls", {"times": 5}, id="many")
        with pytest.raises(JobFailed, match="max_calls is 3, and 3 were made"):
            await client.result(handle, timeout_s=20)
        assert [done[f"look many {n}"] for n in range(5)] == [1, 1, 1, 0, 0]
        found = [e for r in await live.records() for e in r.events if isinstance(e, ToolCalled)]
        assert [str(call.outcome) for call in found] == ["denied", "done", "done", "done", "denied"]
        assert found[0].rule == "deny lists mail.*"
        assert not any(b"hidden word" in message.body for message in await live.stored())
        steps = await timeline(live.log, "default", f"{QUEUE}~many")
        told = explain(steps, steps[-1].record.at).tools
        assert "tool look" in told.sentences[1]
        assert "MANY 0" in told.sentences[1]
        assert len(told.records) >= 1


async def test_usage_has_its_cost_by_the_price_of_the_day(live: Live) -> None:
    async with working(live) as client:
        first = await client.submit(QUEUE, "calls", {})
        await client.result(first, timeout_s=20)
        await client.set_price("small", 250_000, 1_250_000)
        await client.result(await client.submit(QUEUE, "calls", {}), timeout_s=20)
        await client.set_price("small", 500_000, 1_250_000)
        await client.result(await client.submit(QUEUE, "calls", {}), timeout_s=20)
        used = [e for r in await live.records() for e in r.events if isinstance(e, UsageRecorded)]
        assert [(e.cost_microusd, e.prices) for e in used] == [(None, 0), (875, 1), (1_625, 2)]


async def test_an_output_that_does_not_fit_names_the_field(live: Live) -> None:
    async with working(live) as client:
        assert await client.result(await client.submit(QUEUE, "odd", {"wrong": False}), timeout_s=20) == {
            "cents": 5
        }
        handle = await client.submit(QUEUE, "odd", {"wrong": True}, retry=Retry(max_attempts=1))
        with pytest.raises(JobFailed, match="Expected `int`, got `str`") as failed:
            await client.result(handle, timeout_s=20)
        assert failed.value.error is not None
        assert (failed.value.error.class_, failed.value.error.type) == ("application", "OutputMismatch")
