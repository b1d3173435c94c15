"""The further views against what anybody would work out from the log by hand."""

from __future__ import annotations

import asyncio
import datetime
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest

from tests.histories.builder import ListLog
from tests.simulation.history import History
from tests.simulation.workload import draw
from writ.broker.ports import Stored
from writ.projections.attempts import AttemptsView, attempts
from writ.projections.audit import AuditView, audit
from writ.projections.feed import Feeds
from writ.projections.runner import Runner
from writ.projections.shown import timestamp
from writ.projections.traffic import TrafficView, step_of, top_of, traffic
from writ.projections.view import View
from writ.projections.workers import WorkersView, workers
from writ.schemas.codec import decode
from writ.schemas.events import CommandRejected, LeaseGranted, RejectionsFolded, ReportRejected, type_names
from writ.schemas.lifecycle import TERMINAL, Job, State, evolve
from writ.schemas.lists import AttemptOutcome, AttemptsQuery, AuditQuery, TrafficQuery, WorkersQuery
from writ.schemas.records import Record

if TYPE_CHECKING:
    from tests.histories.builder import Histories

VIEWS: dict[str, Callable[[], View]] = {
    "audit": AuditView,
    "attempts": AttemptsView,
    "workers": WorkersView,
    "traffic": TrafficView,
}
SEEDS = (22, 62, 87, 98, 100, 111, 118)
"""Runs of many kinds of events."""


class Run(NamedTuple):
    """What one partition's log holds after a simulated run with faults."""

    partition: int
    stored: Sequence[Stored]
    records: Sequence[Record]

    def log(self, seed: int = 0, chunk_max: int = 500) -> ListLog:
        log = ListLog(self.stored, self.records[0].epoch, seed, chunk_max)
        log.partition = self.partition
        return log


@pytest.fixture(scope="module")
def runs(history: Histories) -> list[Run]:
    """Both partitions of some simulated runs with faults, and a longer history of one."""
    wandered = history.wander(5, 900, 25).records
    logs = [(0, wandered)]
    for seed in SEEDS:
        simulated = History(draw(seed))
        assert not simulated.run().violations
        logs += enumerate(simulated.broker.logs)
    return [Run(at, log, [decode(each.body) for each in log]) for at, log in logs if len(log) > 20]


async def build(path: Path, log: ListLog, make: Callable[[], View], until: int, most: int = 4_096) -> None:
    """The view's file as of record `until`, from where it stands."""
    feeds = Feeds(log)
    runner = Runner(path, feeds, make, batch_max=most)
    await runner.open()
    task = asyncio.create_task(runner.run())
    assert await runner.wait_for(until, 20), runner.halted
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await runner.close()
    await feeds.close()


def everything(
    read: Any, db: sqlite3.Connection, query: Any, field: str, tenant: str = "default"
) -> list[Any]:
    """What all pages of a list hold."""
    found: list[Any] = []
    while True:
        answer = read(db, tenant, query)
        page = msgspec.json.decode(msgspec.json.encode(answer), type=type(answer))
        assert len(getattr(page, field)) <= query.limit
        found += getattr(page, field)
        if page.next is None:
            return found
        query = msgspec.structs.replace(query, cursor=page.next)


# --- by hand ----------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One event of a job, with the job before and after it."""

    record: Record
    event: Any
    before: Job | None
    after: Job


def steps(records: Sequence[Record]) -> Iterator[Step]:
    jobs: dict[str, Job] = {}
    for record in records:
        if record.kind == "job":
            for event in record.events:
                before = jobs.get(record.key)
                after = jobs[record.key] = evolve(before, event, record)
                yield Step(record, event, before, after)


class Tried(NamedTuple):
    """An attempt as its job shows it."""

    seq: int
    job: str
    worker: str
    token: int
    outcome: str
    ended_by: int | None
    ended_at: int | None
    by_worker: bool


def tried(records: Sequence[Record]) -> list[Tried]:
    """All attempts: from where a job has a lease to where it has it no more."""
    found: dict[int, Tried] = {}
    names = {
        "AttemptFailed": "failed",
        "JobCompleted": "completed",
        "LeaseExpired": "expired",
        "LeaseReleased": "released",
        "JobSnoozed": "snoozed",
        "JobSuspended": "suspended",
    }
    for record, event, before, after in steps(records):
        held = None if before is None else before.lease
        if after.lease is not None and held is None:
            lease = after.lease
            found[lease.token] = Tried(
                record.seq, after.key, lease.worker, lease.token, "live", None, None, True
            )
        elif after.lease is None and held is not None:
            by_worker = record.actor == held.principal
            found[held.token] = found[held.token]._replace(
                outcome=names[type(event).__name__],
                ended_by=record.seq,
                ended_at=record.at,
                by_worker=by_worker,
            )
    return sorted(found.values(), reverse=True)


