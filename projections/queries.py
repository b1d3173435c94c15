"""The query service: one request and one answer, as JSON, over the views of a log."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from writ.broker.clock import Clock, SystemClock
from writ.broker.ports import Intake, Log, OutcomeUnknown, Stored
from writ.schemas.bounds import KEPT_OUT_FROM, SECOND_US
from writ.schemas.codec import CodecError, decode
from writ.schemas.commands import Answer
from writ.schemas.events import LeaderElected, LeasesRenewed, TimeResumed
from writ.schemas.hosting import HOST_TENANT
from writ.schemas.ids import SYSTEM_TENANT, job_key
from writ.schemas.lifecycle import TERMINAL, Job, State
from writ.schemas.proofs import CheckpointQuery, ConsistencyQuery, ProveQuery
from writ.schemas.queries import (
    DeadPage,
    DeadQuery,
    DeadView,
    Durability,
    ErrorView,
    JobQuery,
    JobsPage,
    JobsQuery,
    JobView,
    KeptOut,
    LogQuery,
    NodeStatus,
    PartitionStatus,
    Query,
    RecordsPage,
    RecordsQuery,
    RecordView,
    StatusQuery,
    StretchPage,
    StretchQuery,
    ViewStatus,
    WaitView,
)
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import UNSEALED, Keys
from writ.schemas.subjects import log_subject, parse_log

from . import search
from .asked import Refused, address_of, parse
from .checkpoints import Behind, NotSigned
from .file import Reader
from .gate import GATE_VIEW, ONESELF, Gate, Tell
from .packages import PackageStore
from .proofs import NoSuchJob, NotProved, Proofs
from .reading import DeadRow, JobRow, JobRows, JobsReader, place_of
from .registry import LISTS, Listed
from .revealing import revealed, revealed_record
from .runner import Runner
from .shown import PAGE_MAX_BYTES, Seen, content, fit, tags_of, timestamp
from .stretch_pages import stretch_page

log = logging.getLogger("writ.projections")

_NEWEST_MIN_S: Final = 0.5
_FLOODS_TOLD: Final = 5
"""Warnings of a status; its `kept_out` has all of them."""
"""How long it may take to ask where the log ends, however short a query waits for its view."""

SUBMITS_WAIT_S: Final = 2.0
"""How long a query waits for submits that no leader has taken in yet."""

READ_MAX_S: Final = 10.0
"""Time that one query may read the log for."""

_RECORD_EXTRA_BYTES = 150
_encode = msgspec.json.Encoder().encode
_text = msgspec.json.Decoder(str).decode


Asked = TypeVar("Asked", bound=Query)


_Handler = Callable[[str, bytes], Awaitable[Answer]]
"""Takes a tenant and a query's body."""


class Newest:
    """The last sequence of the log or the intake, as of after the question.

    All who ask while a look-up is awaited share the next.
    One that is already under way is not shared with a newcomer, as it may have missed what he was just told.
    """

    def __init__(self, stream: Log | Intake) -> None:
        self._stream = stream
        self._current: asyncio.Task[int] | None = None
        self._next: asyncio.Task[int] | None = None

    async def seq(self, timeout_s: float) -> int:
        """Raises TimeoutError after `timeout_s` seconds, and what the log raises."""
        if self._current is None or self._current.done():
            task = self._current = asyncio.create_task(self._stream.last_seq())
        elif self._next is None:
            task = self._next = asyncio.create_task(self._look_up_after(self._current))
        else:
            task = self._next
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(task)

    async def _look_up_after(self, current: asyncio.Task[int]) -> int:
        await asyncio.wait([current])
        self._current, self._next = self._next, None
        return await self._stream.last_seq()


