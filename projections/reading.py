"""Reads of the jobs view."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from writ.schemas.ids import split_job_key
from writ.schemas.lifecycle import Job, State
from writ.schemas.queries import DeadQuery, JobsQuery
from writ.schemas.sealed import Sealed

from .file import Reader, position_of
from .finding import find
from .jobs import decode_job

T = TypeVar("T")

CONTENT_MAX_BYTES = 700 * 1024
"""Inputs, outputs and the rest of a page's jobs together; a page holds one job at least."""

_ROW_EXTRA_BYTES = 600
_FROM_WANTED = (
    " FROM jobs LEFT JOIN inputs i USING (opened) LEFT JOIN outputs o USING (opened)"
    " WHERE opened IN (SELECT value FROM json_each(?))"
)
_SIZES = (
    "SELECT opened, length(job) + coalesce(length(i.sealed), 0) + coalesce(length(o.sealed), 0)"
    + _FROM_WANTED
)
_CONTENTS = "SELECT opened, seq, job, i.sealed, o.sealed" + _FROM_WANTED + " ORDER BY opened DESC"
_GOVERNED = "SELECT key, seq, at, actor, made_by, body FROM governed"
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
    """Rows as of `position`; `more` where rows after the last one here remain."""

    position: int
    rows: list[DeadRow]
    more: bool


class Leader(NamedTuple):
    leader: str
    version: str
    seq: int


class GovernedRow(NamedTuple):
    """Something that governs jobs, as its fold left it; `at` and `actor` are its newest record's."""

    key: str
    seq: int
    at: int
    actor: str
    made_by: str
    body: bytes


class QueueRow(NamedTuple):
    """A queue with its jobs by state, and its running ones by concurrency key."""

    name: str
    governed: GovernedRow | None
    jobs: dict[State, int]
    running: dict[str, int]


class BatchRow(NamedTuple):
    """A batch with its jobs by state."""

    key: str
    governed: GovernedRow | None
    jobs: dict[State, int]


class ChangeRow(NamedTuple):
    seq: int
    at: int
    actor: str
    event: str
    data: bytes


