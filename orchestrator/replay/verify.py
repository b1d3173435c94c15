"""The whole log against its own rules: the chain, the lifecycle, the leases, and each recorded decision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from writ.broker.ports import Log
from writ.schemas.assets import AssetRead
from writ.schemas.codec import digest
from writ.schemas.events import (
    AttemptFailed,
    AttemptStarted,
    Fact,
    JobCompleted,
    JobRedriven,
    JobRerun,
    JobSnoozed,
    JobSuspended,
    LeaseExpired,
    LeaseGranted,
    LeaseReleased,
    ProgressReported,
    type_names,
)
from writ.schemas.lifecycle import IllegalTransition, Job
from writ.schemas.records import GENESIS, Record
from writ.schemas.steps import (
    CompensationEnded,
    StepCompensated,
    StepDone,
    StepFailed,
    StepIntended,
    ToolCalled,
    UsageRecorded,
)

from ..state import Partition, Undo, address
from .history import Entry, HistoryError, read_entry
from .judge import JUDGES, JUDGES_OF_SOME, Judge
from .stretch import Coverage, Stretch, narrowed

FAULTS_MAX: Final = 100


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with a record.

    `rule` is one of archive, chain, body, time, lifecycle, lease, decision.
    """

    seq: int
    rule: str
    reason: str


class Range(msgspec.Struct, frozen=True):
    """Records `first` to `last`, all by a version of the deciding code that cannot be called any more."""

    logic: int
    first: int
    last: int


