"""The judge of the deciding code as it is now."""

from __future__ import annotations

from writ.schemas.events import (
    Barrier,
    Fact,
    JobSubmitted,
    JobSuspended,
    LeaseGranted,
    RetryScheduled,
    TimeResumed,
    type_names,
)
from writ.schemas.lifecycle import Job
from writ.schemas.links import MessageAccepted, MessageSettled, PartitionOpened
from writ.schemas.records import Record
from writ.schemas.steps import NOTED

from ...consequences import ORCHESTRATOR
from ...state import Partition, address
from .differs import Differs, Unrecorded, difference
from .governing import Governing
from .grants import Grants
from .jobs import decided_again
from .notes import Notes

_UNDECIDED = (Barrier, TimeResumed, PartitionOpened, MessageAccepted, MessageSettled)
"""Told from outside, not decided: there is nothing to decide again."""


class CurrentJudge:
    """Decides again what this version of `decide/` decides."""

    def __init__(self, state: Partition) -> None:
        self.decisions = 0
        self.unrecorded: dict[str, int] = {}
        self._state = state
        self._governing = Governing(state, self._standing)
        self._grants = Grants(state)
        self._notes = Notes(state)
        self._at = -1
        self._before: dict[str, Job] = {}
        """Jobs as they stood before a lease of this round that ends another record of it."""

    def judge(self, record: Record) -> str | None:
        """What is wrong with a record, but for a lease at its end."""
        if record.at != self._at:
            self._at = record.at
            self._grants.begin()
            self._before.clear()
        events = record.events
        if isinstance(events[-1], LeaseGranted):
            events = events[:-1]
        if not events or isinstance(events[0], _UNDECIDED):
            return None
        try:
            expected = self._expected(record, events)
        except Differs as differs:
            self.decisions += 1
            return str(differs)
        except Unrecorded:
            name = type_names[type(events[0])]
            self.unrecorded[name] = self.unrecorded.get(name, 0) + 1
            return None
        self.decisions += 1
        return difference(expected, events)

    def _expected(self, record: Record, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
        if record.kind != "job":
            self._notes.take(record)
            return self._governing.decided_again(record)
        if isinstance(events[0], NOTED):
            return self._notes.decided_again(record, events)
        if self._governing.fires(record):
            return self._governing.fired(record, events)
        return decided_again(self._state, record, events)

    def judge_grant(self, record: Record) -> str | None:
        """What is wrong with the lease at a record's end; all before it is folded."""
        event = record.events[-1]
        assert isinstance(event, LeaseGranted)
        job = self._state.jobs.get(address(record.tenant, record.key))
        if job is None or job.lease is not None:
            return None  # the table refuses it
        self.decisions += 1
        if len(record.events) > 1:
            self._before[address(record.tenant, record.key)] = job
        try:
            self._grants.judge(job, event, record)
        except Differs as differs:
            return str(differs)
        return None

    def _standing(self, place: str) -> list[Job | None]:
        job, before = self._state.jobs.get(place), self._before.get(place)
        return [job] if before is None else [job, before]

    def finish(self, at: int) -> tuple[int, str] | None:
        """What is wrong with the round so far, where the next record is of log time `at`."""
        return None if at == self._at else self._grants.finish()


class OfSomeJobs(CurrentJudge):
    """The same where the log holds some jobs alone: what rests on others cannot be judged."""

    def _expected(self, record: Record, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
        if isinstance(events[0], NOTED):
            raise Unrecorded  # by policies and prices that may not be here
        retried = any(isinstance(e, RetryScheduled) and e.budget_at is not None for e in events)
        if record.kind != "job" or retried or isinstance(events[0], JobSubmitted | JobSuspended):
            raise Unrecorded
        job = self._state.jobs.get(address(record.tenant, record.key))
        by_itself = record.cause is None or (job is not None and record.cause == f"record:{job.since}")
        if record.actor == ORCHESTRATOR and not by_itself:
            raise Unrecorded
        return decided_again(self._state, record, events)

    def judge_grant(self, record: Record) -> str | None:
        name = type_names[LeaseGranted]
        self.unrecorded[name] = self.unrecorded.get(name, 0) + 1
        return None
