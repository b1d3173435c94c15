"""The state of a partition at one sequence, kept outside the log so that a start need not fold all of it.

A snapshot is its state as lines of JSON, compressed; the parts in which jobs that have ended rest, which it
shares with those before it; and at last its title, which says at which record of which log it was taken and
what its bytes must be. One without a title is unfinished. A title that does not fit the log, or that another
version of the code has written, is passed over: the log is the truth.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Final, NamedTuple, cast

import msgspec

from writ.broker.objects import FolderObjects, Objects
from writ.broker.ports import Log, Stored
from writ.schemas.chain import Position, TooNew, link
from writ.schemas.codec import digest
from writ.schemas.records import LOGIC

from .ended import Ended, SnapshotDamaged, add
from .kept import Title, fold_version, lines, restore
from .state import Partition

log = logging.getLogger("writ.orchestrator")

KEPT: Final = 2
STRIDE: Final = 100_000
"""Records after which a long fold leaves a snapshot behind, so that jobs that have ended leave its memory."""

_STATE: Final = ".state"
_TITLE: Final = ".json"
_LEVEL: Final = 1
_encode = msgspec.json.Encoder().encode


class Rests(NamedTuple):
    """Where the jobs rest that had ended at a record."""

    seq: int
    ended: Ended


class Snapshots:
    """The snapshots of one partition."""

    def __init__(self, objects: Objects, partition: int) -> None:
        self._objects = objects
        self._partition = partition
        self._fold = fold_version()
        """Made now, as it takes 20 ms: when it is asked for, somebody may be waiting for the engine."""

    @classmethod
    def beside(cls, directory: Path, partition: int) -> Snapshots:
        """Those that are kept in a node's directory."""
        return cls(FolderObjects(directory / "snapshots" / str(partition)), partition)

    async def titles(self) -> list[Title]:
        """Of those that are whole and that this code can read, oldest first. Raises OSError."""
        found: list[Title] = []
        for name in await self._objects.names():
            if not name.endswith(_TITLE):
                continue
            try:
                title = msgspec.json.decode(await self._objects.get(name), type=Title)
            except (FileNotFoundError, msgspec.MsgspecError):
                continue  # taken away meanwhile, or not one of ours
            if title.partition == self._partition and title.fold == self._fold:
                found.append(title)
        return found

    async def put(self, state: Partition, epoch: int, *, proven: bool = False) -> Title:
        """Stores the state; `epoch` is that of its newest record. Durable on return.

        What has ended rests in the snapshot's parts from then on, and leaves the memory of this state, which
        must not change meanwhile. Raises OSError, SnapshotDamaged.
        """
        await self._put_ended(state)
        hashed, size_bytes = hashlib.sha256(), 0
        packing = zlib.compressobj(_LEVEL)

        def packed() -> Iterator[bytes]:
            nonlocal size_bytes
            for part in lines(state):
                hashed.update(part)
                size_bytes += len(part)
                yield packing.compress(part)
            yield packing.flush()

        name = f"{state.seq:020}"
        await self._objects.delete(name + _TITLE)
        await self._objects.put(name + _STATE, packed())
        title = Title(
            self._partition,
            epoch,
            state.seq,
            state.prev,
            self._fold,
            hashed.hexdigest(),
            size_bytes,
            proven,
            tuple([each.part for each in state.jobs.resting.parts]),
        )
        await self._objects.put(name + _TITLE, (_encode(title),))
        return title

    async def _put_ended(self, state: Partition) -> None:
        jobs = {place: job for place, job in state.jobs.ended().items() if state.may_rest(place, job)}
        taken = await self._objects.names()
        number = len([name for name in taken if name.startswith(f"{state.seq:020}-")])
        ended = await add(self._objects, f"{state.seq:020}-{number}", jobs, state.jobs.resting)
        state.jobs.rest_on(ended)
        state.jobs.forget(jobs)

    async def prune(self) -> None:
        """Deletes all but the newest few, the newest proven one, and what was cut off. Raises OSError."""
        titles = await self.titles()
        kept = titles[-KEPT:] + [title for title in titles if title.proven][-1:]
        names = {title.name for title in kept} | {part.name for title in kept for part in title.ended}
        for name in await self._objects.names():
            if name.partition(".")[0] not in names:
                await self._objects.delete(name)
        await self._objects.tidy()

    async def clear(self) -> None:
        """Deletes all titles: the next start folds the log. Raises OSError."""
        for name in await self._objects.names():
            if name.endswith(_TITLE):
                await self._objects.delete(name)

    async def rests(self, log_: Log, after: int, up_to: int) -> Rests | None:
        """Where the jobs rest of the newest snapshot behind `after`, of a log that has come to `up_to`.

        None where there is none that fits. Raises what reading the log raises.
        """
        try:
            titles = [title for title in await self.titles() if after < title.seq <= up_to]
            for title in reversed(titles):
                if await self._fits(title, log_):
                    return Rests(title.seq, await Ended.open(self._objects, title.ended))
        except (SnapshotDamaged, OSError) as error:
            log.warning("jobs that have ended stay in memory: %s", error)
        return None

    async def newest(self, log_: Log, up_to: int | None = None) -> tuple[Partition, Position] | None:
        """The newest state that fits the log, at sequence `up_to` at most; None where none does.

        Whatever is wrong with a snapshot, the next older one is tried. Raises what reading the log raises.
        """
        last = await log_.last_seq()
        last = last if up_to is None else min(last, up_to)
        try:
            titles = await self.titles()
        except OSError as error:
            log.warning("no snapshot can be read: %s", error)
            return None
        for title in reversed(titles):
            if title.seq > last:
                if up_to is None:
                    log.warning("snapshot %s is passed over: the log ends at record %d", title.name, last)
                continue
            if not await self._fits(title, log_):
                log.warning("snapshot %s is passed over: record %d is another", title.name, title.seq)
                continue
            try:
                packed = await self._objects.get(title.name + _STATE)
                ended = await Ended.open(self._objects, title.ended)
                return restore(title, log_.epoch, _unpacked(packed), ended), title.position
            except (SnapshotDamaged, OSError) as error:
                log.warning("snapshot %s is passed over: %s", title.name, error)
        return None

    @staticmethod
    async def _fits(title: Title, log_: Log) -> bool:
        """Whether the log holds, where the snapshot was taken, the record that it was taken at."""
        if title.epoch > log_.epoch:
            return False
        async with aclosing(cast("AsyncGenerator[list[Stored]]", log_.read(title.seq))) as reading:
            async for some in reading:
                return some[0].seq == title.seq and digest(some[0].body) == title.digest
        return False


