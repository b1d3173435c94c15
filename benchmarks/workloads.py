"""The workloads: what is sent, how it arrives, and what is measured of it."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from writ import Client
from writ.broker.ports import Stored
from writ.schemas.lifecycle import TERMINAL

from .evidence import History, read_back
from .figures import Result, Spread
from .limit import measure_limit
from .processes import Usage
from .sending import ARRAY, INPUT_BYTES, Options, Sending, prioritized, retried
from .stage import Stage

CONCURRENCY: Final = 500
_WARM_UP: Final = 1_000
_POLL_S: Final = 0.01
_QUIET_S: Final = 45.0
"""Without any progress for so long nothing more will come: longer than a lost lease takes to expire."""


@dataclass(frozen=True)
class Workload:
    """`send` sends `jobs` jobs, of which `bodies` attempts come."""

    name: str
    about: str
    jobs: int
    send: Callable[[Sending], Awaitable[None]]
    task: str = "bench.noop"
    input_bytes: int = INPUT_BYTES
    options: Options | None = None
    bodies: int = 0
    priorities: bool = False
    warm_up: int = _WARM_UP


def workloads(scale: float = 1.0) -> list[Workload]:
    """Those that can be set up at once, in the order in which they run. `scale` is of the numbers of jobs."""

    def some(jobs: int, step: int = 100) -> int:
        return max(step, round(jobs * scale / step) * step)

    fan = some(10_000, 101) // 101
    rate, light_s = 50, 10 * max(scale, 0.1)
    return [
        Workload("bulk", f"no-op jobs, in arrays of {ARRAY}", n := some(20_000), lambda s: s.bulk(n)),
        Workload("single", "no-op jobs, one at a time", o := some(3_000), lambda s: s.one_by_one(o)),
        Workload(
            "fifty", "no-op jobs by 50 submitters at once", f := some(10_000), lambda s: s.by_many(f, 50)
        ),
        Workload(
            "light", f"no-op jobs, {rate} a second", c := round(rate * light_s), lambda s: s.paced(c, rate)
        ),
        Workload(
            "spin", "1 ms of work on the processor", w := some(3_000), lambda s: s.bulk(w), "bench.spin"
        ),
        Workload("large", "4 KiB of input", k := some(5_000), lambda s: s.bulk(k), input_bytes=4_096),
        Workload(
            "retries",
            "every tenth job fails at first",
            r := some(10_000),
            lambda s: s.bulk(r),
            "bench.flaky",
            options=retried,
            bodies=r + r // 10,
        ),
        Workload(
            "fan-out",
            f"{fan} parents start 100 children each",
            fan * 101,
            lambda s: s.fan_out(fan, 100),
            "bench.fan",
        ),
        Workload(
            "priorities",
            "priorities 1 to 5 at random",
            p := some(10_000),
            lambda s: s.bulk(p),
            options=prioritized(),
            priorities=True,
        ),
    ]


def at_half(name: str, about: str, most_per_s: float, seconds: float, together: int = 1) -> Workload:
    """Open-loop arrivals at half of what was measured as the most."""
    per_s = most_per_s / 2
    jobs = max(1, round(per_s * seconds / together)) * together
    how = f"{about}, {per_s:,.0f} a second"
    return Workload(name, how, jobs, lambda s: s.paced(jobs, per_s, together))


# --- one run --------------------------------------------------------------------------------------------


async def run(workload: Workload, *, limit: bool = True, concurrency: int = CONCURRENCY) -> Result:
    """One run on a node of its own. Raises StageError where a process ends."""
    # What earlier runs left in this process must not make the client's collections long.
    gc.collect()
    gc.freeze()
    async with Stage() as stage:
        await stage.start_worker(concurrency)
        async with Client(stage.target, name="bench-client") as client:
            await _warm_up(stage, client, workload)
            warm = stage.bodies()
            before_seq, before_bytes = await stage.log_state()
            sending = Sending(
                client, workload.task, input_bytes=workload.input_bytes, options=workload.options
            )
            used, begun_ns = stage.use(), time.time_ns()
            await workload.send(sending)
            wanted = warm + max(workload.jobs, workload.bodies)
            seen_ns = await until_ended(stage, client, wanted, workload.warm_up + workload.jobs)
            use, ended_ns = stage.use(), time.time_ns()
        _, after_bytes = await stage.log_state()
        lines = stage.lines()[warm:]
        bodies = Counter(n for n, _ in lines)
        told = await read_back(stage.log, before_seq + 1, workload.jobs, bodies)
        settings = {
            "sync_interval": stage.sync_interval,
            "concurrency": str(concurrency),
            "input_bytes": str(workload.input_bytes),
            "client_loop": type(asyncio.get_running_loop()).__module__,
        }
        measured = (
            await measure_limit(Path(stage.directory) / "limit", _written(told.messages)) if limit else None
        )
    ends_us = [history.ended_us for history in told.histories.values() if history.ended_us]
    last_us = max(ends_us, default=ended_ns // 1_000)
    seconds = (last_us * 1_000 - begun_ns) / 1e9
    jobs, size = max(1, len(ends_us)), sum(len(m.subject) + len(m.body) for m in told.messages)
    return Result(
        workload=workload.name,
        about=workload.about,
        settings=settings,
        jobs=workload.jobs,
        seconds=round(seconds, 3),
        jobs_per_s=round(jobs / seconds, 1),
        submits_per_s=round(sending.sent / ((sending.acknowledged_ns - begun_ns) / 1e9), 1),
        records_per_s=round(len(told.messages) / seconds, 1),
        records_per_job=round(len(told.messages) / jobs, 3),
        record_bytes_per_s=round(size / seconds, 1),
        limit=measured,
        limit_share=round(size / seconds / measured.bytes_per_s, 3) if measured else None,
        late=Spread.of(sending.late_us),
        start=_starts(lines, sending.intended),
        start_by_priority=_by_priority(lines, sending.intended, told.histories)
        if workload.priorities
        else {},
        completion=_completions(told.histories, sending.intended),
        cpu_us_per_job={who: round(cpu / jobs * 1e6, 1) for who, cpu in _cpu(used, use).items()},
        cpu_cores={
            who: round(cpu / ((ended_ns - begun_ns) / 1e9), 3) for who, cpu in _cpu(used, use).items()
        },
        rss_mb={who: round(each.rss_bytes / 1e6, 1) for who, each in use.items()},
        stored_bytes_per_job=round((after_bytes - before_bytes) / jobs, 1),
        view_lag_s=round(max(0.0, seen_ns / 1e9 - last_us / 1e6), 3),
        evidence=told.evidence,
    )


async def _warm_up(stage: Stage, client: Client, workload: Workload) -> None:
    """Connections, code paths and the worker's first leases, before anything is measured."""
    sending = Sending(client, "bench.noop")
    await sending.bulk(workload.warm_up)
    await until_ended(stage, client, workload.warm_up, workload.warm_up)


