"""`make bench-sweep`: does cost grow straight? At each step there is more of one thing, and a probe is run.

The probe is a bulk of no-op jobs, run three times on a node of its own; the median counts. Through each of
its figures a straight line is fitted: its slope says what a thousand more cost, its R² how straight it is.
Where a figure hardly grows, R² is that of the noise.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import msgspec

from writ import Client
from writ.broker.connect import Target

from .figures import Axis, Line, Step, Sweeps
from .idle import crowd, delay, settled
from .machine import RESULTS, machine, versions
from .resting import start_pollers
from .sending import Sending
from .stage import Stage
from .workloads import CONCURRENCY, until_ended

PROBE_JOBS: Final = 3_000
PROBES: Final = 3

Grow = Callable[[Stage, Client, int], Awaitable[None]]
"""Makes so many of what is swept over."""


class Sweep(NamedTuple):
    """What is swept over, and the steps. A restart would break off what hangs on the broker."""

    name: str
    levels: tuple[int, ...]
    grow: Grow
    restarts: bool = True


async def bulk(stage: Stage, client: Client, count: int) -> None:
    """Jobs that have ended."""
    before = stage.bodies()
    await Sending(client, "bench.noop").bulk(count)
    await until_ended(stage, client, before + count, before + count)


async def delayed(_: Stage, client: Client, count: int) -> None:
    """Jobs that wait for a time days away."""
    await delay(client, count)


async def queues(_: Stage, client: Client, count: int) -> None:
    """Queues with one waiting job each."""
    await crowd(count, lambda number: delay(client, 1, f"queue-{number}"))


async def workers(stage: Stage, _: Client, count: int) -> None:
    """Workers that wait at another queue."""
    if count:
        await start_pollers(stage, count)


async def tenants(stage: Stage, _: Client, count: int) -> None:
    """Tenants with one waiting job each; the node knows them from its start."""

    async def one(number: int) -> None:
        name = f"tenant-{number}"
        key = stage.directory / "keys" / f"{name}.owner.nk"
        async with Client(Target(stage.target.url, key, name, "owner"), name="bench-tenant") as theirs:
            await delay(theirs, 1)

    await crowd(count, one)


SWEEPS: Final = (
    Sweep("ended jobs", (0, 20_000, 40_000, 80_000), bulk),
    Sweep("live jobs", (0, 25_000, 50_000, 100_000), delayed),
    Sweep("queues", (0, 250, 500, 1_000), queues),
    Sweep("idle workers", (0, 250, 500, 900), workers, restarts=False),
    Sweep("tenants", (0, 50, 100, 200), tenants),
)


async def step(sweep: Sweep, level: int) -> Step:
    """One step, on a node of its own."""
    async with Stage(tenants=level if sweep.grow is tenants else 0) as stage:
        await stage.start_worker(CONCURRENCY)
        async with Client(stage.target, name="bench-sweep") as client:
            await bulk(stage, client, PROBE_JOBS)  # connections and code paths
            await sweep.grow(stage, client, level)
            await settled(client)
        start_s = await stage.restart_node() if sweep.restarts else None
        async with Client(stage.target, name="bench-sweep") as client:
            memory = stage.use()["node"].rss_bytes / 1e6
            costs = [await probe(stage, client) for _ in range(PROBES)]
    node, broker = (median(each) for each in zip(*costs, strict=True))
    return Step(level, round(node, 1), round(broker, 1), round(memory, 1), start_s)


async def probe(stage: Stage, client: Client) -> tuple[float, float]:
    """Microseconds of node and broker for each job."""
    before = stage.use()
    await bulk(stage, client, PROBE_JOBS)
    after = stage.use()
    node, broker = (after[who].cpu_s - before[who].cpu_s for who in ("node", "broker"))
    return node / PROBE_JOBS * 1e6, broker / PROBE_JOBS * 1e6


async def run(sweep: Sweep, scale: float) -> Axis:
    """Every step of a sweep."""
    steps: list[Step] = []
    for level in sweep.levels:
        steps.append(await step(sweep, round(level * scale)))
        print(f"  {steps[-1].count:>9,}  {shown(steps[-1])}", flush=True)
    return Axis(sweep.name, steps, lines(steps))


def shown(step: Step) -> str:
    start = "" if step.start_s is None else f", start {step.start_s:.2f} s"
    per_job = f"node {step.node_us_per_job:,.0f} and broker {step.broker_us_per_job:,.0f} us per job"
    return f"{per_job}, node {step.node_mb:,.0f} MB{start}"


def lines(steps: list[Step]) -> list[Line]:
    """The line through each figure."""
    starts = [(step.count, step.start_s) for step in steps if step.start_s is not None]
    return [
        Line.through("node CPU, us per job", [(step.count, step.node_us_per_job) for step in steps]),
        Line.through("broker CPU, us per job", [(step.count, step.broker_us_per_job) for step in steps]),
        Line.through("node memory, MB", [(step.count, step.node_mb) for step in steps]),
        *([Line.through("start, s", starts)] if starts else []),
    ]


async def main(scale: float, only: frozenset[str]) -> Sweeps:
    """All sweeps, or some."""
    axes: list[Axis] = []
    for sweep in SWEEPS:
        if not only or sweep.name in only:
            print(sweep.name, flush=True)
            axes.append(await run(sweep, scale))
            for line in axes[-1].lines:
                slope = f"{line.at_none:,.2f} + {line.per_thousand:,.4f} for each thousand"
                print(f"  {line.figure:<24} {slope}, R² {line.straight:.2f}")
            print(flush=True)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Sweeps(now, machine(Path(tempfile.gettempdir())), versions(), axes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of all steps [1]")
    parser.add_argument("--only", default="", help="some sweeps, with commas between them")
    given = parser.parse_args()
    found = asyncio.run(main(given.scale, frozenset(name for name in given.only.split(",") if name)))
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{found.at.replace(':', '').replace('-', '').partition('+')[0]}-sweep.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    print(f"bench-sweep: {len(found.axes)} sweeps; figures in {path.name}")
