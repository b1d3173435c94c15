"""Measures how long a node with much history takes until it leads. Exits 1 if a bar is missed.

    python -m benchmarks.start [--ended 1000000] [--live 100000] [--starts 3] [--directory DIR]

A real broker is filled with the records of jobs that have ended, three each, and of some that have not.
Then a pass of the archive takes a snapshot, and processes with nothing but broker and orchestrator are
started one after the other: what counts is the median from the start of the process until its engine leads,
by the clock; the processor time of both is shown beside it. Every second of them ends by `kill -9`, with
its broker. The views are not in it: they keep their own position. With `--directory` the filled node is
kept there, and started again without being filled.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec

from writ.broker.archive import ArchivedLog
from writ.broker.clock import SystemClock
from writ.broker.connect import Target, connect
from writ.broker.embedded import EmbeddedBroker
from writ.broker.log import JetStreamIntake, JetStreamLog
from writ.broker.ports import Message
from writ.broker.requests import NatsRequests
from writ.broker.vault import Vault, vault_path
from writ.orchestrator.engine import Engine
from writ.orchestrator.retention import Retention
from writ.orchestrator.snapshots import Snapshots
from writ.schemas.codec import digest, encode
from writ.schemas.events import JobSubmitted
from writ.schemas.policy import Limits, Retry
from writ.schemas.records import GENESIS, Record, Source
from writ.schemas.sealed import seal
from writ.schemas.subjects import log_subject

from .processes import usage
from .views import histories

READY_MAX_S: Final = 10.0
_BATCH: Final = 1_000
_INPUT: Final = msgspec.json.encode({"invoice": 7, "text": "x" * 150})


class Started(msgspec.Struct):
    """What a start came to: seconds until the engine led, of which the broker took some; its memory then."""

    broker_s: float
    ready_s: float
    cpu_s: float
    rss_bytes: int
    live: int
    ended: int
    in_memory: int


def records(ended: int, live: int, now_us: int) -> Iterator[Record]:
    """Those of jobs that have ended, and of jobs that wait."""
    seq = 0
    for record in histories(ended, now_us=now_us):
        seq = record.seq
        yield record
    at = now_us + seq * 30
    for number in range(live):
        seq += 1
        submitted = JobSubmitted("invoices.extract", seal(_INPUT), None, 3, Retry(), Limits())
        key, source = f"mail~live-{number:07}", Source(1, ended + number + 1, 0)
        yield Record(
            *(1, seq, "default", "job", key, at + number, "owner", (submitted,)),
            cause="submit",
            source=source,
        )


async def fill(directory: Path, ended: int, live: int) -> None:
    """A node's directory with that history in its log."""
    async with await EmbeddedBroker.start(directory) as broker:
        link = await connect(Target(broker.url, broker.key_path("log")), "bench", inbox_prefix="_INBOX")
        log = await JetStreamLog.open(link)
        now_us = round(time.time() * 1e6) - 3 * (ended + live) * 30
        prev, batch, seq = GENESIS, list[Message](), 0
        for record in records(ended, live, now_us):
            body = encode(record, prev)
            prev = digest(body)
            batch.append(Message(log_subject(0, record.tenant, record.kind, record.key), body))
            if len(batch) == _BATCH:
                await log.append(batch, seq)
                seq, batch = seq + len(batch), []
        if batch:
            await log.append(batch, seq)
        await link.close()


async def archive(directory: Path) -> None:
    """A pass of the archive, as the node has it made: it takes the snapshot."""
    begun = time.monotonic()
    async with await EmbeddedBroker.start(directory) as broker:
        link = await connect(Target(broker.url, broker.key_path("log")), "bench", inbox_prefix="_INBOX")
        log = ArchivedLog.beside(directory, await JetStreamLog.open(link))
        await Retention(log, Snapshots.beside(directory, 0)).run(SystemClock().wall_us())
        await link.close()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"archive pass: {time.monotonic() - begun:.1f} s, {most / 1e6:.0f} MB at the most", flush=True)


