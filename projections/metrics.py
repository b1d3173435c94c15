"""The metrics view: what Prometheus is told of the log, so that its counters go on where they were.

One row per job with what the next record of it is measured against, and one per series. All that is added
up is whole numbers, in order of the log: a view that was killed and one that was not hold the same.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from writ.schemas import catalog
from writ.schemas.canaries import CanaryJudged
from writ.schemas.chain import Violation
from writ.schemas.errors import ErrorClass
from writ.schemas.evaluations import Outcome
from writ.schemas.events import (
    AttemptFailed,
    CommandRejected,
    DeadReason,
    Fact,
    JobCompleted,
    JobDeadLettered,
    JobDropped,
    JobDue,
    JobEdited,
    JobRedriven,
    JobRerun,
    JobSnoozed,
    JobSubmitted,
    JobSuspended,
    LeaderElected,
    LeaseExpired,
    LeaseGranted,
    LeaseReleased,
    LeasesRenewed,
    QueueDraining,
    QueuePaused,
    QueueResumed,
    RejectionsFolded,
    ReportRejected,
    RetryScheduled,
    TimeResumed,
)
from writ.schemas.ids import split_job_key
from writ.schemas.lifecycle import TERMINAL, TRANSITIONS, IllegalTransition, State
from writ.schemas.metrics import OTHER, SECONDS, Histogram, Metric, Names, histogram
from writ.schemas.principals import AccessDenied
from writ.schemas.processes import CanaryStarted
from writ.schemas.records import Record
from writ.schemas.rejections import RejectionKind
from writ.schemas.schedules import ScheduleFired, ScheduleSkipped
from writ.schemas.steps import CompensationDue, CompensationEnded, StepBy, ToolCalled, UsageRecorded

from .view import Write

NONE: Final = "none"
"""Of an error's class: there was no error. Of a state: there was no job."""