def _unpacked(packed: bytes) -> Iterator[bytes]:
    unpacking = zlib.decompressobj()
    for at in range(0, len(packed), 1 << 18):
        yield unpacking.decompress(packed[at : at + (1 << 18)])
    yield unpacking.flush()


async def recover(
    log_: Log, snapshots: Snapshots | None = None, up_to: int | None = None, stride: int = STRIDE
) -> tuple[Partition, Position]:
    """The state at the log's end, or at sequence `up_to`, from the newest snapshot that fits, else from none.

    Of every `stride` records that it has to fold, or as many as there are live jobs, it leaves a snapshot
    behind. Raises Violation where a record does not continue the log, and what reading the log raises. A log
    that ends earlier than its broker said when it was begun with is named in this process's log, and is no
    Violation: a broker that could not write may have told of what nobody was promised.
    """
    told = 0 if up_to is not None else await log_.last_seq()
    found = None if snapshots is None else await snapshots.newest(log_, up_to)
    state, at = found or (Partition(log_.partition, log_.epoch), Position())
    while snapshots is not None:
        last = await log_.last_seq() if up_to is None else up_to
        # Each snapshot writes all live jobs: the more there are, the further apart.
        step = max(stride, state.jobs.live)
        if last - at.seq < step:
            break
        at = await fold(state, at, log_, at.seq + step)
        try:
            await snapshots.put(state, at.epoch)
        except (OSError, SnapshotDamaged) as error:
            log.warning("no snapshot was taken at record %d: %s", at.seq, error)
            break
    at = await fold(state, at, log_, up_to)
    if at.seq < told:
        log.error(
            "the log of partition %d ends at record %d, and its broker told of record %d when its reading "
            "began: it was cut, or could not be written; `writ audit verify` tells whether what was signed "
            "is missing",
            *(log_.partition, at.seq, told),
        )
    return state, at


async def fold(state: Partition, at: Position, log_: Log, up_to: int | None = None) -> Position:
    """Folds the log behind `at` into the state; the position that it then has. Raises as `recover`."""
    if up_to is not None and at.seq >= up_to:
        return at
    async with aclosing(cast("AsyncGenerator[list[Stored]]", log_.read(at.seq + 1))) as reading:
        async for stored in reading:
            for message in stored:
                at = fold_one(state, at, message)
                if message.seq == up_to:
                    return at
    return at


def fold_one(state: Partition, at: Position, message: Stored) -> Position:
    """One stored message into the state. Raises Violation, TooNew."""
    record, at = link(at, message.seq, message.subject, message.body, state.number, state.epoch)
    if record.logic > LOGIC:
        raise TooNew(record.seq, f"logic {record.logic} of a newer Writ decided it; this one knows {LOGIC}")
    state.evolve(record)
    state.advance(record, at.digest)
    return at