async def until_ended(stage: Stage, client: Client, bodies: int, jobs: int) -> int:
    """Waits until so many bodies have begun, and the view tells of so many ended jobs, on the whole stage.

    When it did, in nanoseconds. Gives up where nothing goes on: what is missing then, the log will tell.
    """
    seen, since = -1, time.monotonic()
    while True:
        ended, done = 0, stage.bodies()
        if done >= bodies:
            status = await client.status()
            ended = sum(number for state, number in status.jobs.items() if state in TERMINAL)
            if ended >= jobs and not any(view.lag for view in status.views):
                return time.time_ns()
        if done + ended != seen:
            seen, since = done + ended, time.monotonic()
        elif time.monotonic() - since > _QUIET_S:
            return time.time_ns()
        stage.check()
        await asyncio.sleep(_POLL_S)


# --- what came of it ------------------------------------------------------------------------------------


def _written(messages: list[Stored]) -> list[tuple[str, bytes]]:
    return [(message.subject, message.body) for message in messages]


def _first_lines(lines: list[tuple[int, int]]) -> dict[int, int]:
    """When each job's first body began."""
    first: dict[int, int] = {}
    for n, at_ns in lines:
        first.setdefault(n, at_ns)
    return first


def _starts(lines: list[tuple[int, int]], intended: list[int]) -> Spread | None:
    return Spread.of((at - intended[n]) / 1_000 for n, at in _first_lines(lines).items())


def _by_priority(
    lines: list[tuple[int, int]], intended: list[int], histories: Mapping[int, History]
) -> dict[str, Spread]:
    times: defaultdict[int, list[float]] = defaultdict(list)
    for n, at in _first_lines(lines).items():
        times[histories[n].priority].append((at - intended[n]) / 1_000)
    return {str(priority): spread for priority in sorted(times) if (spread := Spread.of(times[priority]))}


def _completions(histories: Mapping[int, History], intended: list[int]) -> Spread | None:
    return Spread.of(each.ended_us - intended[n] / 1_000 for n, each in histories.items() if each.ended_us)


def _cpu(before: Mapping[str, Usage], after: Mapping[str, Usage]) -> dict[str, float]:
    """Seconds of processor time by process."""
    return {who: after[who].cpu_s - before[who].cpu_s for who in sorted(after)}
