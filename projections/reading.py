"""Reads of the jobs view."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from writ.schemas.ids import job_key, split_job_key
from writ.schemas.lifecycle import Job, State
from writ.schemas.queries import DeadQuery, JobsQuery
from writ.schemas.sealed import Sealed

from .file import Reader, position_of
from .finding import LISTING, find, lines, lines_end
from .jobs import decode_job
from .paging import SCANNED_MAX, bounds

T = TypeVar("T")

CONTENT_MAX_BYTES = 700 * 1024
"""Inputs, outputs and the rest of a page's jobs together; a page holds one job at least."""

_ROW_EXTRA_BYTES = 600
_CONTENT = (
    "SELECT opened, seq, job, i.sealed, o.sealed"
    " FROM jobs LEFT JOIN inputs i USING (opened) LEFT JOIN outputs o USING (opened) WHERE opened = ?"
)
_DIGITS: Final = 19
"""Numbers of fewer digits are those that the database holds."""

_NEWEST_DEAD = (
    "SELECT opened, task FROM jobs WHERE opened ="
    " (SELECT max(opened) FROM jobs WHERE tenant = ? AND queue = ? AND cause = ?)"
)
_decode_sealed = msgspec.json.Decoder(Sealed).decode


class JobRow(NamedTuple):
    """A job with its contents. `opened` and `seq` are the sequences of its first and newest record."""

    opened: int
    seq: int
    job: Job
    input: Sealed
    output: Sealed | None


class JobRows(NamedTuple):
    """Rows as of `position`; there may be more that were opened before `next`."""

    position: int
    rows: list[JobRow]
    next: int | None


class DeadRow(NamedTuple):
    """How many dead letters a queue has of a cause, and the newest submit among them."""

    queue: str
    cause: str
    n: int
    newest: JobRow


class DeadRows(NamedTuple):
    """Rows as of `position`; there may be more behind the key `next`."""

    position: int
    rows: list[DeadRow]
    next: str | None


class Leader(NamedTuple):
    leader: str
    version: str
    seq: int


class JobsReader(Reader):
    """Answers from the jobs view. Every answer is of one tenant and of one position.

    All methods raise sqlite3.Error where the file cannot be read.
    """

    async def span(self, query: JobsQuery) -> tuple[int, int]:
        """From and before which sequence the jobs of a page were opened."""
        return await self.read(lambda db: bounds(db, LISTING, query))

    async def page(self, tenant: str, query: JobsQuery, among: Sequence[int] | None = None) -> JobRows:
        """Jobs by filters, newest submit first; with `among` of those alone."""

        def read(db: sqlite3.Connection) -> JobRows:
            places, after = find(db, tenant, query, among)
            rows = _rows(db, places)
            return JobRows(position_of(db), rows, after if len(rows) == len(places) else rows[-1].opened)

        return await self.read(read)

    async def lookup(self, tenant: str, job_id: str, queue: str | None = None) -> JobRows:
        """The jobs with this id, newest first: one for each queue, or lane of the one named, that has one."""
        sql = "SELECT opened, queue FROM jobs WHERE tenant = ? AND id = ?"

        def read(db: sqlite3.Connection) -> JobRows:
            named = None if queue is None else lines(db, tenant, queue)
            found = db.execute(sql, (tenant, job_id))
            places = sorted([int(at) for at, of in found if named is None or of in named], reverse=True)
            rows = _rows(db, places)
            return JobRows(position_of(db), rows, None if len(rows) == len(places) else rows[-1].opened)

        return await self.read(read)

    async def counts(self, tenant: str) -> dict[State, int]:
        """Jobs of the tenant by state; states without jobs are left out."""
        sql = "SELECT state, n FROM counts WHERE tenant = ?"

        def read(db: sqlite3.Connection) -> dict[State, int]:
            found: dict[State, int] = {}
            for state, n in db.execute(sql, (tenant,)):
                found[State(state)] = found.get(State(state), 0) + n
            return found

        return await self.read(read)

    async def dead(self, tenant: str, query: DeadQuery) -> DeadRows:
        """Causes of dead letters that nobody has settled, each with its newest submit."""
        sql, values = _causes(tenant, query)

        def read(db: sqlite3.Connection) -> DeadRows:
            counts: list[tuple[str, str, int, int]] = []
            after = last = None
            with closing(db.execute(sql, values)) as walked:
                for looked, (queue, cause, n) in enumerate(walked):
                    if looked == SCANNED_MAX or len(counts) == query.limit:
                        after = last
                        break
                    last = place_of(query, queue, cause, n)
                    found = db.execute(_NEWEST_DEAD, (tenant, queue, cause)).fetchone()
                    if found is not None and query.task in (None, found[1]):
                        counts.append((queue, cause, n, found[0]))
            jobs = {row.opened: row for row in _rows(db, [opened for *_, opened in counts])}
            rows = [
                DeadRow(queue, cause, n, jobs[opened]) for queue, cause, n, opened in counts if opened in jobs
            ]
            if len(rows) < len(counts):
                after = place_of(query, rows[-1].queue, rows[-1].cause, rows[-1].n)
            return DeadRows(position_of(db), rows, after)

        return await self.read(read)

    async def leader(self) -> Leader | None:
        """The newest leader that the view has read of."""
        sql = "SELECT leader, version, seq FROM leader"
        return await self.read(lambda db: next((Leader(*row) for row in db.execute(sql)), None))


def _causes(tenant: str, query: DeadQuery) -> tuple[str, list[Any]]:
    """The statement that walks the causes which a query asks for, from its cursor on, and its values."""
    sql, values, order = "SELECT queue, cause, n FROM dead_counts", list[Any]([tenant]), "queue, cause"
    if query.largest:
        sql, order = f"{sql} INDEXED BY dead_counts_largest", "n DESC, queue, cause"
    sql += " WHERE tenant = ?"
    if query.queue is not None:
        sql += " AND queue >= ? AND queue < ?"
        values += [query.queue, lines_end(query.queue)]
    if query.cause is not None:
        sql += " AND cause = ?"
        values.append(query.cause)
    place = query.cursor
    if query.largest and place is not None:
        number, _, place = place.partition("~")
        n = int(number) if number.isascii() and number.isdigit() and len(number) < _DIGITS else 0
        sql += " AND n <= ? AND (n < ? OR (queue, cause) > (?, ?))"
        values += [n, n, *split_job_key(place)]
    elif place is not None:
        sql += " AND (queue, cause) > (?, ?)"
        values += split_job_key(place)
    return f"{sql} ORDER BY {order} LIMIT ?", [*values, SCANNED_MAX + 1]


def place_of(query: DeadQuery, queue: str, cause: str, n: int) -> str:
    """The cursor behind a cause."""
    return f"{n}~{job_key(queue, cause)}" if query.largest else job_key(queue, cause)


def _rows(db: sqlite3.Connection, places: Sequence[int]) -> list[JobRow]:
    """These jobs in this order, as many as one answer can carry."""
    rows: list[JobRow] = []
    room = CONTENT_MAX_BYTES
    for place in places:
        opened, seq, job, sealed, output = db.execute(_CONTENT, (place,)).fetchone()
        room -= len(job) + len(sealed) + len(output or b"") + _ROW_EXTRA_BYTES
        if room < 0 and rows:
            break
        out = None if output is None else _decode_sealed(output)
        rows.append(JobRow(opened, seq, decode_job(job), _decode_sealed(sealed), out))
    return rows
