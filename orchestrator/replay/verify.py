"""The whole log against its own rules: the chain, the lifecycle, the leases, and each recorded decision."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from writ.broker.ports import Log
from writ.schemas import bounds
from writ.schemas.codec import digest
from writ.schemas.events import (
    JOB_EVENTS,
    AttemptFailed,
    AttemptStarted,
    DeadReason,
    Fact,
    JobCompleted,
    JobDeadLettered,
    JobDue,
    JobRedriven,
    JobRerun,
    JobSnoozed,
    JobSuspended,
    LeaderElected,
    LeaseExpired,
    LeaseGranted,
    LeaseReleased,
    LeasesRenewed,
    ProgressReported,
    QueueDeclared,
    QueueDraining,
    QueuePaused,
    QueueResumed,
    RetryScheduled,
    TimeResumed,
    type_names,
)
from writ.schemas.lifecycle import IllegalTransition, Job, evolve, regranted, renewed
from writ.schemas.links import NOTHING, Mark, MessageAccepted
from writ.schemas.queues import BUILT_IN, Queue, evolve_queue, granted, retried
from writ.schemas.records import GENESIS, LOGIC, Record
from writ.schemas.steps import (
    CompensationDue,
    CompensationEnded,
    StepCompensated,
    StepDone,
    StepFailed,
    StepIntended,
    ToolCalled,
    UsageRecorded,
)

from ..decide import retry, timers
from .history import Entry, HistoryError, read_entry
from .noted import Governed

FAULTS_MAX = 100
_SYSTEM = "writ:"


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with a record. `rule` is one of chain, body, time, lifecycle, lease, decision."""

    seq: int
    rule: str
    reason: str


