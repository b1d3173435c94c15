"""Reads a log once for all that fold it, and decodes each record once.

Who folds is a `Follower` with a position of its own. Those who are near each other share one reading, a
`_Feed`: a window of decoded records that moves with the slowest of them. One that holds the others up loses
its place and reads for itself until it is near them again, as does one that starts far behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from writ.broker.ports import Log, Stored
from writ.schemas.chain import Position, Violation, link_all
from writ.schemas.codec import CodecError, decode, digest
from writ.schemas.records import Record

if TYPE_CHECKING:
    from collections.abc import Generator

log = logging.getLogger("writ.projections")

WINDOW_RECORDS: Final = 16_384
WINDOW_BYTES: Final = 32 * 1024 * 1024
"""Of record bodies; decoded they take two to three times as much."""

REST_S: Final = 0.25
"""While nobody waits for them, records that follow others are gathered so long. Each view then stores one
batch in place of many, and one row for a job that came and went."""

STALL_S: Final = 5.0
"""A follower that others have waited for so long reads for itself. Shorter, and on a busy machine each view
would read and decode the log for itself, which makes it no less busy."""

QUIET_S: Final = 5.0
"""How often it is asked whether a log that brings nothing still is as long as it was."""

_TAIL: Final = 16
"""A part of so much of the window is kept behind all followers."""

_WORTH: Final = 4
"""A part of so much of the window is worth a batch, while the end of the log is far."""

_SHOWN: Final = 4_096
"""So many are decoded before followers are told of them, so that what came in one rest is one batch: told of
each part, every view folds a batch for each."""

_SLICE: Final = 1_024
"""Records decoded before the event loop gets its turn: a few milliseconds."""


class Halted(Exception):
    """A log and a follower do not belong together; the text says why, for people."""


class Batch(NamedTuple):
    """Records that follow each other, and the position behind the last."""

    records: Sequence[Record]
    end: Position

    def at(self, count: int) -> Position:
        """The position behind so many of the records, at least one."""
        if count >= len(self.records):
            return self.end
        last = self.records[count - 1]
        return Position(last.epoch, last.seq, self.records[count].prev)

    def digests(self) -> list[str]:
        """Of each record's bytes: the next one's `prev`."""
        return [*[record.prev for record in self.records[1:]], self.end.digest]

    def first(self, count: int) -> Batch:
        """So many of the records, at least one."""
        return Batch(self.records[:count], self.at(count))

    def rest(self, count: int) -> Batch:
        """All but so many of the records."""
        return Batch(self.records[count:], self.end)

    def only(self, index: int) -> Batch:
        """One of the records."""
        return Batch([self.records[index]], self.at(index + 1))


class Bodies(NamedTuple):
    """The bytes of records that follow each other, and the position behind the last."""

    bodies: Sequence[bytes]
    end: Position


class _Signal:
    """Wakes all that wait for it now."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def give(self) -> None:
        self._event.set()
        self._event.clear()

    async def wait(self) -> None:
        await self._event.wait()


class Follower:
    """One place in the reading of a log; `at` is the position behind what was handed out."""

    def __init__(self, feeds: Feeds, at: Position) -> None:
        self._feeds = feeds
        self._feed: _Feed | None = None
        self.at = at

    async def next(self, limit: int) -> Batch:
        """All records that have come behind `at`, at most `limit`; waits for one. Raises Halted."""
        return (await self._next(limit))[0]

    async def bodies(self, limit: int) -> Bodies:
        """The bytes of the records that `next` would hand out, in place of them; each has been checked."""
        return (await self._next(limit))[1]

    async def _next(self, limit: int) -> tuple[Batch, Bodies]:
        while True:
            feed = self._feed = self._feeds.place(self, self._feed)
            part = feed.behind(self.at, limit)
            if part is not None:
                batch, bodies = feed.cut(part)
                self.at = batch.end
                feed.trim()
                return batch, Bodies(bodies, batch.end)
            await feed.came.wait()

    def leave(self) -> None:
        """Gives the place up. `next` may take another."""
        feed, self._feed = self._feed, None
        self._feeds.coming.discard(self)
        if feed is not None:
            self._feeds.leave(self, feed)


