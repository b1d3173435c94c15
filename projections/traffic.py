"""The traffic view: what came and went in each queue, by minute and hour, and how long jobs wait."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import msgspec

from writ.schemas.bounds import SECOND_US
from writ.schemas.chain import Violation
from writ.schemas.events import (
    AttemptFailed,
    Fact,
    JobCancelled,
    JobCompleted,
    JobDeadLettered,
    JobDue,
    JobEdited,
    JobRedriven,
    JobRerun,
    JobResumed,
    JobSnoozed,
    JobSubmitted,
    JobSuspended,
    LeaseExpired,
    LeaseGranted,
    LeaseReleased,
    RetryScheduled,
)
from writ.schemas.ids import split_job_key
from writ.schemas.lists import MinuteTraffic, QueueTraffic, TrafficPage, TrafficQuery
from writ.schemas.records import Record
from writ.schemas.schedules import log_time
from writ.schemas.steps import CompensationDue, CompensationEnded

from .collecting import Collecting
from .file import position_of
from .paging import END, SUMMED_ROWS
from .scale import quantiles, step_of
from .shown import Seen, fit, timestamp
from .view import Write

KEPT_JOBS: Final = 32_768
"""Waiting jobs kept in memory."""

MINUTE: Final = 1
HOUR: Final = 60
KEPT_MINUTES: Final = {MINUTE: 24 * 60, HOUR: 7 * 24 * 60}
"""The spans in which is counted, in minutes, and how long what was counted in each is kept: of log time, from
the newest record back. So a week of a queue is 168 rows to sum up, and not 10,080."""

_MINUTE_US: Final = 60 * SECOND_US
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS waiting ( -- jobs that neither run nor have ended
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    id TEXT NOT NULL,
    due_at INTEGER NOT NULL,
    held INTEGER NOT NULL, -- 1 while suspended
    ready_at INTEGER, -- since when it is pending; NULL while it is not
    PRIMARY KEY (tenant, queue, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waiting_longest ON waiting (tenant, queue, ready_at) WHERE ready_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS queues (
    tenant TEXT NOT NULL, queue TEXT NOT NULL, PRIMARY KEY (tenant, queue)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS flows ( -- how many of each, in a minute or an hour of log time
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    span INTEGER NOT NULL, -- so many minutes
    minute INTEGER NOT NULL, -- the first of them, since 1970
    submitted INTEGER NOT NULL,
    granted INTEGER NOT NULL,
    completed INTEGER NOT NULL,
    failed INTEGER NOT NULL, -- attempts
    lost INTEGER NOT NULL, -- leases
    dead INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    PRIMARY KEY (tenant, queue, span, minute)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS flows_by_age ON flows (span, minute);
CREATE TABLE IF NOT EXISTS waits ( -- how many grants came after about so long
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    span INTEGER NOT NULL,
    minute INTEGER NOT NULL,
    step INTEGER NOT NULL, -- see `scale`
    n INTEGER NOT NULL,
    PRIMARY KEY (tenant, queue, span, minute, step)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waits_by_age ON waits (span, minute);
"""
_PUT: Final = "INSERT OR REPLACE INTO waiting VALUES (?, ?, ?, ?, ?, ?)"
_GONE: Final = "DELETE FROM waiting WHERE tenant = ? AND queue = ? AND id = ?"
_QUEUE: Final = "INSERT OR IGNORE INTO queues VALUES (?, ?)"
_FLOWS: Final[tuple[type[Fact], ...]] = (
    JobSubmitted,
    LeaseGranted,
    JobCompleted,
    AttemptFailed,
    LeaseExpired,
    JobDeadLettered,
    JobCancelled,
)
"""What is counted, in the order of the columns."""

_FLOW_NAMES: Final = ("submitted", "granted", "completed", "failed", "lost", "dead", "cancelled")
_ADD: Final = (
    "INSERT INTO flows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "  # noqa: S608 - the names are ours
    + ", ".join([f"{name} = {name} + excluded.{name}" for name in _FLOW_NAMES])
)
_WAITED: Final = "INSERT INTO waits VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
_OLD_FLOWS: Final = "DELETE FROM flows WHERE span = ? AND minute < ?"
_OLD_WAITS: Final = "DELETE FROM waits WHERE span = ? AND minute < ?"
_LOOKUP: Final = (
    "SELECT w.tenant, w.queue, w.id, w.due_at, w.held, w.ready_at FROM json_each(?) AS wanted"
    " CROSS JOIN waiting AS w ON w.tenant = json_extract(wanted.value, '$[0]')"
    " AND w.queue = json_extract(wanted.value, '$[1]') AND w.id = json_extract(wanted.value, '$[2]')"
)
_SUMS: Final = ", ".join([f"coalesce(sum({name}), 0)" for name in _FLOW_NAMES])

