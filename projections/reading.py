"""Reads of the jobs view."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
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
            found = db.execute(sql + " ORDER BY opened DESC", parts)
            places = [int(opened) for (opened,) in found]
            rows = _rows(db, places)
            return JobRows(position_of(db), rows, None if len(rows) == len(places) else rows[-1].opened)

        return await self.read(read)

    async def counts(self, tenant: str) -> dict[State, int]:
        """Jobs of the tenant by state; states without jobs are left out."""
        sql = "SELECT state, sum(n) FROM counts WHERE tenant = ? GROUP BY state"
        return await self.read(lambda db: {State(state): n for state, n in db.execute(sql, (tenant,))})

    async def queue_counts(self, tenant: str) -> dict[str, dict[State, int]]:
        """Jobs of the tenant by queue and state."""
        sql = "SELECT queue, state, n FROM counts WHERE tenant = ? ORDER BY queue, state"
        return await self.read(lambda db: _by_name(db.execute(sql, (tenant,)), State))

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

    async def running_keys(self, tenant: str) -> dict[str, dict[str, int]]:
        """Running jobs of the tenant by queue and concurrency key."""
        sql = "SELECT queue, concurrency_key, n FROM running_keys WHERE tenant = ? ORDER BY 1, 2"
        return await self.read(lambda db: _by_name(db.execute(sql, (tenant,)), str))

    async def batch_counts(self, tenant: str, keys: Sequence[str]) -> dict[str, dict[State, int]]:
        """Jobs of batches by `<queue>~<batch>` and state."""
        sql = (
            "SELECT queue || '~' || batch, state, n FROM json_each(?) AS wanted CROSS JOIN batch_counts"
            " ON tenant = ? AND queue = json_extract(wanted.value, '$[0]')"
            " AND batch = json_extract(wanted.value, '$[1]')"
        )
        wanted = msgspec.json.encode([key.split("~", 1) for key in keys]).decode()
        return await self.read(lambda db: _by_name(db.execute(sql, (wanted, tenant)), State))

    async def batch_keys(
        self, tenant: str, queue: str | None, batch: str | None, after: str, limit: int
    ) -> tuple[int, list[str]]:
        """Position, and keys of batches in their order: those with jobs and those that were sealed."""
        sql = (
            "SELECT key FROM (SELECT DISTINCT queue || '~' || batch AS key FROM batch_counts WHERE tenant = ?"
            " UNION SELECT key FROM governed WHERE kind = 'batch' AND tenant = ?)"
            " WHERE key > ? AND (? IS NULL OR key LIKE ? ESCAPE '!') AND (? IS NULL OR key LIKE ? ESCAPE '!')"
            " ORDER BY key LIMIT ?"
        )
        of_queue = None if queue is None else f"{_literal(queue)}~%"
        named = None if batch is None else f"%~{_literal(batch)}"
        parts = (tenant, tenant, after, queue, of_queue, batch, named, limit)
        return await self.read(lambda db: (position_of(db), [str(key) for (key,) in db.execute(sql, parts)]))

    async def governed(
        self, kind: str, tenant: str, *, key: str | None = None, after: str = "", until: str | None = None,
        limit: int = 1_000
    ) -> tuple[int, list[GovernedRow]]:  # fmt: skip
        """Position, and aggregates of a kind in the order of their keys: one key, or those in a range."""
        sql = "SELECT key, seq, at, actor, made_by, body FROM governed WHERE kind = ? AND tenant = ?"
        parts: list[Any] = [kind, tenant]
        for term, value in (("key = ?", key), ("key > ?", after), ("key < ?", until)):
            if value is not None:
                sql += f" AND {term}"
                parts.append(value)
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


def _by_name(rows: Iterable[tuple[str, str, int]], kind: Callable[[str], T]) -> dict[str, dict[T, int]]:
    """Numbers of something by what they belong to and by what they count."""
    found: dict[str, dict[T, int]] = {}
    for name, counted, n in rows:
        found.setdefault(name, {})[kind(counted)] = n
    return found


def _literal(text: str) -> str:
    """Text that LIKE takes as it is."""
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