# --- the same by the views --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VIEWS)
async def test_a_rebuild_gives_the_same_bytes_whatever_the_batches_and_restarts(
    name: str, runs: list[Run], tmp_path: Path, dump: Callable[[Path], str]
) -> None:
    rng = random.Random(name)
    rows = 0
    for number, run in enumerate(runs):
        last = len(run.stored)
        whole, parts = tmp_path / f"whole{number}.db", tmp_path / f"parts{number}.db"
        await build(whole, run.log(), VIEWS[name], last)
        for stop in [*sorted(rng.sample(range(1, last), 3)), last]:
            part = Run(run.partition, run.stored[:stop], run.records)
            await build(parts, part.log(stop, 40), VIEWS[name], stop, rng.choice((1, 7, 100)))
        assert dump(whole) == dump(parts)
        rows += dump(whole).count("INSERT")
    assert rows > 50, "nothing came of it"


async def test_attempts_are_what_the_jobs_show(runs: list[Run], tmp_path: Path) -> None:
    outcomes: set[str] = set()
    for number, run in enumerate(runs):
        outcomes |= await check_attempts(run, tmp_path / f"{number}.db")
    assert outcomes == set(AttemptOutcome)


async def check_attempts(run: Run, path: Path) -> set[str]:
    await build(path, run.log(), AttemptsView, len(run.stored))
    by_hand = tried(run.records)
    with closing(sqlite3.connect(path)) as db:
        found = everything(attempts, db, AttemptsQuery(limit=7), "attempts")
        assert [(a.seq, f"{a.queue}~{a.job}", a.worker, a.token, a.outcome, a.ended_by) for a in found] == [
            each[:6] for each in by_hand
        ]
        ends = [None if each.ended_at is None else timestamp(each.ended_at) for each in by_hand]
        assert [a.ended_at for a in found] == ends
        for step in steps(run.records):
            if type(step.event).__name__ == "AttemptStarted":
                (told,) = [a for a in found if a.token == step.event.token]
                assert told.started_at == timestamp(step.record.at)
        failed = [a for a in found if a.outcome == "failed"]
        for wanted in ("application", "timeout"):
            query = AttemptsQuery(error_class=wanted, limit=3)  # type: ignore[arg-type]
            assert everything(attempts, db, query, "attempts") == [
                a for a in failed if a.error_class == wanted
            ]
        for worker in {a.worker for a in found}:
            query = AttemptsQuery(worker=worker, outcome="expired", limit=2)  # type: ignore[arg-type]
            same = [a for a in found if a.worker == worker and a.outcome == "expired"]
            assert everything(attempts, db, query, "attempts") == same
        assert everything(attempts, db, AttemptsQuery(), "attempts", "other") == []
    return {each.outcome for each in by_hand}


async def test_workers_are_the_sum_of_their_attempts(runs: list[Run], tmp_path: Path) -> None:
    for number, run in enumerate(runs):
        await check_workers(run, tmp_path / f"{number}.db")


async def check_workers(run: Run, path: Path) -> None:
    await build(path, run.log(), WorkersView, len(run.stored))
    by_hand = tried(run.records)
    seen: dict[str, list[int]] = {}
    for each in by_hand:
        seen.setdefault(each.worker, []).append(run.records[each.seq - 1].at)
        if each.by_worker and each.ended_at is not None:
            seen[each.worker].append(each.ended_at)
    for record in run.records:
        if record.kind == "worker" and record.key in seen:
            seen[record.key].append(record.at)
    for step in steps(run.records):
        if type(step.event).__name__ == "AttemptStarted":
            assert step.after.lease is not None
            seen[step.after.lease.worker].append(step.record.at)
    with closing(sqlite3.connect(path)) as db:
        since = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        found = everything(workers, db, WorkersQuery(since=since, limit=2), "workers")
        assert [w.worker for w in found] == sorted(seen)
        for worker in found:
            mine = [each for each in by_hand if each.worker == worker.worker]
            ends = Counter(each.outcome for each in mine)
            told = (worker.granted, worker.leases, worker.completed, worker.failed, worker.expired)
            assert told == (len(mine), ends["live"], ends["completed"], ends["failed"], ends["expired"])
            assert worker.returned == ends["released"] + ends["snoozed"] + ends["suspended"]
            assert worker.queues == tuple(sorted({each.job.partition("~")[0] for each in mine}))
            times = seen[worker.worker]
            first = min(run.records[each.seq - 1].at for each in mine)
            assert (worker.first_at, worker.seen_at) == (timestamp(first), timestamp(max(times)))
        assert everything(workers, db, WorkersQuery(), "workers") == [w for w in found if w.leases]


async def test_traffic_is_what_the_jobs_went_through(runs: list[Run], tmp_path: Path) -> None:
    for number, run in enumerate(runs):
        await check_traffic(run, tmp_path / f"{number}.db")


