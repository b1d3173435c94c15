"""The jobs view: one row per job, counts by state, what governs them, who leads, and what was refused."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import force_setattr, replace

from writ.schemas.causes import fingerprint
from writ.schemas.chain import Violation
from writ.schemas.events import (
    JobSubmitted,
    LeaderElected,
    LeasesRenewed,
    TimeResumed,
)
from writ.schemas.ids import job_key, split_job_key
from writ.schemas.lifecycle import (
    TERMINAL,
    IllegalTransition,
    Job,
    State,
    evolve_record,
    regranted,
    renewed,
)
from writ.schemas.operations import OPERATION_CAUSE
from writ.schemas.records import Record
from writ.schemas.sealed import UNSEALED, Sealed
from writ.schemas.steps import RecordedStep

from .governing import GOVERNING_SCHEMA, Governing
from .shown import tags_of
from .view import Write

KEPT_JOBS: Final = 32_768
"""Live jobs kept in memory, about 1.5 KB each."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS jobs (
    opened INTEGER PRIMARY KEY, -- sequence of the record that submitted it
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    task TEXT NOT NULL,
    actor TEXT NOT NULL,
    submitted_at INTEGER NOT NULL,
    error TEXT, -- class of its last one
    cause TEXT, -- of a dead letter that nobody has settled
    seq INTEGER NOT NULL, -- of its newest record
    job BLOB NOT NULL -- the Job as JSON, without input and output
);
CREATE UNIQUE INDEX IF NOT EXISTS jobs_by_id ON jobs (tenant, id, queue);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, tenant);
CREATE INDEX IF NOT EXISTS jobs_by_queue ON jobs (tenant, queue, state);
CREATE INDEX IF NOT EXISTS jobs_by_task ON jobs (tenant, task, state);
CREATE INDEX IF NOT EXISTS jobs_by_actor ON jobs (tenant, actor);
CREATE INDEX IF NOT EXISTS jobs_by_error ON jobs (tenant, error) WHERE error IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_by_cause ON jobs (tenant, cause) WHERE cause IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_by_queue_cause ON jobs (tenant, queue, cause) WHERE cause IS NOT NULL;
CREATE TABLE IF NOT EXISTS links ( -- what a job belongs to
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL, -- batch, parent, schedule, operation, release or tag
    name TEXT NOT NULL,
    opened INTEGER NOT NULL,
    PRIMARY KEY (tenant, kind, name, opened)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inputs (opened INTEGER PRIMARY KEY, sealed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS outputs (opened INTEGER PRIMARY KEY, sealed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS counts (
    tenant TEXT NOT NULL, queue TEXT NOT NULL, state TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (tenant, queue, state)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batch_counts (
    tenant TEXT NOT NULL, queue TEXT NOT NULL, batch TEXT NOT NULL, state TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (tenant, queue, batch, state)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches ( -- those with jobs, and those that were sealed
    tenant TEXT NOT NULL, key TEXT NOT NULL, batch TEXT NOT NULL, PRIMARY KEY (tenant, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS batches_by_name ON batches (tenant, batch, key);
CREATE TABLE IF NOT EXISTS dead_counts ( -- of those that nobody has settled
    tenant TEXT NOT NULL, queue TEXT NOT NULL, cause TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (tenant, queue, cause)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS dead_counts_largest ON dead_counts (tenant, n DESC, queue, cause);
CREATE TABLE IF NOT EXISTS running_keys (
    tenant TEXT NOT NULL, queue TEXT NOT NULL, concurrency_key TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (tenant, queue, concurrency_key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS demands ( -- pending jobs by the labels that they demand, as sorted JSON
    tenant TEXT NOT NULL, queue TEXT NOT NULL, requires TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (tenant, queue, requires)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leader (
    one INTEGER PRIMARY KEY CHECK (one = 1), leader TEXT NOT NULL, version TEXT NOT NULL, seq INTEGER NOT NULL
);
"""
_INSERT_JOB: Final = "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_CHANGE_JOB: Final = (
    f"{_INSERT_JOB} ON CONFLICT (opened) DO UPDATE SET state = excluded.state, error = excluded.error,"
    " cause = excluded.cause, seq = excluded.seq, job = excluded.job"
)
_PUT_LINK: Final = "INSERT OR IGNORE INTO links VALUES (?, ?, ?, ?)"
_PUT_BATCH: Final = "INSERT OR IGNORE INTO batches VALUES (?, ?, ?)"
_PUT_INPUT: Final = "INSERT OR REPLACE INTO inputs VALUES (?, ?)"
_PUT_OUTPUT: Final = "INSERT OR REPLACE INTO outputs VALUES (?, ?)"
_ADD_COUNT: Final = "INSERT INTO counts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
_DROP_ZERO: Final = "DELETE FROM counts WHERE tenant = ? AND queue = ? AND state = ? AND n = 0"
_ADD_BATCH: Final = (
    "INSERT INTO batch_counts VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
)
_DROP_BATCH: Final = (
    "DELETE FROM batch_counts WHERE tenant = ? AND queue = ? AND batch = ? AND state = ? AND n = 0"
)
_ADD_DEAD: Final = "INSERT INTO dead_counts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
_DROP_DEAD: Final = "DELETE FROM dead_counts WHERE tenant = ? AND queue = ? AND cause = ? AND n = 0"
_ADD_KEY: Final = "INSERT INTO running_keys VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
_DROP_KEY: Final = "DELETE FROM running_keys WHERE tenant = ? AND queue = ? AND concurrency_key = ? AND n = 0"
_ADD_DEMAND: Final = "INSERT INTO demands VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
_DROP_DEMAND: Final = "DELETE FROM demands WHERE tenant = ? AND queue = ? AND requires = ? AND n = 0"
_PUT_LEADER: Final = "INSERT OR REPLACE INTO leader VALUES (1, ?, ?, ?)"
_LOOKUP: Final = (
    "SELECT tenant, queue, jobs.id, opened, seq, state, job FROM json_each(?) AS wanted CROSS JOIN jobs"
    " ON tenant = json_extract(wanted.value, '$[0]')"
    " AND queue = json_extract(wanted.value, '$[1]')"
    " AND jobs.id = json_extract(wanted.value, '$[2]')"
)
_RUNNING: Final = "SELECT tenant, queue, id, opened, seq, state, job FROM jobs WHERE state = 'running'"
_LOOKUP_AT_ONCE: Final = 500
_RUNS: Final = State.RUNNING
_WAITS: Final = State.PENDING

_ELSEWHERE: Final = Sealed(UNSEALED, "")
"""Stands in a row for content that has a row of its own, so that a job's changes do not write it again."""

Address = tuple[str, str]
"""Tenant and key of a job."""

_encode = msgspec.json.Encoder().encode
decode_job = msgspec.json.Decoder(Job).decode


class Row:
    """A job in memory, as the records left it; `stored` is its state in the file, None where it has none.

    `listed` is the cause under which the file counts it among the dead letters.
    """

    __slots__ = ("input", "job", "listed", "opened", "output", "seq", "stored")

    def __init__(self, opened: int, seq: int, job: Job, stored: State | None) -> None:
        self.opened = opened
        self.seq = seq
        self.job = job
        self.stored = stored
        self.listed = None if stored is None else cause_of(job)
        self.input: Sealed | None = None
        self.output: Sealed | None = None


def _hollow_step(step: RecordedStep) -> RecordedStep:
    result, error = step.result, step.error
    if result is not None:
        result = _ELSEWHERE
    if error is not None:
        error = replace(error, text=None)
    return replace(step, result=result, error=error)


def cause_of(job: Job) -> str | None:
    """The cause of a dead letter that nobody has settled; None of any other job."""
    if job.state is not State.DEAD or job.dropped is not None:
        return None
    return job.cause or fingerprint(job.task, job.dead or "", job.error)


class JobsView:
    """The fold. One for each log; its runner alone calls it (see `runner.View`)."""

    name = "jobs"
    version = 12
    schema = _SCHEMA + GOVERNING_SCHEMA

    def __init__(self, kept_max: int = KEPT_JOBS) -> None:
        self._kept: OrderedDict[Address, Row] = OrderedDict()
        self._kept_max = kept_max
        self._loaded: dict[Address, Row] = {}
        self._dirty: dict[Address, Row] = {}
        self._leader: tuple[str, str, int] | None = None
        self._links: list[tuple[str, str, str, int]] = []
        self._batches: dict[tuple[str, str, str], None] = {}
        self._running_loaded = False
        self._governing = Governing()

    # --- loading ----------------------------------------------------------------------------------------

    def load(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
        """The jobs that the records name, and all running ones where their leases get time back."""
        self._governing.load(db, records)
        wanted: dict[Address, None] = {}
        kept = self._kept
        new: set[Address] = set()
        for record in records:
            if record.kind == "job":
                place = (record.tenant, record.key)
                if type(record.events[0]) is JobSubmitted:
                    new.add(place)
                elif place not in kept and place not in new:
                    wanted[place] = None
                continue
            for event in record.events:
                if isinstance(event, LeasesRenewed):
                    for lease in event.leases:
                        place = (record.tenant, lease.key)
                        if place not in kept and place not in new:
                            wanted[place] = None
                elif isinstance(event, LeaderElected | TimeResumed) and not self._running_loaded:
                    self._running_loaded = True
                    self._load(db, _RUNNING, ())
        places = [[tenant, *split_job_key(key)] for tenant, key in wanted]
        for start in range(0, len(places), _LOOKUP_AT_ONCE):
            self._load(db, _LOOKUP, (_encode(places[start : start + _LOOKUP_AT_ONCE]).decode(),))

    def _load(self, db: sqlite3.Connection, sql: str, parts: Sequence[str]) -> None:
        for tenant, queue, job_id, opened, seq, state, blob in db.execute(sql, parts):
            place = (tenant, f"{queue}~{job_id}")
            if place not in self._kept:
                self._loaded[place] = Row(opened, seq, decode_job(blob), State(state))

    def _row(self, place: Address) -> Row | None:
        return self._dirty.get(place) or self._kept.get(place) or self._loaded.get(place)

    # --- folding ----------------------------------------------------------------------------------------

    def fold(self, records: Sequence[Record]) -> None:
        """Raises Violation where the lifecycle refuses a record."""
        governing, governed = self._governing, self._governing.of_jobs
        for record in records:
            if record.kind == "job":
                if governed:
                    governing.fold_job(record)
                self._fold_job(record)
            else:
                self._fold_other(record)

    def _fold_other(self, record: Record) -> None:
        self._governing.fold(record)
        if record.kind == "batch":
            self._batches[record.tenant, record.key, split_job_key(record.key)[1]] = None
        for event in record.events:
            match event:
                case LeasesRenewed(leases=leases):
                    for lease in leases:
                        place = (record.tenant, lease.key)
                        row = self._row(place)
                        if row is None or row.job.lease is None or row.job.lease.token != lease.token:
                            raise Violation(record.seq, f"renews a lease of {lease.key} that is not live")
                        row.job = renewed(row.job, record.at)
                        self._dirty[place] = row
                case LeaderElected(leader=leader, version=version):
                    self._leader = (leader, version, record.seq)
                    self._give_time_back(record)
                case TimeResumed():
                    self._give_time_back(record)
                case _:
                    pass  # nothing changed: a barrier, a warning, a refusal

    def _fold_job(self, record: Record) -> None:
        place = (record.tenant, record.key)
        row = self._row(place)
        try:
            job = evolve_record(row.job if row else None, record)
        except IllegalTransition as error:
            raise Violation(record.seq, str(error)) from error
        before = None if row is None else row.job.release
        if row is None:
            row = Row(record.seq, record.seq, job, None)
            row.input = job.input
            force_setattr(job, "input", _ELSEWHERE)  # here as below: it was made just now, and is ours
            self._link_new(row)
        elif job.input is not row.job.input:  # an edit
            row.input = job.input
            force_setattr(job, "input", _ELSEWHERE)
        if job.output is not None and job.output is not row.job.output:
            row.output = job.output
            force_setattr(job, "output", _ELSEWHERE)
        if job.steps is not row.job.steps:
            force_setattr(job, "steps", tuple([_hollow_step(step) for step in job.steps]))
        if job.release is not None and job.release != before:
            self._link(row, "release", job.release)
        if record.cause is not None and record.cause.startswith(OPERATION_CAUSE):
            self._link(row, "operation", split_job_key(record.cause)[1])
        row.job = job
        row.seq = record.seq
        self._dirty[place] = row

    def _link_new(self, row: Row) -> None:
        job = row.job
        if job.batch is not None:
            self._link(row, "batch", job.batch)
            self._batches[job.tenant, job_key(job.queue, job.batch), job.batch] = None
        if job.parent is not None:
            self._link(row, "parent", job.parent)
        if job.schedule is not None:
            self._link(row, "schedule", job.schedule)
        if job.tags is not None:
            for name, value in tags_of(job.tags).items():
                self._link(row, "tag", f"{name}={value}")

    def _link(self, row: Row, kind: str, name: str) -> None:
        self._links.append((row.job.tenant, kind, name, row.opened))

    def _give_time_back(self, record: Record) -> None:
        """Each live lease of this epoch gets at least a whole one; all running jobs are in memory."""
        for rows in (self._loaded, self._kept, self._dirty):
            for place, row in list(rows.items()):
                if row.job.lease is not None and self._row(place) is row:
                    row.job = regranted(row.job, record.at, record.epoch)
                    self._dirty[place] = row

    # --- storing ----------------------------------------------------------------------------------------

    def writes(self) -> list[Write]:
        """The rows in memory are then as the file has them; where it has not, `discard` comes next."""
        new: list[tuple[Any, ...]] = []
        changed: list[tuple[Any, ...]] = []
        inputs: list[tuple[int, bytes]] = []
        outputs: list[tuple[int, bytes]] = []
        counts = _Counts()
        kept = self._kept
        for place, row in self._dirty.items():
            (tenant, key), job, state = place, row.job, row.job.state
            cause = cause_of(job) if state is State.DEAD else None
            error = None if job.error is None else job.error.class_.value
            queue, _, job_id = key.partition("~")
            put = new if row.stored is None else changed
            put.append(
                (
                    *(row.opened, tenant, queue, job_id, state.value, job.task, job.actor),
                    *(job.submitted_at, error, cause, row.seq, _encode(job)),
                )
            )
            if row.stored is not state:
                counts.moved(tenant, key, row.stored, job)
                row.stored = state
            if row.listed != cause:
                counts.listed(tenant, key, row.listed, cause)
                row.listed = cause
            if row.input is not None:
                inputs.append((row.opened, _encode(row.input)))
                row.input = None
            if row.output is not None:
                outputs.append((row.opened, _encode(row.output)))
                row.output = None
            # Live jobs stay in memory.
            kept.pop(place, None)
            if state not in TERMINAL:
                kept[place] = row
        writes = [
            Write(_INSERT_JOB, new),
            Write(_CHANGE_JOB, changed),
            Write(_PUT_LINK, self._links),
            Write(_PUT_BATCH, list(self._batches)),
            Write(_PUT_INPUT, inputs),
            Write(_PUT_OUTPUT, outputs),
            *counts.writes(),
            *self._governing.writes(),
            Write(_PUT_LEADER, [self._leader] if self._leader else []),
        ]
        return [write for write in writes if write.rows]

    def settle(self) -> None:
        """Of the live jobs in memory the longest untouched go first."""
        while len(self._kept) > self._kept_max:
            self._kept.popitem(last=False)
        self._forget_batch()

    def discard(self) -> None:
        self._kept.clear()
        self._forget_batch()

    def _forget_batch(self) -> None:
        self._loaded = {}
        self._dirty = {}
        self._leader = None
        self._links = []
        self._batches = {}
        self._running_loaded = False
        self._governing.forget()


class _Counts:
    """How the numbers of jobs change: by state, of batches too, by concurrency key, by what they demand,
    and by cause of death.
    """

    def __init__(self) -> None:
        self._moves: dict[tuple[str, str, State | None, State], int] = {}
        self._states: dict[tuple[str, str, State], int] = {}
        self._batches: dict[tuple[str, str, str, State], int] = {}
        self._keys: dict[tuple[str, str, str], int] = {}
        self._demands: dict[tuple[str, str, str], int] = {}
        self._dead: dict[tuple[str, str, str], int] = {}

    def moved(self, tenant: str, key: str, before: State | None, job: Job) -> None:
        """A job has come to another state than it had."""
        queue, after = key.partition("~")[0], job.state
        _add(self._moves, (tenant, queue, before, after), 1)
        if job.batch is not None:
            _add(self._batches, (tenant, queue, job.batch, after), 1)
            if before is not None:
                _add(self._batches, (tenant, queue, job.batch, before), -1)
        if job.concurrency_key is not None:
            _add(self._keys, (tenant, queue, job.concurrency_key), (after is _RUNS) - (before is _RUNS))
        if job.requires:
            demand = msgspec.json.encode(job.requires, order="sorted").decode()
            _add(self._demands, (tenant, queue, demand), (after is _WAITS) - (before is _WAITS))

    def listed(self, tenant: str, key: str, before: str | None, after: str | None) -> None:
        """A dead letter was added to those of a cause, or taken from them."""
        queue = split_job_key(key)[0]
        for cause, change in ((before, -1), (after, 1)):
            if cause is not None:
                _add(self._dead, (tenant, queue, cause), change)

    def writes(self) -> list[Write]:
        """What evens out is left out, and what comes to nothing is deleted."""
        for (tenant, queue, before, after), n in self._moves.items():
            _add(self._states, (tenant, queue, after), n)
            if before is not None:
                _add(self._states, (tenant, queue, before), -n)
        states = [(t, q, s.value, n) for (t, q, s), n in self._states.items() if n]
        batches = [(t, q, b, s.value, n) for (t, q, b, s), n in self._batches.items() if n]
        keys = [(*place, n) for place, n in self._keys.items() if n]
        demands = [(*place, n) for place, n in self._demands.items() if n]
        dead = [(*place, n) for place, n in self._dead.items() if n]
        return [
            Write(_ADD_COUNT, states),
            Write(_DROP_ZERO, [row[:-1] for row in states if row[-1] < 0]),
            Write(_ADD_BATCH, batches),
            Write(_DROP_BATCH, [row[:-1] for row in batches if row[-1] < 0]),
            Write(_ADD_KEY, keys),
            Write(_DROP_KEY, [row[:-1] for row in keys if row[-1] < 0]),
            Write(_ADD_DEMAND, demands),
            Write(_DROP_DEMAND, [row[:-1] for row in demands if row[-1] < 0]),
            Write(_ADD_DEAD, dead),
            Write(_DROP_DEAD, [row[:-1] for row in dead if row[-1] < 0]),
        ]


_Place = TypeVar("_Place")


def _add(changes: dict[_Place, int], place: _Place, n: int) -> None:
    changes[place] = changes.get(place, 0) + n
