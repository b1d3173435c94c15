"""The further views against what anybody would work out from the log by hand."""

from __future__ import annotations

import asyncio
import datetime
import itertools
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
from writ.projections import cost as costs
from writ.projections.attempts import AttemptsView, attempts
from writ.projections.audit import AuditView, audit
from writ.projections.cost import CostView, cost
from writ.projections.feed import Batch, Feeds
from writ.projections.folded import Folded
from writ.projections.runner import Runner
from writ.projections.scale import step_of, top_of
from writ.projections.shown import timestamp
from writ.projections.tools import ToolsView, tool_calls, tools
from writ.projections.traffic import HOUR, KEPT_MINUTES, MINUTE, TrafficView, traffic
from writ.projections.view import View
from writ.projections.workers import WorkersView, workers
from writ.schemas.chain import Position
from writ.schemas.codec import decode
from writ.schemas.errors import AttemptError, ErrorClass
from writ.schemas.events import (
    AttemptFailed,
    CommandRejected,
    DeadReason,
    Fact,
    JobDeadLettered,
    JobEdited,
    JobResumed,
    JobSubmitted,
    JobSuspended,
    LeaseGranted,
    RejectionsFolded,
    ReportRejected,
    WaitReason,
    type_names,
)
from writ.schemas.lifecycle import TERMINAL, Job, State, evolve
from writ.schemas.lists import (
    AttemptOutcome,
    AttemptsQuery,
    AuditQuery,
    CostBy,
    CostQuery,
    ToolCallsQuery,
    ToolsQuery,
    TrafficQuery,
    WorkersQuery,
)
from writ.schemas.records import GENESIS, Record
from writ.schemas.sealed import seal
from writ.schemas.steps import (
    CompensationDue,
    CompensationEnded,
    StepBy,
    ToolCalled,
    ToolOutcome,
    UsageRecorded,
)

if TYPE_CHECKING:
    from tests.histories.builder import Histories
    from tests.histories.builder import History as Told

VIEWS: dict[str, Callable[[], View]] = {
    "audit": AuditView,
    "attempts": AttemptsView,
    "workers": WorkersView,
    "traffic": TrafficView,
    "cost": CostView,
    "tools": ToolsView,
}
SEEDS = (22, 62, 87, 98, 100, 111, 118)
"""Runs of many kinds of events."""

MINUTE_US = 60_000_000


class Run(NamedTuple):
    """What one partition's log holds after a simulated run with faults."""

    partition: int
    stored: Sequence[Stored]
    records: Sequence[Record]

    def log(self, seed: int = 0, chunk_max: int = 500) -> ListLog:
        log = ListLog(self.stored, self.records[0].epoch, seed, chunk_max)
        log.partition = self.partition
        return log


def agents(told: Told) -> Told:
    """Adds jobs whose attempts call tools and use models."""
    draw_ = random.Random(3)
    for number in range(30):
        job = told.job(f"agent-{number}", draw_.choice(("mail", "bills")))
        job.submitted(draw_.choice(("answer", "sort"))).granted(f"w{number % 3}")
        for _ in range(draw_.randrange(6)):
            told.after(draw_.choice((0.5, 4_000, 50_000)))
            job.add(*[_noted(draw_, job.now) for _ in range(draw_.randint(1, 3))], actor="worker-1")
        draw_.choice((job.completed, job.failed))()
    return told


def _noted(draw_: random.Random, job: Job) -> Fact:
    attempt = (job.attempt, job.last_token)
    if draw_.random() < 0.5:
        cost_microusd = draw_.choice((None, draw_.randrange(5_000)))
        model = draw_.choice(("large", "small"))
        return UsageRecorded(*attempt, model, draw_.randrange(900), draw_.randrange(90), cost_microusd)
    return ToolCalled(
        *attempt,
        draw_.choice(("search", "pay")),
        "1",
        seal(b"{}"),
        "d",
        draw_.choice(tuple(ToolOutcome)),
        policy=2,
        rule=draw_.choice((None, "deny pay")),
        run_ms=draw_.choice((None, draw_.randrange(10_000))),
        by=draw_.choice((StepBy.RAN, StepBy.RAN, StepBy.RECORDED)),
    )


