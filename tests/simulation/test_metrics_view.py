"""The metrics view over histories of the whole system: what it tells is what a slower count of them gives."""

from __future__ import annotations

import logging
import random
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing

import pytest

from writ.broker.ports import Stored
from writ.projections.metrics import MetricsView, decode_labels
from writ.schemas import catalog
from writ.schemas import events as e
from writ.schemas.codec import decode
from writ.schemas.lifecycle import TRANSITIONS, Job, State, evolve
from writ.schemas.metrics import Metric
from writ.schemas.records import Record
from writ.schemas.steps import CompensationEnded

from .history import History
from .workload import draw

Told = dict[tuple[str, ...], int]
SEEDS = range(60)
ENDS: dict[type[e.Fact], str] = {
    e.JobCompleted: "completed",
    e.AttemptFailed: "failed",
    e.LeaseExpired: "lost",
    e.LeaseReleased: "released",
    e.JobSnoozed: "snoozed",
    e.JobSuspended: "suspended",
    CompensationEnded: "compensated",
}


@pytest.fixture(scope="module")
def logs() -> list[list[Stored]]:
    """The logs of both partitions of some histories."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    made: list[list[Stored]] = []
    for seed in SEEDS:
        history = History(draw(seed))
        history.run()
        made += [list(log) for log in history.broker.logs if log]
    logging.disable(before)
    return made


def fold(records: list[Record], view: MetricsView, db: sqlite3.Connection, seed: int) -> None:
    """All records, in batches of any size; now and then a batch is lost with the process and done again."""
    chance = random.Random(seed)
    at = 0
    while at < len(records):
        part = records[at : at + chance.choice((1, 2, 7, 50))]
        view.load(db, part)
        view.fold(part)
        if chance.random() < 0.2:
            view.discard()
            continue
        for sql, rows in view.writes():
            db.executemany(sql, rows)
        view.settle()
        at += len(part)


class Slow:
    """The same numbers, from jobs as the lifecycle evolves them, and with nothing folded away."""

    def __init__(self, records: list[Record]) -> None:
        self.jobs: dict[tuple[str, str], Job] = {}
        self.edges: set[tuple[State | None, type[e.Fact]]] = set()
        self.counts: defaultdict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
        self.waits: Counter[tuple[str, ...]] = Counter()
        self._ready: dict[tuple[str, str], int] = {}
        for record in records:
            if record.kind == "job":
                for event in record.events:
                    self._job(record, event)

    def _job(self, record: Record, event: e.Fact) -> None:
        place = (record.tenant, record.key)
        before = self.jobs.get(place)
        after = self.jobs[place] = evolve(before, event, record)
        old = None if before is None else before.state
        queue = (record.tenant, after.queue)
        self.edges.add((old, type(event)))
        if old is not after.state:
            self.counts[catalog.TRANSITIONS.name][*queue, old or "none", after.state] += 1
            if after.state is State.PENDING:
                self._ready[place] = after.due_at if isinstance(event, e.JobDue) else record.at
        if old is State.RUNNING and type(event) in ENDS:
            self.counts[catalog.ATTEMPTS.name][*queue, after.task, ENDS[type(event)]] += 1
        match event:
            case e.JobSubmitted():
                self.counts[catalog.SUBMITTED.name][*queue, after.task] += 1
            case e.LeaseGranted():
                self.counts[catalog.GRANTS.name][queue] += 1
                self.waits[queue] += record.at - self._ready[place]
            case e.LeaseExpired():
                self.counts[catalog.EXPIRIES.name][queue] += 1
            case e.RetryScheduled():
                assert after.error is not None
                self.counts[catalog.RETRIES.name][*queue, after.error.class_] += 1
            case e.JobDeadLettered(reason=reason):
                class_ = "none" if after.error is None else str(after.error.class_)
                self.counts[catalog.DEAD.name][*queue, reason, class_] += 1
            case _:
                pass


def told(db: sqlite3.Connection, metric: Metric) -> Told:
    rows = db.execute("SELECT labels, value FROM numbers WHERE metric = ? AND value != 0", (metric.name,))
    return {decode_labels(labels): value for labels, value in rows}


def test_the_view_tells_what_a_slow_count_of_the_same_log_gives(logs: list[list[Stored]]) -> None:
    edges: set[tuple[State | None, type[e.Fact]]] = set()
    for number, log in enumerate(logs):
        records = [decode(stored.body) for stored in log]
        slow = Slow(records)
        edges |= slow.edges
        with closing(sqlite3.connect(":memory:")) as db:
            view = MetricsView(kept_max=number % 7)
            db.executescript(view.schema)
            fold(records, view, db, number)
            for name, counts in slow.counts.items():
                assert told(db, catalog.CATALOG[name]) == dict(counts), name
            open_ = Counter(
                [
                    (t, j.queue)
                    for (t, _), j in slow.jobs.items()
                    if j.state is State.DEAD and j.dropped is None
                ]
            )
            assert told(db, catalog.DEAD_OPEN) == dict(open_)
            kinds = Counter([(record.kind,) for record in records])
            assert told(db, catalog.RECORDS_TOTAL) == dict(kinds)
            stored = {(t, k): s for t, k, s in db.execute("SELECT tenant, key, state FROM jobs")}
            assert stored == {place: job.state.value for place, job in slow.jobs.items()}
            for labels, total in slow.waits.items():
                body = view._histograms[catalog.WAIT.name, labels]  # pyright: ignore[reportPrivateUsage]
                assert (body.sum, body.count) == (total, slow.counts[catalog.GRANTS.name][labels])
    # Nobody in the simulation takes steps yet.
    reached = {edge for edge in TRANSITIONS if edge[1].__module__ != CompensationEnded.__module__}
    assert len(edges & reached) > 0.85 * len(reached), "the histories take most edges of the lifecycle"


def test_batches_and_lost_batches_leave_no_trace(logs: list[list[Stored]]) -> None:
    for number, log in enumerate(logs[:20]):
        records = [decode(stored.body) for stored in log]
        dumps: set[str] = set()
        for seed in (number, number + 1_000):
            with closing(sqlite3.connect(":memory:")) as db:
                view = MetricsView(kept_max=3)
                db.executescript(view.schema)
                fold(records, view, db, seed)
                dumps.add("\n".join(db.iterdump()))
        assert len(dumps) == 1
