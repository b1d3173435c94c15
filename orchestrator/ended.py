"""Jobs that have ended, outside memory: files that are written once, sorted, and asked by key.

A part is two objects: blocks of jobs as lines of JSON, compressed, and an index, which is all that is held in
memory of it: ten bytes a job. A snapshot names its parts and the digest of each index, and an index has the
digest of each block. So a start reads the indexes alone, and a block that is not as it was written is found
when it is read.
"""

from __future__ import annotations

import hashlib
import heapq
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

import msgspec

from writ.broker.objects import Objects, Opened
from writ.schemas.lifecycle import TERMINAL, Job, State
from writ.schemas.sealed import UNSEALED

BLOCK_ROWS: Final = 16
"""Jobs that are read together: to find one, half of them are unpacked in vain."""

ALIKE: Final = 3
"""So many parts may be about as long as the next one: then they are merged with it, to one some four times as
long. A job is so written anew once for each four times as many that have ended."""

_LEVEL: Final = 1
_MARK_BYTES: Final = 16
_SEALED: Final = 0x80
_KINDS: Final = {state: number for number, state in enumerate(sorted(TERMINAL))}

encode_job: Final = msgspec.json.Encoder().encode
decode_job: Final = msgspec.json.Decoder(Job).decode


class SnapshotDamaged(ValueError):
    """The bytes of a snapshot are not those that its title names."""


class Part(msgspec.Struct, frozen=True):
    """A part as a snapshot names it: `index` is the digest of its index, `fresh` of its `rows` are jobs that
    no older part has."""

    name: str
    rows: int
    fresh: int
    index: str

    @property
    def blocks_name(self) -> str:
        return f"{self.name}.ended"

    @property
    def index_name(self) -> str:
        return f"{self.name}.index"


class _Row(NamedTuple):
    """One job of a part: where it is sorted in, of what kind it is, and its JSON."""

    hash: int
    kind: int
    body: bytes


def _hash(place: str) -> int:
    return int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest())


class _Address(msgspec.Struct, frozen=True, gc=False):
    tenant: str
    key: str


_decode_address: Final = msgspec.json.Decoder(_Address).decode


def _place(body: bytes) -> str:
    address = _decode_address(body)
    return f"{address.tenant}.{address.key}"


def in_order_of_rest(places: Iterable[str]) -> list[str]:
    """Addresses as they follow each other in a part: asked for so, each block is unpacked once."""
    return sorted(places, key=_hash)


def _row(place: str, job: Job) -> _Row:
    sealed = 0 if job.input.key == UNSEALED else _SEALED
    return _Row(_hash(place), _KINDS[job.state] | sealed, encode_job(job))


