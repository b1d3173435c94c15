"""Makes a failing plan smaller while it still fails: fewer faults, fewer jobs, fewer deeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from msgspec.structs import replace

from .history import Outcome, run
from .loop import SECOND_US
from .plan import APPEND_FAULTS, FAULTS_END_US, MESSAGE_FAULTS, Plan

T = TypeVar("T")
RUNS_MAX: Final = 400


def shrink(plan: Plan, execute: Callable[[Plan], Outcome] = run) -> tuple[Plan, Outcome]:
    """The smallest plan found that still breaks something, and what it breaks."""
    best, outcome = plan, execute(plan)
    runs = 1
    progress = True
    while progress and runs < RUNS_MAX:
        progress = False
        for smaller in _smaller(best):
            if runs >= RUNS_MAX:
                break
            runs += 1
            tried = execute(smaller)
            if tried.violations:
                best, outcome, progress = smaller, tried, True
                break
    return best, outcome


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Plans with one thing less each, the big cuts first."""
    kinds = (*MESSAGE_FAULTS, *APPEND_FAULTS)
    if plan.off != frozenset(kinds):
        yield replace(plan, off=frozenset(kinds))
    for faults in _halves(plan.faults):
        yield replace(plan, faults=faults)
    for deeds in _halves(plan.deeds):
        yield replace(plan, deeds=deeds)
    for jobs in (kept for kept in _halves(plan.jobs) if kept):
        yield replace(plan, jobs=jobs)
    for kind in kinds:
        if kind not in plan.off:
            yield replace(plan, off=plan.off | {kind})
    if plan.off != frozenset(kinds):
        for start in range(0, FAULTS_END_US, 2 * SECOND_US):
            span = start, start + 2 * SECOND_US
            if span not in plan.quiet:
                yield replace(plan, quiet=(*plan.quiet, span))
    if len(plan.workers) > 1:
        yield replace(plan, workers=plan.workers[:-1])
    if plan.orchestrators > 1:
        yield replace(plan, orchestrators=plan.orchestrators - 1)


def _halves(items: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    """Without a half, then without one."""
    if len(items) > 2:
        half = len(items) // 2
        yield items[:half]
        yield items[half:]
    for place in range(len(items)):
        yield items[:place] + items[place + 1 :]


def story(plan: Plan, outcome: Outcome) -> str:
    """A plan and what it broke, for people."""
    lines = [f"seed {plan.seed}, {outcome.steps} steps, {outcome.records} records:"]
    for number, worker in enumerate(plan.workers):
        knows = " and ".join(worker.tasks)
        has = f", has {worker.labels}" if worker.labels else ""
        lines.append(f"  worker {number}: {worker.slots} slots, waits {worker.wait_s} s, knows {knows}{has}")
    lines.append(
        f"  {plan.orchestrators} orchestrators, {plan.clients} clients, queues {', '.join(plan.queues)}"
    )
    for job in plan.jobs:
        what = f"job {job.number} {job.id or 'without id'} by {job.how} to {job.queue}"
        lines.append(f"  {_at(job.at_us)} {what}: {job.input} {job.options}")
    for deed in plan.deeds:
        what = f"{deed.what} {deed.how}" if deed.how else deed.what
        to = deed.queue if deed.job < 0 else f"job {deed.job}"
        when = f" when it is {deed.when}" if deed.when else ""
        lines.append(f"  {_at(deed.at_us)} client {deed.client}: {what} to {to}{when}")
    for fault in plan.faults:
        lines.append(f"  {_at(fault.at_us)} {fault.kind} {fault.target} for {fault.for_us / SECOND_US} s")
    on = [kind for kind in (*MESSAGE_FAULTS, *APPEND_FAULTS) if kind not in plan.off]
    lines.append(f"  by chance: {', '.join(on) or 'nothing'}; fired: {dict(sorted(outcome.faults.items()))}")
    lines.extend(f"  BROKEN at {violation}" for violation in outcome.violations)
    return "\n".join(lines)


def _at(us: int) -> str:
    return f"{us / SECOND_US + 1:.3f} s"