class JobsReader(Reader):
    """Answers from the jobs view. Every answer is of one tenant and of one position.

    All methods raise sqlite3.Error where the file cannot be read.
    """

    async def page(self, tenant: str, query: JobsQuery) -> JobRows:
        """Jobs by filters, newest submit first."""

        def read(db: sqlite3.Connection) -> JobRows:
            places, after = find(db, tenant, query)
            rows = _rows(db, places)
            return JobRows(position_of(db), rows, after if len(rows) == len(places) else rows[-1].opened)

        return await self.read(read)

    async def lookup(self, tenant: str, job_id: str, queue: str | None = None) -> JobRows:
        """The jobs with this id, newest first: one for each queue that has one."""
        sql = "SELECT opened FROM jobs WHERE tenant = ? AND id = ?"
        parts = [tenant, job_id]
        if queue is not None:
            sql += " AND queue = ?"
            parts.append(queue)

        def read(db: sqlite3.Connection) -> JobRows:
            places = sorted([int(opened) for (opened,) in db.execute(sql, parts)], reverse=True)
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

    async def queues(
        self, tenant: str, queue: str | None, after: str, limit: int
    ) -> tuple[int, list[QueueRow]]:
        """Position, and queues by name: those with jobs, and those that somebody declared or closed."""
        known = (
            "SELECT key FROM governed WHERE kind = 'queue' AND tenant = ? AND key > ? ORDER BY key LIMIT ?"
        )
        used = "SELECT DISTINCT queue FROM counts WHERE tenant = ? AND queue > ? ORDER BY queue LIMIT ?"
        counts = "SELECT state, n FROM counts WHERE tenant = ? AND queue = ?"
        keys = "SELECT concurrency_key, n FROM running_keys WHERE tenant = ? AND queue = ? ORDER BY 1"

        def read(db: sqlite3.Connection) -> tuple[int, list[QueueRow]]:
            names = {queue} if queue is not None and queue > after else set[str]()
            if queue is None:
                for sql in (known, used):
                    names |= {str(name) for (name,) in db.execute(sql, (tenant, after, limit))}
            found: list[QueueRow] = []
            for name in sorted(names)[:limit]:
                jobs = {State(state): int(n) for state, n in db.execute(counts, (tenant, name))}
                row = _governed(db, "queue", tenant, name)
                if jobs or row is not None:
                    found.append(QueueRow(name, row, jobs, dict(db.execute(keys, (tenant, name)).fetchall())))
            return position_of(db), found

        return await self.read(read)

    async def dead_counts(self, tenant: str, query: DeadQuery) -> DeadRows:
        """Causes of dead letters that nobody has settled, by queue and cause, each with its newest submit."""
        sql = "SELECT queue, cause, n FROM dead_counts WHERE tenant = ? AND (queue, cause) > (?, ?)"
        parts: list[Any] = [tenant, *split_job_key(query.cursor or "")]
        for column, value in (("queue", query.queue), ("cause", query.cause)):
            if value is not None:
                sql += f" AND {column} = ?"
                parts.append(value)
        newest = (
            "SELECT opened FROM jobs WHERE tenant = ? AND queue = ? AND cause = ?"
            " ORDER BY opened DESC LIMIT 1"
        )

        def read(db: sqlite3.Connection) -> DeadRows:
            counts = db.execute(f"{sql} ORDER BY queue, cause LIMIT ?", (*parts, query.limit + 1)).fetchall()
            places = [db.execute(newest, (tenant, *count[:2])).fetchone()[0] for count in counts]
            jobs = {row.opened: row for row in _rows(db, places[: query.limit])}
            found = [
                DeadRow(queue, cause, n, jobs[opened])
                for (queue, cause, n), opened in zip(counts, places, strict=True)
                if opened in jobs
            ]
            return DeadRows(position_of(db), found, len(found) < len(counts))

        return await self.read(read)

    async def batches(
        self, tenant: str, queue: str | None, batch: str | None, after: str, limit: int
    ) -> tuple[int, list[BatchRow]]:
        """Position, and batches by key: those with jobs, and those that were sealed."""
        sql = "SELECT key FROM batches WHERE tenant = ? AND key > ?"
        parts: list[Any] = [tenant, after]
        if batch is not None:
            sql += " AND batch = ?"
            parts.append(batch)
        if queue is not None:
            sql += " AND key > ? AND key < ?"
            parts += _range_of(queue)
        counts = "SELECT state, n FROM batch_counts WHERE tenant = ? AND queue = ? AND batch = ?"

        def read(db: sqlite3.Connection) -> tuple[int, list[BatchRow]]:
            found: list[BatchRow] = []
            for (key,) in db.execute(f"{sql} ORDER BY key LIMIT ?", (*parts, limit)).fetchall():
                jobs = db.execute(counts, (tenant, *split_job_key(key)))
                row = _governed(db, "batch", tenant, key)
                found.append(BatchRow(key, row, {State(state): int(n) for state, n in jobs}))
            return position_of(db), found

        return await self.read(read)

    async def governed(
        self, kind: str, tenant: str, queue: str | None, name: str | None, after: str, limit: int
    ) -> tuple[int, list[GovernedRow]]:
        """Position, and schedules or operations in the order of their keys, those of a queue and a name."""
        sql = f"{_GOVERNED} WHERE kind = ? AND tenant = ? AND key > ?"
        parts: list[Any] = [kind, tenant, after]
        if name is not None:
            sql += " AND name = ?"
            parts.append(name)
        if queue is not None:
            sql += " AND key > ? AND key < ?"
            parts += _range_of(queue)
        sql += " ORDER BY key LIMIT ?"
        parts.append(limit)
        return await self.read(
            lambda db: (position_of(db), [GovernedRow(*row) for row in db.execute(sql, parts)])
        )

    async def changes(self, kind: str, tenant: str, key: str, limit: int) -> list[ChangeRow]:
        """What was done to an aggregate, newest first."""
        sql = (
            "SELECT seq, at, actor, event, data FROM changes WHERE kind = ? AND tenant = ? AND key = ?"
            " ORDER BY seq DESC, nth LIMIT ?"
        )
        return await self.read(
            lambda db: [ChangeRow(*row) for row in db.execute(sql, (kind, tenant, key, limit))]
        )

    async def leader(self) -> Leader | None:
        """The newest leader that the view has read of."""
        sql = "SELECT leader, version, seq FROM leader"
        return await self.read(lambda db: next((Leader(*row) for row in db.execute(sql)), None))


def _rows(db: sqlite3.Connection, places: Sequence[int]) -> list[JobRow]:
    """These jobs in this order, as many as one answer can carry."""
    sizes: dict[int, int] = dict(db.execute(_SIZES, (msgspec.json.encode(places).decode(),)).fetchall())
    fitting: list[int] = []
    room = CONTENT_MAX_BYTES
    for opened in places:
        room -= sizes[opened] + _ROW_EXTRA_BYTES
        if room < 0 and fitting:
            break
        fitting.append(opened)
    found = db.execute(_CONTENTS, (msgspec.json.encode(fitting).decode(),))
    return [
        JobRow(opened, seq, decode_job(job), _decode_sealed(i), None if o is None else _decode_sealed(o))
        for opened, seq, job, i, o in found
    ]


def _governed(db: sqlite3.Connection, kind: str, tenant: str, key: str) -> GovernedRow | None:
    sql = f"{_GOVERNED} WHERE kind = ? AND tenant = ? AND key = ?"
    return next((GovernedRow(*row) for row in db.execute(sql, (kind, tenant, key))), None)


def _range_of(queue: str) -> tuple[str, str]:
    """Between these are the keys `<queue>~<name>`."""
    return f"{queue}~", f"{queue}\x7f"
