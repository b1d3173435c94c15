"""Measures the views: rebuild, lag under load, memory. Exits 1 if a bar is missed.

    python -m benchmarks.views [--jobs 100000] [--seconds 20]

The rebuild is by the process of the views as `writ up` starts it, over a log in a real broker: all views
together. The lag is that of a whole node under load, with a worker and a client on the same cores. `pages.py`
reads them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from writ import Client
from writ.broker.connect import Target, connect
from writ.broker.embedded import EmbeddedBroker
from writ.broker.hardened import HardenedClient
from writ.broker.log import JetStreamIntake, JetStreamLog
from writ.broker.ports import Message
from writ.projections.folded import reached_in
from writ.projections.registry import VIEWS
from writ.schemas.codec import digest, encode
from writ.schemas.errors import AttemptError, ErrorClass
from writ.schemas.events import (
    AttemptFailed,
    DeadReason,
    Fact,
    JobCompleted,
    JobDeadLettered,
    JobSubmitted,
    LeaseGranted,
)
from writ.schemas.ids import fencing_token
from writ.schemas.policy import Limits, Retry
from writ.schemas.records import GENESIS, Record, Source
from writ.schemas.sealed import seal
from writ.schemas.subjects import log_subject
from writ.views.keeper import Settings, Views

from .processes import Usage, child, usage
from .sending import Sending
from .stage import Stage as Node

REBUILD_MIN: Final = 30_000.0
"""Records a second."""

LAG_MAX_S: Final = 1.0
LAG_JOBS_PER_S: Final = 3_000
MEMORY_GROWTH_MAX: Final = 0.25
"""Of what the process of the views holds after the first third of a rebuild."""

_START_US: Final = 1_767_225_600_000_000
_IN_FLIGHT: Final = 200
_CONCURRENCY: Final = 500
_TOGETHER: Final = 20
"""Jobs in one submit of the load."""

_POLL_S: Final = 0.05
_INPUT: Final = b'{"invoice":"' + b"x" * 180 + b'"}'
_QUEUES: Final = ("billing", "mail", "reports")
_TASKS: Final = ("invoices.extract", "mail.send", "reports.render")


class Bar(NamedTuple):
    name: str
    figure: str
    held: bool


def histories(jobs: int, in_flight: int = _IN_FLIGHT, now_us: int = _START_US) -> Iterator[Record]:
    """The records of jobs that are submitted, leased and ended, so many at a time, as the engine writes them.

    One of 100 dies.
    """
    seq = 0
    leased: dict[int, int] = {}

    def record(number: int, cause: str, *events: Fact) -> Record:
        nonlocal seq
        seq += 1
        key = f"{_QUEUES[number % 3]}~job-{number * 7_919 % 10_000_000:07}"
        source = Source(1, number + 1, 0) if isinstance(events[0], JobSubmitted) else None
        at = now_us + seq * 30
        return Record(1, seq, "default", "job", key, at, "owner", events, cause=cause, source=source)

    for start in range(0, jobs, in_flight):
        part = range(start, min(start + in_flight, jobs))
        for number in part:
            yield record(
                number,
                "submit",
                JobSubmitted(
                    _TASKS[number % 3], seal(_INPUT), None, 3, Retry(), Limits(), batch=f"b{number % 7}"
                ),
            )
        for number in part:
            leased[number] = fencing_token(1, seq + 1)
            yield record(number, "acquire", LeaseGranted("worker-1", 1))
        for number in part:
            token = leased.pop(number)
            if number % 100:
                yield record(number, "complete", JobCompleted(1, token, None, 4))
            else:
                error = AttemptError(ErrorClass.POLICY, "Forbidden", seal(b'"no"'))
                yield record(
                    number,
                    "fail",
                    AttemptFailed(1, token, error, 4),
                    JobDeadLettered(DeadReason.POLICY, "policy errors are never retried", "0badcafe0bad"),
                )


def messages(records: Iterator[Record]) -> list[Message]:
    """The records as they are stored, chained."""
    found: list[Message] = []
    prev = GENESIS
    for record in records:
        body = encode(record, prev)
        prev = digest(body)
        found.append(Message(log_subject(0, record.tenant, record.kind, record.key), body))
    return found


class Stage:
    """A broker with a log, and the process of the views over it."""

    def __init__(
        self, directory: Path, broker: EmbeddedBroker, link: HardenedClient, log: JetStreamLog
    ) -> None:
        self.broker = broker
        self.link = link
        self.log = log
        self.directory = directory
        self.views = Views(directory)
        self._paths = [directory / "views" / f"{make().name}.db" for make in VIEWS]

    @classmethod
    async def open(cls, directory: Path) -> Stage:
        broker = await EmbeddedBroker.start(directory)
        link = await connect(Target(broker.url, broker.key_path("log")), "bench", inbox_prefix="_INBOX")
        return cls(directory, broker, link, await JetStreamLog.open(link))

    async def append(self, told: list[Message]) -> None:
        for start in range(0, len(told), 1_000):
            await self.log.append(told[start : start + 1_000], start, whole=True)

    async def start(self) -> int:
        """The process, when it follows the log; its id."""
        intake = await JetStreamIntake.open(self.link)
        key = self.broker.key_path
        settings = Settings(
            directory=str(self.directory),
            url=self.broker.url,
            log_key=str(key("log")),
            answer_key=str(key("answer")),
            system_key=str(key("system")),
            partition=0,
            log_epoch=self.log.epoch,
            submit_epoch=intake.epoch,
            version="0",
        )
        await self.views.spawn()
        await self.views.open(settings)
        assert self.views.pid is not None
        return self.views.pid

    def position(self) -> int:
        """Of the view that is furthest behind."""
        return min([reached_in(path).position.seq if path.exists() else 0 for path in self._paths])

    async def close(self) -> None:
        await self.views.stop()
        await self.link.close()
        await self.broker.stop()


async def rebuild(stage: Stage, last: int) -> list[Bar]:
    """All views from nothing, by a process that starts with them."""
    pid = await stage.start()
    before, begun = usage(pid), time.monotonic()
    early = 0
    apart = Usage(0.0, 0)  # of the second process, when it was last seen
    while (position := stage.position()) < last:
        if position < last / 3:
            early = usage(pid).rss_bytes
        if (second := child(pid, "writ.views.apart")) is not None:
            with suppress(FileNotFoundError):
                apart = usage(second)
        await asyncio.sleep(_POLL_S)
    took_s, after = time.monotonic() - begun, usage(pid)
    cpu_s = after.cpu_s - before.cpu_s + apart.cpu_s
    rate, cpu_us = last / took_s, cpu_s / last * 1e6
    growth = after.rss_bytes / max(early, before.rss_bytes) - 1
    figure = (
        f"{rate:,.0f} records/s of {len(VIEWS)} views together,"
        f" {cpu_us:.1f} us of CPU each, {apart.cpu_s / cpu_s:.0%} of it in a process of its own"
    )
    return [
        Bar(f"rebuild at {REBUILD_MIN:,.0f} records/s", figure, rate >= REBUILD_MIN),
        Bar(
            "memory flat over a rebuild",
            f"{after.rss_bytes / 1e6:.0f} MB, {growth:+.0%} since a third of it,"
            f" and {apart.rss_bytes / 1e6:.0f} MB in the second process",
            growth <= MEMORY_GROWTH_MAX,
        ),
    ]


async def lag(seconds: float) -> list[Bar]:
    """A node at work, with its broker, a worker and a client on the same cores: how late its views are."""
    async with Node() as node:
        await node.start_worker(_CONCURRENCY)
        async with Client(node.target, name="bench-client") as client:
            sending = Sending(client, "bench.noop")
            jobs = int(LAG_JOBS_PER_S * seconds) // _TOGETHER * _TOGETHER

            async def run(jobs: int) -> float:
                coming = asyncio.create_task(sending.paced(jobs, LAG_JOBS_PER_S, _TOGETHER))
                return await _watch(node, sending, coming)

            await run(jobs // 2)  # which fills caches
            before, begun = node.use(), time.monotonic()
            worst = await run(jobs)
            took_s, after = time.monotonic() - begun, node.use()
    cpu = {name: (after[name].cpu_s - before[name].cpu_s) / jobs * 1e6 for name in before}
    told = ", ".join([f"{name} {us:.0f}" for name, us in cpu.items()])
    growth = after["views"].rss_bytes / before["views"].rss_bytes - 1
    return [
        Bar(
            f"lag at {LAG_JOBS_PER_S:,} jobs/s under {LAG_MAX_S:g} s",
            f"{worst:.2f} s at most, at {jobs / took_s:,.0f} jobs/s; us of CPU a job: {told}",
            worst < LAG_MAX_S,
        ),
        Bar(
            "memory flat under load",
            f"{after['views'].rss_bytes / 1e6:.0f} MB, {growth:+.0%} since a third of it",
            growth <= MEMORY_GROWTH_MAX,
        ),
    ]


async def _watch(node: Node, sending: Sending, coming: asyncio.Task[None]) -> float:
    """Returns when all have run and the views tell of all; by how many seconds a view was late at most."""
    paths = [node.directory / "views" / f"{make().name}.db" for make in VIEWS]
    untold: deque[tuple[int, float]] = deque()  # last sequences of the log, and when they were seen
    worst = 0.0
    while True:
        position = min([reached_in(path).position.seq for path in paths])
        now = time.monotonic()
        while untold and untold[0][0] <= position:
            untold.popleft()
        if untold:
            worst = max(worst, now - untold[0][1])
        last = (await node.log_state())[0]
        if last > (untold[-1][0] if untold else position):
            untold.append((last, now))
        if not untold and coming.done() and node.bodies() >= len(sending.intended):
            return worst
        node.check()
        await asyncio.sleep(_POLL_S)


async def main(jobs: int, seconds: float) -> int:
    """The exit code."""
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory() as name:
        stage = await Stage.open(Path(name))
        try:
            told = messages(histories(jobs, now_us=time.time_ns() // 1_000))
            await stage.append(told)
            bars += await rebuild(stage, len(told))
        finally:
            await stage.close()
        bars += await lag(seconds)
    for bar in bars:
        print(f"{'held  ' if bar.held else 'MISSED'}  {bar.name}: {bar.figure}")
    busy = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    missed = [bar.name for bar in bars if not bar.held]
    ending = f"; missed: {'; '.join(missed)}" if missed else ""
    print(f"views: {len(bars) - len(missed)} of {len(bars)} bars held, {busy}{ending}")
    return 1 if missed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.views", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000, help="in the log of the rebuild")
    parser.add_argument("--seconds", type=float, default=20.0, help="of load")
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.jobs, given.seconds)))
