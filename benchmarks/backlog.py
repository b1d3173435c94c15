"""Measures whether a long backlog slows a node down. Exits 1 if a bar is missed.

    python -m benchmarks.backlog [--jobs 1000000] [--beside 10000]

A node is filled with jobs that no worker takes, in arrays of 500; then as many as the short backlog has are
submitted behind them, and a worker drains as many, five times each: once with a short backlog and once
with a long one. Compared are the jobs a second, the middle one of the five. The views are let catch up
before each time, as they want a core. The memory of the node is read before and after the filling. A rate
of the long backlog may be lower than that of the short by a fifth. The short one is measured before the
long one and after it, and the mean counts: filling a million takes minutes, in which a machine that others
use as well may have become another. For who fills a node without a pause, the rates in the first tenth and
in the last are told.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from statistics import fmean, median
from typing import Final, NamedTuple

from writ import Client

from .sending import ARRAY, Sending
from .stage import Stage

SLOWER_MAX: Final = 0.2
"""How much lower a rate with the long backlog may be than with the short one."""

TASK: Final = "bench.noop"
_SLOTS: Final = 256
_TIMES: Final = 5
_WAIT_S: Final = 1_800.0
_POLL_S: Final = 0.005
_LOOK_S: Final = 0.5


class Backlog(NamedTuple):
    """Of a backlog of `jobs`: rates in jobs a second by the clock, while it is filled and beside it,
    the node's processor time for a job beside these in microseconds, and its memory for each job that waits
    in bytes."""

    jobs: int
    filled: tuple[float, float]
    submitted: Sequence[float]
    drained: Sequence[float]
    submit_cpu_us: float
    drain_cpu_us: float
    live_bytes: float


async def backlog(jobs: int, some: int) -> Backlog:
    """Fills a node of its own with so many jobs, and submits and drains `some` more. Raises StageError."""
    async with Stage() as stage, Client(stage.target) as client:
        sending = Sending(client, TASK)
        tenth = max(ARRAY, jobs // 10)
        before = stage.use()["node"]
        first = await _submit(stage, sending, tenth)
        await _submit(stage, sending, jobs - 2 * tenth)
        last = await _submit(stage, sending, tenth)
        live_bytes = (stage.use()["node"].rss_bytes - before.rss_bytes) / jobs
        submitted: list[float] = []
        cpu_s = 0.0
        for _ in range(_TIMES):
            await _caught_up(stage, client)
            at = stage.use()["node"].cpu_s
            submitted.append(await _submit(stage, sending, some))
            cpu_s += stage.use()["node"].cpu_s - at
        drained: list[float] = []
        at = stage.use()["node"].cpu_s
        for number in range(_TIMES):
            await _caught_up(stage, client)
            drained.append(await _drain(stage, some, f"worker-{number}"))
        used_s = stage.use()["node"].cpu_s - at
        return Backlog(
            jobs,
            (first, last),
            submitted,
            drained,
            cpu_s / (_TIMES * some) * 1e6,
            used_s / stage.bodies() * 1e6,
            live_bytes,
        )


async def _drain(stage: Stage, jobs: int, worker: str) -> float:
    """Has a worker take so many jobs, and a few more until it stops; the rate from its first job on."""
    before = stage.bodies()
    await stage.start_worker(_SLOTS, worker)
    while stage.bodies() == before:
        stage.check()
        await asyncio.sleep(_POLL_S)
    begun, had = time.monotonic(), stage.bodies()
    while (done := stage.bodies()) < before + jobs and time.monotonic() < begun + _WAIT_S:
        stage.check()
        await asyncio.sleep(_POLL_S)
    took_s = time.monotonic() - begun
    await stage.stop(worker)
    return (done - had) / took_s


async def _submit(stage: Stage, sending: Sending, jobs: int) -> float:
    """Submits, and waits until all of it is in the log; the rate of that."""
    begun, before = time.monotonic(), (await stage.log_state())[0]
    if jobs > 0:
        await sending.bulk(jobs)
        while (await stage.log_state())[0] < before + jobs:
            stage.check()
            await asyncio.sleep(_POLL_S)
    return jobs / (time.monotonic() - begun)


async def _caught_up(stage: Stage, client: Client) -> None:
    """Returns when every view tells of all jobs."""
    until = time.monotonic() + _WAIT_S
    while time.monotonic() < until:
        status = await client.status(timeout_s=_WAIT_S)  # views that are far behind answer late
        if not any(view.lag for view in status.views):
            return
        stage.check()
        await asyncio.sleep(_LOOK_S)


def shown(each: Backlog) -> str:
    def row(rates: Sequence[float]) -> str:
        return ", ".join(f"{rate:,.0f}" for rate in rates)

    first, last = each.filled
    return (
        f"{each.jobs:>9,} jobs: the first tenth at {first:,.0f}/s, the last at {last:,.0f}/s; then submitted "
        f"{row(each.submitted)}/s (of the node's processor {each.submit_cpu_us:.0f} us a job), drained "
        f"{row(each.drained)}/s ({each.drain_cpu_us:.0f} us); {each.live_bytes:,.0f} bytes a live job"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-backlog", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="the long backlog [1000000]")
    parser.add_argument("--beside", type=int, default=10_000, help="the short one [10000]")
    args = parser.parse_args()
    found: list[Backlog] = []
    for jobs in (args.beside, args.jobs, args.beside):
        found.append(asyncio.run(backlog(jobs, args.beside)))
        print(shown(found[-1]), flush=True)
    before, long, after = found
    submit = median(long.submitted) / fmean((median(before.submitted), median(after.submitted)))
    drain = median(long.drained) / fmean((median(before.drained), median(after.drained)))
    kept = min(submit, drain) >= 1 - SLOWER_MAX
    print(
        f"backlog of {args.jobs:,}: submit {submit:.2f} and drain {drain:.2f} of the rates at "
        f"{args.beside:,}, {long.live_bytes:,.0f} bytes a live job; "
        f"bar {1 - SLOWER_MAX:.1f} {'held' if kept else 'MISSED'}"
    )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