class Report(msgspec.Struct, frozen=True):
    """What was looked at, and every fault in log order, up to 100 of them.

    `decisions` were made again; those whose inputs no log holds are counted in `unrecorded`, by event. The
    records in `not_recomputable` were decided by another version of the deciding code: not judged, nor wrong.
    """

    records: int
    jobs: int
    decisions: int
    last_seq: int
    digest: str
    unrecorded: dict[str, int] = {}
    not_recomputable: tuple[Range, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.faults

    def lines(self) -> list[str]:
        """The report in words; the first fault is the one to look at, as others may follow from it."""
        found = [
            f"{self.records} records of {self.jobs} jobs up to record {self.last_seq}, "
            f"{self.decisions} decisions made again"
        ]
        if self.unrecorded:
            parts = ", ".join(f"{count} {name}" for name, count in sorted(self.unrecorded.items()))
            found.append(f"made from what the log does not hold, and so not judged: {parts}")
        for each in self.not_recomputable:
            span = f"records {each.first} to {each.last}"
            found.append(f"{span}: not recomputable, as logic {each.logic} decided them")
        if self.ok:
            return [*found, f"no fault; digest {self.digest}"]
        return [*found, *(f"record {f.seq}: {f.rule}: {f.reason}" for f in self.faults)]


class Verifier:
    """Takes a log's messages one by one, from sequence 1, and collects what is wrong.

    `epoch` is the log's, if known; `coverage` how much of it comes: where that is not all, sequences may have
    gaps, and the chain is looked at where records are neighbours. `seen` is a record as somebody else
    has read it: sequence and digest. `judges` are the versions of the deciding code that can be called.
    """

    def __init__(
        self,
        epoch: int | None = None,
        partition: int = 0,
        coverage: Coverage = Coverage.WHOLE,
        judges: Mapping[int, type[Judge]] | None = None,
        seen: tuple[int, str] | None = None,
    ) -> None:
        self._epoch_max = epoch
        self._coverage, self._seen = coverage, seen
        if judges is None:
            judges = JUDGES_OF_SOME if coverage is Coverage.JOBS else JUDGES
        self._state = Partition(partition, epoch or 0)
        self._judges = {logic: judge(self._state) for logic, judge in judges.items()}
        self._judging: Judge | None = None
        self._ranges: list[Range] = []
        self._epoch = self._seq = self._at = self._records = 0
        self._prev = GENESIS
        self._faults: list[Fault] = []

    def take(self, entry: Entry) -> None:
        """The next message."""
        self._records += 1
        follows = entry.seq == self._seq + 1
        if not follows and (self._coverage is Coverage.WHOLE or entry.seq <= self._seq):
            self._fault(entry.seq, "chain", f"comes after record {self._seq}")
        self._seq = entry.seq
        prev, self._prev = self._prev, digest(entry.body)
        if self._seen is not None and self._seen[0] == entry.seq and self._seen[1] != self._prev:
            was = self._seen[1][:12]
            self._fault(
                entry.seq, "chain", f"has digest {self._prev[:12]}...; a view has read {was}... there"
            )
        try:
            record = read_entry(entry)
        except HistoryError as error:
            self._fault(entry.seq, "body", str(error))
            return
        if not record.events:
            self._fault(entry.seq, "body", "holds no event")
            return
        if record.prev != prev and (follows or self._coverage is Coverage.WHOLE):
            self._fault(
                record.seq, "chain", f"prev is {record.prev[:12]}..., the record before has {prev[:12]}..."
            )
        if record.epoch < self._epoch or (self._epoch_max is not None and record.epoch > self._epoch_max):
            self._fault(record.seq, "chain", f"epoch {record.epoch} after epoch {self._epoch}")
        if record.at < self._at:
            self._fault(record.seq, "time", f"goes back by {self._at - record.at} microseconds")
        self._epoch, self._at = max(self._epoch, record.epoch), max(self._at, record.at)
        self._decide_again(record)

    def report(self) -> Report:
        self._finish(None, self._at + 1)
        judges = self._judges.values()
        unrecorded: dict[str, int] = {}
        for judge in judges:
            for name, count in judge.unrecorded.items():
                unrecorded[name] = unrecorded.get(name, 0) + count
        return Report(
            records=self._records,
            jobs=len(self._state.jobs),
            decisions=sum(judge.decisions for judge in judges),
            last_seq=self._seq,
            digest=self._prev,
            unrecorded=unrecorded,
            not_recomputable=tuple(self._ranges),
            faults=tuple(self._faults),
        )

    def missing(self, last: int, should: int) -> None:
        """The log was longer."""
        self._fault(last + 1, "chain", f"missing: the log went on to record {should}")

    @property
    def state(self) -> Partition:
        """The log's state as far as it was taken."""
        return self._state

    def _fault(self, seq: int, rule: str, reason: str) -> None:
        if len(self._faults) < FAULTS_MAX:
            self._faults.append(Fault(seq, rule, reason))

    # --- decisions and the fold ---------------------------------------------------------------------------

    def _decide_again(self, record: Record) -> None:
        judge = self._judges.get(record.logic)
        self._finish(judge, record.at)
        if judge is None:
            self._note_range(record)
        else:
            self._judge(record, judge.judge)
        granted = record.kind == "job" and isinstance(record.events[-1], LeaseGranted)
        if not granted or len(record.events) == 1:
            self._check_leases(record)
            if granted and judge is not None:
                self._judge(record, judge.judge_grant)
            self._fold(record)
            return
        head = replace(record, events=record.events[:-1])
        self._check_leases(head)
        if self._fold(head):
            self._check_leases(record, record.events[-1:])
            if judge is not None:
                self._judge(record, judge.judge_grant)
            self._extend(record)

    def _finish(self, judge: Judge | None, at: int) -> None:
        """A round may end here: the judge of its records says what is wrong with it as a whole."""
        if self._judging is not None:
            wrong = self._judging.finish(at)
            if wrong is not None:
                self._fault(wrong[0], "decision", wrong[1])
        self._judging = judge

    def _judge(self, record: Record, judge: Callable[[Record], str | None]) -> None:
        try:
            reason = judge(record)
        except Exception as error:
            reason = f"cannot be decided again: {_reason(error)}"
        if reason is not None:
            self._fault(record.seq, "decision", reason)

    def _note_range(self, record: Record) -> None:
        last = self._ranges[-1] if self._ranges else None
        if last is not None and (last.logic, last.last) == (record.logic, record.seq - 1):
            self._ranges[-1] = Range(record.logic, last.first, record.seq)
        else:
            self._ranges.append(Range(record.logic, record.seq, record.seq))

    def _fold(self, record: Record) -> bool:
        """Whether the record could be folded: what the table refuses leaves the state as it was."""
        undo = Undo()
        known = record if self._coverage is Coverage.WHOLE else narrowed(self._state, record)
        try:
            if known is not None:
                self._state.evolve(known, undo)
        except Exception as error:  # whatever somebody may have put into a log
            self._state.revert(undo)
            self._fault(record.seq, "lifecycle", _reason(error))
            return False
        self._state.seq, self._state.at = record.seq, record.at
        return True

    def _extend(self, record: Record) -> None:
        try:
            self._state.extend(record, record.events[-1:], Undo())
        except Exception as error:
            self._fault(record.seq, "lifecycle", _reason(error))

    # --- leases -------------------------------------------------------------------------------------------

    def _check_leases(self, record: Record, events: tuple[Fact, ...] | None = None) -> None:
        if record.kind == "job":
            job = self._state.jobs.get(address(record.tenant, record.key))
            if job is not None:
                self._check_lease(job, (record.events if events is None else events)[0], record)

    def _check_lease(self, job: Job, event: Fact, record: Record) -> None:
        """Whoever speaks for an attempt holds its live lease; a grant is the next attempt's."""
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
                | AssetRead(attempt=attempt, token=token)
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


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, IllegalTransition | ValueError) else repr(error)


def verify_entries(entries: Iterable[Entry], epoch: int | None = None) -> Report:
    """The report of a log given as its messages from sequence 1."""
    verifier = Verifier(epoch)
    for entry in entries:
        verifier.take(entry)
    return verifier.report()


def verify_stretch(stretch: Stretch) -> Report:
    """The report of a stretch, however much of the log it holds."""
    verifier = Verifier(stretch.epoch, stretch.partition, stretch.coverage, seen=stretch.seen)
    for entry in stretch.entries:
        verifier.take(entry)
    last = stretch.entries[-1].seq if stretch.entries else 0
    should = max(stretch.last, 0 if stretch.seen is None else stretch.seen[0])
    if stretch.coverage is Coverage.WHOLE and last < should:
        verifier.missing(last, should)
    return verifier.report()


async def verify(log: Log) -> Report:
    """The report of a whole log, as far as it went when the reading began. Raises what reading raises."""
    verifier = Verifier(log.epoch, log.partition)
    async for some in log.read():
        for m in some:
            verifier.take(Entry(m.seq, m.subject, m.body))
    return verifier.report()
