"""Pages of long lists, newest first: each walks one index from where the page before ended.

What the index does not tell is looked up row by row, and a page looks at so many rows at most: one that found
little says where to go on. So no page takes long, whatever is asked for.
"""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, Final, NamedTuple

from writ.schemas.queries import NewestFirst
from writ.schemas.schedules import log_time

SCANNED_MAX: Final = 2_000
"""Rows that one page looks at."""

SUMMED_ROWS: Final = 10
"""So many numbers are summed up in the time in which one row is looked at."""

END: Final = 2**63 - 1
"""Behind every key."""


class Listing(NamedTuple):
    """A table that is listed: `key` is its integer key, with which the log time `at` grows.

    For each column in `indexed`, the most telling first, there is an index behind the tenant, and one for the
    rows of each condition in `partial`.
    """

    table: str
    key: str
    at: str
    columns: str
    indexed: tuple[str, ...]
    partial: tuple[str, ...] = ()


class Walk(NamedTuple):
    """The parts of a SELECT along an index that ends in the key; the key is its first column."""

    select: str
    key: str
    tables: str
    where: str
    values: Sequence[Any]


class Terms(NamedTuple):
    """What the index of a walk does not tell, of its rows as `found`; without words nothing.

    `join` brings in what is asked of other tables.
    """

    where: str
    values: Sequence[Any]
    join: str = ""


def follow(
    db: sqlite3.Connection, walk: Walk, others: Terms, limit: int, scanned: int
) -> tuple[list[tuple[Any, ...]], int | None]:
    """At most `limit` of the first `scanned` rows, by their keys from the highest, and the key below which
    there may be more.

    All words of SQL are this package's own; whatever came from outside is among the values.
    """
    select, key, tables, where, values = walk
    rows = f"SELECT {select} FROM {tables} WHERE {where} ORDER BY {key} DESC LIMIT ?"  # noqa: S608
    if not others.where:
        newest = db.execute(rows, (*values, limit + 1)).fetchall()
        return newest[:limit], None if len(newest) <= limit else int(newest[limit - 1][0])
    found: list[tuple[Any, ...]] = []
    last: int | None = None
    left = scanned
    sql = f"SELECT {others.where}, found.* FROM ({rows}) AS found {others.join}"  # noqa: S608
    with closing(db.execute(sql, (*others.values, *values, scanned))) as walked:
        for matches, *row in walked:
            if matches:
                if len(found) == limit:
                    return found, last
                found.append(tuple(row))
            last = int(row[0])
            left -= 1
    return found, None if left else last


def page(
    db: sqlite3.Connection,
    of: Listing,
    tenant: str,
    equal: Mapping[str, Any],
    query: NewestFirst,
    term: str = "",
) -> tuple[list[tuple[Any, ...]], str | None]:
    """Rows whose columns are as in `equal` (None: anything), with the key first, and the next `cursor`.

    `term` is a further condition, which an index may be for.

    A page may be short, even empty, and still have a next one.
    """
    given = {column: value for column, value in equal.items() if value is not None}
    first, end = bounds(db, of, query)
    where, values = f"tenant = ? AND {of.key} >= ? AND {of.key} < ?", [tenant, first, end]
    walked = next((column for column in of.indexed if column in given), None)
    if walked is not None:
        where += f" AND {walked} = ?"
        values.append(given.pop(walked))
    terms = [f"{column} = ?" for column in given]
    if term and walked is None and term in of.partial:
        where += f" AND {term}"
    elif term:
        terms.append(term)
    walk = Walk(f"{of.key}, {of.columns}", of.key, of.table, where, values)
    others = Terms(" AND ".join(terms), [*given.values()])
    found, after = follow(db, walk, others, query.limit, SCANNED_MAX)
    return found, None if after is None else str(after)


def bounds(db: sqlite3.Connection, of: Listing, query: NewestFirst) -> tuple[int, int]:
    """The keys from which on, and before which, the rows of a page are."""
    before = END if query.cursor is None else int(query.cursor)
    since = 0 if query.since is None else _first(db, of, query.since)
    until = END if query.until is None else _first(db, of, query.until)
    return since, min(before, until)


def _first(db: sqlite3.Connection, of: Listing, moment: datetime.datetime) -> int:
    """The key from which on rows are of a moment or later: found by halving, as time grows with the key."""
    at = log_time(moment)
    newest = db.execute(f"SELECT max({of.key}) FROM {of.table}").fetchone()[0]  # noqa: S608 - names of ours
    sql = f"SELECT {of.key}, {of.at} FROM {of.table} WHERE {of.key} >= ? ORDER BY {of.key} LIMIT 1"  # noqa: S608
    first, end = 0, 0 if newest is None else int(newest) + 1
    while first < end:
        middle = (first + end) // 2
        key, when = db.execute(sql, (middle,)).fetchone()
        if when < at:
            first = int(key) + 1
        else:
            end = middle
    return first
