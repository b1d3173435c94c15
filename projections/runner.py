"""Keeps a view in step with its log: exactly once, and halting rather than guessing.

The rows of a batch of records and the position behind it are written in one SQLite transaction, so that a
view is always the fold of the log up to its position. To rebuild a view, close it, `forget` its file and open
it anew.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import aiosqlite

from writ.broker.ports import Log, Stored
from writ.schemas.chain import Position, Violation, link
from writ.schemas.codec import digest
from writ.schemas.records import Record, Source

BATCH_MAX_RECORDS = 1_024
BATCH_MAX_BYTES = 16 * 1024 * 1024
SLICE_RECORDS = 32
"""Records decoded and folded before the event loop gets its turn: about a millisecond."""

_LISTS_AHEAD = 8
_META = """
CREATE TABLE IF NOT EXISTS position (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL, seq INTEGER NOT NULL, digest TEXT NOT NULL,
    source_epoch INTEGER NOT NULL, source_seq INTEGER NOT NULL
)
"""
_WHERE = "SELECT epoch, seq, digest, source_epoch, source_seq FROM position"
_MOVE = (
    "INSERT INTO position VALUES (1, ?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq, digest = excluded.digest,"
    " source_epoch = excluded.source_epoch, source_seq = excluded.source_seq"
)


class Write(NamedTuple):
    """One statement for many rows."""

    sql: str
    rows: Sequence[Sequence[Any]]


class View(Protocol):
    """What a view folds records into. Only its runner calls it, one batch after another.

    A batch goes `load`, `fold` for each record in order, `writes`, and `settle` when it is stored. `discard`
    forgets all that is in memory, as the file does not hold it.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int:
        """Raised when the tables change: a file of another version is rebuilt."""
        ...

    @property
    def schema(self) -> str: ...

    async def load(self, db: aiosqlite.Connection, records: Sequence[Record]) -> None:
        """Brings into memory the rows that the records change."""
        ...

    def fold(self, record: Record) -> None:
        """Raises Violation where the record cannot follow what was before."""
        ...

    def writes(self) -> list[Write]: ...

    def settle(self) -> None: ...

    def discard(self) -> None: ...


def forget(path: Path) -> None:
    """Deletes a view's file, so that it is built again from sequence 1. It must not be open."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def position_in(path: Path) -> int:
    """The position of a view, as its file tells; it need not be open. Raises sqlite3.Error."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        return next((int(row[1]) for row in db.execute(_WHERE)), 0)


