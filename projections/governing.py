"""The part of the jobs view that tells what governs jobs: queues, schedules, operations, batches, holds.

One row for each, as the fold of its own events left it, and a history of what people did to it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from writ.schemas.chain import Violation
from writ.schemas.events import (
    BatchEnded,
    BatchSealed,
    Fact,
    Filter,
    HoldLifted,
    HoldPlaced,
    LeaseGranted,
    RetryScheduled,
    type_names,
)
from writ.schemas.ids import split_job_key
from writ.schemas.operations import OPERATION_CAUSE, Operation, acted, evolve_operation
from writ.schemas.queues import Queue, evolve_queue, granted, retried
from writ.schemas.records import Record
from writ.schemas.schedules import Schedule, ScheduleFired, ScheduleSkipped, evolve_schedule

from .view import Write

GOVERNING_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS governed (
    kind TEXT NOT NULL, -- queue, schedule, operation, batch or hold
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    seq INTEGER NOT NULL, -- of its newest record
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    made_by TEXT NOT NULL, -- actor of its first record
    name TEXT NOT NULL, -- what the key has behind the queue
    body BLOB NOT NULL, -- the Queue, Schedule, Operation, SealedBatch or Hold as JSON
    PRIMARY KEY (kind, tenant, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS governed_by_name ON governed (kind, tenant, name, key);
CREATE TABLE IF NOT EXISTS changes (
    kind TEXT NOT NULL,
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    seq INTEGER NOT NULL,
    nth INTEGER NOT NULL, -- within the record
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    event TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (kind, tenant, key, seq, nth)
) WITHOUT ROWID;
"""
_PUT: Final = "INSERT OR REPLACE INTO governed VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_CHANGED: Final = "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_LOOKUP: Final = (
    "SELECT g.kind, g.tenant, g.key, g.seq, g.at, g.actor, g.made_by, g.body"
    " FROM json_each(?) AS wanted CROSS JOIN governed AS g"
    " ON g.kind = json_extract(wanted.value, '$[0]')"
    " AND g.tenant = json_extract(wanted.value, '$[1]')"
    " AND g.key = json_extract(wanted.value, '$[2]')"
)
_DUE: Final = (ScheduleFired, ScheduleSkipped)
"""Due times: nobody did them, and there is no end to them. The newest are kept."""

_DRAWING: Final = frozenset({LeaseGranted, RetryScheduled})
"""Leases and retries take tokens of the queue's rate and retry budget."""

DUE_KEPT: Final = 100
_FORGET: Final = (
    "DELETE FROM changes WHERE kind = ?1 AND tenant = ?2 AND key = ?3 AND event IN (?4, ?5)"
    " AND seq < (SELECT seq FROM changes WHERE kind = ?1 AND tenant = ?2 AND key = ?3 AND event IN (?4, ?5)"
    " ORDER BY seq DESC, nth DESC LIMIT 1 OFFSET ?6 - 1)"
)

Place = tuple[str, str, str]
"""Kind, tenant and key."""

_encode = msgspec.json.Encoder().encode


class SealedBatch(msgspec.Struct, frozen=True):
    """A batch that was given its size; `ended_at` is log time."""

    size: int
    ended_at: int | None = None


class Hold(msgspec.Struct, frozen=True):
    """A hold; `lifted` says why it ended."""

    filter: Filter
    reason: str
    lifted: str | None = None


def _evolve_hold(hold: Hold | None, event: Fact, record: Record) -> Hold:
    match event:
        case HoldPlaced(filter=filter_, reason=reason):
            return Hold(filter_, reason)
        case HoldLifted(reason=reason) if hold is not None:
            return replace(hold, lifted=reason)
        case _:
            raise ValueError(f"{type(event).__name__} is no event of a hold in this state")


def _evolve_batch(batch: SealedBatch | None, event: Fact, record: Record) -> SealedBatch:
    match event:
        case BatchSealed(size=size):
            return SealedBatch(size)
        case BatchEnded() if batch is not None:
            return replace(batch, ended_at=record.at)
        case _:
            raise ValueError(f"{type(event).__name__} is no event of a batch in this state")


_FOLDS: Final[dict[str, Callable[[Any, Fact, Record], msgspec.Struct]]] = {
    "queue": lambda body, event, record: evolve_queue(body, event),
    "schedule": evolve_schedule,
    "operation": lambda body, event, record: evolve_operation(body, event, record.seq, record.at),
    "batch": _evolve_batch,
    "hold": _evolve_hold,
}
decoders: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    "queue": msgspec.json.Decoder(Queue),
    "schedule": msgspec.json.Decoder(Schedule),
    "operation": msgspec.json.Decoder(Operation),
    "batch": msgspec.json.Decoder(SealedBatch),
    "hold": msgspec.json.Decoder(Hold),
}


