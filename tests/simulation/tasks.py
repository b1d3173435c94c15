"""The user code of simulated jobs: what each does is in its input."""

# What a lease brought beside the input is not in the context.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import msgspec

from writ.broker.errors import WireError
from writ.schemas.commands import Progress, Reported, SignalCame, Snooze, Suspend
from writ.schemas.rejections import RejectionKind
from writ.schemas.subjects import lease_subject
from writ.workers import Context, FailJob, RetryAfter, StepFailed, StepPolicy, Task, tool

from .loop import SECOND_US

if TYPE_CHECKING:
    from .hosts import WorkerHost
    from .loop import HostLoop

_HANG_S = 1e6
_DEADLY = 2
"""The step within which a worker dies."""


class _Odd:
    """A value that JSON cannot carry."""


def _host() -> WorkerHost:
    """The host that this code runs on."""
    loop = cast("HostLoop", asyncio.get_running_loop())
    return cast("WorkerHost", loop.host)


async def _work(
    do: str, ms: int, n: int, ctx: Context, wait: dict[str, Any] | None = None, got: Any = None
) -> Any:
    host = _host()
    host.executes(ctx)
    done = {"id": ctx.id, "attempt": ctx.attempt}
    if do == "crash" and ctx.attempt <= n:
        host.dies()
        await asyncio.sleep(_HANG_S)
    if do == "stubborn":
        return await _stubborn(host)
    if ms:
        await asyncio.sleep(ms / 1_000)
    if do == "hang":
        await asyncio.sleep(_HANG_S)
    elif do == "outage" and host.world.now_us < n * SECOND_US:
        raise ConnectionError("what it needs is away")
    elif do == "snooze" and ctx.attempt <= n:
        await _say(ctx, Snooze(host.name, ctx.id, ctx.fencing_token, 0.3 * ctx.attempt))
    elif do in ("signal", "approval") and ctx.attempt <= n:
        await _say(ctx, _suspend(ctx, do, wait or {}))
    elif do == "progress":
        progress = msgspec.Raw(b"%d" % ctx.attempt)
        await _say(ctx, Progress(host.name, ctx.id, ctx.fencing_token, progress))
    elif do == "fail" or (do == "flaky" and ctx.attempt <= n):
        raise ValueError("no luck")
    elif do == "later" and ctx.attempt <= n:
        raise RetryAfter(0.7)
    elif do == "listed":
        raise KeyError("not to be tried again")
    elif do == "policy":
        raise FailJob("a rule forbids it")
    elif do == "give_up":
        raise asyncio.CancelledError
    elif do in ("steps", "undo"):
        await _steps(do, n, ctx, host)
    elif do == "odd":
        return _Odd()
    return done


@tool(name="look_up")
async def _look_up(what: str) -> str:
    return what


async def _steps(do: str, n: int, ctx: Context, host: WorkerHost) -> None:
    """A call, a step that fails, and three more, of which one dies `n` times between intention and result."""

    async def effect(number: int) -> int:
        host.acts(ctx, number + 1)  # the one that fails is the first
        await asyncio.sleep(0.05)
        if number == _DEADLY and ctx.attempt <= n:
            host.dies()
            await asyncio.sleep(_HANG_S)
        return number

    async def undo(number: int | None) -> None:
        await asyncio.sleep(0.05)

    once_more, undone = StepPolicy(idempotent=True), StepPolicy(compensate=undo, on_unknown="compensate")

    async def fails() -> None:
        raise LookupError("nothing there")

    await _look_up(ctx.id)
    with suppress(StepFailed):
        await ctx.step("fails", fails, policy=once_more)
    for number in (1, _DEADLY, 3):
        policy = undone if do == "undo" and number != 1 else once_more
        await ctx.step(f"step {number}", effect, number, policy=policy)
    ctx.usage(model="small", input_tokens=100, output_tokens=10)
    if do == "undo":
        raise FailJob("it is all to be undone")


def _suspend(ctx: Context, reason: Any, wait: dict[str, Any]) -> Suspend:
    """Waits for a person; for a signal that has not been had yet."""
    on = "go" if reason == "signal" else None
    seen = max((came.seq for came in signals_of(ctx) if came.name == on), default=0)
    given = {**wait, "on": on, "seen": seen}
    return msgspec.convert(
        {"worker": _host().name, "id": ctx.id, "token": ctx.fencing_token, "reason": reason, **given}, Suspend
    )


def signals_of(ctx: Context) -> tuple[SignalCame, ...]:
    """What the lease brought."""
    return ctx._run.lease.signals


async def _say(ctx: Context, command: Snooze | Suspend | Progress) -> None:
    """Tells the orchestrator something of the running attempt, until it has answered."""
    host = _host()
    subject = lease_subject(ctx.tenant, host.principal, type(command).__name__.lower(), ctx.queue)
    while True:
        try:
            answer = await host.ask(subject, msgspec.json.encode(command), 5)
        except WireError:
            await asyncio.sleep(0.3)
            continue
        said = msgspec.json.decode(answer, type=Reported)
        refused = said.error or (said.refused[0] if said.refused else None)
        if refused is None or refused.kind is not RejectionKind.TRY_LATER:
            return
        await asyncio.sleep(0.3)


async def _stubborn(host: WorkerHost) -> str:
    """Does not end when it is told to, but in the end it does."""
    for _ in range(6):
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            if not host.alive:
                raise
    return "at last"


def _plain(do: str, ms: int, n: int, ctx: Context) -> Any:
    _host().executes(ctx)
    return {"id": ctx.id, "attempt": ctx.attempt}


TASKS: dict[str, Task[..., Any]] = {"work": Task(_work, "work"), "plain": Task(_plain, "plain")}