async def check_traffic(run: Run, path: Path) -> None:
    await build(path, run.log(), TrafficView, len(run.stored))
    flows: dict[str, Counter[str]] = {}
    waits: dict[str, list[int]] = {}
    ready: dict[str, int] = {}
    jobs: dict[str, Job] = {}
    for record, event, before, after in steps(run.records):
        queue = after.queue
        flows.setdefault(queue, Counter())[type(event).__name__] += 1
        if isinstance(event, LeaseGranted):
            waits.setdefault(queue, []).append(record.at - ready.pop(after.key))
        elif after.state is not State.PENDING:
            ready.pop(after.key, None)
        elif before is None or before.state is not State.PENDING:
            ready[after.key] = record.at
        jobs[after.key] = after
    idle = [job for job in jobs.values() if job.state is not State.RUNNING and job.state not in TERMINAL]
    with closing(sqlite3.connect(path)) as db:
        rows = {
            f"{queue}~{job}": since
            for queue, job, since in db.execute("SELECT queue, id, ready_at FROM waiting")
        }
        assert rows == {job.key: ready.get(job.key) for job in idle}
        found = everything(traffic, db, TrafficQuery(limit=1), "queues")
        assert [each.queue for each in found] == sorted(flows)
        for each in found:
            told = (
                each.submitted,
                each.granted,
                each.completed,
                each.failed,
                each.lost,
                each.dead,
                each.cancelled,
            )
            names = ("JobSubmitted", "LeaseGranted", "JobCompleted", "AttemptFailed", "LeaseExpired")
            assert told == tuple(flows[each.queue][n] for n in (*names, "JobDeadLettered", "JobCancelled"))
            times = [at for key, at in ready.items() if key.startswith(f"{each.queue}~")]
            assert each.oldest_at == (timestamp(min(times)) if times else None)
            exact = sorted(waits.get(each.queue, []))
            for share, shown in zip((0.5, 0.95, 0.99), each.waits.__struct_fields__, strict=True):
                value = getattr(each.waits, shown)
                if not exact:
                    assert value is None
                    continue
                nearest = exact[min(len(exact) - 1, -int(-share * len(exact) // 1) - 1)]
                assert nearest / 1e6 <= value <= max(nearest, 4) * 1.25 / 1e6


async def test_the_audit_has_what_principals_did_and_what_they_were_refused(
    runs: list[Run], tmp_path: Path
) -> None:
    for number, run in enumerate(runs):
        await check_audit(run, tmp_path / f"{number}.db")


async def check_audit(run: Run, path: Path) -> None:
    await build(path, run.log(), AuditView, len(run.stored))
    wanted: list[tuple[Any, ...]] = []
    working = {"acquire", "start", "renew", "complete", "fail", "release", "snooze", "suspend", "progress"}
    for record in run.records:
        event = record.events[0]
        if isinstance(event, CommandRejected):
            wanted += [
                (record.seq, record.actor, event.verb, each.kind, each.reason) for each in event.refused
            ]
        elif isinstance(event, ReportRejected):
            wanted += [
                (record.seq, record.actor, event.verb, each.rejection.kind, each.rejection.reason)
                for each in event.refused
            ]
        elif isinstance(event, RejectionsFolded):
            wanted.append((record.seq, record.actor, "rejections_folded", event.last.kind, event.last.reason))
        elif not record.actor.startswith("writ:") and record.cause not in working:
            reasons = [getattr(each, "reason", None) for each in record.events]
            verb = record.cause or type_names[type(event)]
            wanted.append((record.seq, record.actor, verb, None, next(filter(None, reasons), None)))
    with closing(sqlite3.connect(path)) as db:
        found = everything(audit, db, AuditQuery(limit=9), "acts")
        told = [(a.seq, a.actor, a.verb, a.refused, a.reason) for a in reversed(found)]
        assert told == wanted
        jobs = {a.job for a in found if a.job}
        checks: list[dict[str, Any]] = [{"job": job} for job in sorted(jobs)[:5]]
        checks += [{"verb": verb} for verb in sorted({a.verb for a in found})]
        checks += [{"actor": actor, "verb": "submit"} for actor in sorted({a.actor for a in found})]
        checks += [{"queue": found[-1].queue}, {"refused": True}, {"refused": False, "verb": "cancel"}]
        for equal in checks:
            same = [
                a
                for a in found
                if all(
                    (a.refused is not None) == value if name == "refused" else getattr(a, name) == value
                    for name, value in equal.items()
                )
            ]
            assert everything(audit, db, AuditQuery(limit=4, **equal), "acts") == same


def test_a_step_of_the_scale_of_waits_is_at_most_a_quarter_wide() -> None:
    for wait in [*range(4_000), *(random.Random(1).randrange(10**13) for _ in range(2_000))]:
        assert wait < top_of(step_of(wait)) <= max(wait, 4) * 1.25
