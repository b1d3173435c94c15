"""SQLite files, each used on a thread of its own, so that neither disk nor lock holds up the event loop.

What is done to one comes as one function for all that belongs together, as each costs two changes of threads.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


_TOGETHER: Final = 100
"""Rows that one step of SQLite writes."""

_VALUES: Final = re.compile(r"VALUES (\((?:\?, )*\?\))")


def write(db: sqlite3.Connection, sql: str, rows: Sequence[Sequence[Any]]) -> None:
    """What `executemany` does, many rows in one step where a statement puts rows. Raises sqlite3.Error.

    Each step gives the interpreter to whoever waits for it, and waits to have it back.
    """
    whole = len(rows) - len(rows) % _TOGETHER
    together = _together(sql) if whole else None
    if together is None:
        db.executemany(sql, rows)
        return
    for start in range(0, whole, _TOGETHER):
        db.execute(together, tuple(chain.from_iterable(rows[start : start + _TOGETHER])))
    db.executemany(sql, rows[whole:])


@cache
def _together(sql: str) -> str | None:
    """The statement for so many rows; None where it does not say what each column becomes by itself."""
    found = _VALUES.search(sql)
    if found is None:
        return None
    return f"{sql[: found.end()]}{f', {found[1]}' * (_TOGETHER - 1)}{sql[found.end() :]}"


class File:
    """One connection, used by one function after the other; transactions are theirs to begin and end."""

    def __init__(self, path: Path, pragmas: tuple[str, ...]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"writ-{path.stem}")
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            for pragma in pragmas:
                self._db.execute(f"PRAGMA {pragma}")
        except BaseException:
            self._db.close()
            raise

    @classmethod
    async def open(cls, path: Path, *pragmas: str) -> Self:
        """Makes the file where there is none. Raises sqlite3.Error."""
        return await asyncio.to_thread(cls, path, pragmas)

    async def use(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **named: P.kwargs
    ) -> T:
        """What `work` returns on the file's thread. Once begun it goes on to its end, also without us."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: work(self._db, *args, **named)
        )

    async def close(self) -> None:
        """Closes it behind all work that has begun. Once only."""
        await self.use(sqlite3.Connection.close)
        self._thread.shutdown(wait=False)


class Reader:
    """Reads of a view, in whichever file it lives now; they never wait for its writes.

    `path` is the view's, as its runner has it. It is opened with the first read, and again whenever the view
    was built anew. It may be read from other processes than the runner's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"writ-{path.stem}-reader")
        self._db: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._closed = False

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, on a thread and in one read transaction. Raises sqlite3.Error."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, work)

    async def close(self) -> None:
        """Nothing can be read from then on."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        db = self._current()
        db.execute("BEGIN")
        try:
            return work(db)
        finally:
            db.execute("COMMIT")

    def _current(self) -> sqlite3.Connection:
        try:
            there = self._path.stat()
        except OSError as error:
            raise sqlite3.OperationalError(f"the view's file {self._path}: {error.strerror}") from error
        which = (there.st_dev, there.st_ino)
        if self._db is None or self._opened != which:
            self._close()
            # Not mode=ro: whoever comes first after a kill must be able to recover what was written.
            self._db = sqlite3.connect(
                f"{self._path.resolve().as_uri()}?mode=rw",
                uri=True, isolation_level=None, check_same_thread=False,
            )  # fmt: skip
            self._db.execute("PRAGMA query_only = ON")
            self._opened = which
        return self._db

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()


def position_of(db: sqlite3.Connection) -> int:
    """The sequence of the newest record that the rows tell of."""
    return next((int(seq) for (seq,) in db.execute("SELECT seq FROM position")), 0)