class Queries:
    """Answers the queries of one partition, from the views that `runners` run.

    At each status `warnings` is asked, and `who` leads it now. Without `who`, the newest leader that was
    elected is told, whether or not it leads still. Sealed content is shown as far as `keys` open it.
    With `proofs` it proves what is in the log. With `packages` it keeps those of releases. `durability` is
    told with the status, and the doubts about it are warnings.
    """

    def __init__(
        self,
        runners: Sequence[Runner],
        log: Log,
        intake: Intake,
        version: str,
        warnings: Callable[[], Sequence[str]] = tuple,
        who: Callable[[int], Awaitable[str | None]] | None = None,
        clock: Clock | None = None,
        keys: Keys | None = None,
        proofs: Proofs | None = None,
        tell: Tell | None = None,
        packages: PackageStore | None = None,
        durability: Callable[[], Awaitable[tuple[Durability | None, Sequence[str]]]] | None = None,
    ) -> None:
        self._durability = durability
        self._keys = keys
        self._runners = {runner.name: runner for runner in runners}
        self._runner = self._runners["jobs"]
        self._reader = JobsReader(self._runner.path)
        self._log = log
        self._newest = Newest(log)
        self._intake = intake
        self._submitted = Newest(intake)
        self.partitions = 1
        """How many there are. Of several, each has records of some submits alone."""

        self._version = version
        self._warnings = warnings
        self._who = who
        self._clock = clock or SystemClock()
        self._verbs: dict[str, Callable[[str, bytes], Awaitable[Answer]]] = {
            "jobs": self._jobs,
            "job": self._job,
            "dead": self._dead,
            "records": self._records,
            "log": self._log_records,
            "stretch": self._stretch,
            "status": self._status,
        }
        if proofs is not None:
            self._verbs |= {
                "checkpoint": self._proved(CheckpointQuery, proofs.checkpoint),
                "consistency": self._proved(ConsistencyQuery, proofs.consistency),
                "prove": self._proved(ProveQuery, proofs.prove),
            }
        if packages is not None:
            self._verbs |= {"keep_package": packages.keep, "package": packages.part}
        self._readers: list[Reader] = [self._reader]
        self._searching: Reader | None = None
        if search.NAME in self._runners:
            self._searching = Reader(self._runners[search.NAME].path)
            self._readers.append(self._searching)
        for view, lists in LISTS.items():
            if view in self._runners:
                reader = Reader(self._runners[view].path)
                self._readers.append(reader)
                for verb, listed in lists.items():
                    self._verbs[verb] = self._listed(view, reader, listed)
        self._gate: Gate | None = None
        if GATE_VIEW in self._runners:
            reader = Reader(self._runners[GATE_VIEW].path)
            self._readers.append(reader)
            self._gate = Gate(reader, self._clock, self._caught_up, tell)

    async def admit(self, tenant: str, principal: str, verb: str, body: bytes) -> None:
        """Raises Refused where the principal may not do this; see `Gate`."""
        if self._gate is not None:
            await self._gate.admit(tenant, principal, verb, body)

    async def close(self) -> None:
        if self._gate is not None:
            await self._gate.close()
        for reader in self._readers:
            await reader.close()

    async def answer(self, subject: str, body: bytes) -> bytes:
        """The answer to a request on `writ.query.<tenant>.<principal>.<verb>`; an empty body is `{}`.

        What is refused, or cannot be answered now, is in the answer's `error`; nothing is raised.
        """
        try:
            tenant, principal, verb = address_of(subject)
            body = body or b"{}"
            gate = self._gate
            handler = (gate and gate.verbs(tenant, principal).get(verb)) or self._verbs.get(verb)
            if handler is None:
                known = ", ".join((*self._verbs, *ONESELF))
                raise Refused(RejectionKind.MALFORMED, f"no query {verb!r}; there are {known}", "verb")
            if gate is not None:
                await gate.admit(tenant, principal, verb, body)
            answer = await handler(tenant, body)
        except Refused as refused:
            answer = Answer(refused.rejection, self._runner.position)
        except Exception as error:
            log.exception("the query %s could not be answered", subject)
            reason = f"the query could not be answered: {type(error).__name__}"
            answer = Answer(Rejection(RejectionKind.TRY_LATER, reason), self._runner.position)
        return _encode(answer)

    # --- freshness --------------------------------------------------------------------------------------

    async def _newest_seq(self, timeout_s: float) -> int:
        try:
            return await self._newest.seq(max(timeout_s, _NEWEST_MIN_S))
        except Exception as error:
            reason = f"the log's last sequence is not known: {str(error) or type(error).__name__}"
            raise Refused(RejectionKind.TRY_LATER, reason) from error

    async def _caught_up(self, query: Query, view: str = "jobs") -> None:
        """Waits until a view is as new as the query asks."""
        runner = self._runners[view]
        loop = asyncio.get_running_loop()
        until = loop.time() + query.max_wait_s
        wanted = query.min_position
        if wanted is None:
            newest, _ = await asyncio.gather(
                self._newest_seq(query.max_wait_s),
                self._submits_seen(runner, min(query.max_wait_s, SUBMITS_WAIT_S)),
            )
            wanted = newest
        elif wanted > runner.position and wanted > (last := await self._newest_seq(query.max_wait_s)):
            reason = f"min_position {wanted} is beyond the log, whose last record is {last}"
            raise Refused(RejectionKind.CONFLICT, reason, "min_position")
        if not await runner.wait_for(wanted, until - loop.time()):
            why = f" after {query.max_wait_s} s"
            if runner.halted:
                why = f"; it has halted: {runner.halted}"
            elif runner.away:
                why = f"; it is away: {runner.away}"
            elif runner.outdated:
                why = f"; it is built anew, up to record {runner.building or 0} by now"
            reason = f"the view {view} is at record {runner.position}, not yet at {wanted}{why}"
            raise Refused(RejectionKind.TRY_LATER, reason)

    async def _submits_seen(self, runner: Runner, timeout_s: float) -> None:
        """Waits until every submit acknowledged before the question is in the view, but not for ever.

        While nobody leads, what was submitted is safe in the intake and nowhere else. Where there are several
        partitions nothing tells whose the newest is, and it is not waited for.
        """
        if self.partitions > 1:
            return
        try:
            seq = await self._submitted.seq(timeout_s)
        except Exception as error:
            log.warning("the newest submit is not known: %s", error)
            return
        await runner.wait_for_submit(self._intake.epoch, seq, timeout_s)

    # --- verbs ------------------------------------------------------------------------------------------

    async def _jobs(self, tenant: str, body: bytes) -> JobsPage:
        query = parse(body, JobsQuery)
        await self._caught_up(query)
        if query.search is not None:
            return _page(await self._searched(tenant, query, query.search), self._keys)
        return _page(await self._reader.page(tenant, query), self._keys)

    async def _searched(self, tenant: str, query: JobsQuery, text: str) -> JobRows:
        """Jobs by words: those that the search view tells of, as far as the other filters hold."""
        if self._searching is None:
            reason = "nothing is indexed for search; start the node with: writ up --search"
            raise Refused(RejectionKind.CONFLICT, reason, "search")
        await self._caught_up(query, search.NAME)
        span = await self._reader.span(query)
        found, more = await self._searching.read(lambda db: search.matches(db, tenant, text, *span))
        rows = await self._reader.page(tenant, query, found)
        return rows if rows.next is not None else rows._replace(next=more)

    async def _job(self, tenant: str, body: bytes) -> JobsPage:
        query = parse(body, JobQuery)
        await self._caught_up(query)
        return _page(await self._reader.lookup(tenant, query.id, query.queue), self._keys)

    async def _dead(self, tenant: str, body: bytes) -> DeadPage:
        query = parse(body, DeadQuery)
        await self._caught_up(query)
        found = await self._reader.dead(tenant, query)
        shown, after = fit((self._dead_view(tenant, query, row) for row in found.rows), query.limit)
        return DeadPage(None, found.position, shown, after or found.next)

    def _dead_view(self, tenant: str, query: DeadQuery, row: DeadRow) -> Seen:
        newest = _job_view(revealed(row.newest, self._keys))
        place = place_of(query, row.queue, row.cause, row.n)
        return Seen(place, DeadView(row.queue, tenant, row.cause, row.n, newest))

    async def _records(self, tenant: str, body: bytes) -> RecordsPage:
        query = parse(body, RecordsQuery)
        key = job_key(query.queue, query.id)
        await self._caught_up(query)
        found = await self._reader.lookup(tenant, query.id, query.queue)
        if not found.rows:
            return RecordsPage(position=found.position)
        row = found.rows[0]
        # Nothing moves a job before it was submitted, nor after it has ended.
        last = row.seq if row.job.state in TERMINAL else None
        partition = self._log.partition
        subjects = [log_subject(partition, tenant, "job", key)]
        if query.context:
            subjects.append(log_subject(partition, tenant, "worker", "*"))
            subjects.append(log_subject(partition, SYSTEM_TENANT, "partition", "*"))
        start = max(query.after + 1, row.opened)
        try:
            async with asyncio.timeout(READ_MAX_S):

                def wanted(stored: Stored) -> bool:
                    return stored.subject == subjects[0] or _moves(stored, key)

                views, more = await self._read(start, last, subjects, wanted, query.limit)
        except TimeoutError:
            reason = (
                f"reading the job's records took more than {READ_MAX_S} s; ask for fewer, or without context"
            )
            raise Refused(RejectionKind.TRY_LATER, reason) from None
        if query.reveal and self._keys is not None:
            keys = self._keys
            views = [replace(v, record=msgspec.Raw(revealed_record(bytes(v.record), keys))) for v in views]
        return RecordsPage(None, found.position, tuple(views), more)

    async def _log_records(self, tenant: str, body: bytes) -> RecordsPage:
        """Rests on the log alone: where there is no more, all up to the answer's position was looked at."""
        query = parse(body, LogQuery)
        if query.id is not None and query.queue is None:
            raise Refused(RejectionKind.CONFLICT, "id is given without queue; give both", "queue")
        last = await self._newest_seq(query.max_wait_s)
        if query.after > last:
            reason = f"after {query.after} is beyond the log, whose last record is {last}"
            raise Refused(RejectionKind.CONFLICT, reason, "after")
        if query.after == last:
            return RecordsPage(position=last)

        def wanted(stored: Stored) -> bool:
            address = parse_log(stored.subject)
            return query.holds(address.kind, address.key)

        key = "*" if query.id is None else job_key(query.queue or "", query.id)
        subject = log_subject(self._log.partition, tenant, query.kind or "*", key)
        try:
            async with asyncio.timeout(READ_MAX_S):
                views, more = await self._read(query.after + 1, last, [subject], wanted, query.limit)
        except TimeoutError:
            reason = f"reading the log took more than {READ_MAX_S} s; ask for fewer records, or of one kind"
            raise Refused(RejectionKind.TRY_LATER, reason) from None
        return RecordsPage(None, last, tuple(views), more)

    async def _read(
        self,
        start: int,
        last: int | None,
        subjects: Sequence[str],
        wanted: Callable[[Stored], bool],
        limit: int,
    ) -> tuple[list[RecordView], bool]:
        """A page of records that are wanted, and whether there are more."""
        views: list[RecordView] = []
        room = PAGE_MAX_BYTES
        async for some in self._log.read(start, subjects):
            for stored in some:
                if last is not None and stored.seq > last:
                    return views, False
                if not wanted(stored):
                    continue
                room -= len(stored.body) + len(stored.subject) + _RECORD_EXTRA_BYTES
                if len(views) == limit or (room < 0 and views):
                    return views, True
                views.append(_record_view(stored))
        return views, False

    async def _stretch(self, tenant: str, body: bytes) -> StretchPage:
        """Reads the log, and waits for no view."""
        query = parse(body, StretchQuery)
        seen = self._runner.position, self._runner.digest
        return await stretch_page(self._log, tenant, query, await self._newest_seq(query.max_wait_s), seen)

    def _listed(self, view: str, reader: Reader, listed: Listed) -> Callable[[str, bytes], Awaitable[Answer]]:
        """What answers a query from one view, as soon as that is as new as it asks."""

        async def answer(tenant: str, body: bytes) -> Answer:
            query = parse(body, listed.query)
            await self._caught_up(query, view)
            return await reader.read(lambda db: listed.read(db, tenant, query))

        return answer

    def _proved(
        self, asked: type[Asked], read: Callable[[str, Asked], Awaitable[Answer]]
    ) -> Callable[[str, bytes], Awaitable[Answer]]:
        """What answers from the tree, and from what was signed of it."""

        async def prove(tenant: str, body: bytes) -> Answer:
            query = parse(body, asked)
            await self._caught_up(query, "tree")
            try:
                return await read(tenant, query)
            except NotProved as error:
                missing = isinstance(error, NoSuchJob)
                kind = RejectionKind.NOT_FOUND if missing else RejectionKind.CONFLICT
                raise Refused(kind, str(error)) from error
            except NotSigned as error:
                kind = RejectionKind.TRY_LATER if isinstance(error, Behind) else RejectionKind.CONFLICT
                raise Refused(kind, f"no checkpoint was signed: {error}") from error

        return prove

    async def _status(self, tenant: str, body: bytes) -> NodeStatus:
        """Never waits for a view, as how far behind it is belongs to the answer."""
        query = parse(body, StatusQuery)
        runner = self._runner
        warnings = list(self._warnings())
        last, kept_out = runner.position, tuple[KeptOut, ...]()
        try:
            last = await self._newest_seq(query.max_wait_s)
            kept_out = await self._kept_out(tenant, query.max_wait_s)
        except Refused as refused:
            warnings.append(refused.rejection.reason)
        warnings += [_flooding(each) for each in kept_out[:_FLOODS_TOLD]]
        if self._who is not None:
            name = await self._who(self._log.partition)
        else:
            leader = await self._reader.leader()
            name = leader.leader if leader else None
        durability = None
        if self._durability is not None:
            durability, doubts = await self._durability()
            warnings += doubts
        counts: dict[State, int] = {}
        with suppress(sqlite3.Error):  # why it cannot be read belongs to the answer too
            counts = await self._reader.counts(tenant)
        return NodeStatus(
            None,
            runner.position,
            self._version,
            (PartitionStatus(self._log.partition, self._log.epoch, name, last),),
            tuple([self._view_status(each, last) for each in self._runners.values()]),
            {state.value: n for state, n in counts.items()},
            tuple(warnings),
            durability,
            kept_out,
        )

    async def _kept_out(self, tenant: str, timeout_s: float) -> tuple[KeptOut, ...]:
        """Who is, the one of the longest time first; for those of a tenant, whether they are."""
        try:
            async with asyncio.timeout(max(timeout_s, _NEWEST_MIN_S)):
                found = await self._intake.kept_out()
        except (OutcomeUnknown, TimeoutError) as silent:
            reason = f"who is kept out of the intake is not known: {str(silent) or type(silent).__name__}"
            raise Refused(RejectionKind.TRY_LATER, reason) from silent
        shown = sorted([(at, name) for name, at in found.items() if tenant in (HOST_TENANT, name)])
        return tuple([KeptOut(name, timestamp(at)) for at, name in shown])

    def _view_status(self, runner: Runner, last: int) -> ViewStatus:
        lag = max(0, last - runner.position)
        lag_s = max(0, self._clock.wall_us() - runner.at) / SECOND_US if lag and runner.at else 0.0
        away, building = runner.away, runner.building
        return ViewStatus(
            runner.name, runner.position, lag, runner.halted, away, lag_s, building, runner.restored
        )


