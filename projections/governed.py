"""Answers about what governs jobs: queues, schedules, operations and batches."""

from __future__ import annotations

from typing import Final

import msgspec

from writ.schemas.ids import split_job_key
from writ.schemas.operations import Operation
from writ.schemas.queries import (
    BatchesPage,
    BatchesQuery,
    BatchView,
    BucketView,
    ChangeView,
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
from writ.schemas.queues import BUILT_IN, Bucket, Queue
from writ.schemas.schedules import Schedule, next_times

from .governing import DUE_KEPT, Hold, SealedBatch, decoders
from .reading import GovernedRow, JobsReader
from .shown import content, fit, timestamp

HISTORY_MAX: Final = 100 + DUE_KEPT
"""What was done, and due times: those that are kept crowd out nothing else."""

_encode = msgspec.json.Encoder().encode


class Governed:
    """One method for each query verb. All raise sqlite3.Error where the view's file cannot be read."""

    def __init__(self, reader: JobsReader) -> None:
        self._reader = reader

    async def queues(self, tenant: str, query: QueuesQuery) -> QueuesPage:
        position, rows = await self._reader.queues(tenant, query.queue, query.cursor or "", query.limit + 1)
        views: list[tuple[str, QueueView]] = []
        for name, row, jobs, running in rows:
            queue: Queue = BUILT_IN if row is None else decoders["queue"].decode(row.body)
            view = QueueView(
                queue=name,
                tenant=tenant,
                version=queue.version,
                policy=queue.policy,
                mode=queue.mode,
                reason=queue.reason,
                changed_at=None if row is None else timestamp(row.at),
                changed_by=None if row is None else row.actor,
                jobs={state.value: n for state, n in jobs.items()},
                running_by_key=running,
                grants=_bucket(queue.grants),
                retries=_bucket(queue.retries),
                history=await self._history("queue", tenant, name) if query.history else (),
            )
            views.append((name, view))
        shown, more = fit(views, query.limit)
        return QueuesPage(None, position, shown, more)

    async def schedules(self, tenant: str, query: SchedulesQuery) -> SchedulesPage:
        views: list[tuple[str, ScheduleView]] = []
        after: str | None = query.cursor or ""
        position = 0
        while after is not None and len(views) <= query.limit:
            position, rows = await self._reader.governed(
                "schedule", tenant, query.queue, query.name, after, query.limit + 1
            )
            for row in rows:
                schedule: Schedule = decoders["schedule"].decode(row.body)
                if schedule.deleted is None or query.deleted:
                    views.append((row.key, await self._schedule(tenant, row, schedule, query)))
            after = rows[-1].key if len(rows) > query.limit else None
        shown, more = fit(views, query.limit)
        return SchedulesPage(None, position, shown, more)

    async def _schedule(
        self, tenant: str, row: GovernedRow, schedule: Schedule, query: SchedulesQuery
    ) -> ScheduleView:
        due: tuple[int, ...] = ()
        if schedule.paused is None and schedule.deleted is None:
            due = next_times(schedule.spec, schedule.anchor, schedule.since, query.times)
        return ScheduleView(
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
            history=await self._history("schedule", tenant, row.key) if query.history else (),
        )

    async def operations(self, tenant: str, query: OperationsQuery) -> OperationsPage:
        position, rows = await self._reader.governed(
            "operation", tenant, query.queue, query.id, query.cursor or "", query.limit + 1
        )
        views = [(row.key, _operation(tenant, row)) for row in rows]
        shown, more = fit(views, query.limit)
        return OperationsPage(None, position, shown, more)

    async def batches(self, tenant: str, query: BatchesQuery) -> BatchesPage:
        position, rows = await self._reader.batches(
            tenant, query.queue, query.batch, query.cursor or "", query.limit + 1
        )
        views: list[tuple[str, BatchView]] = []
        for key, row, counts in rows:
            batch: SealedBatch | None = None if row is None else decoders["batch"].decode(row.body)
            queue, name = split_job_key(key)
            jobs = {state.value: n for state, n in counts.items()}
            ended = None if batch is None or batch.ended_at is None else timestamp(batch.ended_at)
            size = None if batch is None else batch.size
            history = await self._history("batch", tenant, key) if query.history else ()
            views.append((key, BatchView(name, queue, tenant, size, jobs, ended, history)))
        shown, more = fit(views, query.limit)
        return BatchesPage(None, position, shown, more)

    async def holds(self, tenant: str, query: HoldsQuery) -> HoldsPage:
        views: list[tuple[str, HoldView]] = []
        after: str | None = query.cursor or ""
        position = 0
        while after is not None and len(views) <= query.limit:
            position, rows = await self._reader.governed(
                "hold", tenant, query.queue, query.name, after, query.limit + 1
            )
            found = [(row.key, _hold(tenant, row)) for row in rows]
            views += [(key, view) for key, view in found if query.lifted or view.lifted is None]
            after = rows[-1].key if len(rows) > query.limit else None
        shown, more = fit(views, query.limit)
        return HoldsPage(None, position, shown, more)

    async def _history(self, kind: str, tenant: str, key: str) -> tuple[ChangeView, ...]:
        rows = await self._reader.changes(kind, tenant, key, HISTORY_MAX)
        return tuple(
            [ChangeView(r.seq, timestamp(r.at), r.actor, r.event, msgspec.Raw(r.data)) for r in rows]
        )


def _bucket(bucket: Bucket | None) -> BucketView | None:
    return None if bucket is None else BucketView(bucket.tokens, timestamp(bucket.at))


def _hold(tenant: str, row: GovernedRow) -> HoldView:
    hold: Hold = decoders["hold"].decode(row.body)
    queue, name = split_job_key(row.key)
    told = hold.filter, hold.reason, row.made_by, timestamp(row.at), hold.lifted
    return HoldView(name, queue, tenant, *told)


def _operation(tenant: str, row: GovernedRow) -> OperationView:
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
