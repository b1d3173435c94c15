"""The workers view: who works, on what, what they hold, and when each was last heard of."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from writ.schemas.commands import CONTROL_VERBS
from writ.schemas.events import AttemptStarted, LeaseGranted
from writ.schemas.ids import split_job_key, token_position
from writ.schemas.lists import AttemptOutcome, WorkersPage, WorkersQuery, WorkerView
from writ.schemas.records import Record
from writ.schemas.schedules import log_time

from .attempts import ends
from .collecting import Collecting
from .file import position_of
from .shown import timestamp

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
_GRANT: Final = (
    "INSERT INTO workers VALUES (?1, ?2, ?3, ?4, ?4, 1, 1, 0, 0, 0, 0) ON CONFLICT DO UPDATE SET"
    " principal = excluded.principal, seen_at = max(seen_at, excluded.seen_at), leases = leases + 1,"
    " granted = granted + 1"
)
_SERVE: Final = "INSERT INTO served VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
_BEAT: Final = "UPDATE workers SET seen_at = max(seen_at, ?) WHERE tenant = ? AND worker = ?"
_SEEN: Final = (
    "UPDATE workers SET seen_at = max(seen_at, ?)"
    " WHERE (tenant, worker) = (SELECT tenant, worker FROM leases WHERE seq = ?)"
)
_END: Final = (
    "UPDATE workers SET seen_at = max(seen_at, ?), leases = leases - 1, completed = completed + ?,"
    " failed = failed + ?, expired = expired + ?, returned = returned + ?"
    " WHERE (tenant, worker) = (SELECT tenant, worker FROM leases WHERE seq = ?)"
)
_FORGET: Final = "DELETE FROM leases WHERE seq = ?"
_NEVER: Final = 0
_ENDS: Final = (
    (AttemptOutcome.COMPLETED, AttemptOutcome.COMPENSATED),
    (AttemptOutcome.FAILED,),
    (AttemptOutcome.EXPIRED,),
)
"""What is counted together; all other ends give the attempt back."""


class WorkersView(Collecting):
    """The fold. A worker is heard of by its grants, beats and reports."""

    name = "workers"
    version = 1
    schema = _SCHEMA
    statements = (_HOLD, _GRANT, _SERVE, _BEAT, _SEEN, _END, _FORGET)

    def fold(self, record: Record) -> None:
        if record.kind == "worker":
            self._put(_BEAT, record.at, record.tenant, record.key)
        elif record.kind == "job":
            for event in record.events:
                self._fold_event(record, event)

    def _fold_event(self, record: Record, event: object) -> None:
        if isinstance(event, LeaseGranted):
            named = (record.tenant, event.worker)
            self._put(_HOLD, record.seq, *named)
            self._put(_GRANT, *named, event.principal or record.actor, record.at)
            self._count(_SERVE, (*named, split_job_key(record.key)[0]), 1)
        elif isinstance(event, AttemptStarted):
            self._put(_SEEN, record.at, token_position(event.token)[1])
        elif (ended := ends(event)) is not None:
            seq, outcome = ended
            heard = not record.actor.startswith("writ:") and record.cause not in CONTROL_VERBS
            numbers = [int(outcome in each) for each in _ENDS]
            self._put(_END, record.at if heard else _NEVER, *numbers, int(not any(numbers)), seq)
            self._put(_FORGET, seq)


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
