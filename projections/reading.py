"""Reads of the jobs view."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from writ.schemas.lifecycle import Job, State
from writ.schemas.sealed import Sealed

from .file import Reader, position_of
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
    """Rows as of `position`; `more` where rows after the last one here remain."""

    position: int
    rows: list[JobRow]
    more: bool


class Leader(NamedTuple):
    leader: str
    version: str
    seq: int


class Refusal(NamedTuple):
    """One refused element of a command or report, as the audit lists it. `at` is log time in microseconds.

    `element` is its index in an array, `of` how many refusals the record speaks of in all; the names are None
    where it only counts.
    """

    seq: int
    nth: int
    at: int
    tenant: str
    actor: str
    event: str
    verb: str | None
    queue: str | None
    job: str | None
    token: int | None
    worker: str | None
    kind: str
    field: str | None
    element: int | None
    reason: str
    of: int


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

    async def page(
        self,
        tenant: str,
        *,
        states: Sequence[State] = (),
        queue: str | None = None,
        task: str | None = None,
        links: Mapping[str, str] | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> JobRows:
        """Jobs by filters, newest submit first; `before` is the `opened` of the page before's last.

        `links` names what they belong to, by kind: a batch, parent, schedule or operation.
        """
        if links:
            sql, parts = _linked(tenant, states, queue, task, links, before)
        else:
            sql, parts = _walked(tenant, states, queue, task, before, limit)

        def read(db: sqlite3.Connection) -> JobRows:
            found = db.execute(f"{sql} ORDER BY 1 DESC LIMIT ?", (*parts, limit + 1))
            places = [int(opened) for (opened,) in found]
            rows, more = _rows(db, places[:limit])
            return JobRows(position_of(db), rows, more or len(places) > limit)

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
            rows, more = _rows(db, [int(opened) for (opened,) in found])
            return JobRows(position_of(db), rows, more)

        return await self.read(read)

    async def counts(self, tenant: str) -> dict[State, int]:
        """Jobs of the tenant by state; states without jobs are left out."""
        sql = "SELECT state, sum(n) FROM counts WHERE tenant = ? GROUP BY state"
        return await self.read(lambda db: {State(state): n for state, n in db.execute(sql, (tenant,))})

    async def queue_counts(self, tenant: str) -> dict[str, dict[State, int]]:
        """Jobs of the tenant by queue and state."""
        sql = "SELECT queue, state, n FROM counts WHERE tenant = ? ORDER BY queue, state"
        return await self.read(lambda db: _by_name(db.execute(sql, (tenant,)), State))

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

    async def rejections(self, tenant: str, limit: int = 100) -> list[Refusal]:
        """What the tenant's principals were refused, newest first."""
        sql = "SELECT * FROM rejections WHERE tenant = ? ORDER BY seq DESC, nth LIMIT ?"
        return await self.read(lambda db: [Refusal(*row) for row in db.execute(sql, (tenant, limit))])


def _rows(db: sqlite3.Connection, places: Sequence[int]) -> tuple[list[JobRow], bool]:
    """These jobs in this order, as many as one answer can carry, and whether some were left out."""
    sizes: dict[int, int] = dict(db.execute(_SIZES, (msgspec.json.encode(places).decode(),)).fetchall())
    fitting: list[int] = []
    room = CONTENT_MAX_BYTES
    for opened in places:
        room -= sizes[opened] + _ROW_EXTRA_BYTES
        if room < 0 and fitting:
            break
        fitting.append(opened)
    found = db.execute(_CONTENTS, (msgspec.json.encode(fitting).decode(),))
    rows = [
        JobRow(opened, seq, decode_job(job), _decode_sealed(i), None if o is None else _decode_sealed(o))
        for opened, seq, job, i, o in found
    ]
    return rows, len(fitting) < len(places)


def _by_name(rows: Iterable[tuple[str, str, int]], kind: Callable[[str], T]) -> dict[str, dict[T, int]]:
    """Numbers of something by what they belong to and by what they count."""
    found: dict[str, dict[T, int]] = {}
    for name, counted, n in rows:
        found.setdefault(name, {})[kind(counted)] = n
    return found


def _walked(
    tenant: str, states: Sequence[State], queue: str | None, task: str | None, before: int | None, limit: int
) -> tuple[str, list[Any]]:
    """The page as one keyset walk for each state, merged: an index answers each in the page's order."""
    where = ["state = ?", "tenant = ?"]
    values: list[Any] = [tenant]
    for column, value in (("queue = ?", queue), ("task = ?", task), ("opened < ?", before)):
        if value is not None:
            where.append(column)
            values.append(value)
    walk = (
        "SELECT * FROM (SELECT opened FROM jobs WHERE "  # noqa: S608 - `where` holds words of ours alone
        f"{' AND '.join(where)} ORDER BY opened DESC LIMIT ?)"
    )
    wanted = dict.fromkeys(states or tuple(State))
    parts: list[Any] = []
    for state in wanted:
        parts += (state.value, *values, limit + 1)
    return " UNION ALL ".join([walk] * len(wanted)), parts


def _linked(
    tenant: str,
    states: Sequence[State],
    queue: str | None,
    task: str | None,
    links: Mapping[str, str],
    before: int | None,
) -> tuple[str, list[Any]]:
    """The page as a walk over the jobs of the first link, which stand together."""
    (kind, name), *others = links.items()
    sql = (
        "SELECT first.opened FROM links AS first CROSS JOIN jobs USING (opened)"
        " WHERE first.tenant = ? AND first.kind = ? AND first.name = ?"
    )
    parts: list[Any] = [tenant, kind, name]
    for kind, name in others:
        sql += (
            " AND EXISTS (SELECT 1 FROM links WHERE tenant = ? AND kind = ? AND name = ?"
            " AND opened = first.opened)"
        )
        parts += (tenant, kind, name)
    if states:
        sql += " AND state IN (SELECT value FROM json_each(?))"
        parts.append(msgspec.json.encode(states).decode())
    for term, value in (("queue = ?", queue), ("task = ?", task), ("first.opened < ?", before)):
        if value is not None:
            sql += f" AND {term}"
            parts.append(value)
    return sql, parts


def _literal(text: str) -> str:
    """Text that LIKE takes as it is."""
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
