"""Pages of long lists, newest first: each walks one index from where the page before ended.

What the index does not tell is looked up row by row, and a page looks at so many rows at most: one that found
little says where to go on. So no page takes long, whatever is asked for.
"""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from writ.schemas.lists import NewestFirst
from writ.schemas.schedules import log_time

SCANNED_MAX: Final = 10_000
"""Rows that one page looks at."""

_END: Final = 2**63 - 1


class Listing(NamedTuple):
    """A table that is listed: `key` is its integer key, which grows with `at`.

    For each column in `indexed`, the most telling first, there is an index behind the tenant.
    """

    table: str
    key: str
    at: str
    columns: str
    indexed: tuple[str, ...]


def page(
    db: sqlite3.Connection,
    of: Listing,
    tenant: str,
    equal: Mapping[str, Any],
    query: NewestFirst,
) -> tuple[list[tuple[Any, ...]], str | None]:
    """Rows whose columns are as in `equal` (None: anything), with the key first, and the next `cursor`.

    A page may be short, even empty, and still have a next one.
    """
    given = {column: value for column, value in equal.items() if value is not None}
    walked = next((column for column in of.indexed if column in given), None)
    parts: list[str | int] = [tenant]
    where = "tenant = ?"
    if walked is not None:
        where += f" AND {walked} = ?"
        parts.append(given.pop(walked))
    where += f" AND {of.key} >= ? AND {of.key} < ?"
    before = _END if query.cursor is None else int(query.cursor)
    parts += [_first(db, of, tenant, query.since, 0), min(before, _first(db, of, tenant, query.until, _END))]
    walk = f"SELECT {of.key}, {of.columns} FROM {of.table} WHERE {where} ORDER BY {of.key} DESC"  # noqa: S608
    if not given:
        found = db.execute(f"{walk} LIMIT ?", (*parts, query.limit + 1)).fetchall()
        return _cut(found, query.limit)
    others = " AND ".join([f"{column} = ?" for column in given])
    sql = f"SELECT * FROM ({walk} LIMIT {SCANNED_MAX}) WHERE {others} LIMIT ?"  # noqa: S608
    found = db.execute(sql, (*parts, *given.values(), query.limit + 1)).fetchall()
    if len(found) > query.limit:
        return _cut(found, query.limit)
    last = f"SELECT {of.key} FROM {of.table} WHERE {where} ORDER BY {of.key} DESC LIMIT 1 OFFSET ?"  # noqa: S608
    end = db.execute(last, (*parts, SCANNED_MAX - 1)).fetchone()
    return found, None if end is None else str(end[0])


def _cut(found: list[tuple[Any, ...]], limit: int) -> tuple[list[tuple[Any, ...]], str | None]:
    return found[:limit], str(found[limit - 1][0]) if len(found) > limit else None


def _first(
    db: sqlite3.Connection, of: Listing, tenant: str, moment: datetime.datetime | None, other: int
) -> int:
    """The key of the tenant's first row at or after a moment; `other` where none is given."""
    if moment is None:
        return other
    order = f"ORDER BY {of.at}, {of.key}"
    sql = f"SELECT {of.key} FROM {of.table} WHERE tenant = ? AND {of.at} >= ? {order} LIMIT 1"  # noqa: S608
    found = db.execute(sql, (tenant, log_time(moment))).fetchone()
    return _END if found is None else int(found[0])


def position(db: sqlite3.Connection) -> int:
    """The sequence of the newest record that the file tells of."""
    return next((int(seq) for (seq,) in db.execute("SELECT seq FROM position")), 0)
