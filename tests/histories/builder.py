"""A tiny language for histories, and logs that hold them.

    history().job("a").submitted().granted("w1").expired().granted("w2").completed()

Every word adds one record with the events that the real decisions give. Time passes only by `after(seconds)`,
`at_due()` and the words that wait for a deadline (`expired`, `timed_out`). `records` are the stored messages,
chained and with their right subjects; `log()` is a log of them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from msgspec.structs import replace

from writ.broker.ports import Message, Stored, WrongLastSequence
from writ.orchestrator.decide import control, lease, retry, timers
from writ.schemas.bounds import SECOND_US
from writ.schemas.codec import decode, digest, encode
from writ.schemas.commands import Cancel, Held, Redrive
from writ.schemas.errors import AttemptError, ErrorClass
from writ.schemas.events import (
    AttemptFailed,
    AttemptStarted,
    Barrier,
    CommandRejected,
    Fact,
    JobCompleted,
    JobSubmitted,
    LeaderElected,
    LeaseGranted,
    LeasesRenewed,
    RefusedReport,
    RejectionsFolded,
    Renewal,
    ReportRejected,
    TimeResumed,
)
from writ.schemas.ids import SYSTEM_TENANT, job_key
from writ.schemas.lifecycle import TERMINAL, Job, State, evolve_record, micros, regranted, renewed
from writ.schemas.policy import Limits, Retry
from writ.schemas.queues import BUILT_IN
from writ.schemas.records import GENESIS, Record
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import seal
from writ.schemas.subjects import log_subject

START_US = 1_767_225_600 * SECOND_US
"""2026-01-01T00:00:00Z."""


def _matches(subject: str, pattern: str) -> bool:
    words, wanted = subject.split("."), pattern.split(".")
    for index, word in enumerate(wanted):
        if word == ">":
            return len(words) > index
        if index >= len(words) or word not in ("*", words[index]):
            return False
    return len(words) == len(wanted)


class ListLog:
    """A log over a list. `chunks` draws the sizes of the lists that a reader is handed, from a seed."""

    partition = 0

    def __init__(
        self, records: Sequence[Stored] = (), epoch: int = 1, seed: int = 0, chunk_max: int = 500
    ) -> None:
        self.epoch = epoch
        self.stored = list(records)
        self._grown = asyncio.Event()
        self._random = random.Random(seed)
        self._chunk_max = chunk_max
        self.looked_up = 0

    async def last_seq(self) -> int:
        self.looked_up += 1
        await asyncio.sleep(0)
        return len(self.stored)

    async def append(self, messages: Sequence[Message], after: int, *, whole: bool = False) -> None:
        if after != len(self.stored):
            raise WrongLastSequence(f"after {after}, but the last is {len(self.stored)}")
        for message in messages:
            self.stored.append(Stored(len(self.stored) + 1, message.subject, message.body, START_US))
        self.grew()

    def grew(self) -> None:
        """Tells the readers that `stored` was extended."""
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    async def read(
        self, start: int = 1, subjects: Sequence[str] = (), *, follow: bool = False
    ) -> AsyncIterator[list[Stored]]:
        at, end = start - 1, len(self.stored)
        while True:
            grown = self._grown
            end = len(self.stored) if follow else end
            while at < end:
                size = self._random.randint(1, self._chunk_max)
                chunk = self.stored[at : min(at + size, end)]
                at += len(chunk)
                if subjects:
                    chunk = [m for m in chunk if any(_matches(m.subject, p) for p in subjects)]
                if chunk:
                    yield chunk
                await asyncio.sleep(0)
            if not follow:
                return
            await grown.wait()


class JobWords:
    """The words about one job. Each adds a record and returns this, so that they chain."""

    def __init__(self, history: History, queue: str, job_id: str) -> None:
        self.history = history
        self.key = job_key(queue, job_id)

    @property
    def now(self) -> Job:
        """The job as the history leaves it."""
        return self.history.jobs[self.key]

    def add(self, *events: Fact, actor: str = "owner") -> JobWords:
        """A record with exactly these events."""
        self.history.add("job", self.key, events, actor=actor)
        return self

    def after(self, seconds: float) -> JobWords:
        self.history.after(seconds)
        return self

    def submitted(
        self,
        task: str = "mail.send",
        content: bytes = b'{"to":"a@example.com"}',
        delay_s: float = 0,
        priority: int = 3,
        retry_policy: Retry | None = None,
        limits: Limits | None = None,
    ) -> JobWords:
        due_at = self.history.at + micros(delay_s) if delay_s else None
        return self.add(
            JobSubmitted(task, seal(content), due_at, priority, retry_policy or Retry(), limits or Limits())
        )

    def granted(self, worker: str = "w1") -> JobWords:
        job = self.history.jobs.get(self.key)
        return self.add(LeaseGranted(worker, (job.attempt if job else 0) + 1), actor="worker-1")

    def started(self) -> JobWords:
        return self.add(AttemptStarted(self.now.attempt, self.now.last_token), actor="worker-1")

    def renewed(self) -> JobWords:
        held = self.now.lease
        assert held is not None
        self.history.beat(held.worker, self.key)
        return self

    def completed(self, output: bytes | None = b'"sent"', run_ms: int | None = 20) -> JobWords:
        sealed = None if output is None else seal(output)
        return self.add(JobCompleted(self.now.attempt, self.now.last_token, sealed, run_ms), actor="worker-1")

    def failed(
        self,
        text: str = "mailbox is full",
        type_: str = "MailboxFull",
        class_: ErrorClass = ErrorClass.APPLICATION,
        retry_after_s: float | None = None,
        seed: float = 0.25,
    ) -> JobWords:
        error = AttemptError(class_, type_, seal(b'"%s"' % text.encode()))
        failed = AttemptFailed(self.now.attempt, self.now.last_token, error, 12, retry_after_s)
        return self.add(
            *retry.after_failure(self.now, BUILT_IN, failed, self.history.at, seed), actor="worker-1"
        )

    def released(self, reason: str = "drain") -> JobWords:
        events = lease.release(self.now, Held(self.now.id, self.now.last_token), "worker-1", reason, None)
        assert isinstance(events, tuple)
        return self.add(*events, actor="worker-1")

    def expired(self) -> JobWords:
        """Nobody renews: waits out the lease."""
        held = self.now.lease
        assert held is not None
        self.history.until(held.expires_at)
        return self.due()

    def at_due(self) -> JobWords:
        """Waits out the delay or backoff."""
        self.history.until(self.now.due_at)
        return self.due()

    def due(self, seed: float = 0.5) -> JobWords:
        """What the passing of time decides now."""
        events = timers.due(self.now, BUILT_IN, self.history.at, seed)
        assert events, "nothing is due"
        return self.add(*events, actor="writ:orchestrator")

    def cancelled(self, reason: str = "requested") -> JobWords:
        events = control.cancel(self.now, Cancel(id=self.now.id, reason=reason))
        assert isinstance(events, tuple)
        return self.add(*events)

    def redriven(self, reason: str = "requested") -> JobWords:
        events = control.redrive(self.now, Redrive(id=self.now.id, reason=reason))
        assert isinstance(events, tuple)
        return self.add(*events)


class History:
    """A growing log, with the jobs that it tells of."""

    def __init__(self, tenant: str = "default", epoch: int = 1) -> None:
        self.tenant = tenant
        self.epoch = epoch
        self.at = START_US
        self.prev = GENESIS
        self.records: list[Stored] = []
        self.jobs: dict[str, Job] = {}
        self.leader: str | None = None

    def job(self, job_id: str = "a", queue: str = "mail") -> JobWords:
        return JobWords(self, queue, job_id)

    def submitted(self, task: str = "mail.send") -> JobWords:
        """A first job, `a` in queue `mail`."""
        return self.job().submitted(task)

    def first(self, queue: str) -> JobWords:
        """The pending job of a queue whose turn it is."""
        waiting = [j for j in self.jobs.values() if j.state is State.PENDING and j.queue == queue]
        return self.job(min(waiting, key=lambda job: (job.priority, job.since)).id, queue)

    def after(self, seconds: float) -> History:
        self.at += micros(seconds)
        return self

    def until(self, at: int) -> History:
        self.at = max(self.at, at)
        return self

    def log(self, seed: int = 0, chunk_max: int = 500) -> ListLog:
        return ListLog(self.records, self.epoch, seed, chunk_max)

    def add(
        self,
        kind: str,
        key: str,
        events: tuple[Fact, ...],
        *,
        actor: str = "writ:orchestrator",
        tenant: str | None = None,
        cause: str | None = None,
    ) -> Record:
        """Any record, chained behind the last."""
        seq = len(self.records) + 1
        tenant = tenant or self.tenant
        record = Record(self.epoch, seq, tenant, kind, key, self.at, actor, events, cause=cause)
        if kind == "job":
            self.jobs[key] = evolve_record(self.jobs.get(key), record)
        self.put(record)
        return record

    def put(self, record: Record) -> None:
        """A record as it is, true or not: nothing is folded."""
        body = encode(record, self.prev)
        self.prev = digest(body)
        subject = log_subject(0, record.tenant, record.kind, record.key)
        self.records.append(Stored(len(self.records) + 1, subject, body, record.at + 150))

    def forged(self, which: int, /, **changes: Any) -> Record:
        """The record `which` with other fields; `put` stores it."""
        return replace(decode(self.records[which - 1].body), **changes)

    def forge(self, which: int, /, **changes: Any) -> History:
        """Another history in which the record `which` was different from the start: the chain holds."""
        other = History(self.tenant, self.epoch)
        for stored in self.records:
            other.put(self.forged(which, **changes) if stored.seq == which else decode(stored.body))
        return other

    # --- other aggregates -------------------------------------------------------------------------------

    def elected(self, leader: str = "node-1", previous: str | None = None) -> History:
        self._partition(LeaderElected(leader, "0.1.0", previous or self.leader))
        self.leader = leader
        return self._give_time_back()

    def resumed(self, gap_s: float = 5) -> History:
        self.after(gap_s)
        self._partition(TimeResumed(round(gap_s * 1_000)))
        return self._give_time_back()

    def barrier(self) -> History:
        self._partition(Barrier())
        return self

    def _partition(self, event: Fact) -> None:
        self.add("partition", "0", (event,), tenant=SYSTEM_TENANT)

    def _give_time_back(self) -> History:
        for key, job in self.jobs.items():
            if job.lease is not None:
                self.jobs[key] = regranted(job, self.at, self.epoch)
        return self

    def beat(self, worker: str, *keys: str) -> History:
        """The worker renews these jobs; all that it holds where none is named."""
        held = [(k, j) for k, j in self.jobs.items() if j.lease is not None and j.lease.worker == worker]
        renewals = tuple(Renewal(key, job.last_token) for key, job in held if not keys or key in keys)
        self.add("worker", worker, (LeasesRenewed(renewals),), actor="worker-1")
        for renewal in renewals:
            self.jobs[renewal.key] = renewed(self.jobs[renewal.key], self.at)
        return self

    def refused(self, verb: str = "submit", queue: str = "mail", count: int = 1) -> History:
        reasons = tuple(Rejection(RejectionKind.MALFORMED, f"no task {i}", "task", i) for i in range(count))
        self.add("principal", "owner", (CommandRejected(verb, reasons, queue, count),), actor="owner")
        return self

    def report_refused(self, key: str, token: int = 7, worker: str = "w1") -> History:
        job = self.jobs.get(key)
        why = lease.fence(job, Held(key.partition("~")[2], token), "worker-1", 0)
        assert why is not None
        event = ReportRejected("complete", worker, (RefusedReport(key, token, why),))
        self.add("principal", "worker-1", (event,), actor="worker-1")
        return self

    def folded(self, count: int = 40) -> History:
        last = Rejection(RejectionKind.MALFORMED, "no task", "task")
        self.add("principal", "owner", (RejectionsFolded(count, last),), actor="owner")
        return self


def wander(seed: int, steps: int, jobs: int = 12) -> History:
    """A history of random but lawful steps, the same for the same seed."""
    draw = random.Random(seed)
    history = History().elected()
    for _ in range(steps):
        history.after(draw.choice((0, 0, 0.000_001, 0.3, 2, 40)))
        queue = draw.choice(("mail", "bills"))
        _step(draw, history, history.job(str(draw.randrange(jobs)), queue))
    return history


def _step(draw: random.Random, history: History, job: JobWords) -> None:
    match draw.randrange(24):
        case 0:
            history.elected(draw.choice(("node-1", "node-2")))
            return
        case 1:
            history.resumed()
            return
        case 2:
            history.refused(count=draw.randint(1, 3))
            return
        case 3:
            words: list[Callable[[], object]] = [history.folded, history.barrier]
            words.append(lambda: history.report_refused(job.key))
            draw.choice(words)()
            return
        case 4 | 5:
            history.beat(draw.choice(("w1", "w2")))
            return
        case _:
            pass
    now = history.jobs.get(job.key)
    if now is None:
        policy = draw.choice(
            (Retry(), Retry(max_attempts=2, max_lease_losses=2), Retry(non_retryable_types=("Bad",)))
        )
        limits = draw.choice(
            (Limits(), Limits(lease_s=2.0, attempt_timeout_s=20.0), Limits(expires_in_s=30.0))
        )
        task = draw.choice(("mail.send", "mail.sort"))
        job.submitted(
            task, b"[%d]" % draw.randrange(99), draw.choice((0, 0, 5)), draw.randint(1, 5), policy, limits
        )
        return
    if now.state not in TERMINAL and timers.due(now, BUILT_IN, history.at, 0.5):
        job.due(draw.random())
        return
    match now.state:
        case State.SCHEDULED | State.RETRYING:
            draw.choice((job.at_due, job.at_due, job.cancelled))()
        case State.PENDING:
            next_ = history.first(job.key.partition("~")[0])
            draw.choice((next_.granted, next_.granted, lambda: next_.granted("w2"), job.cancelled))()
        case State.RUNNING:
            _running_step(draw, job, now)
        case State.DEAD:
            job.redriven()
        case _:
            history.barrier()


def _running_step(draw: random.Random, job: JobWords, now: Job) -> None:
    assert now.lease is not None
    words: list[Callable[[], object]] = [job.completed, job.failed, job.expired, job.released, job.renewed]
    words.append(lambda: job.failed(type_="Bad", seed=draw.random()))
    words.append(lambda: job.failed(class_=ErrorClass.POISON))
    words.append(lambda: job.failed(class_=ErrorClass.SYSTEM, retry_after_s=9.0))
    words.append(lambda: job.completed(None))
    if now.lease.started_at is None:
        words += [job.started, job.started]
    if now.cancel is None:
        words.append(job.cancelled)
    draw.choice(words)()


class Histories:
    """What the `history` fixture hands out: call it for an empty history."""

    def __call__(self, tenant: str = "default", epoch: int = 1) -> History:
        return History(tenant, epoch)

    def wander(self, seed: int, steps: int, jobs: int = 12) -> History:
        return wander(seed, steps, jobs)

    def log(
        self, records: Sequence[Stored] = (), epoch: int = 1, seed: int = 0, chunk_max: int = 500
    ) -> ListLog:
        return ListLog(records, epoch, seed, chunk_max)