class Report(msgspec.Struct, frozen=True):
    """What was looked at, and every fault in log order, up to 100 of them.

    `decisions` were recomputed; `not_recomputable` are of another version of the deciding code.
    """

    records: int
    jobs: int
    decisions: int
    not_recomputable: int
    last_seq: int
    digest: str
    faults: tuple[Fault, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.faults

    def lines(self) -> list[str]:
        """The report in words; the first fault is the one to look at, as others may follow from it."""
        head = (
            f"{self.records} records of {self.jobs} jobs up to record {self.last_seq}, "
            f"{self.decisions} decisions recomputed, {self.not_recomputable} not recomputable"
        )
        if self.ok:
            return [head, f"no fault; digest {self.digest}"]
        return [head, *(f"record {f.seq}: {f.rule}: {f.reason}" for f in self.faults)]


class Verifier:
    """Takes a log's messages one by one, from sequence 1, and collects what is wrong."""

    def __init__(self, epoch: int | None = None) -> None:
        self._epoch_max = epoch
        self._epoch = 0
        self._seq = 0
        self._prev = GENESIS
        self._at = 0
        self._jobs: dict[tuple[str, str], Job] = {}
        self._queues: dict[tuple[str, str], Queue] = {}
        self._accepted: dict[str, Mark] = {}
        self._governed = Governed()
        self._records = self._decisions = self._skipped = 0
        self._faults: list[Fault] = []

    def take(self, entry: Entry) -> None:
        """The next message."""
        self._records += 1
        if entry.seq != self._seq + 1:
            self._fault(entry.seq, "chain", f"comes after record {self._seq}")
        self._seq = entry.seq
        prev, self._prev = self._prev, digest(entry.body)
        try:
            record = read_entry(entry)
        except HistoryError as error:
            self._fault(entry.seq, "body", str(error))
            return
        if record.prev != prev:
            self._fault(
                record.seq, "chain", f"prev is {record.prev[:12]}..., the record before has {prev[:12]}..."
            )
        if record.epoch < self._epoch or (self._epoch_max is not None and record.epoch > self._epoch_max):
            self._fault(record.seq, "chain", f"epoch {record.epoch} after epoch {self._epoch}")
        if record.at < self._at:
            self._fault(record.seq, "time", f"goes back by {self._at - record.at} microseconds")
        self._epoch, self._at = max(self._epoch, record.epoch), max(self._at, record.at)
        if record.kind == "job":
            self._take_job(record)
        else:
            self._take_other(record)

    def report(self) -> Report:
        return Report(
            records=self._records,
            jobs=len(self._jobs),
            decisions=self._decisions,
            not_recomputable=self._skipped,
            last_seq=self._seq,
            digest=self._prev,
            faults=tuple(self._faults),
        )

    def _fault(self, seq: int, rule: str, reason: str) -> None:
        if len(self._faults) < FAULTS_MAX:
            self._faults.append(Fault(seq, rule, reason))

    def _take_job(self, record: Record) -> None:
        place = (record.tenant, record.key)
        job = self._jobs.get(place)
        self._check_decision(job, record)
        for event in record.events:
            self._check_lease(job, event, record)
            if job is not None and (noted := self._governed.fault(job, event, record.at)) is not None:
                self._fault(record.seq, *noted)
            self._count(record, event)
            try:
                job = evolve(job, event, record)
            except IllegalTransition as error:
                self._fault(record.seq, "lifecycle", str(error))
        if job is not None:
            self._jobs[place] = msgspec.structs.replace(job, records=job.records + 1)

    def _count(self, record: Record, event: Fact) -> None:
        """What an event uses up of its queue's budgets."""
        place = (record.tenant, record.key.partition("~")[0])
        queue = self._queues.get(place)
        if queue is not None and isinstance(event, RetryScheduled):
            self._queues[place] = retried(queue, record.at)
        elif queue is not None and isinstance(event, LeaseGranted):
            self._queues[place] = granted(queue, record.at)

    def _check_lease(self, job: Job | None, event: Fact, record: Record) -> None:
        """Whoever speaks for an attempt holds its live lease; a grant is the next attempt's."""
        if job is None:
            return
        match event:
            case LeaseGranted(attempt=attempt):
                if job.lease is not None:
                    held = f"worker {job.lease.worker} still holds token {job.lease.token}"
                    self._fault(record.seq, "lease", f"job {job.key} is granted a second lease; {held}")
                if attempt != job.attempt + 1:
                    self._fault(record.seq, "lease", f"grants attempt {attempt} after attempt {job.attempt}")
            case (
                AttemptStarted(attempt=attempt, token=token)
                | JobCompleted(attempt=attempt, token=token)
                | AttemptFailed(attempt=attempt, token=token)
                | LeaseExpired(attempt=attempt, token=token)
                | LeaseReleased(attempt=attempt, token=token)
                | ProgressReported(attempt=attempt, token=token)
                | JobSnoozed(attempt=attempt, token=token)
                | JobSuspended(attempt=int(attempt), token=int(token))
                | StepIntended(attempt=attempt, token=token)
                | StepDone(attempt=attempt, token=token)
                | StepFailed(attempt=attempt, token=token)
                | StepCompensated(attempt=attempt, token=token)
                | ToolCalled(attempt=attempt, token=token)
                | UsageRecorded(attempt=attempt, token=token)
                | CompensationEnded(attempt=attempt, token=token)
            ):
                live = job.lease.token if job.lease is not None else None
                if token != live or attempt != job.attempt:
                    said = f"{type_names[type(event)]} speaks for attempt {attempt} with token {token}"
                    self._fault(record.seq, "lease", f"{said}; live is {job.attempt} with {live}")
            case JobRedriven(answers=answers) | JobRerun(answers=answers):
                if answers != job.ended_by:
                    self._fault(record.seq, "lifecycle", f"answers record {answers}, not {job.ended_by}")
            case _:
                pass

    def _check_decision(self, job: Job | None, record: Record) -> None:
        queue = self._queues.get((record.tenant, record.key.partition("~")[0]), BUILT_IN)
        expected = None if job is None else expected_events(job, queue, record)
        if job is None or expected is None:
            return
        if record.logic != LOGIC:
            self._skipped += 1
            return
        self._decisions += 1
        if not expected or record.events[: len(expected)] != expected:
            self._fault(record.seq, "decision", _difference(expected, record.events))

    def _take_other(self, record: Record) -> None:
        self._governed.take(record)
        for event in record.events:
            match event:
                case QueueDeclared() | QueuePaused() | QueueDraining() | QueueResumed():
                    place = (record.tenant, record.key)
                    self._queues[place] = evolve_queue(self._queues.get(place), event)
                case LeasesRenewed(leases=leases):
                    for lease in leases:
                        place = (record.tenant, lease.key)
                        job = self._jobs.get(place)
                        if job is None or job.lease is None or job.lease.token != lease.token:
                            reason = f"renews token {lease.token} of {lease.key}, which is not live"
                            self._fault(record.seq, "lease", reason)
                        else:
                            self._jobs[place] = renewed(job, record.at)
                case LeaderElected() | TimeResumed():
                    for place, job in self._jobs.items():
                        if job.lease is not None:
                            self._jobs[place] = regranted(job, record.at)
                case MessageAccepted(message=message):
                    if message <= self._accepted.get(record.key, NOTHING):
                        reason = f"accepts message {message} of partition {record.key} again, or out of turn"
                        self._fault(record.seq, "message", reason)
                    self._accepted[record.key] = message
                case _ if isinstance(event, JOB_EVENTS):
                    name = type_names[type(event)]
                    self._fault(record.seq, "lifecycle", f"{name} in a record of a {record.kind}")
                case _:
                    pass


def expected_events(job: Job, queue: Queue | None, record: Record) -> tuple[Fact, ...] | None:
    """What deciding again gives for a record about a failure, a lost lease or the passing of time.

    Computed from the job before it, the record's own time and the seed that it keeps; the record may go on
    behind it. None where the record holds no such decision, or one that rests on the budget of a `queue` that
    is not known.
    """
    if queue is None:
        if any(isinstance(e, RetryScheduled) and e.budget_at is not None for e in record.events):
            return None
        queue = BUILT_IN
    first = record.events[0] if record.events else None
    seed = next((e.seed for e in record.events if isinstance(e, RetryScheduled)), 0.5)
    if isinstance(first, LeaseExpired | AttemptFailed) and job.lease is None:
        return None  # no lawful record: the lifecycle check says so
    match first:
        case AttemptFailed() if not record.actor.startswith(_SYSTEM):
            return retry.after_failure(job, queue, first, record.at, seed)
        case JobDeadLettered(reason=DeadReason.HISTORY_LIMIT):
            return (first,) if job.records >= bounds.HISTORY_MAX_RECORDS else ()
        case (
            JobDeadLettered(reason=DeadReason.REJECTED | DeadReason.DEPENDENCY)
            | CompensationDue(dead=DeadReason.REJECTED | DeadReason.DEPENDENCY | None)
        ):
            return None  # a person's word, or what another job's end meant
        case AttemptFailed() | LeaseExpired() | JobDue() | JobDeadLettered() | CompensationDue():
            return timers.due(job, queue, record.at, seed)
        case _:
            return None


def _difference(expected: tuple[Fact, ...], events: tuple[Fact, ...]) -> str:
    """The first field, or event, that differs."""
    if not expected:
        return f"{type_names[type(events[0])]} was recorded, but nothing was due"
    for number, should in enumerate(expected):
        name = type_names[type(should)]
        if number >= len(events):
            return f"{name} is missing"
        found = events[number]
        if type(found) is not type(should):
            return f"{type_names[type(found)]} was recorded; recomputed it is {name}"
        for field in should.__struct_fields__:
            was, is_ = getattr(found, field), getattr(should, field)
            if was != is_:
                return f"{name}.{field} was recorded as {was!r}; recomputed it is {is_!r}"
    return "the events differ"


def verify_entries(entries: Iterable[Entry], epoch: int | None = None) -> Report:
    """The report of a log given as its messages from sequence 1."""
    verifier = Verifier(epoch)
    for entry in entries:
        verifier.take(entry)
    return verifier.report()


async def verify(log: Log) -> Report:
    """The report of a whole log, as far as it went when the reading began. Raises what reading raises."""
    verifier = Verifier(log.epoch)
    async for some in log.read():
        for m in some:
            verifier.take(Entry(m.seq, m.subject, m.body))
    return verifier.report()
