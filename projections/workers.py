"""The workers view: who works, on what, what they hold, and when each was last heard of."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from writ.schemas.commands import CONTROL_VERBS
from writ.schemas.events import AttemptStarted, Fact, LeaseGranted
from writ.schemas.ids import split_job_key, token_position
from writ.schemas.lists import AttemptOutcome, WorkersPage, WorkersQuery, WorkerView
from writ.schemas.records import Record
from writ.schemas.schedules import log_time

from .attempts import ends
from .collecting import Collecting
from .file import position_of
from .shown import timestamp
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
    PRIMARY KEY (tenant, worker)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS workers_by_leases ON workers (tenant, worker) WHERE leases > 0;
CREATE TABLE IF NOT EXISTS served (
    tenant TEXT NOT NULL, worker TEXT NOT NULL, queue TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (tenant, worker, queue)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases ( -- live ones
    seq INTEGER PRIMARY KEY, -- of the grant
    tenant TEXT NOT NULL,
    worker TEXT NOT NULL
);
"""
_HOLD: Final = "INSERT INTO leases VALUES (?, ?, ?)"
_FORGET: Final = "DELETE FROM leases WHERE seq = ?"
_MET: Final = (
    "INSERT INTO workers VALUES (?1, ?2, ?3, ?4, ?4, 0, 0, 0, 0, 0, 0)"
    " ON CONFLICT DO UPDATE SET principal = excluded.principal"
)
_SERVE: Final = "INSERT INTO served VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
_SEEN: Final = "UPDATE workers SET seen_at = max(seen_at, ?) WHERE tenant = ? AND worker = ?"
_ADD: Final = (
    "UPDATE workers SET leases = leases + ?3, granted = granted + ?4, completed = completed + ?5,"
    " failed = failed + ?6, expired = expired + ?7, returned = returned + ?8"
    " WHERE tenant = ?1 AND worker = ?2"
)
_HOLDERS: Final = "SELECT seq, tenant, worker FROM leases WHERE seq IN (SELECT value FROM json_each(?))"
_ENDS: Final = (
    (AttemptOutcome.COMPLETED, AttemptOutcome.COMPENSATED),
    (AttemptOutcome.FAILED,),
    (AttemptOutcome.EXPIRED,),
)
"""What is counted together; all other ends give the attempt back."""


Name = tuple[str, str]
"""Tenant and worker."""


class WorkersView(Collecting):
    """The fold. A worker is heard of by its grants, beats and reports."""

    name = "workers"
    version = 1
    schema = _SCHEMA
    statements = (_MET, _SERVE, _SEEN, _ADD, _HOLD, _FORGET)

    def __init__(self) -> None:
        self._held: dict[int, Name] = {}
        self._stored: set[int] = set()
        self._met: dict[Name, tuple[str, int]] = {}
        self._seen: dict[Name, int] = {}
        super().__init__()

    def load(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
        """Who holds the leases that are spoken of, of those granted before."""
        first = records[0].seq
        tokens = [getattr(event, "token", None) for record in records for event in record.events]
        seqs = {seq for token in tokens if token is not None and (seq := token_position(token)[1]) < first}
        if seqs:
            for seq, tenant, worker in db.execute(_HOLDERS, (msgspec.json.encode(list(seqs)).decode(),)):
                self._held[seq] = (tenant, worker)
                self._stored.add(seq)

    def fold(self, record: Record) -> None:
        if record.kind == "worker":
            self._seen[record.tenant, record.key] = record.at
        elif record.kind == "job":
            for event in record.events:
                self._fold_event(record, event)

    def _fold_event(self, record: Record, event: Fact) -> None:
        if isinstance(event, LeaseGranted):
            name = self._held[record.seq] = (record.tenant, event.worker)
            principal, first_at = event.principal or record.actor, self._met.get(name, ("", record.at))[1]
            self._met[name] = (principal, first_at)
            self._seen[name] = record.at
            self._count(_SERVE, (*name, split_job_key(record.key)[0]), 1)
            self._count(_ADD, name, 1, 1, 0, 0, 0, 0)
        elif isinstance(event, AttemptStarted):
            if (holder := self._held.get(token_position(event.token)[1])) is not None:
                self._seen[holder] = record.at
        elif (ended := ends(event)) is not None and (holder := self._held.pop(ended[0], None)) is not None:
            seq, outcome = ended
            if not record.actor.startswith("writ:") and record.cause not in CONTROL_VERBS:
                self._seen[holder] = record.at
            numbers = [int(outcome in each) for each in _ENDS]
            self._count(_ADD, holder, -1, 0, *numbers, int(not any(numbers)))
            if seq in self._stored:
                self._put(_FORGET, seq)

    def writes(self) -> list[Write]:
        for name, met in self._met.items():
            self._put(_MET, *name, *met)
        for name, at in self._seen.items():
            self._put(_SEEN, at, *name)
        for seq, name in self._held.items():
            if seq not in self._stored:
                self._put(_HOLD, seq, *name)
        return super().writes()

    def discard(self) -> None:
        self._held, self._stored, self._met, self._seen = {}, set(), {}, {}
        super().discard()


def workers(db: sqlite3.Connection, tenant: str, query: WorkersQuery) -> WorkersPage:
    """Workers by name; without `since` those that hold leases."""
    where = "tenant = ? AND worker > ?"
    parts: list[str | int] = [tenant, query.cursor or ""]
    if query.worker is not None:
        where = "tenant = ? AND worker = ?"
        parts = [tenant, query.worker]
    elif query.since is None:
        where += " AND leases > 0"
    else:
        where += " AND (leases > 0 OR seen_at >= ?)"
        parts.append(log_time(query.since))
    sql = f"SELECT * FROM workers WHERE {where} ORDER BY worker LIMIT ?"  # noqa: S608 - words of ours alone
    found = db.execute(sql, (*parts, query.limit + 1)).fetchall()
    views = tuple([_view(db, *row) for row in found[: query.limit]])
    return WorkersPage(None, position_of(db), views, views[-1].worker if len(found) > query.limit else None)


def _view(
    db: sqlite3.Connection,
    tenant: str,
    worker: str,
    principal: str,
    first_at: int,
    seen_at: int,
    *numbers: Any,
) -> WorkerView:
    sql = "SELECT queue FROM served WHERE tenant = ? AND worker = ? ORDER BY queue"
    queues = tuple([queue for (queue,) in db.execute(sql, (tenant, worker))])
    return WorkerView(worker, tenant, principal, queues, timestamp(first_at), timestamp(seen_at), *numbers)