def undoing(told: Told) -> Told:
    """Adds a job that undoes what it did before it dies."""
    job = told.job("undone").submitted().granted("w1")
    failed = AttemptFailed(job.now.attempt, job.now.last_token, AttemptError(ErrorClass.SYSTEM, "Lost"))
    job.add(failed, CompensationDue("exhausted", DeadReason.EXHAUSTED, "c"), actor="worker-1")
    job.after(3).granted("w2")
    ended = CompensationEnded(job.now.attempt, job.now.last_token)
    job.add(ended, JobDeadLettered(DeadReason.EXHAUSTED, "exhausted", "c"), actor="worker-1")
    return told


def holding(told: Told) -> Told:
    """Adds jobs that are paused, resumed and edited before they are due, and when they are."""
    paused, resumed = JobSuspended(WaitReason.PAUSED, "p"), JobResumed(WaitReason.PAUSED, "r")
    later = told.at + 500_000_000
    told.job("early").submitted(delay_s=300).add(paused).after(2).add(resumed)
    told.job("ready").submitted().after(2).add(paused).after(2).add(resumed).after(2)
    told.job("put-off").submitted().after(2).add(JobEdited("e", due_at=later))
    told.job("moved").submitted().after(2).add(JobEdited("e", priority=1))
    told.job("held").submitted().add(paused).after(2).add(JobEdited("e", due_at=later)).add(resumed)
    told.job("waits").submitted().add(paused).after(2).add(JobEdited("e", priority=1))
    told.job("called-up").submitted(delay_s=300).after(2).add(JobEdited("e", due_at=told.at))
    return told


@pytest.fixture(scope="module")
def runs(history: Histories) -> list[Run]:
    """Both partitions of some simulated runs with faults, and a longer history of one."""
    logs = [(0, holding(undoing(agents(history.wander(5, 900, 25)))).records)]
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
        answer: Any = read(db, tenant, query)
        kind: Any = answer.__class__
        page: Any = msgspec.json.decode(msgspec.json.encode(answer), type=kind)
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
        "CompensationEnded": "compensated",
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
            assert told == (
                len(mine),
                ends["live"],
                ends["completed"] + ends["compensated"],
                ends["failed"],
                ends["expired"],
            )
            assert worker.returned == ends["released"] + ends["snoozed"] + ends["suspended"]
            assert worker.queues == tuple(sorted({each.job.partition("~")[0] for each in mine}))
            assert worker.jobs == tuple([each.job for each in mine[::-1] if each.outcome == "live"][:20])
            assert (worker.host, worker.version, worker.slots) == (None, None, None)
            times = seen[worker.worker]
            first = min(run.records[each.seq - 1].at for each in mine)
            assert (worker.first_at, worker.seen_at) == (timestamp(first), timestamp(max(times)))
        assert everything(workers, db, WorkersQuery(), "workers") == [w for w in found if w.leases]


async def test_traffic_is_what_the_jobs_went_through(runs: list[Run], tmp_path: Path) -> None:
    for number, run in enumerate(runs):
        await check_traffic(run, tmp_path / f"{number}.db")


