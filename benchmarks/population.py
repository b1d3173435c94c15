"""A made history that is shaped like those of real tenants: the records of so many jobs, without a broker.

Few queues have most jobs and most queues have few; jobs come over two weeks, retry, die of thousands of
causes, are redriven by operations, belong to batches, parents and schedules, have tags, call tools and use
models. Some commands were refused. Between two records of a job lie thousands of others. One job, of the
first, has what no other has: whoever looks for it has to look far.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Generator, Iterator
from itertools import accumulate
from typing import Final, NamedTuple

import msgspec

from writ.schemas.causes import fingerprint
from writ.schemas.errors import AttemptError, ErrorClass
from writ.schemas.events import (
    AttemptFailed,
    AttemptStarted,
    BatchSealed,
    CommandRejected,
    ContentErased,
    DeadReason,
    Fact,
    Filter,
    HoldLifted,
    HoldPlaced,
    JobCancelled,
    JobCompleted,
    JobDeadLettered,
    JobDue,
    JobRedriven,
    JobSubmitted,
    JobSuspended,
    LeaseExpired,
    LeaseGranted,
    LeasesRenewed,
    OperationPlanned,
    OperationVerb,
    QueueDeclared,
    RefusedReport,
    Renewal,
    ReportRejected,
    RetryScheduled,
    WaitReason,
)
from writ.schemas.ids import fencing_token, job_key
from writ.schemas.operations import OPERATION_CAUSE
from writ.schemas.policy import QueuePolicy
from writ.schemas.records import GENESIS, Record
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.schedules import ScheduleDeclared, ScheduleDeleted, ScheduleSpec
from writ.schemas.sealed import Sealed, seal
from writ.schemas.steps import ToolCalled, ToolOutcome, UsageRecorded

TENANT: Final = "default"
QUEUES: Final = tuple([f"q{number:03}" for number in range(120)])
ACTORS: Final = ("owner", *[f"team-{number}" for number in range(30)])
TOOLS: Final = tuple([f"tool.{number:02}" for number in range(60)])
MODELS: Final = ("small", "large", "coder", "vision", "embed")
SCHEDULES: Final = 4_000
"""Declared in all; three of four were deleted again, as were as many holds."""

RARE: Final = "rare"
"""Task, tag, batch, actor, tool and worker of one job among the first thousand, and of no other."""

START_US: Final = 1_767_225_600_000_000
SPAN_US: Final = 14 * 86_400 * 1_000_000

_TENANTS: Final = (TENANT,) * 9 + ("acme",)
_WEIGHTS: Final = tuple(accumulate([1 / rank for rank in range(1, len(QUEUES) + 1)]))
_CLASSES: Final = (ErrorClass.SYSTEM, ErrorClass.APPLICATION, ErrorClass.TIMEOUT)
_IN_FLIGHT: Final = 3_000
_BATCH_JOBS: Final = 250
_FILLER: Final = "x" * 150


class Acted(NamedTuple):
    """What becomes one record of a job."""

    events: tuple[Fact, ...]
    actor: str = "writ:engine"
    cause: str | None = None


class _Told:
    """A job whose life is told. The history sets `seq` to that of its newest record, and `at`."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.number = number
        self.rare = number == 700
        self.tenant = TENANT if self.rare else rng.choice(_TENANTS)
        self.queue = QUEUES[bisect(_WEIGHTS, rng.random() * _WEIGHTS[-1])]
        self.id = f"{self.queue}-{number * 7_919 % 10_000_019:08}"
        self.task = (
            RARE if self.rare else f"{self.queue}.{rng.choice(('extract', 'send', 'render', 'close'))}"
        )
        self.worker = RARE if self.rare else f"w{number // 400}-{rng.randrange(12)}"
        self.seq = self.at = 0
        self.operation: str | None = None

    @property
    def key(self) -> str:
        return job_key(self.queue, self.id)

    @property
    def token(self) -> int:
        return fencing_token(1, self.seq)


def _subject(number: int) -> str:
    """The name of a sealing key, whose job is erased later."""
    return f"subject-{number}"


