"""A log laid out by jobs: each one's steps in order, and what each step came of."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from writ.schemas.assets import AssetRead
from writ.schemas.events import (
    AttemptFailed,
    AttemptStarted,
    Fact,
    JobCompleted,
    JobRedriven,
    JobRerun,
    JobSnoozed,
    JobSubmitted,
    JobSuspended,
    LeaseExpired,
    LeaseGranted,
    LeaseReleased,
    ProgressReported,
    QueueDeclared,
)
from writ.schemas.lifecycle import TERMINAL, IllegalTransition, Job, evolve
from writ.schemas.operations import OPERATION_CAUSE
from writ.schemas.policy import Retry
from writ.schemas.queues import BUILT_IN, Queue, evolve_queue
from writ.schemas.records import Record
from writ.schemas.steps import NOTED, CompensationEnded, UsageRecorded

from ..consequences import ORCHESTRATOR
from .history import HistoryError
from .stretch import Stretch

ENDINGS: Final = (AttemptFailed, JobCompleted, JobSnoozed, LeaseExpired, LeaseReleased)
"""Events that end a lease, but for a wait that a task asks for."""

OPENS: Final = (JobSubmitted, JobRedriven, JobRerun)
"""Events that open a round."""

_BY_WORKERS: Final[tuple[type[Fact], ...]] = (
    LeaseGranted,
    AttemptStarted,
    ProgressReported,
    CompensationEnded,
    *NOTED,
    AssetRead,
)
_RECORD: Final = "record:"


class Came(msgspec.Struct, frozen=True):
    """How a job came out. `state` is where all that is recorded of it leads to, or `unknown`.

    `attempts`, `failures` and `lost` are of all its rounds; `ended_at` is log time in microseconds. What
    `unpriced` usages of models cost is not known, and not in `cost_microusd`.
    """

    state: str
    attempts: int
    failures: int
    lost: int
    ended_at: int | None = None
    reason: str | None = None
    cost_microusd: int = 0
    unpriced: int = 0


class Step(NamedTuple):
    """Events of one record of a job, with the job before them."""

    at: int
    seq: int
    events: tuple[Fact, ...]
    before: Job | None
    cause: str | None
    actor: str
    after: Job


class Thread:
    """One job, followed along its steps: how far, how much later than recorded, and what is known of it."""

    def __init__(self, tenant: str, key: str) -> None:
        self.key = key
        self.queue = key.partition("~")[0]
        self.tenant = tenant
        self.steps: list[Step] = []
        self.next = 0
        self.later_us = 0
        self.retry: Retry | None = None
        """Its queue's policy, or in a telling the one in its place; None where the job has its own."""

        self.came: Came | None = None
        """How it came out, where that is not as recorded."""

        self.parted: tuple[int, str] | None = None
        """Where it leaves its records, and why."""

        self.repriced: tuple[int, str] | None = None
        """Where something of it first costs otherwise, and what."""

        self.ends_at = 0
        """When it ended in this telling."""

        self.running = False
        self.tally = [0, 0, 0]
        """Attempts, failures and lost leases so far."""

        self.cost_microusd = self.unpriced = 0
        """What its usage of models cost so far, and how many usages had no price."""

    def spend(self, cost_microusd: int | None) -> None:
        """One usage more."""
        self.cost_microusd += cost_microusd or 0
        self.unpriced += cost_microusd is None

    def comes(self, state: str, ended_at: int | None = None, reason: str | None = None) -> Came:
        """How it comes out, with what it has had so far."""
        attempts, failures, lost = self.tally
        return Came(state, attempts, failures, lost, ended_at, reason, self.cost_microusd, self.unpriced)

    @property
    def place(self) -> str:
        """The address of its queue."""
        return f"{self.tenant}.{self.queue}"


def caused_by(step: Step) -> int | None:
    """The record of another job that a step followed from; None where it followed from the job's own."""
    if step.actor != ORCHESTRATOR or step.cause is None or not step.cause.startswith(_RECORD):
        return None
    seq = int(step.cause.removeprefix(_RECORD))
    return None if step.before is None or step.before.since == seq else seq


def from_outside(step: Step) -> bool:
    """Whether a step came of a person, a submit, a schedule or an operation: at its time, whatever else."""
    first = step.events[0]
    if step.cause == "terminate":
        return True
    if isinstance(first, ENDINGS + _BY_WORKERS) or (isinstance(first, JobSuspended) and first.token):
        return False
    if step.actor != ORCHESTRATOR:
        return True
    cause = step.cause or ""
    return cause in ("submit", "schedule") or cause.startswith(OPERATION_CAUSE)


def recorded(thread: Thread) -> Came:
    """How a job came out, as its records tell it."""
    events = [event for step in thread.steps for event in step.events]
    costs = [event.cost_microusd for event in events if isinstance(event, UsageRecorded)]
    job = thread.steps[-1].after
    return Came(
        job.state,
        sum(isinstance(event, LeaseGranted) for event in events),
        sum(isinstance(event, AttemptFailed) for event in events),
        sum(isinstance(event, LeaseExpired) for event in events),
        job.finished_at,
        job.reason,
        sum(cost or 0 for cost in costs),
        costs.count(None),
    )


class Records(msgspec.Struct):
    """What a stretch holds, by address, in the order of the log.

    `ended` has each job by the sequence of a record that ended it; `governing` are the records of queues,
    `declared` the names of those that were given a policy, `queues` how they stand in the end.
    """

    threads: dict[str, Thread] = {}
    ended: dict[int, Thread] = {}
    governing: list[Record] = []
    declared: set[str] = set()
    queues: dict[str, Queue] = {}


def lay_out(stretch: Stretch) -> Records:
    """The steps of every job of the stretch's tenant, or of all where it names none. Raises HistoryError."""
    found = Records()
    for record in stretch.records():
        if stretch.tenant not in ("", record.tenant):
            continue
        place = f"{record.tenant}.{record.key}"
        if record.kind == "queue":
            found.governing.append(record)
            for event in record.events:
                found.queues[place] = evolve_queue(found.queues.get(place), event)
                if isinstance(event, QueueDeclared):
                    found.declared.add(record.key)
        elif record.kind == "job":
            thread = found.threads.get(place)
            if thread is None:
                thread = found.threads[place] = Thread(record.tenant, record.key)
            _lay(thread, record, found)
    return found


def _lay(thread: Thread, record: Record, found: Records) -> None:
    """A record as steps of its job: a lease at its end is one of its own."""
    events, parts = record.events, [record.events]
    if len(events) > 1 and isinstance(events[-1], LeaseGranted):
        parts = [events[:-1], events[-1:]]
    for part in parts:
        before = job = thread.steps[-1].after if thread.steps else None
        for event in part:
            try:
                job = evolve(job, event, record)
            except IllegalTransition as error:
                raise HistoryError(f"record {record.seq}: {error}") from error
            if isinstance(event, JobSubmitted):
                queue = found.queues.get(thread.place, BUILT_IN)
                if event.retry == queue.policy.retry and event.policy == queue.version:
                    thread.retry = event.retry
        assert job is not None
        thread.steps.append(Step(record.at, record.seq, part, before, record.cause, record.actor, job))
        if job.state in TERMINAL and (before is None or before.state not in TERMINAL):
            found.ended[record.seq] = thread
