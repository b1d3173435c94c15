"""Tasks that use all of the context."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from writ import ChildFailed, Context, FailJob, StepPolicy, task, tool


def double(number: int) -> int:
    return 2 * number


@tool
def look_up(word: str) -> str:
    return word.upper()


@task
def adds(a: int, b: int) -> int:
    return a + b


@task
def breaks() -> None:
    raise FailJob("as it was to")


@contextmanager
def marked(ctx: Context) -> Generator[None]:
    os.environ["AROUND"] = ctx.id
    yield


@asynccontextmanager
async def awaited(ctx: Context) -> AsyncGenerator[None]:
    os.environ["AROUND"] += f" of {ctx.queue}"
    yield


def told(ctx: Context) -> dict[str, Any]:
    """What the context says of the attempt."""
    return {
        "id": ctx.id,
        "queue": ctx.queue,
        "task": ctx.task,
        "tenant": ctx.tenant,
        "key": ctx.idempotency_key,
        "cancelled": ctx.cancelled,
        "fenced": ctx.fencing_token > 0,
        "attempt": ctx.attempt,
        "around": os.environ["AROUND"],
        "details": ctx.details,
    }


CHILDREN: list[dict[str, Any]] = [{"task": adds, "input": {"a": n, "b": n}} for n in (1, 2)]


@task(around=[marked, awaited])
async def uses_all(ctx: Context) -> dict[str, Any]:
    """Begins anew after each wait; what it answers is of the last attempt."""
    ctx.log.info("begins with %s", ctx.details)
    found: dict[str, Any] = {"step": await ctx.step("double", double, 21)}
    found["tool"] = look_up("word")
    ctx.usage(model="m", input_tokens=3, output_tokens=4)
    found["signal"] = await ctx.wait_for_signal("go")
    await ctx.checkpoint({"behind": "the signal"})
    found["approval"] = await ctx.request_approval("may it go on?")
    await ctx.sleep(0.1)
    await ctx.sleep_until(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    found["child"] = await ctx.run("adds", {"a": 1, "b": 2})
    found["children"] = await ctx.run_all(CHILDREN)
    try:
        await ctx.run(breaks)
    except ChildFailed as error:
        found["failed"] = error.text
    return found | told(ctx)


@task(around=[marked])
def uses_all_plainly(ctx: Context) -> dict[str, Any]:
    os.environ["AROUND"] += f" of {ctx.queue}"
    ctx.log.info("begins with %s", ctx.details)
    found: dict[str, Any] = {"step": ctx.step_sync("double", double, 21)}
    found["tool"] = look_up("word")
    ctx.usage(model="m", input_tokens=3, output_tokens=4)
    found["signal"] = ctx.wait_for_signal_sync("go")
    ctx.checkpoint_sync({"behind": "the signal"})
    found["approval"] = ctx.request_approval_sync("may it go on?")
    ctx.sleep_sync(0.1)
    ctx.sleep_until_sync(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    found["child"] = ctx.run_sync("adds", {"a": 1, "b": 2})
    found["children"] = ctx.run_all_sync(CHILDREN)
    try:
        ctx.run_sync(breaks)
    except ChildFailed as error:
        found["failed"] = error.text
    return found | told(ctx)


@task
async def leaves(ctx: Context) -> Any:
    """Fails at once behind its last word."""
    if ctx.details is None:
        ctx.progress("half")
        ctx.heartbeat({"at": 7})
        raise ValueError("once more")
    return ctx.details


@task
def goes_on(ctx: Context) -> None:
    """Runs until it is stopped."""
    ctx.progress({"done": 1})
    while not ctx.cancelled:
        time.sleep(0.01)
    ctx.raise_if_cancelled()


@task
async def hears(ctx: Context) -> Any:
    """Waits for what came while it ran."""
    ctx.progress("listens")
    while not ctx._run.heard:  # pyright: ignore[reportPrivateUsage] - nothing public waits within an attempt
        time.sleep(0.01)  # noqa: ASYNC251 - the loop is not what brings it
    return await ctx.wait_for_signal("go")


def book() -> str:
    return "room 12"


def cancel_booking(booked: str) -> None:
    with open("cancelled", "w") as file:
        file.write(booked)


@task
async def regrets(ctx: Context) -> None:
    await ctx.step("book", book, policy=StepPolicy(compensate=cancel_booking))
    raise FailJob("the guest has gone")


@task
async def asks_too_much(ctx: Context) -> Any:
    large = {"text": "x" * 250_000}
    return await ctx.run_all([{"task": "adds", "input": large}] * 5)