class Population:
    """`records(jobs)` tells the whole history; the same seed tells the same one."""

    def __init__(self, jobs: int, seed: int = 7) -> None:
        self._jobs = jobs
        self._rng = random.Random(seed)
        self._seq = 0
        self._made = 0
        self._running: dict[str, int] = {}
        self._parents: list[str] = []

    def records(self) -> Iterator[Record]:
        yield from self._governing()
        lives: list[tuple[_Told, Iterator[Acted]]] = []
        while self._made < self._jobs or lives:
            while self._made < self._jobs and len(lives) < _IN_FLIGHT:
                told = _Told(self._made, self._rng)
                lives.append((told, self._life(told)))
                self._made += 1
                yield from self._beside(told)
            place = self._rng.randrange(len(lives))
            told, life = lives[place]
            acted = next(life, None)
            if acted is None:
                lives[place] = lives[-1]
                lives.pop()
                continue
            record = self._record("job", told.key, *acted, tenant=told.tenant)
            told.seq, told.at = record.seq, record.at
            yield record

    def _record(
        self,
        kind: str,
        key: str,
        events: tuple[Fact, ...],
        actor: str = "owner",
        cause: str | None = None,
        tenant: str = TENANT,
    ) -> Record:
        self._seq += 1
        at = START_US + SPAN_US * self._made // self._jobs + self._seq
        return Record(1, self._seq, tenant, kind, key, at, actor, events, cause=cause)

    # --- what governs -----------------------------------------------------------------------------------

    def _governing(self) -> Iterator[Record]:
        rng = self._rng
        for queue in QUEUES:
            for version in range(1, 21):
                declared = QueueDeclared(version, QueuePolicy(priority=1 + version % 5), "as agreed")
                yield self._record("queue", queue, (declared,), cause="declare")
        count = max(40, min(SCHEDULES, self._jobs // 10))
        for number in range(count):
            key = job_key(rng.choice(QUEUES), f"s{number}")
            spec = ScheduleSpec(
                "reports.render", cron=f"{number % 60} {number % 24} * * *", tz="Europe/Berlin"
            )
            yield self._record("schedule", key, (ScheduleDeclared(1, spec, seal(b"{}")),), cause="declare")
            if number % 4:
                yield self._record("schedule", key, (ScheduleDeleted("over"),), cause="delete")
            key = job_key(rng.choice(QUEUES), f"case-{number}")
            yield self._record("hold", key, (HoldPlaced(Filter(), "a lawsuit"),), cause="hold")
            if number % 4:
                yield self._record("hold", key, (HoldLifted("settled"),), cause="lift")

    def _beside(self, told: _Told) -> Iterator[Record]:
        """What happens beside the lives of jobs, now and then."""
        number = told.number
        if number % 60 == 0:
            refusal = Rejection(RejectionKind.CONFLICT, "already_finished: the job is completed", "id")
            refused = CommandRejected("cancel", (refusal,), told.queue)
            actor = self._rng.choice(ACTORS)
            yield self._record("principal", actor, (refused,), actor, "cancel", told.tenant)
        if number % 500 == 0:
            report = RefusedReport(told.key, 5, Rejection(RejectionKind.STALE, "the lease was lost"))
            rejected = ReportRejected("complete", told.worker, (report,))
            yield self._record("principal", told.worker, (rejected,), told.worker, "complete", told.tenant)
        if number % 200 == 0 and self._running:
            key, token = next(iter(self._running.items()))
            beat = LeasesRenewed((Renewal(key, token),))
            yield self._record("worker", f"w{number // 400}-0", (beat,), "worker")
        if number % _BATCH_JOBS == 0 and number:
            key = job_key(QUEUES[0], f"b{number // _BATCH_JOBS - 1}")
            yield self._record("batch", key, (BatchSealed(_BATCH_JOBS),), cause="seal", tenant=told.tenant)
        if number % 50 == 40:
            erased = ContentErased(1, "asked for by its subject")
            yield self._record("subject", _subject(number - 37), (erased,), cause="erase", tenant=told.tenant)
        if told.operation is None and number % 50 == 0:
            told.operation = job_key(told.queue, f"op{self._seq + 1}")
            plan = OperationPlanned(OperationVerb.REDRIVE, Filter(), "mended", 40)
            yield self._record("operation", told.operation, (plan,), cause="plan", tenant=told.tenant)

    # --- the life of one job ----------------------------------------------------------------------------

    def _life(self, told: _Told) -> Iterator[Acted]:
        rng = self._rng
        actor = RARE if told.rare else rng.choice(ACTORS)
        submitted = self._submit(told)
        yield Acted((submitted,), actor, "submit")
        kind = rng.random()
        if submitted.due_at is not None:
            if kind < 0.3:
                return  # scheduled still
            yield Acted((JobDue(),), "writ:timer")
        if told.operation is None and kind < 0.01:
            suspended = JobSuspended(WaitReason.APPROVAL, "asks for an approval", ("owner",))
            yield Acted((suspended,), actor)
            return
        if kind < 0.02:
            yield Acted((JobCancelled("not needed"),), actor, "cancel")
            return
        if kind < 0.025:
            return  # pending still
        for attempt in range(1, 4):
            yield Acted((LeaseGranted(told.worker, attempt, "worker"),), "worker", "acquire")
            ended = yield from self._attempt(told, attempt, kind)
            if ended:
                return

    def _attempt(self, told: _Told, attempt: int, kind: float) -> Generator[Acted, None, bool]:
        """Whether the job ends with it."""
        rng, token = self._rng, told.token
        if told.tenant == TENANT:
            self._running[told.key] = token
        if rng.random() < 0.15 or told.rare:
            yield Acted((AttemptStarted(attempt, token),), "worker", "start")
            yield Acted(self._notes(told, attempt, token), "worker", "note")
        if kind < 0.026 and attempt == 1:
            return True  # running still
        self._running.pop(told.key, None)
        if kind < 0.03 and attempt == 1:
            lost = LeaseExpired(attempt, token, told.worker, told.at, 1, 5)
            yield Acted((lost,), "writ:timer")
            return False
        fails = told.rare or told.operation is not None or kind < 0.12
        if not fails or (attempt > 1 and kind > 0.07 and not told.rare):
            yield Acted((JobCompleted(attempt, token, seal(b'{"ok":true}'), 40),), "worker", "complete")
            return True
        error = self._error(told)
        failed = AttemptFailed(attempt, token, error, 30)
        if attempt < 2 and not told.rare:
            due_at = told.at + 1_000_000
            again = RetryScheduled(due_at, "backoff 1 s", attempt, 5, 1.0, 0.1, 0.5)
            yield Acted((failed, again), "worker", "fail")
            if kind < 0.0302:
                return True  # waits still
            yield Acted((JobDue(),), "writ:timer")
            return False
        cause = fingerprint(told.task, DeadReason.EXHAUSTED, error)
        dead = JobDeadLettered(DeadReason.EXHAUSTED, f"failed attempt {attempt}", cause)
        yield Acted((failed, dead), "worker", "fail")
        if told.operation is not None:
            redriven = JobRedriven(told.seq, "mended", told.operation)
            yield Acted((redriven,), "writ:operator", OPERATION_CAUSE + told.operation)
        return told.operation is None

    def _submit(self, told: _Told) -> JobSubmitted:
        rng, number = self._rng, told.number
        tags = {"env": rng.choice(("prod", "staging", "test")), "customer": f"c{rng.randrange(5_000)}"}
        parent = schedule = None
        if self._parents and number % 12 == 0:
            parent = rng.choice(self._parents)
        if number % 100 == 0:
            self._parents = [*self._parents[-50:], told.key]
        if number % 15 == 0:
            schedule = f"s{number % SCHEDULES}"
        batch = f"b{number // _BATCH_JOBS}" if number % 3 == 0 else "everything" if number % 3 == 1 else None
        if told.rare:
            tags["only"] = batch = RARE
        return JobSubmitted(
            told.task,
            Sealed(_subject(number), GENESIS, cipher=_FILLER.encode())
            if number % 50 == 3
            else seal(msgspec.json.encode({"invoice": number, "text": _FILLER})),
            START_US + 10 * SPAN_US if number % 40 == 0 else None,
            1 + number % 5,
            parent=parent,
            schedule=schedule,
            batch=batch,
            tags=seal(msgspec.json.encode(tags)) if number % 2 or told.rare else None,
        )

    def _notes(self, told: _Told, attempt: int, token: int) -> tuple[Fact, ...]:
        rng = self._rng
        outcome = rng.choices(tuple(ToolOutcome), (90, 8, 2))[0]
        tool = RARE if told.rare else rng.choice(TOOLS)
        called = ToolCalled(
            attempt, token, tool, "1", seal(b"{}"), "0" * 64, outcome, run_ms=1 + int(rng.expovariate(0.01))
        )
        tokens = rng.randrange(2_000)
        return called, UsageRecorded(attempt, token, rng.choice(MODELS), tokens, tokens // 8, tokens * 3)

    def _error(self, told: _Told) -> AttemptError:
        rng = self._rng
        if told.rare:
            return AttemptError(ErrorClass.POISON, "Rare", seal(b'"the runner died"'))
        name = rng.choice(("ValueError", "TimeoutError", "HTTPError", "KeyError", "OSError"))
        text = f"no {rng.choice(('scan', 'page', 'total', 'address', 'answer'))} of {told.number}"
        return AttemptError(rng.choice(_CLASSES), name, seal(msgspec.json.encode(text)))