class _Row:
    __slots__ = ("actor", "at", "body", "made_by", "seq")

    def __init__(self, seq: int, at: int, actor: str, made_by: str, body: msgspec.Struct) -> None:
        self.seq = seq
        self.at = at
        self.actor = actor
        self.made_by = made_by
        self.body = body


def _place(record: Record) -> Place | None:
    """What that governs jobs a record tells of."""
    if record.kind == "job":  # nearly all are, and have no operation for a cause
        if record.cause is None or not record.cause.startswith(OPERATION_CAUSE):
            return None
        return ("operation", record.tenant, record.cause.removeprefix(OPERATION_CAUSE))
    return (record.kind, record.tenant, record.key) if record.kind in _FOLDS else None


def _draws(record: Record) -> bool:
    """Whether a job's record takes tokens of its queue."""
    return any([type(event) in _DRAWING for event in record.events])


def _queue(record: Record) -> Place:
    """The queue of a job's record."""
    return ("queue", record.tenant, split_job_key(record.key)[0])


class Governing:
    """The fold, a batch of records at a time; the jobs view carries it."""

    def __init__(self) -> None:
        self._rows: dict[Place, _Row] = {}
        self._dirty: dict[Place, _Row] = {}
        self._changes: list[tuple[Any, ...]] = []
        self._due: dict[Place, None] = {}
        self._of_queues = False  # whether any of the rows, or of the records, is of a queue
        self._of_operations = False  # the same of operations

    @property
    def of_jobs(self) -> bool:
        """Whether records of jobs in this batch tell of anything that governs them: mostly they do not."""
        return self._of_queues or self._of_operations

    def load(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
        places: dict[Place, None] = {}
        for record in records:
            place = _place(record)
            if place is not None:
                places[place] = None
                self._of_queues = self._of_queues or place[0] == "queue"
                self._of_operations = self._of_operations or place[0] == "operation"
            for event in record.events:
                if type(event) in _DRAWING:
                    places[_queue(record)] = None
        if not places:
            return
        found = db.execute(_LOOKUP, (_encode(list(places)).decode(),))
        for kind, tenant, key, seq, at, actor, made_by, body in found:
            row = _Row(seq, at, actor, made_by, decoders[kind].decode(body))
            self._rows[kind, tenant, key] = row
            self._of_queues = self._of_queues or kind == "queue"

    def fold_job(self, record: Record) -> None:
        """What a job's record tells of its queue and of the operation that caused it. Raises Violation."""
        if self._of_queues and _draws(record):
            self._draw(record)
        place = _place(record)
        if place is not None:
            row = self._rows.get(place)
            if row is None or not isinstance(row.body, Operation):
                raise Violation(record.seq, f"was caused by the operation {place[2]}, which there is not")
            row.body = acted(row.body, record.at)
            self._dirty[place] = row

    def fold(self, record: Record) -> None:
        """Any other record. Raises Violation where it cannot follow what was before."""
        place = _place(record)
        if place is None:
            return
        row = self._rows.get(place)
        body: msgspec.Struct | None = None if row is None else row.body
        try:
            for event in record.events:
                body = _FOLDS[record.kind](body, event, record)
        except ValueError as error:
            raise Violation(record.seq, str(error)) from error
        if body is None:
            return
        if row is None:
            row = self._rows[place] = _Row(record.seq, record.at, record.actor, record.actor, body)
        due = [isinstance(event, _DUE) for event in record.events]
        if any(due):
            self._due[place] = None
        if not all(due):
            row.seq, row.at, row.actor = record.seq, record.at, record.actor
        row.body = body
        self._dirty[place] = row
        head = (*place, record.seq)
        self._changes += [
            (*head, nth, record.at, record.actor, type_names[type(event)], _encode(event))
            for nth, event in enumerate(record.events)
        ]

    def _draw(self, record: Record) -> None:
        place = _queue(record)
        row = self._rows.get(place)
        if row is None or not isinstance(row.body, Queue):
            return
        queue = row.body
        for event in record.events:
            if isinstance(event, LeaseGranted):
                queue = granted(queue, record.at)
            elif isinstance(event, RetryScheduled):
                queue = retried(queue, record.at)
        if queue is not row.body:
            row.body = queue
            self._dirty[place] = row

    def writes(self) -> list[Write]:
        rows = [
            (*place, row.seq, row.at, row.actor, row.made_by, split_job_key(place[2])[1], _encode(row.body))
            for place, row in self._dirty.items()
        ]
        names = [type_names[kind] for kind in _DUE]
        forget = [(*place, *names, DUE_KEPT) for place in self._due]
        return [Write(_PUT, rows), Write(_CHANGED, self._changes), Write(_FORGET, forget)]

    def forget(self) -> None:
        """The batch is written, or void."""
        self._rows = {}
        self._dirty = {}
        self._changes = []
        self._due = {}
        self._of_queues = self._of_operations = False
