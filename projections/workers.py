"""The workers view: who works, on what, what they hold, and when each was last heard of."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from writ.schemas.commands import CONTROL_VERBS
from writ.schemas.events import AttemptStarted, LeaseGranted, WorkerSeen
from writ.schemas.fleet import FLEET_EVENTS, WorkerDrained
from writ.schemas.ids import split_job_key, token_position
from writ.schemas.lists import AttemptOutcome, WorkersPage, WorkersQuery, WorkerView
from writ.schemas.records import Record
from writ.schemas.schedules import log_time

from .attempts import OUTCOMES, ends
from .collecting import Collecting
from .file import position_of
from .shown import Seen, fit, timestamp
from .view import Write

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS workers (
    tenant TEXT NOT NULL,
    worker TEXT NOT NULL,
    principal TEXT NOT NULL, -- of its newest grant
    first_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    leases INTEGER NOT NULL, -- live ones
    granted INTEGER NOT NULL,
    completed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    expired INTEGER NOT NULL,
    returned INTEGER NOT NULL,
    host TEXT, -- this and what follows as it said of itself
    version TEXT,
    slots INTEGER,
    labels TEXT, -- as JSON
    queues TEXT, -- as JSON
    PRIMARY KEY (tenant, worker)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS drained ( -- workers that take no more leases, heard of or not
    tenant TEXT NOT NULL, worker TEXT NOT NULL, reason TEXT NOT NULL, actor TEXT NOT NULL,
    PRIMARY KEY (tenant, worker)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS workers_by_leases ON workers (tenant, worker) WHERE leases > 0;
CREATE TABLE IF NOT EXISTS served (
    tenant TEXT NOT NULL, worker TEXT NOT NULL, queue TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (tenant, worker, queue)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tasks ( -- what they said that each takes, as a JSON Schema
    tenant TEXT NOT NULL, worker TEXT NOT NULL, task TEXT NOT NULL, schema TEXT NOT NULL,
    PRIMARY KEY (tenant, worker, task)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases ( -- live ones
    seq INTEGER PRIMARY KEY, -- of the grant
    tenant TEXT NOT NULL,
    worker TEXT NOT NULL,
    job TEXT NOT NULL -- the key
);
CREATE INDEX IF NOT EXISTS leases_by_worker ON leases (tenant, worker);
"""
_HOLD: Final = "INSERT INTO leases VALUES (?, ?, ?, ?)"
_FORGET: Final = "DELETE FROM leases WHERE seq = ?"
_MET: Final = (
    "INSERT INTO workers VALUES (?1, ?2, ?3, ?4, ?4, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL)"
    " ON CONFLICT DO UPDATE SET principal = excluded.principal"
)
_TASK: Final = "INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?)"
_ABOUT: Final = (
    "UPDATE workers SET host = ?, version = ?, slots = ?, labels = ?, queues = ?"
    " WHERE tenant = ? AND worker = ?"
)
_DRAIN: Final = "INSERT OR REPLACE INTO drained VALUES (?, ?, ?, ?)"
_UNDRAIN: Final = "DELETE FROM drained WHERE tenant = ? AND worker = ?"
_DRAINED: Final = "SELECT reason, actor FROM drained WHERE tenant = ? AND worker = ?"
_SERVE: Final = "INSERT INTO served VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
_SEEN: Final = "UPDATE workers SET seen_at = max(seen_at, ?) WHERE tenant = ? AND worker = ?"
_ADD: Final = (
    "UPDATE workers SET leases = leases + ?3, granted = granted + ?4, completed = completed + ?5,"
    " failed = failed + ?6, expired = expired + ?7, returned = returned + ?8"
    " WHERE tenant = ?1 AND worker = ?2"
)
_HOLDERS: Final = "SELECT seq, tenant, worker, job FROM leases WHERE seq IN (SELECT value FROM json_each(?))"
_COLUMNS: Final = {
    AttemptOutcome.COMPLETED: 0,
    AttemptOutcome.COMPENSATED: 0,
    AttemptOutcome.FAILED: 1,
    AttemptOutcome.EXPIRED: 2,
}
"""Which of the counters of ends an end counts in, from `completed` on."""

_RETURNED: Final = 3
"""All other ends give the attempt back."""

_OF_LEASES: Final = frozenset({AttemptStarted, *OUTCOMES})

JOBS_NAMED_MAX: Final = 20
"""Jobs in hand that are named of one worker; its `leases` counts them all."""


Name = tuple[str, str]
"""Tenant and worker."""

Lease = tuple[str, str, str]
"""Tenant and worker, and the key of the job."""


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


