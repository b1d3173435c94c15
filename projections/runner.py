"""Keeps a view in step with its log: exactly once, and halting rather than guessing.

The rows of a batch of records and the position behind it are written in one SQLite transaction, so that a
view is always the fold of the log up to its position. To rebuild a view, close it, `forget` its file and open
it anew.
"""

from __future__ import annotations

import asyncio
import collections
import heapq
import itertools
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from writ.broker.ports import Log, Stored
from writ.schemas.chain import Position, Violation, link
from writ.schemas.codec import digest
from writ.schemas.records import Record, Source

from .file import File

BATCH_MAX_RECORDS = 4_096
"""A view that keeps up takes what there is. The further behind it is, the larger its batches, up to this, and
what happens to a job within one costs a row once."""

BATCH_MAX_BYTES = 16 * 1024 * 1024

_PRAGMAS = ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -32768")
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

    def load(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
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


class _Reached(NamedTuple):
    """How far a view has come in log and intake, and the fault that it cannot go beyond."""

    at: Position
    source: Source
    fault: str | None = None


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


class _Ahead:
    """What has been read and is not applied yet: about two batches at most."""

    def __init__(self, batch_max: int) -> None:
        self._batch_max = batch_max
        self._stored: collections.deque[Stored] = collections.deque()
        self._size = 0
        self._ended = False
        self._changed = asyncio.Event()

    async def put(self, stored: Sequence[Stored]) -> None:
        """Returns when there is room for more."""
        self._stored += stored
        self._size += sum([len(each.body) for each in stored])
        self._changed.set()
        while len(self._stored) >= self._batch_max or self._size >= BATCH_MAX_BYTES:
            self._changed.clear()
            await self._changed.wait()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._changed.set()

    async def take(self) -> list[Stored]:
        """All that there is, as far as it fits one batch; waits for something. Empty at the end."""
        while not self._stored and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        batch: list[Stored] = []
        size = 0
        while self._stored and len(batch) < self._batch_max and size < BATCH_MAX_BYTES:
            batch.append(each := self._stored.popleft())
            size += len(each.body)
        self._size -= size
        self._changed.set()
        return batch


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
        self._reached = _Reached(Position(), Source(0, 0, 0))
        self._file: File | None = None
        self._waiting: list[tuple[int, int, asyncio.Future[bool]]] = []
        self._numbers = itertools.count()

    @property
    def position(self) -> int:
        return self._reached.at.seq

    @property
    def epoch(self) -> int:
        """The newest record's; 0 before the first."""
        return self._reached.at.epoch

    async def open(self) -> None:
        """Opens the file, makes its tables and finds the position. Raises sqlite3.Error, OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = await File.open(self.path, *_PRAGMAS)
        if await self._file.use(_version) not in (0, self.view.version):
            await self._file.close()
            forget(self.path)
            self._file = await File.open(self.path, *_PRAGMAS)
        script = f"{_META};{self.view.schema};PRAGMA user_version = {self.view.version}"
        await self._file.use(sqlite3.Connection.executescript, script)
        await self._resume()

    async def _resume(self) -> None:
        """Stands where the file stands."""
        self._reached = await self._opened.use(self._look)
        self._wake()  # it may stand further than we knew

    @property
    def _opened(self) -> File:
        if self._file is None:
            raise RuntimeError(f"the view {self.view.name} is not open")
        return self._file

    async def close(self) -> None:
        """Closes the file; those who wait are told no. `run` must have ended."""
        file, self._file = self._file, None
        if file is not None:
            await file.close()
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
        if last < self.position:
            self._halt(f"the log ends at record {last}, before the view's position {self.position}")
            return
        ahead = _Ahead(self._batch_max)
        reader = asyncio.create_task(self._read(ahead), name=f"view {self.view.name}: reader")
        try:
            await self._apply_all(ahead)
            if self.halted is None:
                await reader
                raise ConnectionError(f"the reading of the log ended at record {self.position}")
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, ahead: _Ahead) -> None:
        start = max(1, self.position)  # the record at the position is read again, to compare its digest
        try:
            async for stored in self.log.read(start, follow=True):
                await ahead.put(stored)
        finally:
            ahead.end()

    async def _apply_all(self, ahead: _Ahead) -> None:
        """Applies what is read, in batches of all that has arrived."""
        compared = self.position == 0
        while batch := await ahead.take():
            if not compared:
                compared = True
                if not self._is_ours(batch.pop(0)):
                    return
            if batch:
                # If we are cancelled the batch is stored all the same; the next run looks where the file is.
                self._reached = await self._opened.use(self._apply, batch)
                self._wake()
                if self._reached.fault is not None:
                    self._halt(self._reached.fault)
                    return

    def _is_ours(self, stored: Stored) -> bool:
        """Whether the log's record at the position is the one that the view has read; halts if not."""
        seq = self.position
        if stored.seq == seq and digest(stored.body) == self._reached.at.digest:
            return True
        reason = f"record {seq} of the log is another than the view has read"
        self._halt(f"{reason}: the log was cut, restored or made anew under the view")
        return False

    # --- on the file's thread ---------------------------------------------------------------------------

    def _look(self, db: sqlite3.Connection) -> _Reached:
        """Where the file stands; the view forgets what it has beyond that."""
        self.view.discard()
        for epoch, seq, known_digest, source_epoch, source_seq in db.execute(_WHERE):
            return _Reached(Position(epoch, seq, known_digest), Source(source_epoch, source_seq, 0))
        return _Reached(Position(), Source(0, 0, 0))

    def _apply(self, db: sqlite3.Connection, batch: Sequence[Stored]) -> _Reached:
        """Stores a batch as a whole; of one with a violation, what comes before it."""
        before = self._reached
        try:
            try:
                return self._store(db, before, batch)
            except Violation as violation:
                self.view.discard()
                reached, sound = before, batch[: violation.seq - 1 - before.at.seq]
                if sound:
                    reached = self._store(db, before, sound)
                return reached._replace(fault=str(violation))
        except BaseException:
            self.view.discard()
            raise

    def _store(self, db: sqlite3.Connection, before: _Reached, batch: Sequence[Stored]) -> _Reached:
        """Raises Violation, and has stored nothing then."""
        view = self.view
        at, source = before.at, before.source
        partition, epoch = self.log.partition, self.log.epoch
        records: list[Record] = []
        for stored in batch:
            record, at = link(at, stored.seq, stored.subject, stored.body, partition, epoch)
            records.append(record)
            source = record.source or source
        view.load(db, records)
        for record in records:
            view.fold(record)
        db.execute("BEGIN IMMEDIATE")
        try:
            for sql, rows in view.writes():
                db.executemany(sql, rows)
            db.execute(_MOVE, (*at, source.epoch, source.seq))
            db.execute("COMMIT")
        except BaseException:
            db.rollback()
            raise
        view.settle()
        return _Reached(at, source)

    # --- halting ----------------------------------------------------------------------------------------

    def _halt(self, reason: str) -> None:
        self.halted = reason
        self._give_up()

    # --- waiting ----------------------------------------------------------------------------------------

    async def wait_for(self, position: int, timeout_s: float) -> bool:
        """Whether the view tells of the record `position`, waiting up to `timeout_s` seconds until it does.

        False at once where the view has halted before it.
        """
        if self.position >= position:
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
        while self._reached.source.epoch == epoch and self._reached.source.seq < seq:
            if not await self.wait_for(self.position + 1, until - loop.time()):
                return False
        return True

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.position:
            self._tell(heapq.heappop(self._waiting), True)

    def _give_up(self) -> None:
        while self._waiting:
            self._tell(self._waiting.pop(), False)

    @staticmethod
    def _tell(waiter: tuple[int, int, asyncio.Future[bool]], answer: bool) -> None:
        if not waiter[2].done():
            waiter[2].set_result(answer)
