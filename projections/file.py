"""A SQLite file with a thread of its own, so that neither disk nor lock holds up the event loop.

What is done to it comes as one function for all that belongs together, as each costs two changes of threads.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


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
