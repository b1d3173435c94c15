"""The state of a partition at one sequence, kept outside the log so that a start need not fold all of it.

A snapshot is two objects: the state as lines of JSON, compressed, and then its title, which says at which
record of which log it was taken and what its bytes must be. One without a title is unfinished. A title that
does not fit the log, or that another version of the code has written, is passed over: the log is the truth.
"""

from __future__ import annotations

import hashlib
import logging
import re
import zlib
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from functools import cache
from pathlib import Path
from typing import Final, cast

import msgspec
import msgspec.inspect

from writ.broker.objects import FolderObjects, Objects
from writ.broker.ports import Log, Stored
from writ.schemas.assets import Asset
from writ.schemas.chain import Position, link
from writ.schemas.codec import digest
from writ.schemas.events import HoldPlaced
from writ.schemas.lifecycle import Job
from writ.schemas.links import Afar, Mark, MessageSettled
from writ.schemas.operations import Operation
from writ.schemas.prices import Prices
from writ.schemas.principals import Principal
from writ.schemas.queues import Queue
from writ.schemas.quotas import Account
from writ.schemas.records import LOGIC, Source
from writ.schemas.schedules import Schedule
from writ.schemas.tenants import Tenant

from .relations import Batch
from .state import Partition

log = logging.getLogger("writ.orchestrator")

FOLD: Final = 1
"""Version of the fold. Raise it when `evolve` would make another state of the same records."""

KEPT: Final = 2
_STATE: Final = ".state"
_TITLE: Final = ".json"
_LINES_AT_ONCE: Final = 500
_LEVEL: Final = 1
_encode = msgspec.json.Encoder().encode
_decode_job = msgspec.json.Decoder(Job).decode


class SnapshotDamaged(ValueError):
    """The bytes of a snapshot are not those that its title names."""


class Title(msgspec.Struct, frozen=True):
    """What is known of a snapshot without reading it.

    `digest` is that of the record at `seq`, `epoch` that record's; `state` is SHA-256 of the uncompressed
    lines. `proven` says that a fold of the archive up to `seq` came to the same lines.
    """

    partition: int
    epoch: int
    seq: int
    digest: str
    fold: str
    state: str
    size_bytes: int
    proven: bool = False

    @property
    def name(self) -> str:
        return f"{self.seq:020}"

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq, self.digest)


class _Rest(msgspec.Struct):
    """A partition's state apart from its jobs."""

    at: int
    source: Source
    sources: dict[str, Source]
    leader: str | None
    queues: dict[str, Queue]
    operations: dict[str, Operation]
    schedules: dict[str, Schedule]
    batches: dict[str, Batch]
    turns: dict[str, dict[str, int]]
    long: dict[str, int]
    partitions: int
    afar: dict[str, Afar]
    watched: dict[str, dict[int, int]]
    sent: dict[int, Mark]
    settled: dict[int, MessageSettled]
    accepted: dict[int, Mark]
    unheard_of: dict[str, int]
    erased: dict[str, int]
    holds: dict[str, HoldPlaced]
    prices: dict[str, Prices]
    tenants: dict[str, Tenant]
    accounts: dict[str, Account]
    assets: dict[str, Asset]
    adopted: dict[str, dict[int, int]]
    governed: dict[str, int]
    principals: dict[str, Principal]
    hosted: dict[str, Principal]


_decode_rest = msgspec.json.Decoder(_Rest).decode


@cache
def fold_version() -> str:
    """What wrote a snapshot: the fold, the deciding code, and the shape of the state."""
    shape = re.sub(" at 0x[0-9a-f]+", "", repr(msgspec.inspect.multi_type_info((Job, _Rest))))
    return f"fold {FOLD}, logic {LOGIC}, shape {hashlib.sha256(shape.encode()).hexdigest()[:16]}"


def lines(state: Partition) -> Iterator[bytes]:
    """The state as lines of JSON, the same for the same fold. The state must not change meanwhile."""
    links = state.links
    rest = _Rest(
        state.at,
        state.source,
        state.sources,
        state.leader,
        state.queues,
        state.operations,
        state.schedules,
        state.relations.batches,
        {place: dict(sorted(turns.items())) for place, turns in sorted(state.turns().items())},
        state.long,
        links.partitions,
        links.afar,
        links.watched,
        links.sent,
        links.settled,
        links.accepted,
        links.unheard_of.armed_times(),
        state.erased,
        state.holds,
        state.prices,
        state.tenants,
        state.accounts,
        state.assets,
        links.adopted,
        state.governed,
        state.principals,
        state.hosted,
    )
    yield _encode(rest) + b"\n"
    some: list[bytes] = []
    for job in state.jobs.values():
        some += (_encode(job), b"\n")
        if len(some) >= 2 * _LINES_AT_ONCE:
            yield b"".join(some)
            some.clear()
    yield b"".join(some)