Waiting = tuple[int, int, int | None]
"""`due_at`, `held` and `ready_at`."""

_NOT_WAITING: Final = frozenset(
    {JobSubmitted, JobCompleted, AttemptFailed, LeaseExpired, LeaseReleased, JobSnoozed}
)
"""What comes first, or to a job that runs: it has no row."""

_ENDS_WAITING: Final = frozenset({LeaseGranted, JobCompleted, JobCancelled, JobDeadLettered})

_COLUMNS: Final[dict[type[Fact], int]] = {event: place for place, event in enumerate(_FLOWS)}


class TrafficView(Collecting):
    """The fold."""

    name = "traffic"
    version = 2
    schema = _SCHEMA
    statements = (_GONE, _PUT, _QUEUE, _ADD, _WAITED, _OLD_FLOWS, _OLD_WAITS)

    def __init__(self, kept_max: int = KEPT_JOBS) -> None:
        self._kept_max = kept_max
        self._kept: OrderedDict[tuple[str, str], Waiting] = OrderedDict()
        self._waiting: dict[tuple[str, str], Waiting | None] = {}
        self._stored: set[tuple[str, str]] = set()
        self._flows: dict[tuple[str, str, int], list[int]] = {}
        self._waits: dict[tuple[str, str, int, int], int] = {}
        self._at = 0
        super().__init__()

    def load(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
        places: dict[tuple[str, str], None] = {}
        known: set[tuple[str, str]] = set()
        for record in records:
            if record.kind == "job":
                place = (record.tenant, record.key)
                if type(record.events[0]) in _NOT_WAITING:
                    known.add(place)
                elif place not in known and place not in self._stored:
                    if (waiting := self._kept.get(place)) is None:
                        places[place] = None
                    else:
                        self._stored.add(place)
                        self._waiting[place] = waiting
        if not places:
            return
        wanted = msgspec.json.encode([[tenant, *split_job_key(key)] for tenant, key in places]).decode()
        for tenant, queue, job_id, due_at, held, ready_at in db.execute(_LOOKUP, (wanted,)):
            place = (tenant, f"{queue}~{job_id}")
            self._stored.add(place)
            self._waiting[place] = (due_at, held, ready_at)

    def fold(self, records: Sequence[Record]) -> None:
        """Raises Violation where a job is granted that does not wait."""
        self._at = records[-1].at
        for record in records:
            if record.kind == "job":
                self._fold_job(record)

    def _fold_job(self, record: Record) -> None:
        place, at = (record.tenant, record.key), record.at
        waiting = self._waiting.get(place)
        for event in record.events:
            kind = type(event)
            column = _COLUMNS.get(kind)
            if column is not None:
                here = (record.tenant, record.key.partition("~")[0], at // _MINUTE_US)
                flows = self._flows.get(here)
                if flows is None:
                    flows = self._flows[here] = [0] * len(_COLUMNS)
                flows[column] += 1
                if kind is LeaseGranted:
                    if waiting is None or waiting[2] is None:
                        raise Violation(record.seq, f"grants a lease of {record.key}, which is not pending")
                    step = (*here, step_of(at - waiting[2]))
                    self._waits[step] = self._waits.get(step, 0) + 1
            waiting = None if kind in _ENDS_WAITING else _after(waiting, event, at)
        self._waiting[place] = waiting

    def writes(self) -> list[Write]:
        for (tenant, key), waiting in self._waiting.items():
            if waiting is not None:
                self._put(_PUT, tenant, *split_job_key(key), *waiting)
            elif (tenant, key) in self._stored:
                self._put(_GONE, tenant, *split_job_key(key))
        for queue in {here[:2]: None for here in self._flows}:
            self._put(_QUEUE, *queue)
        for span, kept in KEPT_MINUTES.items():
            for (tenant, name, minute), flows in self._flows.items():
                self._count(_ADD, (tenant, name, span, minute // span * span), *flows)
            for (tenant, name, minute, step), n in self._waits.items():
                self._count(_WAITED, (tenant, name, span, minute // span * span, step), n)
            oldest = self._at // _MINUTE_US - kept
            for statement in (_OLD_FLOWS, _OLD_WAITS):
                self._put(statement, span, oldest)
        return super().writes()

    def settle(self) -> None:
        """Those that wait stay in memory; the longest untouched go first."""
        kept = self._kept
        for place, waiting in self._waiting.items():
            kept.pop(place, None)
            if waiting is not None:
                kept[place] = waiting
        while len(kept) > self._kept_max:
            kept.popitem(last=False)
        self._forget_batch()

    def discard(self) -> None:
        self._kept.clear()
        self._forget_batch()

    def _forget_batch(self) -> None:
        self._waiting = {}
        self._stored = set()
        self._flows = {}
        self._waits = {}
        super().discard()


def _after(waiting: Waiting | None, event: Fact, at: int) -> Waiting | None:
    """How a job waits after an event that does not end its waiting."""
    match event:
        case JobSubmitted(due_at=due_at):
            return _until(at if due_at is None else due_at, at)
        case RetryScheduled(due_at=due_at) | JobSnoozed(due_at=due_at):
            return (due_at, 0, None)
        case JobDue() | LeaseExpired() | LeaseReleased() | JobRedriven() | JobRerun():
            return (at, 0, at)
        case CompensationDue() | CompensationEnded():  # it is tried again, or ends in the same record
            return (at, 0, at)
        case AttemptFailed():
            return (at, 0, None)  # what becomes of it is decided by the next event
        case JobSuspended():
            return (at if waiting is None else waiting[0], 1, None)
        case JobResumed() if waiting is not None:
            return _until(waiting[0], at)
        case JobEdited(due_at=due_at) if waiting is not None:
            due = waiting[0] if due_at is None else due_at
            if waiting[1]:
                return (due, 1, None)
            since = waiting[2] if due <= at else None
            return (due, 0, since) if since is not None else _until(due, at)
        case _:
            return waiting


def _until(due_at: int, at: int) -> Waiting:
    return (due_at, 0, at if due_at <= at else None)


def traffic(db: sqlite3.Connection, tenant: str, query: TrafficQuery) -> TrafficPage:
    """Queues by name."""
    sql, parts = "SELECT queue FROM queues WHERE tenant = ? AND queue > ? ORDER BY queue", query.cursor or ""
    if query.queue is not None:
        sql, parts = "SELECT queue FROM queues WHERE tenant = ? AND queue = ?", query.queue
    names = (str(name) for (name,) in db.execute(sql, (tenant, parts)))
    spans = _spans(db, None if query.since is None else log_time(query.since) // _MINUTE_US)
    shown, after = fit((_seen(db, tenant, name, spans) for name in names), query.limit)
    return TrafficPage(None, position_of(db), shown, after, _minutes(db, tenant, query))


def _minutes(db: sqlite3.Connection, tenant: str, query: TrafficQuery) -> tuple[MinuteTraffic, ...]:
    """The last minutes one by one, as far as they are asked for."""
    if not query.minutes:
        return ()
    named, where = ((), "") if query.queue is None else ((query.queue,), " AND queue = ?")
    found = db.execute(
        f"SELECT minute, {_SUMS} FROM flows WHERE tenant = ? AND span = ? AND minute > ?{where}"  # noqa: S608 - names of ours
        " GROUP BY minute ORDER BY minute",
        (tenant, MINUTE, _newest(db) - query.minutes, *named),
    )
    return tuple([MinuteTraffic(timestamp(minute * _MINUTE_US), *flows) for minute, *flows in found])


def _newest(db: sqlite3.Connection) -> int:
    """The minute of log time of the newest record."""
    return next((int(at) // _MINUTE_US for (at,) in db.execute("SELECT at FROM position")), 0)


def _spans(db: sqlite3.Connection, since: int | None) -> list[tuple[int, int, int]]:
    """What is summed up from a minute on: spans, and from where and up to where those of each count."""
    if since is None or since <= _newest(db) - KEPT_MINUTES[MINUTE]:
        return [(HOUR, (since or 0) // HOUR * HOUR, END)]
    whole = -(-since // HOUR) * HOUR
    return [(MINUTE, since, whole), (HOUR, whole, END)]


def _seen(db: sqlite3.Connection, tenant: str, queue: str, spans: list[tuple[int, int, int]]) -> Seen:
    where = "WHERE tenant = ? AND queue = ? AND span = ? AND minute >= ? AND minute < ?"
    sums = [0] * (len(_FLOWS) + 1)
    steps: list[tuple[int, int]] = []
    for span in spans:
        found = db.execute(f"SELECT count(*), {_SUMS} FROM flows {where}", (tenant, queue, *span))  # noqa: S608 - names of ours
        sums = [before + more for before, more in zip(sums, found.fetchone(), strict=True)]
        steps += db.execute(f"SELECT step, n FROM waits {where}", (tenant, queue, *span)).fetchall()  # noqa: S608
    oldest = (
        "SELECT ready_at FROM waiting WHERE tenant = ? AND queue = ? AND ready_at IS NOT NULL"
        " ORDER BY ready_at LIMIT 1"
    )
    found = db.execute(oldest, (tenant, queue)).fetchone()
    ready = None if found is None else timestamp(found[0])
    rows, *flows = sums
    view = QueueTraffic(queue, tenant, ready, quantiles(steps), *flows)
    return Seen(queue, view, 1 + (rows + len(steps)) // SUMMED_ROWS)
