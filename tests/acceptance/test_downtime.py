"""Every orchestrator is down for ten minutes: a real broker, a real worker, real disks.

What is not real is the length of the ten minutes: the node is stopped and started again within a second or
two, and the second one is given clocks that are ten minutes ahead, the wall's and the monotonic one, and a
log whose broker stores by that wall. To the orchestrator that is the same, as these are all it knows of time.
The worker lives on on the machine's own clock. In wholly virtual time, with the matrix of policies:
`tests/orchestrator/engine/test_downtime.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from writ.broker.client import Client
from writ.broker.clock import SystemClock
from writ.broker.connect import Target, connect
from writ.broker.log import JetStreamLog
from writ.broker.ports import Stored
from writ.node import Node
from writ.schemas.codec import decode
from writ.schemas.events import LeaderElected, LeaseExpired, LeasesRenewed
from writ.schemas.records import Record
from writ.schemas.schedules import Overlap, ScheduleFired, ScheduleSkipped, ScheduleSpec
from writ.workers import Worker, task

AWAY_US = 600 * 1_000_000
LEASE_S = 5.0
EVERY_S = 130
MISSED = list(range(EVERY_S, 600, EVERY_S))
"""Due times, in seconds from the declaration; the newest is older than a minute by the end."""

CATCH_UP: dict[str, tuple[dict[str, Any], list[int]]] = {
    "nothing": ({"catch_up_max": 0}, []),
    "newest": ({}, MISSED[-1:]),
    "three": ({"catch_up_max": 3}, MISSED[-3:]),
    "all": ({"catch_up_max": 100}, MISSED),
    "recent": ({"catch_up_max": 100, "catch_up_within_s": 250}, MISSED[-2:]),
}
WAIT_S = 60.0


class MovedClock(SystemClock):
    """The machine's clocks, and so much later."""

    def __init__(self, ahead_us: int) -> None:
        self._ahead_us = ahead_us

    def wall_us(self) -> int:
        return super().wall_us() + self._ahead_us

    def mono_us(self) -> int:
        return super().mono_us() + self._ahead_us


class MovedLog(JetStreamLog):
    """The log of a broker on the same machine: its clock moved as well."""

    ahead_us = 0

    async def read(
        self, start: int = 1, subjects: Sequence[str] = (), *, follow: bool = False
    ) -> AsyncIterator[list[Stored]]:
        async for part in super().read(start, subjects, follow=follow):
            yield [message._replace(stored_us=message.stored_us + self.ahead_us) for message in part]


class Downtime:
    """A node that is taken away and comes back later than it is."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        self._monkeypatch = monkeypatch
        self.node: Node | None = None

    async def start(self, ahead_us: int = 0) -> Node:
        for room in ("node", "engines"):
            self._monkeypatch.setattr(f"writ.{room}.SystemClock", lambda: MovedClock(ahead_us))
        self._monkeypatch.setattr("writ.engines.JetStreamLog", MovedLog)
        self._monkeypatch.setattr(MovedLog, "ahead_us", ahead_us)
        self.node = await Node.start(self._directory)
        return self.node

    async def stop(self) -> None:
        if self.node is not None:
            await self.node.stop()
            self.node = None

    async def records(self) -> list[Record]:
        assert self.node is not None
        target = Target(self.node.url, self.node.broker.key_path("log"))
        link = await connect(target, "test", inbox_prefix="_INBOX")
        try:
            return [decode(m.body) async for part in JetStreamLog(link, 0, 1).read() for m in part]
        finally:
            await link.close()

    async def until(self, wanted: Callable[[list[Record]], object]) -> list[Record]:
        """The log, as soon as it is as wanted."""
        async with asyncio.timeout(WAIT_S):
            while not wanted(records := await self.records()):  # noqa: ASYNC110 - the log is another process's
                await asyncio.sleep(0.1)
        return records


def back(records: list[Record]) -> list[Record]:
    """What the second orchestrator wrote."""
    elected = [n for n, record in enumerate(records) if isinstance(record.events[0], LeaderElected)]
    return records[elected[1] :]


async def test_ten_minutes_without_an_orchestrator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Must hold: after 10 minutes of downtime of every orchestrator no lease has expired on the stopped
    clock, and schedules catch up by their policy.
    """
    begun, done = asyncio.Event(), asyncio.Event()

    @task
    async def long() -> str:
        begun.set()
        await done.wait()
        return "kept its lease"

    downtime = Downtime(tmp_path / "writ", monkeypatch)
    node = await downtime.start()
    target = Target(node.url, node.broker.key_path("owner"))
    worker = Worker("work", [long], target=target, wait_s=1.0)
    working = asyncio.create_task(worker.run())
    try:
        async with Client(target) as client:
            for name, (fields, _) in CATCH_UP.items():
                for overlap in Overlap:
                    spec = {"task": "t", "every_s": EVERY_S, "overlap": overlap} | fields
                    whole = msgspec.convert(spec, ScheduleSpec)
                    await client.declare_schedule("plans", f"{name}-{overlap}", whole)
            job = await client.submit("work", "long", lease_s=LEASE_S)
            await begun.wait()

            await downtime.stop()
            await downtime.start(AWAY_US)

            def renewed(records: list[Record]) -> bool:
                beats = [r.at for r in back(records) if isinstance(r.events[0], LeasesRenewed)]
                return bool(beats) and beats[-1] - back(records)[0].at > LEASE_S * 1_000_000

            records = await downtime.until(renewed)
            done.set()
            assert await client.result(job, timeout_s=WAIT_S) == "kept its lease"
        judge_time(records)
        judge_schedules(records)
    finally:
        done.set()
        worker.drain()
        worker.drain()
        await asyncio.wait([working], timeout=WAIT_S)
        await downtime.stop()


def judge_time(records: list[Record]) -> None:
    """The clock stood still for ten minutes, and nobody lost a lease for it."""
    before = records[len(records) - len(back(records)) - 1]
    assert back(records)[0].at - before.at >= AWAY_US
    assert not [event for record in records for event in record.events if isinstance(event, LeaseExpired)]


def judge_schedules(records: list[Record]) -> None:
    """Each schedule ran what its policy runs, and told of the rest."""
    declared = {r.key: r.at for r in records if r.cause == "declare_schedule"}
    fired: dict[str, list[int]] = {key: [] for key in declared}
    skipped = dict.fromkeys(declared, 0)
    for record in records:
        for event in record.events:
            if isinstance(event, ScheduleFired):
                fired[record.key].append(round((event.due_at - declared[record.key]) / 1_000_000))
            elif isinstance(event, ScheduleSkipped):
                skipped[record.key] += event.count
    for name, (_, caught_up) in CATCH_UP.items():
        for overlap in Overlap:
            key = f"plans~{name}-{overlap}"
            one = overlap in (Overlap.SKIP, Overlap.CANCEL_RUNNING)
            assert fired[key] == (caught_up[-1:] if one else caught_up), key
            assert len(fired[key]) + skipped[key] == len(MISSED), key
