"""The tasks of the workloads, run by `writ worker`.

Each call of a body leaves one line of 16 bytes in the ledger, a file named by the environment: which job, and
when, by the machine's wall clock. One write of a few microseconds is all that measuring costs a job.
"""

from __future__ import annotations

import os
import struct
import time
from typing import Final

from writ import Client, Context, task

LEDGER: Final = "WRIT_BENCH_LEDGER"
LINE: Final = struct.Struct("<qq")
"""A job's number, and wall time in nanoseconds at which its body began."""

_ledger = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND) if LEDGER in os.environ else -1
_client: Client | None = None


def _began(n: int) -> None:
    os.write(_ledger, LINE.pack(n, time.time_ns()))


@task(name="bench.noop")
async def noop(n: int, pad: str) -> None:
    """Nothing but its line."""
    _began(n)


@task(name="bench.spin")
async def spin(n: int, pad: str) -> None:
    """One millisecond of work on the processor: a thousand a second keep one core busy."""
    _began(n)
    until = time.thread_time_ns() + 1_000_000
    while time.thread_time_ns() < until:
        pass


@task(name="bench.flaky")
async def flaky(n: int, pad: str, context: Context) -> None:
    """Every tenth job fails at its first attempt."""
    _began(n)
    if n % 10 == 0 and context.attempt == 1:
        raise ConnectionError("the first attempt of every tenth job fails")


@task(name="bench.fan")
async def fan(n: int, pad: str, first: int, count: int, context: Context) -> None:
    """Starts `count` children, numbered from `first`."""
    global _client  # noqa: PLW0603 - one connection for all attempts of this process, as a user would have
    _began(n)
    if _client is None:
        _client = Client(name="bench-parent")
    children = [
        {"task": "bench.noop", "input": {"n": child, "pad": pad}, "parent": f"{context.queue}~{context.id}"}
        for child in range(first, first + count)
    ]
    await _client.submit_many(context.queue, children)