KEPT_JOBS: Final = 32_768
_MS_US: Final = 1_000
_LOOKUP_AT_ONCE: Final = 500
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS jobs (
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    state TEXT NOT NULL,
    line TEXT NOT NULL, -- tenant, queue and task as they are told, a JSON array
    at INTEGER NOT NULL, -- log time since which a pending job is ready, a running one runs
    due_at INTEGER NOT NULL,
    class TEXT NOT NULL, -- of the last error of this round
    failed INTEGER NOT NULL, -- whether an attempt has, that counts
    dropped INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waiting ON jobs (line, at) WHERE state = 'pending';
CREATE TABLE IF NOT EXISTS names ( -- that are told, and not as `other`
    label TEXT NOT NULL,
    labels TEXT NOT NULL, -- the value, behind those of the labels that it belongs to
    PRIMARY KEY (label, labels)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS numbers (
    metric TEXT NOT NULL, labels TEXT NOT NULL, value INTEGER NOT NULL,
    PRIMARY KEY (metric, labels)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS histograms (
    metric TEXT NOT NULL, labels TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (metric, labels)
) WITHOUT ROWID;
"""
_INSERT_JOB: Final = "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_CHANGE_JOB: Final = (
    f"{_INSERT_JOB} ON CONFLICT DO UPDATE SET state = excluded.state, at = excluded.at,"
    " due_at = excluded.due_at, class = excluded.class, failed = excluded.failed, dropped = excluded.dropped"
)
_PUT_NAME: Final = "INSERT OR IGNORE INTO names VALUES (?, ?)"
_PUT_NUMBER: Final = "INSERT INTO numbers VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
_PUT_HISTOGRAM: Final = (
    "INSERT INTO histograms VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body"
)
_LOOKUP: Final = (
    "SELECT j.tenant, j.key, state, line, at, due_at, class, failed, dropped FROM json_each(?) AS wanted"
    " CROSS JOIN jobs AS j ON j.tenant = json_extract(wanted.value, '$[0]')"
    " AND j.key = json_extract(wanted.value, '$[1]')"
)

Labels = tuple[str, ...]
Address = tuple[str, str]
"""Tenant and key of a job."""

_encode = msgspec.json.Encoder().encode


@lru_cache(4_096)  # the same few hundred, with every job
def encode_labels(labels: Labels) -> str:
    """Label values as the tables hold them."""
    return _encode(labels).decode()


def _encode_histogram(body: Histogram) -> str:
    """The same text for the same counts, in whatever order the buckets were first met."""
    return _encode(replace(body, native=dict(sorted(body.native.items())))).decode()


decode_labels = msgspec.json.Decoder(tuple[str, ...]).decode
decode_histogram = msgspec.json.Decoder(Histogram).decode
_OUTCOMES: Final[dict[type[Fact], str]] = {
    JobCompleted: "completed",
    AttemptFailed: "failed",
    LeaseExpired: "lost",
    LeaseReleased: "released",
    JobSnoozed: "snoozed",
    JobSuspended: "suspended",
    CompensationEnded: "compensated",
}
"""What ends an attempt, and how that is called."""

_MEASURED: Final = frozenset(
    {
        *(*_OUTCOMES, LeaseGranted, UsageRecorded, ToolCalled, RetryScheduled, JobEdited, JobDeadLettered),
        *(JobDropped, JobRedriven, JobRerun, CompensationDue),
    }
)
"""What means more than that it happened."""


class _Row:
    """What the next record of a job is measured against."""

    __slots__ = ("at", "class_", "dropped", "due_at", "failed", "line", "state", "stored")

    def __init__(
        self,
        state: State,
        line: Labels,
        at: int,
        due_at: int,
        class_: str = NONE,
        failed: int = 0,
        dropped: int = 0,
    ) -> None:
        self.state = state
        self.line = line
        self.at = at
        self.due_at = due_at
        self.class_ = class_
        self.failed = bool(failed)
        self.dropped = bool(dropped)
        self.stored = False


def label_names() -> dict[str, Names]:
    """The names that may be told, by label: what comes first."""
    return {
        "tenant": Names(catalog.TENANTS_MAX),
        "queue": Names(catalog.QUEUES_MAX),
        "task": Names(catalog.TASKS_MAX),
        "model": Names(catalog.MODELS_MAX),
        "tool": Names(catalog.TOOLS_MAX),
        "process": Names(catalog.PROCESSES_MAX),
    }


class MetricsView:
    """The fold. One for each log; its runner alone calls it (see `view.View`)."""

    name = "metrics"
    version = 3
    schema = _SCHEMA

    def __init__(self, kept_max: int = KEPT_JOBS) -> None:
        self._kept_max = kept_max
        self._kept: OrderedDict[Address, _Row] = OrderedDict()
        self.discard()

    # --- loading ----------------------------------------------------------------------------------------

    def load(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
        """The jobs that the records name; at first all series, of which there are a few thousand."""
        if not self._loaded:
            self._load_series(db)
        new: set[Address] = set()
        wanted: dict[Address, None] = {}
        for record in records:
            if record.kind == "job":
                place = (record.tenant, record.key)
                if type(record.events[0]) is JobSubmitted:
                    new.add(place)
                elif place not in self._kept and place not in new:
                    wanted[place] = None
        places = list(wanted)
        for start in range(0, len(places), _LOOKUP_AT_ONCE):
            part = _encode(places[start : start + _LOOKUP_AT_ONCE]).decode()
            for tenant, key, state, line, *rest in db.execute(_LOOKUP, (part,)):
                row = self._kept[tenant, key] = _Row(State(state), decode_labels(line), *rest)
                row.stored = True

    def _load_series(self, db: sqlite3.Connection) -> None:
        for label, labels in db.execute("SELECT label, labels FROM names"):
            self.names[label].known[decode_labels(labels)] = None
        for metric, labels, value in db.execute("SELECT metric, labels, value FROM numbers"):
            self._numbers[metric, decode_labels(labels)] = value
        for metric, labels, body in db.execute("SELECT metric, labels, body FROM histograms"):
            self._histograms[metric, decode_labels(labels)] = decode_histogram(body)
        self._named = self._count_names()
        self._loaded = True

    # --- folding ----------------------------------------------------------------------------------------

    def fold(self, records: Sequence[Record]) -> None:
        """Raises Violation where the lifecycle refuses a record."""
        for record in records:
            if record.kind == "job":
                self._fold_job(record)
            else:
                self._fold_other(record)
        for kind, number in Counter([record.kind for record in records]).items():
            self._add(catalog.RECORDS_TOTAL, (kind,), number)

    def _fold_other(self, record: Record) -> None:
        for event in record.events:
            match event:
                case LeasesRenewed(leases=leases):
                    for key in [lease.key for lease in leases]:
                        self._add(catalog.RENEWALS, self._queue_of(record.tenant, key))
                case CommandRejected(refused=refused, count=count):
                    kinds = Counter([each.kind for each in refused])
                    if refused:  # those that are only counted are most likely like the last one
                        kinds[refused[-1].kind] += count - len(refused)
                    self._refuse(record.tenant, kinds)
                case ReportRejected(refused=reports):
                    self._refuse(record.tenant, Counter([each.rejection.kind for each in reports]))
                    for each in reports:
                        if each.rejection.kind is RejectionKind.STALE:
                            self._add(catalog.STALE, self._queue_of(record.tenant, each.job))
                case AccessDenied(why=why, count=count):
                    self._refuse(record.tenant, {why.kind: count})
                case RejectionsFolded(count=count, last=last):
                    self._refuse(record.tenant, {last.kind: count})
                case QueuePaused() | QueueDraining() | QueueResumed():
                    labels = self._fold_queue(record.tenant, record.key)
                    if OTHER not in labels:  # one of many says nothing of the others
                        self._set(catalog.PAUSED, labels, int(isinstance(event, QueuePaused)))
                case ScheduleFired():
                    self._add(catalog.DUE_TIMES, (*self._tenant(record.tenant), "fired"))
                case ScheduleSkipped(count=count):
                    self._add(catalog.DUE_TIMES, (*self._tenant(record.tenant), "skipped"), count)
                case CanaryStarted(policy=policy) if policy is not None:
                    for outcome in (Outcome.PASS, Outcome.FAIL):
                        self._judged(record, outcome, 0)
                case CanaryJudged(found=found):
                    self._judged(record, found.watched.outcome)
                case LeaderElected():
                    self._add(catalog.ELECTIONS, ())
                case TimeResumed(gap_ms=gap_ms):
                    self._add(catalog.OUTAGE, (), gap_ms)
                case _:
                    pass  # counted as a record, and no more

    def _fold_job(self, record: Record) -> None:
        place = (record.tenant, record.key)
        row = self._dirty.get(place) or self._kept.get(place)
        for event in record.events:
            kind, before = type(event), None if row is None else row.state
            targets = TRANSITIONS.get((before, kind))
            if targets is None:
                raise Violation(record.seq, str(IllegalTransition(record.key, before, kind)))
            if row is None:
                assert isinstance(event, JobSubmitted), "only a submit starts from nothing; the table says so"
                row = self._submitted(event, record)
            else:
                if kind in _MEASURED:
                    self._measure(row, event, record)
                row.state = targets[0] if len(targets) == 1 else _target(row, record, targets)
            what = (row.line, before, kind, row.state)
            self._happened[what] = self._happened.get(what, 0) + 1
            if row.state is State.PENDING and before is not State.PENDING:
                # A delay that is over was over when it was due, also where nobody led then.
                row.at = row.due_at if kind is JobDue else record.at
        assert row is not None, "a record holds an event"
        self._dirty[place] = row

    def _submitted(self, event: JobSubmitted, record: Record) -> _Row:
        queue = self._fold_queue(record.tenant, split_job_key(record.key)[0])
        line = self.names["task"].fold(queue, event.task)
        due_at = record.at if event.due_at is None else event.due_at
        state = State.SCHEDULED if due_at > record.at else State.PENDING
        return _Row(state, line, record.at, due_at)

    def _measure(self, row: _Row, event: Fact, record: Record) -> None:
        """Counts what an event means for the job as it stood before, beyond that it happened."""
        kind, queue = type(event), row.line[:2]
        if kind is LeaseGranted:
            self._waited[queue].append(record.at - row.at)
            row.at = record.at
            return
        if row.state is State.RUNNING and kind in _OUTCOMES:
            run_ms: int | None = getattr(event, "run_ms", None)
            self._ran[row.line].append(record.at - row.at if run_ms is None else run_ms * _MS_US)
            if kind is JobCompleted:
                return
        match event:
            case AttemptFailed(error=error):
                row.class_, row.failed = error.class_.value, True
            case UsageRecorded():
                self._spent(row, event, record)
            case ToolCalled():
                self._called(event, record)
            case RetryScheduled(due_at=due_at):
                self._add(catalog.RETRIES, (*queue, row.class_))
                row.due_at = due_at
            case JobSnoozed(due_at=due_at):
                row.due_at = due_at
            case JobEdited(due_at=due_at) if due_at is not None:
                row.due_at = due_at
            case JobDeadLettered(reason=reason):
                if reason is DeadReason.POISON:
                    row.class_ = ErrorClass.POISON.value
                self._add(catalog.DEAD, (*queue, reason.value, row.class_))
                self._add(catalog.DEAD_OPEN, queue)
                row.dropped = False
            case JobDropped():
                self._add(catalog.DEAD_OPEN, queue, 0 if row.dropped else -1)
                row.dropped = True
            case JobRedriven() | JobRerun():
                if row.state is State.DEAD and not row.dropped:
                    self._add(catalog.DEAD_OPEN, queue, -1)
                row.class_, row.failed, row.due_at, row.dropped = NONE, False, record.at, False
            case CompensationDue():
                row.failed, row.due_at = False, record.at
            case _:
                pass  # only its state may change

    def _spent(self, row: _Row, usage: UsageRecorded, record: Record) -> None:
        model = self.names["model"].fold(self._tenant(record.tenant), usage.model)
        self._add(catalog.TOKENS, (*model, "input"), usage.input_tokens)
        self._add(catalog.TOKENS, (*model, "output"), usage.output_tokens)
        if usage.cost_microusd is None:
            self._add(catalog.UNPRICED, model)
        else:
            self._add(catalog.COST, model, usage.cost_microusd)
            self._add(catalog.QUEUE_COST, row.line[:2], usage.cost_microusd)

    def _called(self, call: ToolCalled, record: Record) -> None:
        tool = self.names["tool"].fold(self._tenant(record.tenant), call.tool)
        recorded = call.by is StepBy.RECORDED
        self._add(catalog.TOOL_CALLS, (*tool, call.by.value if recorded else call.outcome.value))
        if call.run_ms is not None and not recorded:
            self._observe(catalog.TOOL_TIME, tool, [call.run_ms * _MS_US])

    def _refuse(self, tenant: str, kinds: dict[RejectionKind, int]) -> None:
        for kind, count in kinds.items():
            self._add(catalog.REFUSALS, (*self._tenant(tenant), kind.value), count)

    def _judged(self, record: Record, outcome: Outcome, count: int = 1) -> None:
        """A verdict on a canary of the record's process, or none yet: then the counter begins at zero."""
        process = self.names["process"].fold(self._tenant(record.tenant), record.key)
        self._add(catalog.CANARIES, (*process, outcome.value), count)

    def _count_happened(self) -> None:
        """What happened to jobs, how often, as the numbers that tell of it."""
        for (line, before, kind, after), n in self._happened.items():
            queue = line[:2]
            if before is not after:
                self._add(catalog.TRANSITIONS, (*queue, before.value if before else NONE, after.value), n)
            if before is State.RUNNING and kind in _OUTCOMES:
                self._add(catalog.ATTEMPTS, (*line, _OUTCOMES[kind]), n)
            if kind is JobSubmitted:
                self._add(catalog.SUBMITTED, line, n)
            elif kind is LeaseGranted:
                self._add(catalog.GRANTS, queue, n)
            elif kind is LeaseExpired:
                self._add(catalog.EXPIRIES, queue, n)
        for metric, observed in ((catalog.WAIT, self._waited), (catalog.EXECUTION, self._ran)):
            for labels, times_us in observed.items():
                self._observe(metric, labels, times_us)

    # --- labels and numbers -----------------------------------------------------------------------------

    def _tenant(self, tenant: str) -> Labels:
        return self.names["tenant"].fold((), tenant)

    def _queue_of(self, tenant: str, key: str) -> Labels:
        """The labels of a job's queue, which somebody outside may have made up."""
        return self.names["queue"].find(self._tenant(tenant), split_job_key(key)[0])

    def _fold_queue(self, tenant: str, queue: str) -> Labels:
        labels = self.names["queue"].fold(self._tenant(tenant), queue)
        if (catalog.GRANTS.name, labels) not in self._numbers:
            # A counter that begins at zero has an increase when it first counts.
            for metric in (catalog.GRANTS, catalog.EXPIRIES, catalog.STALE, catalog.DEAD_OPEN):
                self._add(metric, labels, 0)
        return labels

    def _add(self, metric: Metric, labels: Labels, number: int = 1) -> None:
        place = (metric.name, labels)
        self._numbers[place] = self._numbers.get(place, 0) + number
        self._dirty_numbers.add(place)

    def _set(self, metric: Metric, labels: Labels, number: int) -> None:
        place = (metric.name, labels)
        self._numbers[place] = number
        self._dirty_numbers.add(place)

    def _observe(self, metric: Metric, labels: Labels, observed_us: Iterable[int]) -> None:
        place = (metric.name, labels)
        body = self._histograms.get(place)
        if body is None:
            body = self._histograms[place] = histogram(SECONDS)
        for each_us in observed_us:
            body.observe(each_us, SECONDS)
        self._dirty_histograms.add(place)

    # --- storing ----------------------------------------------------------------------------------------

    def writes(self) -> list[Write]:
        """The rows in memory are then as the file has them; where it has not, `discard` comes next."""
        self._count_happened()
        new: list[tuple[Any, ...]] = []
        changed: list[tuple[Any, ...]] = []
        kept = self._kept
        for place, row in self._dirty.items():
            put = changed if row.stored else new
            state = (row.state.value, encode_labels(row.line), row.at, row.due_at)
            put.append((*place, *state, row.class_, row.failed, row.dropped))
            row.stored = True
            kept.pop(place, None)
            if row.state not in TERMINAL:
                kept[place] = row
        names: list[tuple[str, Labels]] = []
        if self._named != self._count_names():
            names = [(label, known) for label, each in self.names.items() for known in each.known]
        numbers = [(n, encode_labels(labels), self._numbers[n, labels]) for n, labels in self._dirty_numbers]
        bodies = [
            (n, encode_labels(labels), _encode_histogram(self._histograms[n, labels]))
            for n, labels in self._dirty_histograms
        ]
        writes = [
            Write(_INSERT_JOB, sorted(new)),  # by key: neighbours in the file are written together
            Write(_CHANGE_JOB, changed),
            Write(_PUT_NAME, [(label, encode_labels(known)) for label, known in names]),
            Write(_PUT_NUMBER, numbers),
            Write(_PUT_HISTOGRAM, bodies),
        ]
        return [write for write in writes if write.rows]

    def _count_names(self) -> int:
        return sum([len(each.known) for each in self.names.values()])

    def settle(self) -> None:
        """Of the live jobs in memory the longest untouched go first."""
        while len(self._kept) > self._kept_max:
            self._kept.popitem(last=False)
        self._named = self._count_names()
        self._forget_batch()

    def discard(self) -> None:
        self.names = label_names()
        self._named = 0
        self._kept.clear()
        self._numbers: dict[tuple[str, Labels], int] = {}
        self._histograms: dict[tuple[str, Labels], Histogram] = {}
        self._loaded = False
        self._forget_batch()

    def _forget_batch(self) -> None:
        self._dirty: dict[Address, _Row] = {}
        self._happened: dict[tuple[Labels, State | None, type[Fact], State], int] = {}
        self._waited: defaultdict[Labels, list[int]] = defaultdict(list)
        self._ran: defaultdict[Labels, list[int]] = defaultdict(list)
        self._dirty_numbers: set[tuple[str, Labels]] = set()
        self._dirty_histograms: set[tuple[str, Labels]] = set()


def _target(row: _Row, record: Record, targets: Sequence[State]) -> State:
    """Where an event leads that the table leaves open: by what it says."""
    if row.due_at <= record.at:
        return State.PENDING
    # Only a wait that is over leads back to a backoff.
    backing_off = State.RETRYING in targets and row.failed
    return State.RETRYING if backing_off else State.SCHEDULED
