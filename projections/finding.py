"""Which jobs a list is of: its filters as walks along the indexes of the jobs view."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from writ.schemas.ids import LANE_MARK
from writ.schemas.lifecycle import State
from writ.schemas.queries import JobsQuery

from .paging import SCANNED_MAX, Listing, Terms, Walk, bounds, follow

LISTING: Final = Listing("jobs", "opened", "submitted_at", "", ())
LINKS: Final = ("parent", "batch", "operation", "schedule", "release")
"""What a job belongs to, the most telling first."""

_WALKED: Final = {"cause": "cause", "error": "error_class", "actor": "actor"}
"""Columns with an index of their own, the most telling first, and the filters on them."""

_WAITS: Final = "json_extract(CAST(job AS TEXT), '$.wait.reason') = ?"
_JOBS: Final = "CROSS JOIN jobs USING (opened)"


def find(
    db: sqlite3.Connection, tenant: str, query: JobsQuery, among: Sequence[int] | None = None
) -> tuple[list[int], int | None]:
    """A page of jobs by the sequence that opened each, newest first, and where the next page begins.

    With `among` they are of those, a page of another view.

    A page may be short, even empty, and still have a next one.
    """
    links = [("tag", f"{name}={value}") for name, value in query.tags.items()]
    links += [(kind, name) for kind in LINKS if (name := getattr(query, kind)) is not None]
    filters = {**_WALKED, "task": "task"}
    queues = () if query.queue is None else lines(db, tenant, query.queue)
    equal = {column: value for column, name in filters.items() if (value := getattr(query, name)) is not None}
    first, end = bounds(db, LISTING, query)
    span = [first, end]
    if among is not None:
        places = msgspec.json.encode(among).decode()
        where = "value >= ? AND value < ?"
        walks = [Walk("value AS opened", "value", "json_each(?)", where, [places, *span])]
    elif links:
        kind, name = links.pop(0)
        where = "tenant = ? AND kind = ? AND name = ? AND opened >= ? AND opened < ?"
        walks = [Walk("opened", "opened", "links", where, [tenant, kind, name, *span])]
    elif walked := next((column for column in _WALKED if column in equal), None):
        where = f"tenant = ? AND {walked} = ? AND opened >= ? AND opened < ?"
        walks = [Walk("opened", "opened", "jobs", where, [tenant, equal.pop(walked), *span])]
    else:
        return _by_state(db, tenant, query, equal, span, queues)
    if among is not None:
        equal["tenant"] = tenant  # so that each is looked up: the other view may be ahead
    terms, values = _looked_up(equal, query)
    if queues:
        terms.append(f"queue IN ({', '.join(['?'] * len(queues))})")
        values += queues
    if query.states:
        terms.append(f"state IN ({', '.join(['?'] * len(query.states))})")
        values += [state.value for state in query.states]
    for kind, name in links:
        terms.append(
            "EXISTS (SELECT 1 FROM links WHERE tenant = ? AND kind = ? AND name = ?"
            " AND opened = found.opened)"
        )
        values += [tenant, kind, name]
    return _merged(db, walks, Terms(" AND ".join(terms), values, _JOBS), query.limit)


def lines(db: sqlite3.Connection, tenant: str, queue: str) -> tuple[str, ...]:
    """A queue's name, and those of its lanes that have jobs here."""
    sql = "SELECT DISTINCT queue FROM counts WHERE tenant = ? AND queue > ? AND queue < ? ORDER BY queue"
    return (queue, *[str(name) for (name,) in db.execute(sql, (tenant, queue, lines_end(queue)))])


def lines_end(queue: str) -> str:
    """What all names but a queue's own and those of its lanes are before, or at and behind."""
    return f"{queue}{chr(ord(LANE_MARK) + 1)}"


def _by_state(
    db: sqlite3.Connection,
    tenant: str,
    query: JobsQuery,
    equal: dict[str, Any],
    span: list[int],
    queues: Sequence[str],
) -> tuple[list[int], int | None]:
    """By queue, task, states and what is waited for alone: a walk for each state and lane, merged."""
    where = "state = ? AND tenant = ? AND opened >= ? AND opened < ?"
    walked = "queue" if queues else ("task" if "task" in equal else None)
    each: list[list[Any]] = [[]]
    if walked is not None:
        where += f" AND {walked} = ?"
        each = [[name] for name in queues or (equal.pop(walked),)]
    terms, values = _looked_up(equal, query)
    others = Terms(" AND ".join(terms), values, _JOBS)
    waiting = (State.SUSPENDED,) if query.waits_for is not None else tuple(State)
    states = dict.fromkeys(query.states or waiting)
    walks = [
        Walk("opened", "opened", "jobs", where, [state.value, tenant, *span, *extra])
        for state in states
        for extra in each
    ]
    return _merged(db, walks, others, query.limit)


def _looked_up(equal: dict[str, Any], query: JobsQuery) -> tuple[list[str], list[Any]]:
    """What is asked of each row by itself, and the values."""
    terms = [f"{column} = ?" for column in equal]
    if query.waits_for is None:
        return terms, [*equal.values()]
    return [*terms, _WAITS], [*equal.values(), query.waits_for.value]


def _merged(
    db: sqlite3.Connection, walks: list[Walk], others: Terms, limit: int
) -> tuple[list[int], int | None]:
    """What the walks find together, no further down than where the first of them stopped short."""
    found: list[int] = []
    reached = 0
    for walk in walks:
        rows, more = follow(db, walk, others, limit, SCANNED_MAX // len(walks))
        found += [int(row[0]) for row in rows]
        reached = max(reached, more or 0)
    found = sorted([opened for opened in found if opened >= reached], reverse=True)
    if len(found) > limit:
        return found[:limit], found[limit - 1]
    return found, reached or None