async def check_traffic(run: Run, path: Path) -> None:
    await build(path, run.log(), TrafficView, len(run.stored))
    newest = run.records[-1].at // MINUTE_US
    week = newest - KEPT_MINUTES[HOUR]
    with closing(sqlite3.connect(path)) as db:
        for minute in (newest - 7, newest - 100, newest - KEPT_MINUTES[MINUTE] + 1):
            check_flow(run, db, minute, minute, MINUTE)
        late = newest - KEPT_MINUTES[MINUTE] - 30
        check_flow(run, db, late, max(week, late // HOUR * HOUR), HOUR)
        check_flow(run, db, None, week, HOUR)
        check_minutes(run, db, newest)


def check_minutes(run: Run, db: sqlite3.Connection, newest: int) -> None:
    """One by one they are what the log has in them, of all queues together and of each."""
    for queue in (None, *{after.queue for *_, after in steps(run.records)}):
        counted: Counter[tuple[str, str]] = Counter()
        for record, event, _, after in steps(run.records):
            if queue in (None, after.queue) and newest - 100 < record.at // MINUTE_US:
                minute = timestamp(record.at // MINUTE_US * MINUTE_US)
                counted[minute, type(event).__name__] += 1
        told = traffic(db, "default", TrafficQuery(queue=queue, minutes=100)).minutes
        assert [each.at for each in told] == sorted({each.at for each in told})
        for each in told:
            assert each.submitted == counted[each.at, "JobSubmitted"]
            assert (each.completed, each.failed) == (
                counted[each.at, "JobCompleted"],
                counted[each.at, "AttemptFailed"],
            )
        completed = sum(n for (_, name), n in counted.items() if name == "JobCompleted")
        assert sum(each.completed for each in told) == completed


def check_flow(run: Run, db: sqlite3.Connection, since: int | None, first: int, span: int) -> None:
    """What the view tells from minute `since` on is what was in spans of minutes from `first` on."""
    flows: dict[str, Counter[str]] = {}
    waits: dict[str, list[int]] = {}
    ready: dict[str, int] = {}
    jobs: dict[str, Job] = {}
    for record, event, before, after in steps(run.records):
        queue = after.queue
        counted = flows.setdefault(queue, Counter())
        within = record.at // MINUTE_US // span * span >= first
        counted[type(event).__name__] += within
        if isinstance(event, LeaseGranted):
            wait = record.at - ready.pop(after.key)
            waits.setdefault(queue, []).extend([wait] if within else [])
        elif after.state is not State.PENDING:
            ready.pop(after.key, None)
        elif before is None or before.state is not State.PENDING:
            ready[after.key] = record.at
        jobs[after.key] = after
    idle = [job for job in jobs.values() if job.state is not State.RUNNING and job.state not in TERMINAL]
    rows = {
        f"{queue}~{job}": since for queue, job, since in db.execute("SELECT queue, id, ready_at FROM waiting")
    }
    assert rows == {job.key: ready.get(job.key) for job in idle}
    moment = None if since is None else datetime.datetime.fromtimestamp(since * 60 + 30, datetime.UTC)
    found = everything(traffic, db, TrafficQuery(limit=1, since=moment), "queues")
    assert [each.queue for each in found] == sorted(flows)
    for each in found:
        told = each.submitted, each.granted, each.completed, each.failed, each.lost, each.dead, each.cancelled
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


@pytest.mark.parametrize("size", [1, 2, 10])
async def test_costs_are_told_by_the_release_that_ran(size: int, tmp_path: Path) -> None:
    """That of the lease under which a model was used, also where a job has had others."""
    one, other = "a" * 64, "b" * 64
    facts: list[tuple[str, Fact]] = [
        ("mail~a", JobSubmitted("t", seal(b"1"))),
        ("mail~a", LeaseGranted("w", 1, release=one)),
        ("mail~a", UsageRecorded(1, 1, "large", 10, 1, 100)),
        ("mail~plain", JobSubmitted("t", seal(b"1"))),
        ("mail~plain", LeaseGranted("w", 1)),
        ("mail~a", LeaseGranted("w", 2, release=other)),
        ("mail~plain", UsageRecorded(1, 1, "large", 10, 1, 7)),
        ("mail~a", UsageRecorded(2, 2, "large", 10, 1, 1_000)),
        ("mail~a", UsageRecorded(2, 2, "large", 10, 1, 30_000)),
    ]
    records = [
        Record(1, seq, "default", "job", key, seq, "owner", (fact,))
        for seq, (key, fact) in enumerate(facts, 1)
    ]
    folded = await Folded.open(tmp_path / "v.db", CostView())
    for start in range(0, len(records), size):
        part = records[start : start + size]
        assert await folded.apply(Batch(part, Position(1, part[-1].seq, GENESIS))) is None
    await folded.close()
    with closing(sqlite3.connect(tmp_path / "v.db")) as db:
        sums = cost(db, "default", CostQuery(by=(CostBy.RELEASE,))).sums
        assert [(each.release, each.calls, each.cost_microusd) for each in sums] == [
            (other, 2, 31_000),
            (one, 1, 100),
            ("", 1, 7),
        ]
        (alone,) = cost(db, "default", CostQuery(by=(), release=one)).sums
        assert alone.cost_microusd == 100


@pytest.mark.parametrize("month", [2, 32])
async def test_costs_are_the_sums_of_what_was_used(
    month: int, runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where whole spans of days are summed up, and days beside them."""
    monkeypatch.setattr(costs, "MONTH", month)
    run = runs[0]
    path = tmp_path / "v.db"
    await build(path, run.log(), CostView, len(run.stored))
    used = [
        (datetime.date.fromisoformat(timestamp(step.record.at)[:10]), step.after, step.event)
        for step in steps(run.records)
        if isinstance(step.event, UsageRecorded)
    ]
    assert len({day for day, _, _ in used}) > 3
    with closing(sqlite3.connect(path)) as db:
        for by in ((), (CostBy.TASK,), (CostBy.QUEUE, CostBy.MODEL), tuple(CostBy)):
            sums: dict[tuple[str | None, ...], list[int]] = {}
            for day, job, usage in used:
                named = {"day": str(day), "queue": job.queue, "task": job.task, "model": usage.model}
                named["release"] = job.release or ""
                key = tuple([named[each] if each in by else None for each in CostBy])
                known = sums.setdefault(key, [0] * 5)
                cost_microusd = usage.cost_microusd
                for place, number in enumerate(
                    (1, usage.input_tokens, usage.output_tokens, cost_microusd or 0, cost_microusd is None)
                ):
                    known[place] += number
            found = cost(db, "default", CostQuery(by=by, limit=500))
            assert {
                (s.day, s.queue, s.task, s.model, s.release): list(msgspec.structs.astuple(s)[5:])
                for s in found.sums
            } == sums
            assert [s.cost_microusd for s in found.sums] == sorted(
                [v[3] for v in sums.values()], reverse=True
            )
        days = sorted({day for day, _, _ in used})
        noons = [datetime.datetime(day.year, day.month, day.day, 12, tzinfo=datetime.UTC) for day in days]
        for since, until in itertools.product((None, *noons), repeat=2):
            some = [
                u
                for day, _, u in used
                if (since is None or day >= since.date()) and (until is None or day <= until.date())
            ]
            totals = cost(db, "default", CostQuery(by=(), since=since, until=until)).sums
            assert [(each.calls, each.input_tokens) for each in totals] == (
                [(len(some), sum(u.input_tokens for u in some))] if some else []
            )
        mine = [u for _, job, u in used if (job.queue, job.task, u.model) == ("mail", "sort", "large")]
        (total,) = cost(db, "default", CostQuery(by=(), queue="mail", task="sort", model="large")).sums
        assert total.calls == len(mine)
        assert cost(db, "other", CostQuery()).sums == ()


async def test_tools_have_their_calls_denials_and_times(runs: list[Run], tmp_path: Path) -> None:
    run = runs[0]
    path = tmp_path / "v.db"
    await build(path, run.log(), ToolsView, len(run.stored))
    called = [
        (step.record, step.after, step.event)
        for step in steps(run.records)
        if isinstance(step.event, ToolCalled)
    ]
    with closing(sqlite3.connect(path)) as db:
        found = everything(tool_calls, db, ToolCallsQuery(limit=7), "calls")
        assert [(c.seq, c.tool, c.job, c.outcome, c.run_ms, c.known) for c in reversed(found)] == [
            (record.seq, call.tool, job.id, call.outcome, call.run_ms, call.by)
            for record, job, call in called
        ]
        denied = everything(tool_calls, db, ToolCallsQuery(outcome=ToolOutcome.DENIED, tool="pay"), "calls")
        assert denied == [c for c in found if (c.outcome, c.tool) == ("denied", "pay")]
        named = everything(tools, db, ToolsQuery(limit=1), "tools")
        assert [tool.tool for tool in named] == ["pay", "search"]
        for tool in named:
            mine = [call for _, _, call in called if call.tool == tool.tool]
            ran = [call for call in mine if call.by is StepBy.RAN]
            ends = Counter(call.outcome.value for call in ran)
            told = (tool.done, tool.failed, tool.denied, tool.recorded)
            assert told == (ends["done"], ends["failed"], ends["denied"], len(mine) - len(ran))
            times = sorted(call.run_ms for call in ran if call.run_ms is not None)
            middle = times[-(-len(times) // 2) - 1] / 1_000
            assert middle <= tool.took.p50_s <= max(middle, 4e-6) * 1.25
