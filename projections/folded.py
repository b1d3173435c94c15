"""A view in its file: the fold of a log up to a position, exactly once.

The rows of a batch and the position behind it are written in one SQLite transaction, so that the file is
always the fold of the log up to its position.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple, Self

from writ.schemas.chain import Position, Violation
from writ.schemas.records import Record, Source

from .feed import Batch
from .file import File, write
from .view import OfDigests, View

log = logging.getLogger("writ.projections")

BATCH_MAX_RECORDS: Final = 8_192
"""A view that keeps up takes what there is. The further behind it is, the larger its batches, up to this, and
what happens to a job within one costs a row once."""

_FORMAT: Final = 1
"""Of the table `position`; a file of another is built anew, as one of another version of its view."""

_PRAGMAS: Final = ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -8192")
_META: Final = """
CREATE TABLE IF NOT EXISTS position (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL, seq INTEGER NOT NULL, digest TEXT NOT NULL, -- of the newest record folded
    at INTEGER NOT NULL, -- its log time
    source_epoch INTEGER NOT NULL, source_seq INTEGER NOT NULL -- of the newest submit
)
"""
_WHERE: Final = "SELECT epoch, seq, digest, at, source_epoch, source_seq FROM position"
_MOVE: Final = (
    "INSERT INTO position VALUES (1, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq, digest = excluded.digest,"
    " at = excluded.at, source_epoch = excluded.source_epoch, source_seq = excluded.source_seq"
)


_TURN: Final = threading.Lock()
"""One view folds at a time. There is one interpreter for all: views that take it from each other between two
rows, as SQLite gives it up for each, cost twice as much."""


class Reached(NamedTuple):
    """How far a view has come in log and intake; `at` is the log time of its newest record."""

    position: Position = Position()
    at: int = 0
    source: Source = Source(0, 0, 0)


def stamp_of(view: View) -> int:
    """What a file of the view says of its version."""
    return _FORMAT * 10_000 + view.version


def stamp_in(db: sqlite3.Connection) -> int:
    """What a file says of its version; 0 where it is new."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def reached_in(path: Path) -> Reached:
    """How far the view in a file has come; nobody need have opened it. Raises sqlite3.Error."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        return _look(db)


def _look(db: sqlite3.Connection) -> Reached:
    for epoch, seq, digest, at, source_epoch, source_seq in db.execute(_WHERE):
        return Reached(Position(epoch, seq, digest), at, Source(source_epoch, source_seq, 0))
    return Reached()


class Folded:
    """A view and its file, open. `outdated` where the file is of another version: it can be read at best."""

    def __init__(self, path: Path, view: View, file: File) -> None:
        self.path = path
        self.view = view
        self.reached = Reached()
        self.outdated = False
        self._file = file

    @classmethod
    async def open(cls, path: Path, view: View) -> Self:
        """Opens the file, or makes it, and finds the position. Raises sqlite3.Error."""
        folded = cls(path, view, await File.open(path, *_PRAGMAS))
        try:
            folded.reached, folded.outdated = await folded._file.use(folded._prepare)
        except BaseException:
            await folded.close()
            raise
        return folded

    async def close(self) -> None:
        """Once only."""
        await self._file.close()

    async def resume(self) -> None:
        """Stands where the file stands: a run that was cancelled may have stored a batch meanwhile."""
        self.reached = await self._file.use(self._again)

    async def apply(self, batch: Batch) -> str | None:
        """Stores what follows `reached`; of a batch that is refused what comes before, and the reason.

        Raises sqlite3.Error, also where another process has moved the file on, and has stored nothing then:
        `resume` comes next.
        """
        self.reached, fault = await self._file.use(self._apply, batch)
        return fault

    # --- on the file's thread ---------------------------------------------------------------------------

    def _prepare(self, db: sqlite3.Connection) -> tuple[Reached, bool]:
        stamp, found = stamp_of(self.view), stamp_in(db)
        if found == 0:
            db.executescript(f"BEGIN;{_META};{self.view.schema};PRAGMA user_version = {stamp};COMMIT")
        elif found != stamp:
            return (_look(db) if found // 10_000 == _FORMAT else Reached()), True
        return _look(db), False

    def _again(self, db: sqlite3.Connection) -> Reached:
        self.view.discard()
        return _look(db)

    def _apply(self, db: sqlite3.Connection, batch: Batch) -> tuple[Reached, str | None]:
        try:
            try:
                return self._store(db, batch), None
            except Violation as violation:
                self.view.discard()
                count, reached = violation.seq - batch.records[0].seq, self.reached
                if count:
                    reached = self._store(db, batch.first(count))
                return reached, str(violation)
            except sqlite3.IntegrityError:
                self.view.discard()
                return self._one_by_one(db, batch)
        except BaseException:
            self.view.discard()
            raise

    def _one_by_one(self, db: sqlite3.Connection, batch: Batch) -> tuple[Reached, str | None]:
        """Stores what comes before the record whose row must be new and is not, such as a second submit."""
        for index, record in enumerate(batch.records):
            try:
                self.reached = self._store(db, batch.only(index))
            except (sqlite3.IntegrityError, Violation) as error:
                self.view.discard()
                known = isinstance(error, Violation)
                return self.reached, str(
                    error if known else f"record {record.seq}: cannot be stored: {error}"
                )
        return self.reached, None

    def _store(self, db: sqlite3.Connection, batch: Batch) -> Reached:
        """Raises Violation, and has stored nothing then."""
        db.execute("BEGIN IMMEDIATE")  # whoever holds the file holds up this view alone
        try:
            if _look(db).position != self.reached.position:  # by the helper of a process that was killed
                raise sqlite3.OperationalError("another process has folded into the view's file")
            with _TURN:
                reached = self._write(db, batch)
            db.execute("COMMIT")
        except BaseException:
            db.rollback()
            raise
        self.view.settle()
        return reached

    def _write(self, db: sqlite3.Connection, batch: Batch) -> Reached:
        view = self.view
        view.load(db, batch.records)
        if isinstance(view, OfDigests):
            view.digests(batch.digests())
        try:
            view.fold(batch.records)
        except Violation:
            raise
        except Exception as error:
            seq = self._fault(db, batch.records)
            log.exception("the view %s cannot fold record %d", view.name, seq)
            raise Violation(seq, f"cannot be folded: {error!r}") from error
        for sql, rows in view.writes():
            write(db, sql, rows)
        sources = [source for r in batch.records if (source := r.source) is not None]
        source = max(sources, default=self.reached.source)  # tenants' submits may pass each other
        source = max(source, self.reached.source)
        reached = Reached(batch.end, batch.records[-1].at, source)
        db.execute(_MOVE, (*reached.position, reached.at, source.epoch, source.seq))
        return reached

    def _fault(self, db: sqlite3.Connection, records: Sequence[Record]) -> int:
        """The sequence of the record at which a fold fails, found by folding one after the other."""
        self.view.discard()
        self.view.load(db, records)
        for record in records:
            try:
                self.view.fold([record])
            except Exception:
                return record.seq
        return records[-1].seq
