"""The audit view: who did what, and what was refused.

An act is a record that a principal caused by a submit or by what operators ask. What workers do under their
leases is told by the attempts view, and what the system decides by itself by each job's own records; its
alarms are here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

from writ.schemas.commands import LEASE_VERBS
from writ.schemas.events import AlarmRaised, CommandRejected, RejectionsFolded, ReportRejected, type_names
from writ.schemas.ids import split_job_key
from writ.schemas.lists import ActView, AuditPage, AuditQuery
from writ.schemas.principals import WHOLE_TENANT, AccessDenied
from writ.schemas.records import Record
from writ.schemas.rejections import Rejection

from .collecting import Collecting
from .file import position_of
from .paging import Listing, page
from .shown import Seen, fit, timestamp

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS acts (
    place INTEGER PRIMARY KEY, -- sequence of the record, and which of its acts: seq * 65536 + nth
    at INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    actor TEXT NOT NULL,
    verb TEXT NOT NULL, -- of the command; the event's name where no command is behind it
    event TEXT NOT NULL,
    kind TEXT NOT NULL, -- with `key` the aggregate that the record is of
    key TEXT NOT NULL,
    queue TEXT,
    job TEXT, -- the id
    reason TEXT,
    refusal TEXT, -- its kind; this and what follows is NULL where it was done
    field TEXT,
    element INTEGER,
    count INTEGER, -- how many refusals the record speaks of in all
    token INTEGER,
    worker TEXT
);
CREATE INDEX IF NOT EXISTS acts_by_tenant ON acts (tenant);
CREATE INDEX IF NOT EXISTS acts_by_job ON acts (tenant, job);
CREATE INDEX IF NOT EXISTS acts_by_verb ON acts (tenant, verb);
CREATE INDEX IF NOT EXISTS acts_by_actor ON acts (tenant, actor);
CREATE INDEX IF NOT EXISTS acts_by_queue ON acts (tenant, queue);
CREATE INDEX IF NOT EXISTS acts_refused ON acts (tenant) WHERE refusal IS NOT NULL;
"""
_INSERT: Final = "INSERT INTO acts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SEQ_SHIFT: Final = 16
_KEYED: Final = frozenset({"schedule", "operation", "batch"})
"""Kinds whose keys begin with the queue, apart from jobs."""
_REFUSED: Final = frozenset({CommandRejected, ReportRejected, AccessDenied, RejectionsFolded})
_NOT_REFUSED: Final = (None,) * 6

LISTING: Final = Listing(
    "acts",
    "place",
    "at",
    "at, tenant, actor, verb, event, kind, key, queue, job, reason, refusal, field, element, count,"
    " token, worker",
    ("job", "verb", "actor", "queue"),
    ("refusal IS NOT NULL",),
)


class AuditView(Collecting):
    """The fold."""

    name = "audit"
    version = 4
    schema = _SCHEMA
    statements = (_INSERT,)

    def fold(self, records: Sequence[Record]) -> None:
        rows = self._rows[_INSERT]
        for record in records:
            if type(record.events[0]) in _REFUSED:
                head = (record.at, record.tenant, record.actor)
                for nth, act in enumerate(_refusals(record)):
                    rows.append(((record.seq << _SEQ_SHIFT) + nth, *head, *act))
            elif record.cause not in LEASE_VERBS and not _is_by_itself(record):
                rows.append(_done(record))


def _is_by_itself(record: Record) -> bool:
    """Whether it is the system's own, and no alarm of it."""
    return record.actor.startswith("writ:") and not isinstance(record.events[0], AlarmRaised)


def _done(record: Record) -> tuple[Any, ...]:
    """The row of what was done."""
    name = type_names[type(record.events[0])]
    reason = None
    for event in record.events:
        if text := getattr(event, "reason", None):
            reason = text
            break
    queue, job = _named(record)
    return (
        *(record.seq << _SEQ_SHIFT, record.at, record.tenant, record.actor, record.cause or name, name),
        *(record.kind, record.key, queue, job, reason, *_NOT_REFUSED),
    )


def _refusals(record: Record) -> Iterator[tuple[Any, ...]]:
    """The columns behind `actor` of each element that was refused and is named."""
    first = record.events[0]
    name = type_names[type(first)]
    subject = (name, record.kind, record.key)
    match first:
        case CommandRejected(verb=verb, refused=refused, queue=queue, count=count):
            for each in refused:
                yield (verb, *subject, queue or None, None, *_refusal(each, count), None, None)
        case ReportRejected(verb=verb, worker=worker, refused=reports):
            for report in reports:
                refusal = _refusal(report.rejection, len(reports))
                yield (verb, *subject, *split_job_key(report.job), *refusal, report.token, worker)
        case AccessDenied(operation=operation, resource=resource, count=count):
            where = None if resource == WHOLE_TENANT or " " in resource else resource
            yield (operation, *subject, where, None, *_refusal(first.why, count), None, None)
        case RejectionsFolded(count=count, last=last):
            yield (name, *subject, None, None, *_refusal(last, count), None, None)
        case _:
            pass


def _named(record: Record) -> tuple[str | None, str | None]:
    """The queue and the job that a record is about, where it is about any."""
    if record.kind == "job":
        return split_job_key(record.key)
    if record.kind in _KEYED:
        return split_job_key(record.key)[0], None
    return record.key if record.kind == "queue" else None, None


def _refusal(refused: Rejection, count: int) -> tuple[Any, ...]:
    return (refused.reason, refused.kind.value, refused.field, refused.index, count)


def audit(db: sqlite3.Connection, tenant: str, query: AuditQuery) -> AuditPage:
    """What was done and refused, newest first."""
    equal = {
        "job": query.job,
        "verb": query.verb,
        "actor": query.actor,
        "queue": query.queue,
    }
    ends = {None: "", True: "refusal IS NOT NULL", False: "refusal IS NULL"}
    found, after = page(db, LISTING, tenant, equal, query, ends[query.refused])
    shown, cut = fit((Seen(str(row[0]), _view(*row)) for row in found), query.limit)
    return AuditPage(None, position_of(db), shown, cut or after)


def _view(
    place: int, at: int, tenant: str, actor: str, verb: str, event: str, kind: str, key: str,
    queue: str | None, job: str | None, reason: str | None, *refusal: Any
) -> ActView:  # fmt: skip
    seq = place >> _SEQ_SHIFT
    return ActView(seq, timestamp(at), tenant, actor, verb, event, kind, key, queue, job, reason, *refusal)
