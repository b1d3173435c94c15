"""Answers about what governs jobs: queues, schedules, operations and batches."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from typing import Final, NamedTuple

import msgspec

from writ.schemas.buckets import Bucket
from writ.schemas.ids import split_job_key
from writ.schemas.operations import Operation
from writ.schemas.queries import (
    BatchesPage,
    BatchesQuery,
    BatchView,
    BucketView,
    ChangeView,
    DemandView,
    GovernedQuery,
    HoldsPage,
    HoldsQuery,
    HoldView,
    OperationsPage,
    OperationsQuery,
    OperationView,
    QueuesPage,
    QueuesQuery,
    QueueView,
    SchedulesPage,
    SchedulesQuery,
    ScheduleView,
)
from writ.schemas.queues import BUILT_IN, Queue
from writ.schemas.schedules import Schedule, next_times

from .file import position_of
from .governing import DUE_KEPT, Hold, SealedBatch, decoders
from .shown import Seen, content, fit, timestamp

HISTORY_MAX: Final = 100 + DUE_KEPT
"""What was done, and due times: those that are kept crowd out nothing else."""

DUE_TIME_ROWS: Final = 10
"""To find a due time takes as long as to look at so many rows."""

_GOVERNED: Final = "SELECT key, seq, at, actor, made_by, body FROM governed"
_CHANGES: Final = (
    "SELECT seq, at, actor, event, data FROM changes WHERE kind = ? AND tenant = ? AND key = ?"
    " ORDER BY seq DESC, nth LIMIT ?"
)


class _Row(NamedTuple):
    """Something that governs jobs, as its fold left it; `at` and `actor` are its newest record's."""

    key: str
    seq: int
    at: int
    actor: str
    made_by: str
    body: bytes


def queues(db: sqlite3.Connection, tenant: str, query: QueuesQuery) -> QueuesPage:
    """Queues by name: those with jobs, and those that somebody declared or closed."""
    shown, after = fit(_queues(db, tenant, query), query.limit)
    return QueuesPage(None, position_of(db), shown, after)


def _queues(db: sqlite3.Connection, tenant: str, query: QueuesQuery) -> Generator[Seen]:
    counts = "SELECT state, n FROM counts WHERE tenant = ? AND queue = ?"
    keys = "SELECT concurrency_key, n FROM running_keys WHERE tenant = ? AND queue = ? ORDER BY 1"
    demanded = "SELECT requires, n FROM demands WHERE tenant = ? AND queue = ? ORDER BY requires"
    for name in _names(db, tenant, query):
        jobs = {str(state): int(n) for state, n in db.execute(counts, (tenant, name))}
        row = _row(db, "queue", tenant, name)
        if not jobs and row is None:
            continue
        queue: Queue = BUILT_IN if row is None else decoders["queue"].decode(row.body)
        running: dict[str, int] = dict(db.execute(keys, (tenant, name)).fetchall())
        demands = [
            DemandView(msgspec.json.decode(requires, type=dict[str, str]), n)
            for requires, n in db.execute(demanded, (tenant, name))
        ]
        history = _history(db, "queue", tenant, name) if query.history else ()
        view = QueueView(
            queue=name,
            tenant=tenant,
            version=queue.version,
            policy=queue.policy,
            mode=queue.mode,
            reason=queue.reason,
            changed_at=None if row is None else timestamp(row.at),
            changed_by=None if row is None else row.actor,
            jobs=jobs,
            running_by_key=running,
            grants=_bucket(queue.grants),
            retries=_bucket(queue.retries),
            history=history,
            demands=tuple(demands),
        )
        yield Seen(name, view, 1 + len(running) + len(history) + len(demands))


def _names(db: sqlite3.Connection, tenant: str, query: QueuesQuery) -> list[str]:
    known = "SELECT key FROM governed WHERE kind = 'queue' AND tenant = ? AND key > ? ORDER BY key LIMIT ?"
    used = "SELECT DISTINCT queue FROM counts WHERE tenant = ? AND queue > ? ORDER BY queue LIMIT ?"
    after, count = query.cursor or "", query.limit + 1
    if query.queue is not None:
        return [query.queue] if query.queue > after else []
    names = {str(name) for sql in (known, used) for (name,) in db.execute(sql, (tenant, after, count))}
    return sorted(names)[:count]


def schedules(db: sqlite3.Connection, tenant: str, query: SchedulesQuery) -> SchedulesPage:
    """Schedules by queue and name."""
    rows = _rows(db, "schedule", tenant, query, query.name)
    shown, after = fit((_schedule(db, tenant, row, query) for row in rows), query.limit)
    return SchedulesPage(None, position_of(db), shown, after)


def _schedule(db: sqlite3.Connection, tenant: str, row: _Row, query: SchedulesQuery) -> Seen:
    schedule: Schedule = decoders["schedule"].decode(row.body)
    if schedule.deleted is not None and not query.deleted:
        return Seen(row.key, None)
    due: tuple[int, ...] = ()
    if schedule.paused is None and schedule.deleted is None:
        due = next_times(schedule.spec, schedule.anchor, schedule.since, query.times)
    history = _history(db, "schedule", tenant, row.key) if query.history else ()
    view = ScheduleView(
        name=schedule.name,
        queue=schedule.queue,
        tenant=tenant,
        version=schedule.version,
        spec=schedule.spec,
        input=content(schedule.input),
        paused=schedule.paused,
        deleted=schedule.deleted,
        declared_at=timestamp(schedule.declared_at),
        changed_by=row.actor,
        last_due=None if schedule.last_due is None else timestamp(schedule.last_due),
        last_job=schedule.last_job,
        fired=schedule.fired,
        skipped=schedule.skipped,
        next=tuple([timestamp(at) for at in due]),
        history=history,
    )
    return Seen(row.key, view, 1 + DUE_TIME_ROWS * len(due) + len(history))


