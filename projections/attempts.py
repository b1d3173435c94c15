"""The attempts view: every attempt with its lease, from the grant to its end."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from writ.schemas.events import (
    AttemptFailed,
    AttemptStarted,
    Fact,
    JobCompleted,
    JobSnoozed,
    JobSuspended,
    LeaseExpired,
    LeaseGranted,
    LeaseReleased,
)
from writ.schemas.ids import fencing_token, split_job_key, token_position
from writ.schemas.lists import AttemptOutcome, AttemptsPage, AttemptsQuery, AttemptView
from writ.schemas.records import Record
from writ.schemas.steps import CompensationEnded

from .collecting import Collecting
from .file import position_of
from .paging import Listing, page
from .shown import Seen, fit, timestamp
from .view import Write

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS attempts (
    seq INTEGER PRIMARY KEY, -- of the record that granted its lease
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    job TEXT NOT NULL, -- the id
    attempt INTEGER NOT NULL,
    worker TEXT NOT NULL,
    principal TEXT NOT NULL,
    token INTEGER NOT NULL,
    granted_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER,
    ended_by INTEGER, -- sequence of the record that ended it
    outcome TEXT NOT NULL, -- live while it has its lease
    error_class TEXT,
    error_type TEXT,
    run_ms INTEGER
);
CREATE INDEX IF NOT EXISTS attempts_by_tenant ON attempts (tenant);
CREATE INDEX IF NOT EXISTS attempts_by_job ON attempts (tenant, job);
CREATE INDEX IF NOT EXISTS attempts_by_worker ON attempts (tenant, worker);
CREATE INDEX IF NOT EXISTS attempts_by_outcome ON attempts (tenant, outcome);
CREATE INDEX IF NOT EXISTS attempts_by_error ON attempts (tenant, error_class) WHERE error_class IS NOT NULL;
CREATE INDEX IF NOT EXISTS attempts_by_queue ON attempts (tenant, queue);
"""
_GRANT: Final = "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_START: Final = "UPDATE attempts SET started_at = ? WHERE seq = ?"
_END: Final = (
    "UPDATE attempts SET ended_at = ?, ended_by = ?, outcome = ?, error_class = ?, error_type = ?, run_ms = ?"
    " WHERE seq = ?"
)
_LIVE: Final = [None, None, None, AttemptOutcome.LIVE.value, None, None, None]
"""The columns from `started_at` on, of an attempt that was just granted."""

LISTING: Final = Listing(
    "attempts",
    "seq",
    "granted_at",
    "tenant, queue, job, attempt, worker, principal, token, granted_at, started_at, ended_at, ended_by,"
    " outcome, error_class, error_type, run_ms",
    ("job", "worker", "error_class", "outcome", "queue"),
)
OUTCOMES: Final[dict[type, AttemptOutcome]] = {
    AttemptFailed: AttemptOutcome.FAILED,
    JobCompleted: AttemptOutcome.COMPLETED,
    JobSnoozed: AttemptOutcome.SNOOZED,
    JobSuspended: AttemptOutcome.SUSPENDED,
    LeaseExpired: AttemptOutcome.EXPIRED,
    LeaseReleased: AttemptOutcome.RELEASED,
    CompensationEnded: AttemptOutcome.COMPENSATED,
}


def ends(event: object) -> tuple[int, AttemptOutcome] | None:
    """The sequence that granted the attempt which an event ends, and how; None of any other event.

    A job that is suspended while it does not run has no token in that event.
    """
    outcome = OUTCOMES.get(type(event))
    token = getattr(event, "token", None)
    return None if outcome is None or token is None else (token_position(token)[1], outcome)


class AttemptsView(Collecting):
    """The fold. What begins and ends within one batch is one row that is written once."""

    name = "attempts"
    version = 2
    schema = _SCHEMA
    statements = (_GRANT, _START, _END)

    def __init__(self) -> None:
        self._granted: dict[int, list[Any]] = {}
        super().__init__()

    def fold(self, records: Sequence[Record]) -> None:
        for record in records:
            for event in record.events:
                if type(event) is LeaseGranted:
                    seq, key = record.seq, split_job_key(record.key)
                    who, token = event.principal or record.actor, fencing_token(record.epoch, seq)
                    row = [seq, record.tenant, *key, event.attempt, event.worker, who, token, record.at]
                    self._granted[seq] = row + _LIVE
                elif type(event) is AttemptStarted:
                    self._start(token_position(event.token)[1], record.at)
                elif type(event) in OUTCOMES and (ended := ends(event)) is not None:
                    self._end(*ended, record, event)

    def _start(self, seq: int, at: int) -> None:
        if (row := self._granted.get(seq)) is not None:
            row[9] = at
        else:
            self._put(_START, at, seq)

    def _end(self, seq: int, outcome: AttemptOutcome, record: Record, event: Fact) -> None:
        error = getattr(event, "error", None)
        shown = (None, None) if error is None else (error.class_.value, error.type)
        end = (record.at, record.seq, outcome.value, *shown, getattr(event, "run_ms", None))
        if (row := self._granted.get(seq)) is not None:
            row[10:] = end
        else:
            self._put(_END, *end, seq)

    def writes(self) -> list[Write]:
        self._rows[_GRANT] += self._granted.values()
        return super().writes()

    def discard(self) -> None:
        self._granted = {}
        super().discard()


def attempts(db: sqlite3.Connection, tenant: str, query: AttemptsQuery) -> AttemptsPage:
    """Attempts, newest grant first."""
    equal = {
        "job": query.job,
        "worker": query.worker,
        "error_class": query.error_class,
        "outcome": query.outcome,
        "queue": query.queue,
    }
    found, after = page(db, LISTING, tenant, equal, query)
    shown, cut = fit((Seen(str(row[0]), _view(*row)) for row in found), query.limit)
    return AttemptsPage(None, position_of(db), shown, cut or after)


def _view(
    seq: int, tenant: str, queue: str, job: str, attempt: int, worker: str, principal: str, token: int,
    granted_at: int, started_at: int | None, ended_at: int | None, ended_by: int | None,
    outcome: str, *rest: Any
) -> AttemptView:  # fmt: skip
    return AttemptView(
        *(seq, tenant, queue, job, attempt, worker, principal, token, timestamp(granted_at)),
        None if started_at is None else timestamp(started_at),
        None if ended_at is None else timestamp(ended_at),
        ended_by,
        AttemptOutcome(outcome),
        *rest,
    )