class Runner:
    """Runs one view over one log, in the file `path`.

        runner = Runner(path, log, view)
        await runner.open()
        task = asyncio.create_task(runner.run())
        await runner.wait_for(seq, timeout_s=5)

    `halted` says why the view stopped for good, where it did: the log and the view do not belong together,
    and a person must look. `position` is the sequence of the newest record that the rows tell of.
    """

    def __init__(self, path: Path, log: Log, view: View, *, batch_max: int = BATCH_MAX_RECORDS) -> None:
        self.path = path
        self.log = log
        self.view = view
        self.halted: str | None = None
        self._batch_max = batch_max
        self._at = Position()
        self._source = Source(0, 0, 0)
        self._db: aiosqlite.Connection | None = None
        self._waiting: list[tuple[int, int, asyncio.Future[bool]]] = []
        self._numbers = itertools.count()

    @property
    def position(self) -> int:
        return self._at.seq

    @property
    def epoch(self) -> int:
        """The newest record's; 0 before the first."""
        return self._at.epoch

    async def open(self) -> None:
        """Opens the file, makes its tables and finds the position. Raises sqlite3.Error, OSError."""
        self._db = await self._connect()
        if await self._number("PRAGMA user_version") not in (0, self.view.version):
            await self._db.close()
            forget(self.path)
            self._db = await self._connect()
        await self._db.executescript(f"{_META};{self.view.schema};PRAGMA user_version = {self.view.version}")
        await self._resume()

    async def _resume(self) -> None:
        """Stands where the file stands."""
        async with self._opened.execute(_WHERE) as cursor:
            row = await cursor.fetchone()
        self._at, self._source = Position(), Source(0, 0, 0)
        if row is not None:
            epoch, seq, known_digest, source_epoch, source_seq = row
            self._at = Position(epoch, seq, known_digest)
            self._source = Source(source_epoch, source_seq, 0)
        self.view.discard()
        self._wake()  # a batch may have been stored by a run that was cancelled before it said so

    async def _connect(self) -> aiosqlite.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        db = await aiosqlite.connect(self.path, isolation_level=None)
        try:
            await db.execute("PRAGMA journal_mode = WAL")
            await db.execute("PRAGMA synchronous = NORMAL")
            await db.execute("PRAGMA cache_size = -32768")
        except BaseException:
            await db.close()  # its thread would keep the process alive
            raise
        return db

    async def _number(self, sql: str) -> int:
        async with self._opened.execute(sql) as cursor:
            row = await cursor.fetchone()
        return int(row[0]) if row else 0

    @property
    def _opened(self) -> aiosqlite.Connection:
        if self._db is None:
            raise RuntimeError(f"the view {self.view.name} is not open")
        return self._db

    async def close(self) -> None:
        """Closes the file; those who wait are told no. `run` must have ended."""
        db, self._db = self._db, None
        if db is not None:
            await db.close()
        self._give_up()

    async def run(self) -> None:
        """Follows the log until cancelled. A view that has halted stands still and can still be read.

        Raises what reading the log or writing the file raises: call it again to go on from the position.
        """
        if self.halted is None:
            await self._follow()
        await asyncio.get_running_loop().create_future()

    async def _follow(self) -> None:
        """Returns when the view has halted."""
        await self._resume()
        last = await self.log.last_seq()
        if last < self._at.seq:
            self._halt(f"the log ends at record {last}, before the view's position {self._at.seq}")
            return
        lists: asyncio.Queue[list[Stored] | None] = asyncio.Queue(_LISTS_AHEAD)
        reader = asyncio.create_task(self._read(lists), name=f"view {self.view.name}: reader")
        try:
            await self._apply_all(lists)
            if self.halted is None:
                await reader
                raise ConnectionError(f"the reading of the log ended at record {self._at.seq}")
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, lists: asyncio.Queue[list[Stored] | None]) -> None:
        start = max(1, self._at.seq)  # the record at the position is read again, to compare its digest
        try:
            async for stored in self.log.read(start, follow=True):
                await lists.put(stored)
        except Exception:
            await lists.put(None)
            raise
        await lists.put(None)

    async def _apply_all(self, lists: asyncio.Queue[list[Stored] | None]) -> None:
        """Applies what is read, in batches of all that has arrived."""
        compared = self._at.seq == 0
        while (stored := await lists.get()) is not None:
            batch = list(stored)
            size = sum([len(m.body) for m in batch])
            while len(batch) < self._batch_max and size < BATCH_MAX_BYTES and not lists.empty():
                more = lists.get_nowait()
                if more is None:
                    lists.put_nowait(None)
                    break
                batch += more
                size += sum([len(m.body) for m in more])
            if not compared and batch:
                compared = True
                if not self._is_ours(batch.pop(0)):
                    return
            for at in range(0, len(batch), self._batch_max):
                await self._apply(batch[at : at + self._batch_max])
                if self.halted is not None:
                    return

    def _is_ours(self, stored: Stored) -> bool:
        """Whether the log's record at the position is the one that the view has read; halts if not."""
        seq = self._at.seq
        if stored.seq == seq and digest(stored.body) == self._at.digest:
            return True
        reason = f"record {seq} of the log is another than the view has read"
        self._halt(f"{reason}: the log was cut, restored or made anew under the view")
        return False

    async def _apply(self, batch: list[Stored]) -> None:
        """One batch, stored as a whole; of one with a violation, what comes before it, and then a halt."""
        try:
            fault = await self._store(batch)
            if fault is not None and (sound := batch[: fault.seq - 1 - self._at.seq]):
                self.view.discard()
                again = await self._store(sound)
                assert again is None, f"a batch that was sound is not: {again}"
        except BaseException:
            self.view.discard()
            raise
        if fault is not None:
            self._halt(str(fault))

    async def _store(self, batch: list[Stored]) -> Violation | None:
        db, view = self._opened, self.view
        records: list[Record] = []
        at, source = self._at, self._source
        partition, epoch = self.log.partition, self.log.epoch
        try:
            for start in range(0, len(batch), SLICE_RECORDS):
                for stored in batch[start : start + SLICE_RECORDS]:
                    record, at = link(at, stored.seq, stored.subject, stored.body, partition, epoch)
                    records.append(record)
                    source = record.source or source
                await asyncio.sleep(0)
            await view.load(db, records)
            for start in range(0, len(records), SLICE_RECORDS):
                for record in records[start : start + SLICE_RECORDS]:
                    view.fold(record)
                await asyncio.sleep(0)
        except Violation as error:
            return error
        await db.execute("BEGIN IMMEDIATE")
        try:
            for sql, rows in view.writes():
                await db.executemany(sql, rows)
            await db.execute(_MOVE, (*at, source.epoch, source.seq))
            await db.execute("COMMIT")
        except BaseException:
            await db.rollback()
            raise
        view.settle()
        self._at, self._source = at, source
        self._wake()
        return None

    def _halt(self, reason: str) -> None:
        self.halted = reason
        self._give_up()

    # --- waiting ----------------------------------------------------------------------------------------

    async def wait_for(self, position: int, timeout_s: float) -> bool:
        """Whether the view tells of the record `position`, waiting up to `timeout_s` seconds until it does.

        False at once where the view has halted before it.
        """
        if self._at.seq >= position:
            return True
        if self.halted is not None or timeout_s <= 0:
            return False
        reached: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (position, next(self._numbers), reached))
        try:
            async with asyncio.timeout(timeout_s):
                return await reached
        except TimeoutError:
            return False

    async def wait_for_submit(self, epoch: int, seq: int, timeout_s: float) -> bool:
        """Whether the view tells of all submits up to `seq`, waiting up to `timeout_s` seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while self._source.epoch == epoch and self._source.seq < seq:
            if not await self.wait_for(self._at.seq + 1, until - loop.time()):
                return False
        return True

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._at.seq:
            self._tell(heapq.heappop(self._waiting), True)

    def _give_up(self) -> None:
        while self._waiting:
            self._tell(self._waiting.pop(), False)

    @staticmethod
    def _tell(waiter: tuple[int, int, asyncio.Future[bool]], answer: bool) -> None:
        if not waiter[2].done():
            waiter[2].set_result(answer)
