"""`make bench-idle`: 10,000 schedules and 100,000 delayed jobs on a running node must cost no polling.

None of them is due while the node is watched. Exits 1 where the node uses 2 % of a core or more, or stores
anything meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import sys
from collections.abc import Awaitable, Callable
from typing import Final

from writ import Client
from writ.schemas.commands import SubmitJob
from writ.schemas.schedules import ScheduleSpec

from .resting import watch
from .show import show_result
from .stage import QUEUE, Stage

MOST_CORES: Final = 0.02
_AT_ONCE: Final = 100
_DAY_S: Final = 86_400
_ZONES: Final = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")


async def main(schedules: int, jobs: int, seconds: float) -> int:
    """The exit code."""
    async with Stage() as stage:
        async with Client(stage.target, name="bench-idle") as client:
            print(f"declaring {schedules:,} schedules, submitting {jobs:,} delayed jobs", flush=True)
            await declare(client, schedules)
            await delay(client, jobs)
            waiting = await settled(client)
            await asyncio.sleep(5)
        before, _ = await stage.log_state()
        result = await watch(
            stage, seconds, "idle", f"{schedules:,} schedules and {jobs:,} delayed jobs wait"
        )
        after, _ = await stage.log_state()
    print(show_result(result))
    cores = result.cpu_cores["node"]
    faults = [
        *([f"{waiting:,} jobs are scheduled, not {jobs:,}"] if waiting != jobs else []),
        *([f"{after - before} records were stored meanwhile"] if after != before else []),
        *(
            [f"the node used {cores:.2%} of a core, the bar is {MOST_CORES:.0%}"]
            if cores >= MOST_CORES
            else []
        ),
    ]
    verdict = f"missed: {'; '.join(faults)}" if faults else f"kept: under {MOST_CORES:.0%}"
    print(f"bench-idle: the node used {cores:.2%} of a core over {result.seconds:.0f} s ({verdict})")
    return 1 if faults else 0


async def declare(client: Client, count: int) -> None:
    """Schedules by cron and by interval, the next time of each days away."""
    far = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=10)

    async def one(number: int) -> None:
        if number % 2:
            spec = ScheduleSpec(task="bench.noop", every_s=float(_DAY_S * (2 + number % 30)))
        else:
            day = far + datetime.timedelta(days=number % 15, minutes=number % 1_440)
            cron = f"{day.minute} {day.hour} {day.day} {day.month} *"
            spec = ScheduleSpec(task="bench.noop", cron=cron, tz=_ZONES[number // 2 % len(_ZONES)])
        await client.declare_schedule(QUEUE, f"schedule-{number}", spec, timeout_s=60)

    await crowd(count, one)


async def delay(client: Client, count: int, queue: str = QUEUE) -> None:
    """Jobs that are due in two days to a month."""

    def job(number: int) -> SubmitJob:
        return SubmitJob("bench.noop", delay_s=float(2 * _DAY_S + number * 7_919 % (28 * _DAY_S)))

    await client.submit_many(queue, [job(number) for number in range(count)], timeout_s=300)


async def settled(client: Client) -> int:
    """Waits until the view tells of every submit; how many jobs are scheduled then."""
    seen = -1
    while True:
        await asyncio.sleep(1)
        status = await client.status(timeout_s=60)
        behind, last = any(view.lag for view in status.views), status.partitions[0].last_seq
        if last == seen and not behind:
            return status.jobs.get("scheduled", 0)
        seen = last


async def crowd(count: int, one: Callable[[int], Awaitable[None]]) -> None:
    """Something for each number, 100 at a time."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await one(number)

    await asyncio.gather(*(work() for _ in range(min(count, _AT_ONCE))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.schedules, given.jobs, given.seconds)))
