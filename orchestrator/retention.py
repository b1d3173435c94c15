"""Moves finished history out of the log: archive, prove, trim; and takes snapshots on the way.

One pass does what is due and ends. It runs beside the leader, in a process of its own, and needs nothing of
it: a pass that is killed at any moment leaves whole segments and whole snapshots, and the next one goes on.
Nothing leaves the log before a fold of the archive has come to the same state as a fold of the log.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, NamedTuple, cast

import msgspec

from writ.broker.archive import SEGMENT_MAX_BYTES, SEGMENT_MAX_RECORDS, ArchiveDamaged, ArchivedLog
from writ.broker.ports import Stored
from writ.schemas.chain import Violation
from writ.schemas.codec import decode, digest
from writ.schemas.lifecycle import TERMINAL, micros
from writ.schemas.records import Record

from .ended import SnapshotDamaged
from .kept import lines_digest
from .snapshots import Snapshots, fold, fold_one, recover
from .state import Partition, address

SNAPSHOT_EVERY: Final = 20_000
"""Records that a start may have to fold: about two seconds' worth."""

JOBS_A_RECORD: Final = 8
"""A state of many live jobs is kept more rarely: it costs as much as folding an eighth as many records."""

SEGMENT_MIN_RECORDS: Final = 1_000
"""A segment with fewer is not worth its object: they wait for more."""


def calls_for_snapshot(state: Partition, taken: int, every: int) -> bool:
    """Whether a start would have much to fold, with a snapshot at record `taken`; 0 without one."""
    return state.seq - taken >= max(every, state.jobs.live // JOBS_A_RECORD)


class HeldBack(msgspec.Struct, frozen=True):
    """The oldest record that must stay in the log, and why. `until` is log time; None where nobody knows."""

    seq: int
    reason: str
    until: int | None = None


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass has done, and how it leaves log, archive and snapshots. Sequences; 0 before the first."""

    archived: int = 0
    trimmed: int = 0
    snapshot: int = 0
    segments: int = 0
    archive_last: int = 0
    log_first: int = 0
    log_last: int = 0
    held_back: HeldBack | None = None


class Sizes(NamedTuple):
    """How much goes into a segment, and how far apart snapshots are, in records."""

    segment_max: int = SEGMENT_MAX_RECORDS
    segment_min: int = SEGMENT_MIN_RECORDS
    snapshot_every: int = SNAPSHOT_EVERY


class Retention:
    """One partition's. `log` spans the archive that is added to; two of it must not run at a time."""

    def __init__(self, log: ArchivedLog, snapshots: Snapshots, sizes: Sizes | None = None) -> None:
        self._log = log
        self._archive = log.archive
        self._snapshots = snapshots
        self._sizes = sizes or Sizes()

    async def run(self, now: int) -> Kept:
        """One pass; `now` is UTC in microseconds.

        Raises Violation or ArchiveDamaged where history is not whole, SnapshotDamaged where a snapshot is
        not (the next pass does without), OutcomeUnknown, OSError.
        """
        await self._archive.refresh()
        try:
            return await self._run(now)
        except SnapshotDamaged:
            await self._snapshots.clear()
            raise

    async def _run(self, now: int) -> Kept:
        state, newest = await self._snapshot()
        first = await self._log.live.first_seq()
        before = self._archive.last
        held_back = await self._move(state, now)
        archived = self._archive.last - before
        if first <= self._archive.last:
            await self._prove(first)
            await self._log.live.trim(self._archive.last)
            await self._snapshots.prune()
        titles = await self._snapshots.titles()
        left = await self._log.live.first_seq()
        return Kept(
            archived=archived,
            trimmed=left - first,
            snapshot=titles[-1].seq if titles else 0,
            segments=len(self._archive.segments),
            archive_last=self._archive.last,
            log_first=left,
            log_last=newest,
            held_back=held_back,
        )

    async def _snapshot(self) -> tuple[Partition, int]:
        """The state at the log's end, which is kept if a start had much to fold; and the sequence there."""
        titles = await self._snapshots.titles()
        state, at = await recover(self._log, self._snapshots)
        taken = titles[-1].seq if titles else 0
        if calls_for_snapshot(state, taken, self._sizes.snapshot_every):
            await self._snapshots.put(state, at.epoch)
            await self._snapshots.prune()
        return state, at.seq

    # --- archive ----------------------------------------------------------------------------------------

    async def _move(self, state: Partition, now: int) -> HeldBack | None:
        """Puts finished history into the archive; why it went no further, None at the log's end."""
        row: list[Stored] = []
        size_bytes = 0
        held_back: HeldBack | None = None
        async for message in self._chained(self._archive.last + 1, self._archive.digest):
            held_back = why_held(decode(message.body), state, now)
            if held_back is not None or message.seq > state.seq:
                break
            row.append(message)
            size_bytes += len(message.body)
            if len(row) == self._sizes.segment_max or size_bytes >= SEGMENT_MAX_BYTES:
                await self._archive.add(row)
                row, size_bytes = [], 0
        if len(row) >= self._sizes.segment_min:
            await self._archive.add(row)
        return held_back

    async def _chained(self, start: int, prev: str) -> AsyncGenerator[Stored]:
        """The log's records from `start` on, each checked to continue the one before. Raises Violation."""
        reading = cast("AsyncGenerator[list[Stored]]", self._log.read(start))
        async with aclosing(reading):
            async for messages in reading:
                for message in messages:
                    if decode(message.body).prev != prev:
                        raise Violation(message.seq, "its prev is not the digest of the record before it")
                    prev = digest(message.body)
                    yield message

    # --- prove ------------------------------------------------------------------------------------------

    async def _prove(self, first: int) -> None:
        """Folds what is in the log and in the archive from each of the two; keeps the state they agree on.

        Raises ArchiveDamaged where they do not.
        """
        last = self._archive.last
        state, at = await recover(self._log, self._snapshots, first - 1)
        await fold(state, at, self._log.live, last)
        told = lines_digest(state)
        state, at = await recover(self._log, self._snapshots, first - 1)
        async for messages in self._archive.lists(at.seq + 1):
            for message in messages:
                at = fold_one(state, at, message)
        if at.seq != last or lines_digest(state) != told:
            raise ArchiveDamaged(
                f"the archive of partition {self._log.partition} tells another state at record {last} than "
                "the log does, and nothing was trimmed; delete its segments from record "
                f"{first} on, and they are made anew"
            )
        await self._snapshots.put(state, at.epoch, proven=True)


def why_held(record: Record, state: Partition, now: int) -> HeldBack | None:
    """Why a record must stay in the log, by the state at the log's end; None where it may be moved.

    What tells of no job tells of nothing that could end: it goes with the jobs around it.
    """
    if record.kind == "link" and state.links.unsettled(int(record.key)):
        return HeldBack(record.seq, f"partition {record.key} has not settled what it was told")
    if record.kind != "job":
        return None
    job = state.jobs[address(record.tenant, record.key)]
    if job.state not in TERMINAL or job.finished_at is None:
        return HeldBack(record.seq, f"job {job.key} is {job.state.value}")
    keep_s = state.archive_after_s(record.tenant, job.queue)
    if keep_s is None:
        return HeldBack(record.seq, f"neither queue {job.queue} nor its tenant has archive_after_s")
    until = job.finished_at + micros(keep_s)
    if until > now:
        return HeldBack(record.seq, f"job {job.key} ended less than {keep_s:g} s ago", until)
    return None
