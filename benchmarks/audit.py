"""Measures how fast a whole log is verified against its checkpoints. Exits 1 if the bar is missed.

    python -m benchmarks.audit [--jobs 300000] [--passes 3]

The log is of jobs that are submitted, leased and ended, in a real broker, with a checkpoint for every 10,000
records; then a part of it is archived and trimmed. It is verified by one process, as the node's scrub does
it, and by a process for each processor, as `writ audit verify` does with a long log, their start included.
The bar is for records a second by the clock, the best of the passes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Final

from writ.broker.archive import ArchivedLog
from writ.broker.connect import Target, connect
from writ.broker.embedded import EmbeddedBroker
from writ.broker.log import JetStreamLog
from writ.broker.notary import Notary, checkpoints_folder
from writ.broker.note_places import NoteFolder
from writ.broker.ports import Message, Stored
from writ.cli.verifying import stretches
from writ.orchestrator.replay.checked import Place, check_log, leaves_of, signed_in
from writ.schemas.checkpoints import Checkpoint
from writ.schemas.codec import digest, encode
from writ.schemas.merkle import Tree
from writ.schemas.records import GENESIS
from writ.schemas.subjects import log_subject

from .views import histories

RATE_MIN: Final = 100_000.0
"""Records a second."""

_BATCH: Final = 500
_CHECKPOINT_EVERY: Final = 10_000
_SEGMENT: Final = 10_000


def _batches(jobs: int) -> Iterator[list[Message]]:
    prev, batch = GENESIS, list[Message]()
    for record in histories(jobs):
        body = encode(record, prev)
        prev = digest(body)
        batch.append(Message(log_subject(0, record.tenant, record.kind, record.key), body))
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def _fill(log: JetStreamLog, jobs: int) -> tuple[int, int]:
    """How many records were stored, and of how many bytes."""
    seq = size_bytes = 0
    for batch in _batches(jobs):
        await log.append(batch, seq)
        seq += len(batch)
        size_bytes += sum([len(each.body) for each in batch])
    return seq, size_bytes


async def _sign(log: ArchivedLog, directory: Path) -> None:
    """Signs checkpoints of the log, as a node does while it grows."""
    notary, tree, place = Notary(directory, 0), Tree(), Place()
    after, at = "-", 0
    async for messages in log.read():
        leaves = leaves_of(messages, place, 0, log.epoch)
        assert not leaves.faults, leaves.faults[0]
        place = leaves.end
        for leaf in leaves.hashes:
            tree.add(leaf)
            if tree.size % _CHECKPOINT_EVERY == 0:
                at += 1
                found = Checkpoint(notary.origin(0, log.epoch), tree.size, tree.root, at, after)
                after = notary.add(found).digest


async def _archive(log: ArchivedLog, upto: int) -> None:
    row: list[Stored] = []
    async for messages in log.read():
        for each in messages:
            row.append(each)
            if len(row) == _SEGMENT:
                await log.archive.add(row)
                row = []
                if each.seq + _SEGMENT > upto:
                    await log.live.trim(each.seq)
                    return


async def _measure(name: str, log: ArchivedLog, target: Target, directory: Path, passes: int) -> bool:
    rate = 0.0
    for how in ("one process", "a process for each processor"):
        best = 0.0
        for _ in range(passes):
            began, found = time.perf_counter(), [signed_in(NoteFolder(checkpoints_folder(directory)), 0)]
            if how == "one process":
                report = await check_log(log, found)
            else:
                async with aclosing(stretches(target, directory, 0, await log.last_seq())) as ahead:
                    report = await check_log(log, found, ahead)
            assert report.ok, report.lines()
            best = max(best, report.records / (time.perf_counter() - began))
        print(f"  {name:<24} {best:>9,.0f} records/s by {how}", flush=True)
        rate = max(rate, best)
    held = rate >= RATE_MIN
    print(f"{'held' if held else 'MISSED':>8}: {name}, {rate:,.0f}, at least {RATE_MIN:,.0f}\n", flush=True)
    return held


async def _run(jobs: int, passes: int) -> bool:
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        async with await EmbeddedBroker.start(directory) as broker:
            target = Target(broker.url, broker.key_path("log"))
            link = await connect(target, "bench", inbox_prefix="_INBOX")
            live = await JetStreamLog.open(link)
            log = ArchivedLog.beside(directory, live)
            records, size_bytes = await _fill(live, jobs)
            await _sign(log, directory)
            signed = len(signed_in(NoteFolder(checkpoints_folder(directory)), 0).checkpoints)
            print(f"{records:,} records of {size_bytes // records} bytes, {signed} checkpoints\n")
            held = await _measure("from the broker", log, target, directory, passes)
            await _archive(log, records // 2)
            held &= await _measure("half from the archive", log, target, directory, passes)
            await link.close()
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=300_000)
    parser.add_argument("--passes", type=int, default=3)
    args = parser.parse_args()
    return 0 if asyncio.run(_run(args.jobs, args.passes)) else 1


if __name__ == "__main__":
    sys.exit(main())