class OpenPart:
    """A part that can be asked. Raises SnapshotDamaged where index or blocks are not what they were."""

    def __init__(self, part: Part, index: bytes, blocks: Opened) -> None:
        self.part = part
        count = -(-part.rows // BLOCK_ROWS)
        if hashlib.sha256(index).hexdigest() != part.index:
            raise SnapshotDamaged(f"the index of ended jobs {part.name} holds other bytes than were put")
        view = memoryview(index)
        ends = 8 * part.rows, 8 * (part.rows + count + 1), 8 * (part.rows + count + 1) + _MARK_BYTES * count
        self._hashes = view[: ends[0]].cast("Q")
        self._offsets = view[ends[0] : ends[1]].cast("Q")
        self._marks = view[ends[1] : ends[2]]
        self.kinds = index[ends[2] :]
        self._blocks = blocks
        self._newest: tuple[int, list[bytes]] = (-1, [])
        """The block that was read last."""

    def row(self, place: str, hash_: int) -> bytes | None:
        """The JSON of a job; None where it is not in here."""
        at = bisect_left(self._hashes, hash_)
        while at < self.part.rows and self._hashes[at] == hash_:
            body = self._lines(at // BLOCK_ROWS)[at % BLOCK_ROWS]
            if _place(body) == place:
                return body
            at += 1
        return None

    def may_have(self, hash_: int) -> bool:
        """False where it surely has no job of that hash."""
        at = bisect_left(self._hashes, hash_)
        return at < self.part.rows and self._hashes[at] == hash_

    def rows(self, kinds: bytes) -> Iterator[_Row]:
        """Those of some kinds, by hash."""
        wanted = self.kinds.translate(bytes([number in kinds for number in range(256)]))
        at = wanted.find(1)
        while at >= 0:
            block = at // BLOCK_ROWS
            start = block * BLOCK_ROWS
            lines = self._lines(block)
            for each in range(at, min(start + BLOCK_ROWS, self.part.rows)):
                if wanted[each]:
                    yield _Row(self._hashes[each], self.kinds[each], lines[each - start])
            at = wanted.find(1, start + BLOCK_ROWS)

    def _lines(self, block: int) -> list[bytes]:
        if self._newest[0] == block:
            return self._newest[1]
        start, end = self._offsets[block], self._offsets[block + 1]
        packed = self._blocks.piece(start, end - start)
        if _mark(packed) != bytes(self._marks[_MARK_BYTES * block : _MARK_BYTES * (block + 1)]):
            raise SnapshotDamaged(
                f"block {block} of ended jobs {self.part.name} holds other bytes than were put there"
            )
        self._newest = block, zlib.decompress(packed).split(b"\n")
        return self._newest[1]


def _mark(packed: bytes) -> bytes:
    return hashlib.sha256(packed).digest()[:_MARK_BYTES]


_ALL_KINDS: Final = bytes(range(256))


class Ended:
    """The jobs of several parts, oldest part first: of a job that is in two, the newer one's counts."""

    def __init__(self, parts: Sequence[OpenPart] = ()) -> None:
        self.parts = tuple(parts)

    @classmethod
    async def open(cls, objects: Objects, parts: Iterable[Part]) -> Ended:
        """Raises SnapshotDamaged, OSError."""
        return cls([await _open(objects, part) for part in parts])

    def __len__(self) -> int:
        return sum([each.part.fresh for each in self.parts])

    def row(self, place: str) -> bytes | None:
        """The JSON of a job; None where none of the parts has it."""
        if not self.parts:
            return None
        hash_ = _hash(place)
        for part in reversed(self.parts):
            found = part.row(place, hash_)
            if found is not None:
                return found
        return None

    def get(self, place: str) -> Job | None:
        """A job by its address."""
        body = self.row(place)
        return None if body is None else decode_job(body)

    def walk(self, states: Collection[State] = TERMINAL, *, sealed: bool = False) -> Iterator[Job]:
        """The jobs that ended in these states; with `sealed` those alone whose content is."""
        numbers = [_KINDS[state] for state in states if state in _KINDS]
        kinds = bytes([n | _SEALED for n in numbers] + ([] if sealed else numbers))
        for age, part in enumerate(self.parts):
            newer = self.parts[age + 1 :]
            for row in part.rows(kinds):
                job = decode_job(row.body)
                place = f"{job.tenant}.{job.key}"
                if all(each.row(place, row.hash) is None for each in newer):
                    yield job


def _size(rows: int) -> int:
    """Grows by one where there are four times as many."""
    return rows.bit_length() // 2


async def _open(objects: Objects, part: Part) -> OpenPart:
    return OpenPart(part, await objects.get(part.index_name), await objects.open(part.blocks_name))


async def add(objects: Objects, name: str, jobs: dict[str, Job], to: Ended) -> Ended:
    """Puts a part with these jobs, and with those of the last parts where several are no longer than it.

    Durable on return; nothing is deleted. Raises OSError, SnapshotDamaged.
    """
    if not jobs:
        return to
    kept, rows = list(to.parts), len(jobs)
    merged: list[OpenPart] = []
    while len(kept) >= ALIKE and all(_size(each.part.rows) <= _size(rows) for each in kept[-ALIKE:]):
        rows += sum([each.part.rows for each in kept[-ALIKE:]])
        merged += reversed(kept[-ALIKE:])
        del kept[-ALIKE:]
    own = sorted([_row(place, job) for place, job in jobs.items()], key=itemgetter(0))
    writing = _Writing(_newest([own, *[each.rows(_ALL_KINDS) for each in merged]]), kept)
    await objects.put(f"{name}.ended", writing)
    index = writing.index()
    part = Part(name, writing.count, writing.fresh, hashlib.sha256(index).hexdigest())
    await objects.put(part.index_name, (index,))
    return Ended([*kept, await _open(objects, part)])


def _newest(sources: list[Iterable[_Row]]) -> Iterator[_Row]:
    """All rows by hash; of a job that is in several sources, the row of the first."""

    def numbered(age: int, rows: Iterable[_Row]) -> Iterator[tuple[int, int, _Row]]:
        return ((row.hash, age, row) for row in rows)

    merged = heapq.merge(*[numbered(age, rows) for age, rows in enumerate(sources)], key=itemgetter(0, 1))
    for _, group in groupby(merged, key=itemgetter(0)):
        same = [row for _, _, row in group]
        if len(same) == 1:
            yield same[0]
        else:
            yield from {_place(row.body): row for row in reversed(same)}.values()


class _Writing:
    """Blocks of rows as they are put, and what the index needs to know of them."""

    def __init__(self, rows: Iterable[_Row], older: Sequence[OpenPart]) -> None:
        self._rows = rows
        self._older = older
        self._hashes = array("Q")
        self._kinds = bytearray()
        self._offsets = array("Q", [0])
        self._marks = bytearray()
        self.fresh = 0

    @property
    def count(self) -> int:
        return len(self._kinds)

    def __iter__(self) -> Iterator[bytes]:
        block: list[bytes] = []
        for row in self._rows:
            self._hashes.append(row.hash)
            self._kinds.append(row.kind)
            self.fresh += not any(
                each.may_have(row.hash) and each.row(_place(row.body), row.hash) is not None
                for each in self._older
            )
            block.append(row.body)
            if len(block) == BLOCK_ROWS:
                yield self._pack(block)
                block.clear()
        if block:
            yield self._pack(block)

    def _pack(self, block: list[bytes]) -> bytes:
        packed = zlib.compress(b"\n".join(block), _LEVEL)
        self._offsets.append(self._offsets[-1] + len(packed))
        self._marks += _mark(packed)
        return packed

    def index(self) -> bytes:
        """Of all that was written."""
        return b"".join((self._hashes.tobytes(), self._offsets.tobytes(), self._marks, self._kinds))
