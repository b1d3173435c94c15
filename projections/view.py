"""What a view is: the fold of a log into the tables of one SQLite file.

Adding one is a file with a class like this and a line in `registry.py`. All that it needs of a runner, a file
and a thread is theirs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from writ.schemas.records import Record


class Write(NamedTuple):
    """One statement for many rows."""

    sql: str
    rows: Sequence[Sequence[Any]]


class View(Protocol):
    """What folds records into rows. Its runner alone calls it, on one thread, one batch after another.

    A batch goes `load`, `fold`, `writes`, and `settle` when it is stored. `discard`
    forgets all that is in memory, as the file does not hold it. The tables must be a function of the log
    alone, whatever the batches: no clock, no chance, and nothing of the machine.
    """

    @property
    def name(self) -> str:
        """Of the file, in `writ status` and in `writ views`."""
        ...

    @property
    def version(self) -> int:
        """Raised when the tables or what is folded into them change: a file of another is built anew."""
        ...

    @property
    def schema(self) -> str:
        """`CREATE TABLE IF NOT EXISTS ...;` and so on. `position` is the runner's table."""
        ...

    def load(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
        """Brings into memory the rows that the records change.

        Not those that they must be the first of: a row that is there already is refused by its table, and
        the view halts before the record.
        """
        ...

    def fold(self, records: Sequence[Record]) -> None:
        """Raises Violation where one of them cannot follow what was before."""
        ...

    def writes(self) -> list[Write]: ...

    def settle(self) -> None: ...

    def discard(self) -> None: ...


@runtime_checkable
class OfDigests(Protocol):
    """What a view has besides that folds the digests of records, and not only what they say."""

    def digests(self, digests: Sequence[str]) -> None:
        """Called after `load`: the digests of the batch's records."""
        ...