async def lead(directory: Path) -> None:
    """What a start runs: prints a line when it leads, and ends with its input."""
    begun = time.monotonic()
    async with await EmbeddedBroker.start(directory) as broker:
        broker_s = time.monotonic() - begun
        logs, answers = [
            await connect(Target(broker.url, broker.key_path(user)), user, inbox_prefix="_INBOX")
            for user in ("log", "answer")
        ]
        log = ArchivedLog.beside(directory, await JetStreamLog.open(logs))
        engine = Engine(
            log,
            await JetStreamIntake.open(logs),
            NatsRequests(answers, logs),
            SystemClock(),
            name=f"bench-{os.getpid()}",
            version="bench",
            entropy=random.SystemRandom().random,
            snapshots=Snapshots.beside(directory, 0),
            keys=Vault(vault_path(directory)),
        )
        running = asyncio.create_task(engine.run())
        await engine.leading.wait()
        jobs = engine.state.jobs
        own, rss = usage(broker.pid or 0).cpu_s + time.process_time(), usage(os.getpid()).rss_bytes
        told = Started(broker_s, 0.0, own, rss, jobs.live, len(jobs.resting), len(jobs.here))
        print(msgspec.json.encode(told).decode(), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        engine.stop()
        await running
        await logs.close()
        await answers.close()


def start(directory: Path, *, kill: bool) -> Started:
    """One start, and how it ended."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.start", "--lead", str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        ready_s = time.monotonic() - begun
        if kill:
            process.send_signal(signal.SIGKILL)
        process.stdin.close()
    if not line:
        raise SystemExit(f"a start ended with code {process.returncode} before it led")
    told = msgspec.json.decode(line, type=Started)
    told.ready_s = ready_s
    return told


async def run(directory: Path, ended: int, live: int, starts: int) -> bool:
    if not (directory / "jetstream").exists():
        begun = time.monotonic()
        await fill(directory, ended, live)
        print(f"filled in {time.monotonic() - begun:.0f} s", flush=True)
    command = [sys.executable, "-m", "benchmarks.start", "--archive", str(directory)]
    await asyncio.to_thread(subprocess.run, command, check=True)
    found: list[Started] = []
    for number in range(starts):
        found.append(await asyncio.to_thread(start, directory, kill=bool(number % 2)))
        print(f"  start {number + 1}: {_line(found[-1])}", flush=True)
        if found[-1].live < live:
            raise SystemExit(f"{found[-1].live} live jobs were found, not {live}")
    middle = median(each.ready_s for each in found)
    held = middle <= READY_MAX_S
    with tempfile.TemporaryDirectory() as place:
        await fill(Path(place), 0, 0)
        bare = await asyncio.to_thread(start, Path(place), kill=False)
    each = (found[0].rss_bytes - bare.rss_bytes) / max(1, found[0].live)
    print(f"memory: {bare.rss_bytes / 1e6:.0f} MB without a job, {each:,.0f} bytes for each live job")
    print(f"{'held' if held else 'MISSED':>8}: median {middle:.2f} s to leading, at most {READY_MAX_S:g} s")
    return held


def _line(told: Started) -> str:
    return (
        f"{told.ready_s:.2f} s, of which the broker {told.broker_s:.2f}; CPU time {told.cpu_s:.2f} s; "
        f"{told.rss_bytes / 1e6:.0f} MB, {told.live:,} live jobs, {told.ended:,} that rest, "
        f"{told.in_memory:,} in memory"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ended", type=int, default=1_000_000)
    parser.add_argument("--live", type=int, default=100_000)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--lead", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--archive", type=Path, help=argparse.SUPPRESS)
    args: Any = parser.parse_args(arguments)
    if args.lead is not None:
        asyncio.run(lead(args.lead))
        return 0
    if args.archive is not None:
        asyncio.run(archive(args.archive))
        return 0
    if args.directory is not None:
        return 0 if asyncio.run(run(args.directory, args.ended, args.live, args.starts)) else 1
    with tempfile.TemporaryDirectory() as place:
        return 0 if asyncio.run(run(Path(place), args.ended, args.live, args.starts)) else 1


if __name__ == "__main__":
    sys.exit(main())