def operations(db: sqlite3.Connection, tenant: str, query: OperationsQuery) -> OperationsPage:
    """Operations by queue and name."""
    rows = _rows(db, "operation", tenant, query, query.id)
    shown, after = fit((Seen(row.key, _operation(tenant, row)) for row in rows), query.limit)
    return OperationsPage(None, position_of(db), shown, after)


def batches(db: sqlite3.Connection, tenant: str, query: BatchesQuery) -> BatchesPage:
    """Batches by queue and name: those with jobs, and those that were sealed."""
    where, parts = _where(tenant, query, "batch", query.batch)
    sql = f"SELECT key FROM batches WHERE {where} ORDER BY key"  # noqa: S608 - words of ours alone
    keys = (str(key) for (key,) in db.execute(sql, parts))
    shown, after = fit((_batch(db, tenant, key, query) for key in keys), query.limit)
    return BatchesPage(None, position_of(db), shown, after)


def _batch(db: sqlite3.Connection, tenant: str, key: str, query: BatchesQuery) -> Seen:
    counts = "SELECT state, n FROM batch_counts WHERE tenant = ? AND queue = ? AND batch = ?"
    row = _row(db, "batch", tenant, key)
    batch: SealedBatch | None = None if row is None else decoders["batch"].decode(row.body)
    queue, name = split_job_key(key)
    jobs = {str(state): int(n) for state, n in db.execute(counts, (tenant, queue, name))}
    ended = None if batch is None or batch.ended_at is None else timestamp(batch.ended_at)
    size = None if batch is None else batch.size
    history = _history(db, "batch", tenant, key) if query.history else ()
    return Seen(key, BatchView(name, queue, tenant, size, jobs, ended, history), 1 + len(history))


def holds(db: sqlite3.Connection, tenant: str, query: HoldsQuery) -> HoldsPage:
    """Holds by queue and name."""
    rows = _rows(db, "hold", tenant, query, query.name)
    shown, after = fit((_hold(tenant, row, query) for row in rows), query.limit)
    return HoldsPage(None, position_of(db), shown, after)


def _hold(tenant: str, row: _Row, query: HoldsQuery) -> Seen:
    hold: Hold = decoders["hold"].decode(row.body)
    if hold.lifted is not None and not query.lifted:
        return Seen(row.key, None)
    queue, name = split_job_key(row.key)
    told = hold.filter, hold.reason, row.made_by, timestamp(row.at), hold.lifted
    return Seen(row.key, HoldView(name, queue, tenant, *told))


def _row(db: sqlite3.Connection, kind: str, tenant: str, key: str) -> _Row | None:
    found = db.execute(f"{_GOVERNED} WHERE kind = ? AND tenant = ? AND key = ?", (kind, tenant, key))
    return next((_Row(*row) for row in found), None)


def _rows(
    db: sqlite3.Connection, kind: str, tenant: str, query: GovernedQuery, name: str | None
) -> Generator[_Row]:
    """In the order of their keys, those of a queue and a name."""
    where, parts = _where(tenant, query, "name", name)
    yield from (
        _Row(*row)
        for row in db.execute(f"{_GOVERNED} WHERE kind = ? AND {where} ORDER BY key", (kind, *parts))
    )


def _where(tenant: str, query: GovernedQuery, column: str, name: str | None) -> tuple[str, list[str]]:
    """The condition for keys `<queue>~<name>` behind the query's cursor, and its values."""
    after = query.cursor or ""
    where, parts = "tenant = ? AND key > ?", [tenant, after]
    if query.queue is not None:  # one bound, as SQLite would begin at either of two
        where += " AND key < ?"
        parts = [tenant, max(after, f"{query.queue}~"), f"{query.queue}\x7f"]
    if name is not None:
        where += f" AND {column} = ?"
        parts.append(name)
    return where, parts


def _history(db: sqlite3.Connection, kind: str, tenant: str, key: str) -> tuple[ChangeView, ...]:
    changes: list[ChangeView] = []
    for seq, at, actor, event, data in db.execute(_CHANGES, (kind, tenant, key, HISTORY_MAX)):
        changes.append(ChangeView(seq, timestamp(at), actor, event, msgspec.Raw(data)))
    return tuple(changes)


def _bucket(bucket: Bucket | None) -> BucketView | None:
    return None if bucket is None else BucketView(bucket.tokens, timestamp(bucket.at))


def _operation(tenant: str, row: _Row) -> OperationView:
    operation: Operation = decoders["operation"].decode(row.body)
    queue, name = split_job_key(row.key)
    plan = operation.plan
    return OperationView(
        id=name,
        queue=queue,
        tenant=tenant,
        actor=row.made_by,
        verb=plan.verb,
        filter=plan.filter,
        reason=plan.reason,
        matched=plan.matched,
        limit=plan.limit,
        rate_per_s=plan.rate_per_s,
        canary=plan.canary,
        stop_after=plan.stop_after,
        planned_at=timestamp(operation.planned_at),
        done=operation.done,
        ended=operation.ended,
        ended_at=None if operation.ended is None else timestamp(row.at),
    )