def _flooding(each: KeptOut) -> str:
    return (
        f"tenant {each.tenant} is kept out since {each.since}: {KEPT_OUT_FROM:,} or more of its jobs waited "
        "to be decided on; its submits are refused until most of them are"
    )


def _page(found: JobRows, keys: Keys | None) -> JobsPage:
    """Rows as an answer that the broker carries, with the content whose key is there."""
    jobs: list[msgspec.Raw] = []
    room = PAGE_MAX_BYTES
    after, opened = found.next, 0
    for row in found.rows:
        encoded = _encode(_job_view(revealed(row, keys)))
        room -= len(encoded) + 1
        if room < 0 and jobs:
            after = opened
            break
        jobs.append(msgspec.Raw(encoded))
        opened = row.opened
    # Encoded one by one to know their sizes; as bytes they go into the same field.
    views: Any = tuple(jobs)
    return JobsPage(None, found.position, views, None if after is None else str(after))


def _error_view(row: JobRow) -> ErrorView | None:
    error = row.job.error
    if error is None:
        return None
    text = error.text
    plain = None if text is None or text.key != UNSEALED else _text(text.plain)
    return ErrorView(error.class_.value, error.type, plain)


def _job_view(row: JobRow) -> JobView:
    job = row.job
    lease = job.lease
    return JobView(
        id=job.id,
        tenant=job.tenant,
        queue=job.queue,
        task=job.task,
        state=job.state,
        attempt=job.attempt,
        input=content(row.input),
        output=content(row.output if job.output is not None else None),
        error=_error_view(row),
        release=job.release,
        process=job.process,
        actor=job.actor,
        submitted_at=timestamp(job.submitted_at),
        finished_at=None if job.finished_at is None else timestamp(job.finished_at),
        priority=job.priority,
        due_at=timestamp(job.due_at),
        round=job.round,
        failures=job.failures,
        lease_losses=job.lease_losses,
        worker=lease.worker if lease else None,
        lease_expires_at=timestamp(lease.expires_at) if lease else None,
        reason=job.reason,
        dead_reason=job.dead,
        seq=row.seq,
        wait=_wait_view(job),
        cause=job.cause,
        dropped=job.dropped,
        cancel=job.cancel if job.state not in TERMINAL else None,
        progress=content(job.progress),
        policy=job.policy,
        fairness_key=job.fairness_key,
        concurrency_key=job.concurrency_key,
        unique_key=job.unique_key,
        after=job.after,
        parent=job.parent,
        batch=job.batch,
        schedule=job.schedule,
        operation=job.operation,
        tags=tags_of(job.tags),
        requires=job.requires,
        ended_by=job.ended_by if job.state in TERMINAL else None,
    )


def _wait_view(job: Job) -> WaitView | None:
    wait = job.wait
    if wait is None:
        return None
    until = None if wait.until is None else timestamp(wait.until)
    on_timeout = None if wait.until is None else wait.on_timeout
    return WaitView(wait.reason, timestamp(wait.since_at), wait.on, until, on_timeout)


def _moves(stored: Stored, key: str) -> bool:
    """Whether another aggregate's record moves the job's lease: a beat that names it, or time given back."""
    if ".worker." in stored.subject and f'"{key}"'.encode() not in stored.body:
        return False  # keys need no escapes in JSON
    try:
        events = decode(stored.body).events
    except CodecError:
        return True  # whoever reads the answer must see it
    return any(
        isinstance(event, LeaderElected | TimeResumed)
        or (isinstance(event, LeasesRenewed) and any(lease.key == key for lease in event.leases))
        for event in events
    )


def _record_view(stored: Stored) -> RecordView:
    return RecordView(stored.seq, stored.subject, timestamp(stored.stored_us), msgspec.Raw(stored.body))
