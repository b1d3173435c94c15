"""Finished history outside the broker, and a log that spans both.

An archive is a row of segments. Each holds a whole range of the log, compressed, with the checksum of its
bytes, that of the segment before, and the digests by which its records continue the log's own chain.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, Protocol, cast

import msgspec

from writ.schemas.codec import digest
from writ.schemas.records import GENESIS

from .memory import matches
from .objects import FolderObjects, Objects
from .ports import Log, Message, OutcomeUnknown, Stored

SEGMENT_MAX_RECORDS: Final = 10_000
SEGMENT_MAX_BYTES: Final = 16 * 1024 * 1024
"""Of the bodies of a segment's records; a reader holds one segment in memory."""

_SUFFIX: Final = ".segment"
_FORMAT: Final = 1
_LEVEL: Final = 6
_MARKS: Final = 65_536
_HEAD_BYTES: Final = 32 * 1024
"""More than a segment's first line weighs."""

_LIST_MAX: Final = 1_000
_SILENT_S: Final = 0.5
"""Between two questions to a broker that does not answer."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Stored]).decode


class ArchiveDamaged(Exception):
    """A segment is not what was put there, or is missing. The text says which, and what to do."""


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a segment's object.

    `prev` is the digest of the record before `first`, `digest` that of `last`; `before` is the `checksum` of
    the segment before. `marks` is a set of bits, one for each subject in it, by the subject's CRC-32: who
    looks for one job passes over most segments that do not tell of it.
    """

    format: int = _FORMAT
    partition: int
    first: int
    last: int
    prev: str
    digest: str
    before: str
    checksum: str
    size_bytes: int
    marks: bytes

    @property
    def name(self) -> str:
        return f"{self.first:020}{_SUFFIX}"

    def may_hold(self, subjects: Sequence[str]) -> bool:
        """Whether a record under any of the subjects, or patterns, may be in it."""
        return not subjects or any("*" in s or ">" in s or self._marked(s) for s in subjects)

    def _marked(self, subject: str) -> bool:
        mark = _mark(subject)
        return bool(self.marks[mark >> 3] & (1 << (mark & 7)))


def _mark(subject: str) -> int:
    return zlib.crc32(subject.encode()) % _MARKS


