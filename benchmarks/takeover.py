"""Measures how long nobody leads, after `kill -9` of a leader and after SIGTERM. Exits 1 beyond a bar.

    python -m benchmarks.takeover [--kills 20] [--stops 20]

A real broker, two orchestrators as processes of their own, a worker, and a client that submits all the
time. What is measured stands in the log, by the broker's own time of storing: from the signal until
another leader was elected, until it took a submit, and until it granted a lease. The bars are for
medians: of the slower of submits and leases after a kill, and of the hand-over after SIGTERM from the old
leader's last record to the election.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple, cast

from writ.broker.client import Client
from writ.broker.connect import Target, connect
from writ.broker.embedded import EmbeddedBroker
from writ.broker.errors import WireError
from writ.broker.log import JetStreamLog
from writ.broker.ports import Stored
from writ.schemas.codec import decode
from writ.schemas.events import JobSubmitted, LeaderElected, LeaseGranted

KILL_MAX_S: Final = 4.0
STOP_MAX_S: Final = 0.2
QUEUE: Final = "takeover"
_WAIT_S: Final = 30.0
_TASKS: Final = """
from writ import task

@task(name="noop")
async def noop() -> None: ...
"""


class Gap(NamedTuple):
    """Seconds from a signal to the last record of the old leader, election, submit taken, lease granted."""

    last: float
    elected: float
    submit: float
    lease: float

    @property
    def hand_over(self) -> float:
        return self.elected - max(0.0, self.last)


class Seen(NamedTuple):
    """One record: when it was stored, and what it tells."""

    at_us: int
    leader: str | None
    submit: bool
    lease: bool


class Watch:
    """The log, as it is stored."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.leader = ""
        self._more = asyncio.Event()

    async def run(self, log: JetStreamLog) -> None:
        async with aclosing(cast("AsyncGenerator[list[Stored]]", log.read(follow=True))) as reading:
            async for some in reading:
                for each in some:
                    self._take(each)
                self._more.set()

    def _take(self, stored: Stored) -> None:
        events = decode(stored.body).events
        leader = next((each.leader for each in events if isinstance(each, LeaderElected)), None)
        self.leader = leader or self.leader
        submit = any(isinstance(each, JobSubmitted) for each in events)
        lease = any(isinstance(each, LeaseGranted) for each in events)
        self.seen.append(Seen(stored.stored_us, leader, submit, lease))

    async def gap(self, signalled_us: int, after: int) -> Gap:
        """What followed a signal that was sent when `after` records had been seen."""
        async with asyncio.timeout(_WAIT_S):
            while True:
                new = self.seen[after:]
                elected = next((i for i, each in enumerate(new) if each.leader is not None), None)
                if elected is not None:
                    submit = next((each for each in new[elected:] if each.submit), None)
                    lease = next((each for each in new[elected:] if each.lease), None)
                    if submit is not None and lease is not None:
                        last = self.seen[after + elected - 1]
                        times = last.at_us, new[elected].at_us, submit.at_us, lease.at_us
                        return Gap(*[(at - signalled_us) / 1e6 for at in times])
                self._more.clear()
                await self._more.wait()


class Stage:
    """The processes."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory, self.url = directory, url
        self.running: dict[str, asyncio.subprocess.Process] = {}

    async def orchestrator(self) -> None:
        """Starts one; returns when it leads or stands by."""
        where = ("--dir", str(self.directory), "--broker-url", self.url)
        command = (sys.executable, "-P", "-m", "writ", "orchestrator", *where)
        with (self.directory / "orchestrators.log").open("ab") as said:
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=said
            )
        assert process.stdout is not None
        async with asyncio.timeout(_WAIT_S):
            line = (await process.stdout.readline()).decode().split()
        if len(line) < 2:
            raise SystemExit("an orchestrator ended before it stood by")
        self.running[line[1]] = process

    async def end(self, name: str, how: signal.Signals) -> None:
        process = self.running.pop(name)
        process.send_signal(how)
        await process.wait()


async def submit(client: Client) -> None:
    while True:
        with suppress(WireError, TimeoutError):
            await client.submit(QUEUE, "noop", {}, timeout_s=5)
        await asyncio.sleep(0.02)


async def series(stage: Stage, watch: Watch, count: int, how: signal.Signals) -> list[Gap]:
    """The gaps of so many leaders that are sent a signal, one after the other."""
    gaps: list[Gap] = []
    for _ in range(count):
        while len(stage.running) < 2:
            await stage.orchestrator()
        await asyncio.sleep(1.0)
        after, signalled_us = len(watch.seen), time.time_ns() // 1_000
        ended = asyncio.create_task(stage.end(watch.leader, how))
        gaps.append(await watch.gap(signalled_us, after))
        await ended
        found = gaps[-1]
        print(
            f"  {how.name}: elected {found.elected:.3f} s, submit {found.submit:.3f}, "
            f"lease {found.lease:.3f}; from the last record to the election {found.hand_over:.3f}",
            flush=True,
        )
    return gaps


def told(name: str, found: float, most: float) -> bool:
    held = found < most
    print(f"{'held' if held else 'MISSED':>8}: {name}, median {found:.3f} s, under {most:g} s")
    return held


async def run(directory: Path, kills: int, stops: int) -> bool:
    module = directory / "noops.py"
    async with await EmbeddedBroker.start(directory / "node") as broker:
        module.write_text(_TASKS)
        link = await connect(Target(broker.url, broker.key_path("log")), "bench", inbox_prefix="_INBOX")
        log = await JetStreamLog.open(link)
        watch, stage = Watch(), Stage(directory / "node", broker.url)
        await stage.orchestrator()
        command = (sys.executable, "-P", "-m", "writ", "worker", str(module), "--queue", QUEUE)
        where = ("--url", broker.url, "--creds", str(broker.key_path("owner")))
        worker = await asyncio.create_subprocess_exec(*command, *where, stdout=asyncio.subprocess.DEVNULL)
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(watch.run(log))]
        try:
            async with Client(Target(broker.url, broker.key_path("owner"))) as client:
                tasks.append(asyncio.create_task(submit(client)))
                killed = await series(stage, watch, kills, signal.SIGKILL)
                stopped = await series(stage, watch, stops, signal.SIGTERM)
        finally:
            worker.terminate()
            for name in list(stage.running):
                await stage.end(name, signal.SIGTERM)
            await worker.wait()
            for task in tasks:
                task.cancel()
            await link.close()
    held = True
    if killed:
        held &= told("submits after a kill", median(each.submit for each in killed), KILL_MAX_S)
        held &= told("leases after a kill", median(each.lease for each in killed), KILL_MAX_S)
    if stopped:
        held &= told("hand-over on SIGTERM", median(each.hand_over for each in stopped), STOP_MAX_S)
    return held


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=20)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        held = asyncio.run(run(Path(place), args.kills, args.stops))
        if not held:
            print((Path(place) / "node" / "orchestrators.log").read_text())
        return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
