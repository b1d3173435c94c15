"""What a client can look at: jobs, their records, queues, schedules, operations, batches, the node."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Final

from writ.schemas.commands import Answer
from writ.schemas.errors import ErrorClass
from writ.schemas.events import WaitReason
from writ.schemas.ids import queue_of
from writ.schemas.lifecycle import State
from writ.schemas.queries import (
    BatchesPage,
    BatchesQuery,
    HoldsPage,
    HoldsQuery,
    JobQuery,
    JobsPage,
    JobsQuery,
    JobView,
    NodeStatus,
    OperationsPage,
    OperationsQuery,
    Query,
    QueuesPage,
    QueuesQuery,
    RecordsPage,
    RecordsQuery,
    SchedulesPage,
    SchedulesQuery,
    StatusQuery,
    StretchPage,
    StretchQuery,
)
from writ.schemas.rejections import RejectionKind
from writ.schemas.verbs import QUERY_VERBS, SYSTEM_QUERIES

from .asking import Asking
from .errors import JobNotFound, Refused

_VERBS: Final = {kind: (verb, page) for verb, (kind, page) in (QUERY_VERBS | SYSTEM_QUERIES).items()}


class Looking(Asking):
    """Reads of the views."""

    async def ask(self, query: Query, *, timeout_s: float = 10.0, partition: int | None = None) -> Answer:
        """Any one of `QUERY_VERBS`, as the message that it is. Its `max_wait_s` counts in `timeout_s`.

        `partition` is the one that it is of; None leaves that to the client's own `partition`.
        """
        verb, page = _VERBS[type(query)]
        return await self._query(verb, query, page, timeout_s, partition)

    async def job(self, id: str, queue: str | None = None, *, timeout_s: float = 10.0) -> JobView:
        """One job as it stands. Raises JobNotFound, also where several queues have the id: give one."""
        try:
            page = await self._query("job", JobQuery(id=id, queue=queue), JobsPage, timeout_s)
        except Refused as error:
            if error.kind is RejectionKind.NOT_FOUND:
                raise JobNotFound(f"no job {id}" + (f" in queue {queue}" if queue else "")) from error
            raise
        found = list(page.jobs)
        if not found:
            raise JobNotFound(f"no job {id}" + (f" in queue {queue}" if queue else ""))
        if len(found) > 1:
            queues = ", ".join(sorted(job.queue for job in found))
            raise JobNotFound(f"several queues have a job {id}: {queues}; say which")
        return found[0]

    async def jobs(
        self,
        *,
        states: Sequence[State | str] = (),
        queue: str | None = None,
        task: str | None = None,
        batch: str | None = None,
        parent: str | None = None,
        schedule: str | None = None,
        operation: str | None = None,
        release: str | None = None,
        error_class: ErrorClass | str | None = None,
        actor: str | None = None,
        cause: str | None = None,
        tags: Mapping[str, str] | None = None,
        search: str | None = None,
        waits_for: WaitReason | str | None = None,
        since: datetime.datetime | None = None,
        until: datetime.datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
        timeout_s: float = 10.0,
    ) -> JobsPage:
        """A page of jobs, newest submit first; pass its `next` as `cursor` for the following one.

        `batch`, `schedule` and `operation` are names, `parent` the key `<queue>~<id>` of what started them,
        `release` the digest of one that they had a lease for. `error_class` is that of the last error,
        `actor` who submitted them, from `since` on and before `until`, and `cause` that of dead letters which
        nobody has settled; they have all the `tags`. Suspended ones are those that wait for `waits_for`.
        `search` are words of their input or last error, where
        the node was started with it. With rare filters a page may hold less than `limit`, and still have a
        `next`.
        """
        query = JobsQuery(
            states=tuple(State(state) for state in states),
            queue=queue,
            task=task,
            batch=batch,
            parent=parent,
            schedule=schedule,
            operation=operation,
            release=release,
            error_class=None if error_class is None else ErrorClass(error_class),
            actor=actor,
            cause=cause,
            tags=dict(tags or {}),
            search=search,
            waits_for=None if waits_for is None else WaitReason(waits_for),
            since=since,
            until=until,
            limit=limit,
            cursor=cursor,
        )
        return await self._query("jobs", query, JobsPage, timeout_s)

    async def records(
        self,
        id: str,
        queue: str,
        *,
        after: int = 0,
        limit: int = 100,
        context: bool = False,
        reveal: bool = False,
        timeout_s: float = 10.0,
    ) -> RecordsPage:
        """Records of a job as stored, oldest first, after sequence `after`; ask again while there is `more`.

        `context` adds the records of other aggregates that move its lease: beats and changes of leader.
        With `reveal` sealed content is opened: those are no longer the bytes of the log.
        """
        query = RecordsQuery(id=id, queue=queue, after=after, limit=limit, context=context, reveal=reveal)
        return await self._query("records", query, RecordsPage, timeout_s)

    async def position(self, *, timeout_s: float = 10.0) -> int:
        """A log sequence that covers all that was acknowledged before this call, submits too.

        A read that asks for it as `min_position` misses none of that.
        """
        return (await self._query("jobs", JobsQuery(limit=1), JobsPage, timeout_s)).position

    async def stretch(self, after: int = 0, *, limit: int = 10_000, timeout_s: float = 10.0) -> StretchPage:
        """A part of the log after sequence `after`, as stored: records of the tenant and of the partition.

        Ask again with `after` set to the page's `upto` while that is before its `last`.
        """
        return await self._query("stretch", StretchQuery(after=after, limit=limit), StretchPage, timeout_s)

    async def status(self, *, timeout_s: float = 10.0) -> NodeStatus:
        """Whether the node is up, who leads, how far behind its views are."""
        return await self._query("status", StatusQuery(), NodeStatus, timeout_s)

    # --- what governs them ------------------------------------------------------------------------------

    async def queues(
        self,
        queue: str | None = None,
        *,
        history: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        timeout_s: float = 10.0,
    ) -> QueuesPage:
        """A page of queues, or the one named: policy, mode, jobs by state; `history` adds what was done.

        Pass a page's `next` as `cursor` for the following one, here and below.
        """
        query = QueuesQuery(queue=queue, history=history, limit=limit, cursor=cursor)
        return await self._query("queues", query, QueuesPage, timeout_s)

    async def lanes(self, queue: str, *, timeout_s: float = 10.0) -> int:
        """How many lanes a queue has, 1 where it is one line. What is submitted to it by this client goes to
        its lanes from here on: `unique_key` picks one, or else the id.
        """
        found = (await self.queues(queue, timeout_s=timeout_s)).queues
        lanes = found[0].policy.lanes if found and queue_of(queue) == queue else 1
        if lanes > 1:
            self._lanes[queue] = lanes
        return lanes

    async def schedules(
        self,
        name: str | None = None,
        queue: str | None = None,
        *,
        times: int = 5,
        deleted: bool = False,
        history: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        timeout_s: float = 10.0,
    ) -> SchedulesPage:
        """A page of schedules, with the next `times` at which each is due; `history` adds what happened."""
        query = SchedulesQuery(
            name=name, queue=queue, times=times, deleted=deleted, history=history, limit=limit, cursor=cursor
        )
        return await self._query("schedules", query, SchedulesPage, timeout_s)

    async def operations(
        self,
        id: str | None = None,
        queue: str | None = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
        timeout_s: float = 10.0,
    ) -> OperationsPage:
        """A page of operations on many jobs: the plan, what is done, and why it ended."""
        query = OperationsQuery(id=id, queue=queue, limit=limit, cursor=cursor)
        return await self._query("operations", query, OperationsPage, timeout_s)

    async def batches(
        self,
        batch: str | None = None,
        queue: str | None = None,
        *,
        history: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        timeout_s: float = 10.0,
    ) -> BatchesPage:
        """A page of batches, with their jobs by state; `history` adds who sealed each, and its end."""
        query = BatchesQuery(batch=batch, queue=queue, history=history, limit=limit, cursor=cursor)
        return await self._query("batches", query, BatchesPage, timeout_s)

    async def holds(
        self,
        name: str | None = None,
        queue: str | None = None,
        *,
        lifted: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        timeout_s: float = 10.0,
    ) -> HoldsPage:
        """A page of holds: what may not be erased, and why; `lifted` adds those that ended."""
        query = HoldsQuery(name=name, queue=queue, lifted=lifted, limit=limit, cursor=cursor)
        return await self._query("holds", query, HoldsPage, timeout_s)