class WorkersView(Collecting):
    """The fold. A worker is heard of by its grants, beats and reports, and by what it says of itself."""

    name = "workers"
    version = 4
    schema = _SCHEMA
    statements = (_MET, _ABOUT, _TASK, _SERVE, _SEEN, _ADD, _HOLD, _FORGET, _DRAIN, _UNDRAIN)

    def __init__(self) -> None:
        self._held: dict[int, Lease] = {}
        self._stored: set[int] = set()
        self._met: dict[Name, tuple[str, int]] = {}
        self._seen: dict[Name, int] = {}
        self._about: dict[Name, WorkerSeen] = {}
        self._tasks: dict[tuple[Name, str], str] = {}
        self._drained: dict[Name, Record] = {}
        self._served: dict[tuple[str, str, str], int] = {}
        self._ended: dict[tuple[Name, int], int] = {}
        super().__init__()

    def load(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
        """Who holds the leases that are spoken of, of those granted before."""
        first = records[0].seq
        seqs: set[int] = set()
        for record in records:
            for event in record.events:
                if type(event) in _OF_LEASES and (token := getattr(event, "token", None)) is not None:
                    seq = token_position(token)[1]
                    if seq < first:
                        seqs.add(seq)
        if seqs:
            for seq, tenant, worker, job in db.execute(_HOLDERS, (msgspec.json.encode(list(seqs)).decode(),)):
                self._held[seq] = (tenant, worker, job)
                self._stored.add(seq)

    def fold(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.kind == "worker":
                self._hear(record)
                continue
            for event in record.events:
                if type(event) is LeaseGranted:
                    self._grant(record, event)
                elif type(event) is AttemptStarted:
                    if (lease := self._held.get(token_position(event.token)[1])) is not None:
                        self._seen[lease[:2]] = record.at
                elif type(event) in OUTCOMES and (ended := ends(event)) is not None:
                    self._end(*ended, record)

    def _hear(self, record: Record) -> None:
        name = (record.tenant, record.key)
        if isinstance(record.events[0], FLEET_EVENTS):
            self._drained[name] = record
            return
        self._seen[name] = record.at
        for event in record.events:
            if type(event) is WorkerSeen:
                self._meet(name, record.actor, record.at)
                self._about[name] = event
                self._tasks |= {(name, task): schema for task, schema in event.tasks.items()}

    def _meet(self, name: Name, principal: str, at: int) -> None:
        known = self._met.get(name)
        if known is None or known[0] != principal:
            self._met[name] = (principal, at if known is None else known[1])
        self._seen[name] = at

    def _grant(self, record: Record, event: LeaseGranted) -> None:
        name = (record.tenant, event.worker)
        self._held[record.seq] = (*name, record.key)
        self._meet(name, event.principal or record.actor, record.at)
        served = (*name, split_job_key(record.key)[0])
        self._served[served] = self._served.get(served, 0) + 1

    def _end(self, seq: int, outcome: AttemptOutcome, record: Record) -> None:
        lease = self._held.pop(seq, None)
        if lease is None:
            return
        holder = lease[:2]
        if not record.actor.startswith("writ:") and record.cause not in CONTROL_VERBS:
            self._seen[holder] = record.at
        ended = (holder, _COLUMNS.get(outcome, _RETURNED))
        self._ended[ended] = self._ended.get(ended, 0) + 1
        if seq in self._stored:
            self._put(_FORGET, seq)

    def writes(self) -> list[Write]:
        for name, met in self._met.items():
            self._put(_MET, *name, *met)
        for name, at in self._seen.items():
            self._put(_SEEN, at, *name)
        for served, n in self._served.items():
            self._put(_SERVE, *served, n)
            self._count(_ADD, served[:2], n, n, 0, 0, 0, 0)
        for (name, column), n in self._ended.items():
            self._count(_ADD, name, -n, 0, *[n if place == column else 0 for place in range(_RETURNED + 1)])
        for name, about in self._about.items():
            said = _text(about.labels), _text(about.queues)
            self._put(_ABOUT, about.host, about.version, about.slots, *said, *name)
        for (name, task), schema in self._tasks.items():
            self._put(_TASK, *name, task, schema)
        for name, record in self._drained.items():
            event = record.events[-1]
            if isinstance(event, WorkerDrained):
                self._put(_DRAIN, *name, event.reason, record.actor)
            else:
                self._put(_UNDRAIN, *name)
        for seq, lease in self._held.items():
            if seq not in self._stored:
                self._put(_HOLD, seq, *lease)
        return super().writes()

    def discard(self) -> None:
        self._held, self._stored, self._met, self._seen = {}, set(), {}, {}
        self._served, self._ended, self._about, self._tasks, self._drained = {}, {}, {}, {}, {}
        super().discard()


def workers(db: sqlite3.Connection, tenant: str, query: WorkersQuery) -> WorkersPage:
    """Workers by name; without `since` those that hold leases."""
    where, parts = "tenant = ? AND worker > ?", [tenant, query.cursor or ""]
    since = None
    if query.worker is not None:
        where, parts = "tenant = ? AND worker = ?", [tenant, query.worker]
    elif query.since is None:
        where += " AND leases > 0"
    else:
        since = log_time(query.since)
    found = db.execute(f"SELECT * FROM workers WHERE {where} ORDER BY worker", parts)  # noqa: S608 - our words
    shown, after = fit((_seen(db, since, row) for row in found), query.limit)
    return WorkersPage(None, position_of(db), shown, after)


def _seen(db: sqlite3.Connection, since: int | None, row: tuple[Any, ...]) -> Seen:
    tenant, worker, principal, first_at, seen_at, leases = row[:6]
    if since is not None and not leases and seen_at < since:
        return Seen(worker, None)
    sql = "SELECT queue FROM served WHERE tenant = ? AND worker = ? ORDER BY queue"
    *numbers, labels, said = row[6:]
    served = [queue for (queue,) in db.execute(sql, (tenant, worker))]
    queues = tuple(sorted({*served, *msgspec.json.decode(said or "[]", type=list[str])}))
    sql = "SELECT job FROM leases WHERE tenant = ? AND worker = ? ORDER BY seq LIMIT ?"
    jobs = tuple([job for (job,) in db.execute(sql, (tenant, worker, JOBS_NAMED_MAX))])
    sql = "SELECT task, schema FROM tasks WHERE tenant = ? AND worker = ?"
    tasks = dict(db.execute(sql, (tenant, worker)).fetchall())
    has = msgspec.json.decode(labels or "{}", type=dict[str, str])
    others: Any = (*numbers, jobs, tasks, has, *(db.execute(_DRAINED, (tenant, worker)).fetchone() or ()))
    times = timestamp(first_at), timestamp(seen_at)
    view = WorkerView(worker, tenant, principal, queues, *times, leases, *others)
    return Seen(worker, view, 1 + len(queues) + len(jobs))
