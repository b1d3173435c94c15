"""The base of views whose fold needs nothing of what the file holds: rows are only put and counted up."""

from __future__ import annotations

import sqlite3
from collections.abc import Hashable, Sequence
from typing import Any

from writ.schemas.records import Record

from .view import Write


class Collecting:
    """Rows and counts of one batch, written in the order of `statements`.

    `_put` is for rows as they are, `_count` for numbers that add up under a key: its statement is handed the
    key's values and then the numbers, once for each key.
    """

    statements: tuple[str, ...]

    def __init__(self) -> None:
        self._rows: dict[str, list[Sequence[Any]]] = {}
        self._counts: dict[str, dict[tuple[Hashable, ...], list[int]]] = {}
        self.discard()

    def load(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
        """Nothing: the statements find what they change."""

    def _put(self, statement: str, *row: Any) -> None:
        self._rows[statement].append(row)

    def _count(self, statement: str, key: tuple[Hashable, ...], *numbers: int) -> None:
        counts = self._counts[statement]
        known = counts.get(key)
        counts[key] = list(numbers) if known is None else [a + b for a, b in zip(known, numbers, strict=True)]

    def writes(self) -> list[Write]:
        found: list[Write] = []
        for statement in self.statements:
            rows = self._rows[statement]
            rows += [(*key, *numbers) for key, numbers in self._counts[statement].items()]
            if rows:
                found.append(Write(statement, rows))
        return found

    def settle(self) -> None:
        self.discard()

    def discard(self) -> None:
        self._rows = {statement: [] for statement in self.statements}
        self._counts = {statement: {} for statement in self.statements}
