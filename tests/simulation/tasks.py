"""The user code of simulated jobs: what each does is in its input."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from writ.workers import Context, FailJob, RetryAfter, Task

if TYPE_CHECKING:
    from .hosts import WorkerHost
    from .loop import HostLoop

_HANG_S = 1e6


class _Odd:
    """A value that JSON cannot carry."""


def _host() -> WorkerHost:
    """The host that this code runs on."""
    loop = cast("HostLoop", asyncio.get_running_loop())
    return cast("WorkerHost", loop.host)


async def _work(do: str, ms: int, n: int, ctx: Context) -> Any:
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
    elif do == "odd":
        return _Odd()
    return done


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


TASKS = [Task(_work, "work"), Task(_plain, "plain")]