class Archive:
    """A partition's segments, from sequence 1 on without a gap. One process at a time may `add`."""

    def __init__(self, objects: Objects, partition: int) -> None:
        self.partition = partition
        self.segments: list[Segment] = []
        self._objects = objects

    @property
    def last(self) -> int:
        """The sequence of the newest archived record, as of the last `refresh`; 0 before the first."""
        return self.segments[-1].last if self.segments else 0

    @property
    def digest(self) -> str:
        """Of the newest archived record."""
        return self.segments[-1].digest if self.segments else GENESIS

    async def refresh(self) -> None:
        """Takes notice of segments that were added. Raises ArchiveDamaged, OSError."""
        known = {segment.name for segment in self.segments}
        for name in await self._objects.names():
            if name.endswith(_SUFFIX) and name not in known:
                head, _ = await self._open(name, _HEAD_BYTES)
                self._append(name, head)

    def _append(self, name: str, segment: Segment) -> None:
        before = self.segments[-1].checksum if self.segments else ""
        if segment.name != name or segment.first != self.last + 1:
            raise ArchiveDamaged(self._say(name, f"begins at record {segment.first}, not {self.last + 1}"))
        if segment.prev != self.digest or segment.before != before:
            raise ArchiveDamaged(self._say(name, "does not continue the segment before it"))
        self.segments.append(segment)

    def _say(self, name: str, what: str) -> str:
        return (
            f"segment {name} of the archive of partition {self.partition} {what}; "
            "put the archive back as it was, from a copy"
        )

    async def _open(self, name: str, size_bytes: int | None = None) -> tuple[Segment, bytes]:
        try:
            line, _, body = (await self._objects.get(name, size_bytes)).partition(b"\n")
            segment = msgspec.json.decode(line, type=Segment)
        except FileNotFoundError as missing:
            raise ArchiveDamaged(self._say(name, "is missing")) from missing
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ArchiveDamaged(self._say(name, f"cannot be read: {error}")) from error
        if segment.format != _FORMAT or segment.partition != self.partition:
            what = f"is of partition {segment.partition}, in format {segment.format}"
            raise ArchiveDamaged(self._say(name, what))
        return segment, body

    async def read(self, segment: Segment) -> list[Stored]:
        """The records of a segment. Raises ArchiveDamaged, OSError."""
        found, body = await self._open(segment.name)
        messages = await asyncio.to_thread(self._unpack, segment, body)
        if found != segment or messages is None:
            raise ArchiveDamaged(self._say(segment.name, "holds other bytes than were put there"))
        return messages

    @staticmethod
    def _unpack(segment: Segment, body: bytes) -> list[Stored] | None:
        if hashlib.sha256(body).hexdigest() != segment.checksum:
            return None
        messages = _decode(zlib.decompress(body))
        whole = [message.seq for message in messages] == list(range(segment.first, segment.last + 1))
        return messages if whole and digest(messages[-1].body) == segment.digest else None

    async def add(self, messages: Sequence[Stored]) -> Segment:
        """Puts the next records of the log as a segment. Durable on return. Raises OSError."""
        assert messages[0].seq == self.last + 1, "a segment continues the one before"
        body = await asyncio.to_thread(lambda: zlib.compress(_encode(messages), _LEVEL))
        marks = bytearray(_MARKS // 8)
        for message in messages:
            mark = _mark(message.subject)
            marks[mark >> 3] |= 1 << (mark & 7)
        segment = Segment(
            partition=self.partition,
            first=messages[0].seq,
            last=messages[-1].seq,
            prev=self.digest,
            digest=digest(messages[-1].body),
            before=self.segments[-1].checksum if self.segments else "",
            checksum=hashlib.sha256(body).hexdigest(),
            size_bytes=sum([len(message.body) for message in messages]),
            marks=bytes(marks),
        )
        await self._objects.put(segment.name, (msgspec.json.encode(segment), b"\n", body))
        self._append(segment.name, segment)
        return segment

    async def drop(self, after: int) -> None:
        """Deletes the segments that begin behind record `after`. Raises OSError."""
        while self.segments and self.segments[-1].first > after:  # newest first: never is there a gap
            await self._objects.delete(self.segments[-1].name)
            self.segments.pop()

    async def lists(self, start: int, subjects: Sequence[str] = ()) -> AsyncGenerator[list[Stored]]:
        """Archived records from sequence `start` on, as lists; of `subjects` only, where some are named."""
        place = bisect_left(self.segments, start, key=lambda segment: segment.last)
        for segment in self.segments[place:]:
            if not segment.may_hold(subjects):
                continue
            messages = (await self.read(segment))[max(0, start - segment.first) :]
            if subjects:
                messages = [m for m in messages if any(matches(s, m.subject) for s in subjects)]
            for at in range(0, len(messages), _LIST_MAX):
                yield messages[at : at + _LIST_MAX]


class LiveLog(Log, Protocol):
    """A log whose beginning can be let go, once it is kept elsewhere."""

    async def first_seq(self) -> int:
        """The sequence of the oldest record that is still there; one after the last where none is.

        Raises OutcomeUnknown; so does `trim`.
        """
        ...

    async def trim(self, up_to: int) -> None:
        """Lets go of the records up to and including sequence `up_to`."""
        ...


class ArchivedLog:
    """A `Log` whose reads span the archive and what is left in the broker.

    Its reads raise ArchiveDamaged too, where records are in neither of the two.
    """

    def __init__(self, live: LiveLog, archive: Archive) -> None:
        self.live = live
        self.archive = archive

    @classmethod
    def beside(cls, directory: Path, live: LiveLog) -> ArchivedLog:
        """Over the archive that is kept in a node's directory."""
        objects = FolderObjects(directory / "archive" / str(live.partition))
        return cls(live, Archive(objects, live.partition))

    @property
    def partition(self) -> int:
        return self.live.partition

    @property
    def epoch(self) -> int:
        return self.live.epoch

    async def last_seq(self) -> int:
        return await self.live.last_seq()

    async def append(self, messages: Sequence[Message], after: int, *, whole: bool = False) -> None:
        await self.live.append(messages, after, whole=whole)

    def read(
        self, start: int = 1, subjects: Sequence[str] = (), *, follow: bool = False
    ) -> AsyncIterator[list[Stored]]:
        return self._read(max(1, start), subjects, follow)

    async def _read(self, at: int, subjects: Sequence[str], follow: bool) -> AsyncGenerator[list[Stored]]:
        last = None if follow else await self.live.last_seq()
        while last is None or at <= last:
            if await self._is_trimmed(at, follow):
                await self._find(at)
                upto = self.archive.last  # another reader may find more of it meanwhile
                async for messages in self.archive.lists(at, subjects):
                    yield messages
                at = upto + 1
                continue
            # What is let go while it is being read is passed over without a word: then what came before the
            # gap is the archive's, and the reading begins anew.
            reading = cast("AsyncGenerator[list[Stored]]", self.live.read(at, subjects, follow=follow))
            async with aclosing(reading):
                async for messages in reading:
                    whole = messages[-1].seq - at + 1 == len(messages)
                    if not whole and await self._is_trimmed(at, follow):
                        break
                    yield messages
                    at = messages[-1].seq + 1
                else:
                    if not await self._is_trimmed(at, follow):
                        return

    async def _is_trimmed(self, at: int, follow: bool) -> bool:
        """Whether the record is in the broker no more. Who follows waits for a broker that is silent."""
        while True:
            try:
                return at < await self.live.first_seq()
            except OutcomeUnknown:
                if not follow:
                    raise
                await asyncio.sleep(_SILENT_S)

    async def _find(self, at: int) -> None:
        """Takes notice of the segment that has the record. Raises ArchiveDamaged where none has."""
        if self.archive.last < at:
            await self.archive.refresh()
        if self.archive.last < at:
            raise ArchiveDamaged(
                f"record {at} of partition {self.partition} is in the log no more, and its archive ends at "
                f"record {self.archive.last}; put the archive back as it was, from a copy"
            )