class Feeds:
    """All readings of one log. `window` is in records, see the constants for the rest."""

    def __init__(
        self, source: Log, *, window: int = WINDOW_RECORDS, stall_s: float = STALL_S, quiet_s: float = QUIET_S
    ) -> None:
        self.log = source
        self.window = window
        self.stall_s = stall_s
        self.quiet_s = quiet_s
        self._feeds: list[_Feed] = []
        self.coming: set[Follower] = set()  # that have no place yet, and need what a reading still has
        self.last = 0  # of the log, when somebody last began to follow
        self._hurried = 0
        self.hurry = asyncio.Event()

    async def follow(self, at: Position) -> Follower:
        """A place behind a position. Raises Halted where the log ends before it, and what the log raises."""
        follower = Follower(self, at)
        self.coming.add(follower)
        try:
            self.last = await self.log.last_seq()
            if self.last < at.seq:
                raise Halted(_cut(self.last, at.seq))
        except BaseException:
            self.coming.discard(follower)
            raise
        return follower

    @contextmanager
    def hurried(self) -> Generator[None]:
        """While somebody waits for the newest records nobody rests."""
        self._hurried += 1
        self.hurry.set()
        try:
            yield
        finally:
            self._hurried -= 1
            if not self._hurried:
                self.hurry.clear()

    @property
    def readings(self) -> int:
        return len(self._feeds)

    async def close(self) -> None:
        """Ends all reading. Followers must have left."""
        tasks = [task for feed in self._feeds for task in feed.end()]
        self._feeds = []
        await asyncio.gather(*tasks, return_exceptions=True)

    def place(self, follower: Follower, feed: _Feed | None) -> _Feed:
        """The reading for a follower: its own, or one that is further and covers its place too."""
        if feed is not None and follower in feed.followers and len(self._feeds) == 1:
            return feed
        able = [each for each in self._feeds if each is feed or each.covers(follower.at.seq)]
        if feed is not None and follower not in feed.followers:
            able.remove(feed)  # it has moved on without this one
        best = max(able, key=lambda each: each.newest, default=None)  # of equals the first, so that all meet
        if best is None:
            best = _Feed(self, follower.at.seq)
            self._feeds.append(best)
        if best is not feed and feed is not None:
            self.leave(follower, feed)
        best.followers.add(follower)
        self.coming.discard(follower)
        return best

    def leave(self, follower: Follower, feed: _Feed) -> None:
        feed.followers.discard(follower)
        if feed.followers:
            feed.trim()
        elif feed in self._feeds:
            self._feeds.remove(feed)
            feed.end()