def state_digest(state: Partition) -> str:
    """SHA-256 over the lines."""
    hashed = hashlib.sha256()
    for part in lines(state):
        hashed.update(part)
    return hashed.hexdigest()


def restore(title: Title, epoch: int, parts: Iterable[bytes]) -> Partition:
    """The state that the lines tell, in a log of that epoch. Raises SnapshotDamaged."""
    state = Partition(title.partition, epoch)
    hashed = hashlib.sha256()
    rest: _Rest | None = None
    left = b""
    try:
        for part in parts:
            hashed.update(part)
            *whole, left = (left + part).split(b"\n")
            for line in whole:
                if rest is None:
                    rest = _decode_rest(line)
                else:
                    job = _decode_job(line)
                    state.put(f"{job.tenant}.{job.key}", job)
    except (msgspec.MsgspecError, zlib.error) as error:
        raise SnapshotDamaged(f"snapshot {title.name} cannot be read: {error}") from error
    if rest is None or left or hashed.hexdigest() != title.state:
        raise SnapshotDamaged(f"snapshot {title.name} holds other bytes than were put there")
    _put_rest(state, rest)
    state.seq, state.prev = title.seq, title.digest
    return state


def _put_rest(state: Partition, rest: _Rest) -> None:
    state.at, state.source, state.leader = rest.at, rest.source, rest.leader
    state.sources |= rest.sources
    state.queues |= rest.queues
    state.operations |= rest.operations
    for place, schedule in rest.schedules.items():
        state.schedules[place] = schedule
        state.rearm_schedule(place)
    state.relations.batches |= rest.batches
    for place, turns in rest.turns.items():
        state.take_turns(place, turns)
    state.long |= rest.long
    state.erased |= rest.erased
    state.holds |= rest.holds
    state.prices |= rest.prices
    state.tenants |= rest.tenants
    state.accounts |= rest.accounts
    state.assets |= rest.assets
    state.governed |= rest.governed
    state.principals |= rest.principals
    state.hosted |= rest.hosted
    state.access_changes += 1
    links = state.links
    links.partitions = rest.partitions
    links.afar |= rest.afar
    links.watched |= rest.watched
    links.adopted |= rest.adopted
    links.sent |= rest.sent
    links.settled |= rest.settled
    links.accepted |= rest.accepted
    for place, at in rest.unheard_of.items():
        links.unheard_of.set(place, at)


class Snapshots:
    """The snapshots of one partition."""

    def __init__(self, objects: Objects, partition: int) -> None:
        self._objects = objects
        self._partition = partition

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
            if title.partition == self._partition and title.fold == fold_version():
                found.append(title)
        return found

    async def put(self, state: Partition, epoch: int, *, proven: bool = False) -> Title:
        """Stores the state; `epoch` is that of its newest record. Durable on return. Raises OSError."""
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
            fold_version(),
            hashed.hexdigest(),
            size_bytes,
            proven,
        )
        await self._objects.put(name + _TITLE, (_encode(title),))
        return title

    async def prune(self) -> None:
        """Deletes all but the newest few and the newest proven one. Raises OSError."""
        titles = await self.titles()
        kept = {title.name for title in titles[-KEPT:]}
        kept |= {title.name for title in [t for t in titles if t.proven][-1:]}
        for name in await self._objects.names():
            if name.partition(".")[0] not in kept:
                await self._objects.delete(name)

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
                return restore(title, log_.epoch, _unpacked(packed)), title.position
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
    log_: Log, snapshots: Snapshots | None = None, up_to: int | None = None
) -> tuple[Partition, Position]:
    """The state at the log's end, or at sequence `up_to`, from the newest snapshot that fits, else from none.

    Raises Violation where a record does not continue the log, and what reading the log raises.
    """
    found = None if snapshots is None else await snapshots.newest(log_, up_to)
    state, at = found or (Partition(log_.partition, log_.epoch), Position())
    at = await fold(state, at, log_, up_to)
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
    """One stored message into the state. Raises Violation."""
    record, at = link(at, message.seq, message.subject, message.body, state.number, state.epoch)
    state.evolve(record)
    state.advance(record, at.digest)
    return at
