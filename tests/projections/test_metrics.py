"""The metrics view: what it tells of small histories, its bounds, and that it survives being killed."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from writ.projections.measured import families_in
from writ.projections.metrics import MetricsView
from writ.schemas import catalog
from writ.schemas.bounds import SECOND_US
from writ.schemas.canaries import CanaryJudged, CanaryPolicy, Finding, Watched
from writ.schemas.errors import ErrorClass
from writ.schemas.evaluations import Outcome
from writ.schemas.events import (
    DeadReason,
    JobDeadLettered,
    JobDropped,
    JobResumed,
    JobSnoozed,
    JobSuspended,
    QueuePaused,
    QueueResumed,
    WaitReason,
)
from writ.schemas.lifecycle import State
from writ.schemas.metrics import OTHER, Histogram, Metric
from writ.schemas.processes import CanaryStarted
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
    from tests.histories.builder import Histories, History
    from tests.projections.conftest import Running

Told = dict[tuple[str, ...], Any]
Tell = Callable[..., Awaitable[Callable[[Metric], Told]]]


@pytest.fixture
def tell(running: Running) -> Tell:
    """What the view tells of a history, at its end or some seconds later: `(await tell(history))(metric)`."""

    async def fold(history: History, later_s: float = 0) -> Callable[[Metric], Told]:
        async with running(history.log(), "metrics.db", make=MetricsView) as runner:
            assert await runner.wait_for(len(history.records), 20), runner.halted
            families = families_in(runner.path, history.at + round(later_s * SECOND_US))
        by_name = {each.name: each.series for each in families}
        return lambda metric: {each.labels: each.value for each in by_name.get(metric.name, [])}

    return fold


BILLS = ("default", "bills")


async def test_a_life_with_all_that_can_go_wrong(history: Histories, tell: Tell) -> None:
    h = history()
    job = h.job("a", "bills").submitted("pay", delay_s=5).at_due().after(2).granted().after(1).started()
    job.renewed().after(3).failed(class_=ErrorClass.SYSTEM).at_due().granted().expired()
    job.after(0.5).granted().after(4).released().granted().after(1.5).completed(run_ms=None)
    h.report_refused("bills~a").refused(count=3).folded(40)
    told = await tell(h)
    assert told(catalog.SUBMITTED) == {(*BILLS, "pay"): 1}
    assert told(catalog.GRANTS) == {BILLS: 4}
    assert told(catalog.RENEWALS) == {BILLS: 1}
    assert told(catalog.EXPIRIES) == {BILLS: 1}
    assert told(catalog.STALE) == {BILLS: 1}
    assert told(catalog.RETRIES) == {(*BILLS, "system"): 1}
    ends = {"failed": 1, "lost": 1, "released": 1, "completed": 1}
    assert told(catalog.ATTEMPTS) == {(*BILLS, "pay", how): n for how, n in ends.items()}
    assert {k[2]: n for k, n in told(catalog.JOBS).items() if n} == {"completed": 1}
    wait = told(catalog.WAIT)[BILLS]
    assert isinstance(wait, Histogram)
    assert (wait.count, wait.zeros, wait.sum) == (4, 2, 2.5 * SECOND_US), "2 s, none, 0.5 s, none"
    ran = told(catalog.EXECUTION)[(*BILLS, "pay")]
    assert isinstance(ran, Histogram)
    # 12 ms as the worker says, a whole lease of 30 s, and from grant to end where nobody measured.
    assert (ran.count, ran.sum) == (4, 12_000 + 30 * SECOND_US + 4 * SECOND_US + 1.5 * SECOND_US)
    assert told(catalog.REFUSALS) == {("default", "stale"): 1, ("default", "malformed"): 43}


async def test_dead_letters_are_open_until_somebody_settles_them(history: Histories, tell: Tell) -> None:
    h = history()
    for name in "abcd":
        h.job(name, "bills").submitted().granted().failed(class_=ErrorClass.POLICY)
    h.job("a", "bills").redriven()
    h.job("b", "bills").add(JobDropped("lost for good"))
    told = await tell(h)
    assert told(catalog.DEAD) == {(*BILLS, "policy", "policy"): 4}
    assert told(catalog.DEAD_OPEN) == {BILLS: 2}
    assert told(catalog.JOBS)[(*BILLS, "dead")] == 3


async def test_what_models_and_tools_cost_is_told(history: Histories, tell: Tell) -> None:
    h = history()
    job = h.job("a", "bills").submitted("pay").granted()
    held = (job.now.attempt, job.now.last_token)
    job.add(UsageRecorded(*held, "small", 100, 20, 1_500), UsageRecorded(*held, "small", 1, 1, None))
    job.add(UsageRecorded(*held, "large", 7, 3, 2_000_000))
    for outcome, run_ms in ((ToolOutcome.DONE, 40), (ToolOutcome.FAILED, 5_000), (ToolOutcome.DENIED, None)):
        job.add(ToolCalled(*held, "bank.pay", "v1", seal(b"{}"), "00", outcome, run_ms=run_ms))
    again = ToolCalled(*held, "bank.pay", "v1", seal(b"{}"), "00", ToolOutcome.DONE, by=StepBy.RECORDED)
    told = await tell(job.add(again).history)
    small, large, bank = ("default", "small"), ("default", "large"), ("default", "bank.pay")
    assert told(catalog.TOKENS) == {
        (*small, "input"): 101, (*small, "output"): 21, (*large, "input"): 7, (*large, "output"): 3,
    }  # fmt: skip
    assert told(catalog.COST) == {small: 0.0015, large: 2.0}
    assert told(catalog.QUEUE_COST) == {BILLS: 2.0015}
    assert told(catalog.UNPRICED) == {small: 1}
    assert told(catalog.TOOL_CALLS) == {(*bank, how): 1 for how in ("done", "failed", "denied", "recorded")}
    took = told(catalog.TOOL_TIME)[bank]
    assert (took.count, took.sum) == (2, 5_040_000)


async def test_undoing_a_job_is_attempts_of_its_own(history: Histories, tell: Tell) -> None:
    h = history()
    job = h.job("a", "bills").submitted("pay").granted().after(1).failed()
    job.add(CompensationDue("exhausted", DeadReason.EXHAUSTED)).after(2).granted()
    job.add(JobSnoozed(job.now.attempt, job.now.last_token, h.at + 60 * SECOND_US))
    job.add(JobSuspended(WaitReason.PAUSED, "an operator")).after(1).add(
        JobResumed(WaitReason.PAUSED, "go on")
    )
    assert job.now.state is State.SCHEDULED, "no attempt has failed since"
    job.at_due().granted().after(3)
    job.add(
        CompensationEnded(job.now.attempt, job.now.last_token, 2_500),
        JobDeadLettered(DeadReason.EXHAUSTED, "undone"),
    )
    told = await tell(h)
    assert {k[2]: n for k, n in told(catalog.JOBS).items() if n} == {"dead": 1}
    ends = {"failed": 1, "snoozed": 1, "compensated": 1}
    assert told(catalog.ATTEMPTS) == {(*BILLS, "pay", how): n for how, n in ends.items()}
    assert told(catalog.TRANSITIONS)[(*BILLS, "suspended", "scheduled")] == 1
    assert told(catalog.WAIT)[BILLS].sum == 2 * SECOND_US
    assert told(catalog.EXECUTION)[(*BILLS, "pay")].sum == 12_000 + 2_500_000
    assert told(catalog.DEAD) == {(*BILLS, "exhausted", "application"): 1}


async def test_the_oldest_is_as_old_as_the_wait_of_the_first_that_is_ready(
    history: Histories, tell: Tell
) -> None:
    h = history()
    h.job("early", "bills").submitted("pay").granted().completed()
    h.job("later", "bills").submitted("pay", delay_s=60)
    h.after(10).job("first", "bills").submitted("pay")
    h.after(5).job("second", "bills").submitted("file")
    assert (await tell(h, later_s=7))(catalog.OLDEST) == {BILLS: 12.0}
    h.job("first", "bills").granted()
    assert (await tell(h, later_s=7))(catalog.OLDEST) == {BILLS: 7.0}
    h.job("second", "bills").granted()
    assert (await tell(h, later_s=7))(catalog.OLDEST) == {BILLS: 0.0}


async def test_a_queue_is_paused_while_an_operator_says_so(history: Histories, tell: Tell) -> None:
    h = history()
    h.add("queue", "bills", (QueuePaused("month end"),))
    assert (await tell(h))(catalog.PAUSED) == {BILLS: 1}
    h.add("queue", "bills", (QueueResumed("done"),))
    assert (await tell(h))(catalog.PAUSED) == {BILLS: 0}


async def test_verdicts_on_canaries_are_counted_from_zero_on(history: Histories, tell: Tell) -> None:
    """The alert looks for an increase: the first verdict must be one."""
    h, digest = history(), "b" * 64
    h.add("process", "inv", (CanaryStarted("*", digest, "a look", 5.0, policy=CanaryPolicy()),))
    told = (await tell(h))(catalog.CANARIES)
    assert told == {("default", "inv", "pass"): 0, ("default", "inv", "fail"): 0}
    found = Finding("inv", "*", 7, 0, 0.05, Watched(Outcome.FAIL, 30, -0.5, 40.0, 0.1))
    h.add("process", "inv", (CanaryJudged("*", digest, CanaryPolicy(), found),))
    assert (await tell(h))(catalog.CANARIES) == {**told, ("default", "inv", "fail"): 1}


async def test_the_values_of_labels_are_bounded_whatever_the_log_names(
    history: Histories, tell: Tell
) -> None:
    """Bounded label sets: 30 tenants with six queues of three tasks each, and queues that are made up."""
    h = history()
    for tenant in range(30):
        h.tenant = f"t{tenant}"
        h.jobs = {}
        for queue in range(6):
            for task in range(3):
                job = h.job(f"{task}", f"q{queue}").submitted(f"task{task}").granted()
                held = (job.now.attempt, job.now.last_token)
                job.add(UsageRecorded(*held, f"model{queue}", 1, 1, 1))
                job.add(ToolCalled(*held, f"tool{queue}", "v1", seal(b"1"), "00", ToolOutcome.DONE, run_ms=1))
                job.completed()
        for process in range(catalog.PROCESSES_MAX):
            canary = CanaryStarted("*", "b" * 64, "a look", 5.0, policy=CanaryPolicy())
            h.add("process", f"p{process}", (canary,))
        for made_up in range(20):
            h.report_refused(f"nowhere{made_up}~x")
    told = await tell(h)
    tenants = catalog.TENANTS_MAX + 1
    queues = catalog.QUEUES_MAX + tenants
    tasks = catalog.TASKS_MAX + queues
    models, tools = catalog.MODELS_MAX + tenants, catalog.TOOLS_MAX + tenants
    bounds = {
        "tenant": (1, tenants),
        "queue": (2, queues),
        "task": (3, tasks),
        "model": (2, models),
        "tool": (2, tools),
        "process": (2, catalog.PROCESSES_MAX + tenants),
    }
    full = {label for (label,), value in told(catalog.NAMES_FULL).items() if value}
    assert full == {"tenant", "queue", "task", "model", "tool", "process"}
    for metric in catalog.BY_SOURCE[catalog.LOG]:
        series = told(metric)
        assert {len(labels) for labels in series} <= {len(metric.labels) - 1}, metric.name  # and a partition
        for label, (depth, bound) in bounds.items():
            if label in metric.labels:
                assert len({labels[:depth] for labels in series}) <= bound, metric.name
    # Nothing is lost by it.
    assert sum(told(catalog.GRANTS).values()) == 30 * 6 * 3
    assert told(catalog.REFUSALS)["t0", "not_found"] == 20
    assert told(catalog.SUBMITTED)["t0", "q0", "task0"] == 1
    assert told(catalog.SUBMITTED)[OTHER, OTHER, OTHER] > 0


@pytest.mark.parametrize("seed", range(10))
async def test_a_rebuild_gives_the_same_bytes_wherever_it_was_killed(
    seed: int, history: Histories, running: Running, dump: Callable[[Path], str]
) -> None:
    told = history.wander(seed, 300)
    last = len(told.records)
    async with running(told.log(seed), "whole.db", make=MetricsView) as runner:
        assert await runner.wait_for(last, 20)
    whole = dump(runner.path)
    draw = random.Random(seed)
    for stop in [*sorted(draw.sample(range(1, last), 5)), last]:
        part = history.log(told.records[:stop], seed=draw.randrange(99), chunk_max=draw.choice((1, 7, 90)))
        make = partial(MetricsView, draw.choice((1, 5, 1_000)))
        async with running(part, "parts.db", draw.choice((1, 3, 50)), make=make) as runner:
            assert await runner.wait_for(stop, 20), runner.halted
    assert dump(runner.path) == whole


async def test_it_halts_at_what_the_lifecycle_refuses(history: Histories, running: Running) -> None:
    h = history()
    h.submitted().granted().completed()
    h.put(h.forged(2, seq=4))
    async with running(h.log(), "metrics.db", make=MetricsView) as runner:
        assert not await runner.wait_for(4, 20)
        assert runner.position == 3
        assert "LeaseGranted from completed is refused" in str(runner.halted)