class _Feed:
    """One reading: the records behind sequence `base` that somebody still needs, as far as they were read."""

    def __init__(self, feeds: Feeds, base: int) -> None:
        self._feeds = feeds
        self._log = feeds.log
        self.base = base
        self._before: Position | None = None if base else Position()
        self._end = self._before
        self._records: list[Record] = []
        self._bodies: list[bytes] = []
        self._size = 0
        self._fault: str | None = None
        self.followers: set[Follower] = set()
        self.came = _Signal()
        self._room = _Signal()
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._watch())]

    @property
    def newest(self) -> int:
        """The sequence of the newest record that was read, as far as this can tell."""
        return self.base + len(self._records)

    @property
    def full(self) -> bool:
        return len(self._records) >= self._feeds.window or self._size >= WINDOW_BYTES

    def covers(self, seq: int) -> bool:
        """Whether a follower that stands there will find what it needs."""
        return self._fault is None and self.base <= seq <= self.newest + self._feeds.window

    def behind(self, at: Position, limit: int) -> slice | None:
        """Where the records behind a position are; None where they are still to come. Raises Halted."""
        index = at.seq - self.base
        known = self._at(index) if index <= len(self._records) else None
        if known is not None:
            if known.digest != at.digest:
                reason = f"record {at.seq} of the log is another than the view has read"
                raise Halted(f"{reason}: the log was cut, restored or made anew under the view")
            ready = len(self._records) - index
            far = self.newest < self._feeds.last and self._fault is None and not self.full
            if ready and not (far and ready < self._feeds.window // _WORTH):
                return slice(index, index + limit)
        if self._fault is not None:
            raise Halted(self._fault)
        return None

    def _at(self, index: int) -> Position | None:
        """The position behind so many records of the window; None where that is not known yet."""
        if not index or self._end is None:
            return self._before
        return Batch(self._records, self._end).at(index)

    def cut(self, part: slice) -> tuple[Batch, Sequence[bytes]]:
        """A part of the window, as records and as they are stored."""
        assert self._end is not None, "there are records in it"
        end = Batch(self._records, self._end).at(part.stop)
        return Batch(self._records[part], end), self._bodies[part]

    def trim(self) -> None:
        """Forgets what all followers have, but for a tail, in which those of another reading find a place."""
        have = min([follower.at.seq for follower in self.followers], default=self.newest)
        have = min([have, *[each.at.seq for each in self._feeds.coming if each.at.seq >= self.base]])
        tail = self._feeds.window // _TAIL if self._size < WINDOW_BYTES // 2 else 0
        count = min(have, self.newest - tail) - self.base
        if count <= 0:
            return
        self._before = self._at(count)
        self._size -= sum([len(body) for body in self._bodies[:count]])
        del self._records[:count], self._bodies[:count]
        self.base += count
        self._room.give()

    def end(self) -> list[asyncio.Task[None]]:
        """Cancels the reading."""
        for task in self._tasks:
            task.cancel()
        return self._tasks

    # --- reading ----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while self._fault is None:
            try:
                await self._read()
            except Violation as violation:
                self._fail(str(violation))
            except Exception as error:
                log.warning("the log could not be read for the views, and is read again: %r", error)
            await asyncio.sleep(REST_S)

    async def _read(self) -> None:
        """Returns where there is a fault. Raises what the log raises."""
        begun = self.newest == 0
        lists: Any = self._log.read(max(1, self.newest), follow=True)
        async with aclosing(lists) as stored_lists:
            async for stored in stored_lists:
                if begun:
                    await self._take(stored)
                else:
                    begun = True
                    self._begin(stored[0])
                    await self._take(stored[1:])
                if self._fault is not None:
                    return
                await self._rest()

    def _begin(self, stored: Stored) -> None:
        """The record behind which the reading goes on: views compare its digest with the one they know."""
        known = self._end
        if stored.seq != self.newest:
            self._fail(f"record {self.newest}: missing; the log begins with sequence {stored.seq}")
        elif known is None:
            try:
                epoch = decode(stored.body).epoch
                self._before = self._end = Position(epoch, stored.seq, digest(stored.body))
            except CodecError as error:
                self._fail(f"record {stored.seq}: {error}")
        elif digest(stored.body) != known.digest:
            self._fail(f"record {stored.seq} of the log is another than it was")
        self.came.give()  # who knows another record there is told, though nothing may follow

    async def _take(self, stored: Sequence[Stored]) -> None:
        for start in range(0, len(stored), _SHOWN):
            if self._fault is not None:
                return
            await self._decode(stored[start : start + _SHOWN])
            self.came.give()
            await asyncio.sleep(0)
            await self._make_room()

    async def _decode(self, stored: Sequence[Stored]) -> None:
        end = self._end
        assert end is not None, "it begins behind a record that is known"
        records: list[Record] = []
        try:
            for start in range(0, len(stored), _SLICE):
                part = stored[start : start + _SLICE]
                end = link_all(end, part, self._log.partition, self._log.epoch, records)
                await asyncio.sleep(0)
        except Violation as violation:
            self._fail(str(violation))
            if records:
                last = records[-1]
                end = Position(last.epoch, last.seq, digest(stored[len(records) - 1].body))
        bodies = [each.body for each in stored[: len(records)]]
        self._end = end
        self._size += sum([len(body) for body in bodies])
        self._records += records
        self._bodies += bodies

    def _fail(self, reason: str) -> None:
        self._fault = reason
        self.came.give()

    async def _make_room(self) -> None:
        """Returns when the window is not full. Who alone keeps it so loses its place."""
        while self.full:
            try:
                async with asyncio.timeout(self._feeds.stall_s):
                    await self._room.wait()
            except TimeoutError:
                behind = {each for each in self.followers if each.at.seq == self.base}
                if any(each.at.seq >= self.newest for each in self.followers):
                    self.followers -= behind
                    self._feeds.coming.clear()
                    self.trim()

    async def _rest(self) -> None:
        if self.newest < self._feeds.last or self._feeds.hurry.is_set():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(REST_S):
                await self._feeds.hurry.wait()

    async def _watch(self) -> None:
        """Notices a log that has become shorter, which brings nothing."""
        newest = -1
        while True:
            await asyncio.sleep(self._feeds.quiet_s)
            if newest == self.newest:
                try:
                    last = await self._log.last_seq()
                except Exception as error:  # the reading itself waits for the broker
                    log.info("the log's last sequence is not known: %r", error)
                    continue
                if last < newest:
                    self._fail(_cut(last, newest))
            newest = self.newest


def _cut(last: int, position: int) -> str:
    return f"the log ends at record {last}, before the view's position {position}"
