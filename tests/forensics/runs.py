"""Simulated runs for forensics: what their generator knows, and their logs as anybody would read them."""

from __future__ import annotations

import random
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from tests.simulation.fold import Fold
from tests.simulation.history import History
from tests.simulation.loop import SECOND_US
from tests.simulation.plan import APPEND_FAULTS, MESSAGE_FAULTS, TENANT, Deed, JobPlan, Plan
from tests.simulation.workload import draw, stepping
from writ.orchestrator.replay.history import Entry
from writ.orchestrator.replay.stretch import Coverage, Stretch

EPOCH: Final = 1


class Run(NamedTuple):
    """One history: its plan, the log of each partition, and the checker's own fold of each."""

    plan: Plan
    stretches: list[Stretch]
    folds: list[Fold]


def run(plan: Plan) -> Run:
    """The history of a plan. It must break no invariant."""
    history = History(plan)
    outcome = history.run()
    assert not outcome.violations, f"seed {plan.seed}: {outcome.violations[0]}"
    stretches = [
        Stretch(
            TENANT,
            partition,
            EPOCH,
            len(log),
            Coverage.WHOLE,
            tuple([Entry(stored.seq, stored.subject, stored.body) for stored in log]),
        )
        for partition, log in enumerate(history.broker.logs)
    ]
    return Run(plan, stretches, history.watch.folds)


def with_faults(seed: int) -> Run:
    """A history with everything that the workload and the faults of its seed bring."""
    return run(draw(seed))


def of_both_sorts(seed: int) -> Run:
    """The same; each fourth seed with jobs that take recorded steps, call tools, use tokens, and undo."""
    plan = draw(seed)
    return run(plan if seed % 4 else stepping(plan))


def retrying(seed: int, max_attempts: int, jobs: int = 40) -> Plan:
    """Jobs that fail, some for a while and some for ever, in queues whose policy says how often they may.

    Nothing goes wrong but what the jobs do: a seed says what each does at each attempt, whatever the policy.
    """
    rng = random.Random(f"retrying-{seed}")
    base = draw(seed)
    plans = [_draw_job(rng, number, base.queues) for number in range(jobs)]
    retry = {"max_attempts": max_attempts, "initial_interval_s": 0.2, "backoff": 1.5, "jitter": 0.4}
    deeds = [
        Deed(SECOND_US // 4, 0, "declare", queue, how={"retry": retry, **_limits(rng)})
        for queue in base.queues
    ]
    return replace(
        base,
        jobs=tuple(plans),
        deeds=tuple(deeds),
        faults=(),
        storm=0.0,
        clients=1,
        off=frozenset((*MESSAGE_FAULTS, *APPEND_FAULTS)),
    )


def _draw_job(rng: random.Random, number: int, queues: tuple[str, ...]) -> JobPlan:
    do = rng.choice(("ok", "ok", "flaky", "flaky", "flaky", "fail", "policy", "listed", "later"))
    given: dict[str, Any] = {"do": do, "ms": rng.choice((0, 20, 200)), "n": rng.randint(1, 6)}
    options: dict[str, Any] = {"lease_s": 5}
    if rng.random() < 0.15:
        options["retry"] = {"max_attempts": rng.randint(1, 4), "initial_interval_s": 0.1}
    at_us = rng.randrange(3 * SECOND_US, 9 * SECOND_US)
    return JobPlan(
        number, at_us, 0, rng.choice(queues), "submit", f"job-{number}", "work", given, options, False
    )


def _limits(rng: random.Random) -> dict[str, Any]:
    """Sometimes a queue is slow: the policy of retries is then not all that decides when a job runs."""
    return rng.choice(
        ({}, {}, {"concurrency": 3}, {"rate_per_s": 20.0, "burst": 5}, {"retries_per_min": 600})
    )
