"""What-if against what its generator knows: unchanged nothing changes, else it is a run under that policy."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from writ.orchestrator.replay.otherwise import WhatIf
from writ.orchestrator.replay.stretch import Stretch, folded
from writ.orchestrator.replay.threads import Came
from writ.orchestrator.replay.whatif import UNKNOWN, what_if
from writ.schemas.policy import QueuePolicy

from .runs import Run, of_both_sorts, retrying, run


class Judged(NamedTuple):
    """How many jobs were looked at, and what was wrong, in words."""

    jobs: int
    wrong: list[str]


def unchanged(run_: Run) -> Judged:
    """A log under the very policies that it was decided under comes out as it did."""
    jobs, wrong = 0, list[str]()
    for stretch in run_.stretches:
        found = what_if(stretch, declared(stretch))
        jobs += found.jobs
        wrong += [f"seed {run_.plan.seed}: {each}" for each in found.otherwise]
        if found.was != found.would_be:
            wrong.append(f"seed {run_.plan.seed}: {found.would_be} in all, not {found.was}")
    return Judged(jobs, wrong)


def declared(stretch: Stretch) -> dict[str, QueuePolicy]:
    """The policies of the queues that never had two."""
    queues = folded(stretch).queues
    return {place.partition(".")[2]: each.policy for place, each in queues.items() if each.version <= 1}


def fewer_attempts(seed: int, before: int = 5, after: int = 2, jobs: int = 40) -> Judged:
    """What is foretold of a run under another `max_attempts` is what a run of the same seed comes to."""
    told, real = run(retrying(seed, before, jobs)), run(retrying(seed, after, jobs))
    count, wrong = 0, list[str]()
    for stretch, other in zip(told.stretches, real.stretches, strict=True):
        policies = {
            name: replace(policy, retry=replace(policy.retry, max_attempts=after))
            for name, policy in declared(stretch).items()
        }
        foretold, came = outcomes(what_if(stretch, policies), stretch), outcomes(what_if(other, {}), other)
        count += len(came)
        if foretold.keys() != came.keys():
            wrong.append(f"seed {seed}: {sorted(foretold.keys() ^ came.keys())} are in one run only")
        wrong += [
            f"seed {seed}: {key} was foretold as {foretold[key]}, and came out as {came[key]}"
            for key in sorted(foretold.keys() & came.keys())
            if not _same(foretold[key], came[key])
        ]
    return Judged(count, wrong)


def outcomes(found: WhatIf, stretch: Stretch) -> dict[str, Came]:
    """How each job would come out: those that part, and all others as they are recorded."""
    parted = {each.key: each.would_be for each in found.otherwise}
    jobs = {job.key: job for job in folded(stretch).jobs.values()}
    return {
        key: parted.get(key)
        or Came(job.state, job.attempt, job.failures, job.lease_losses, job.finished_at, job.reason)
        for key, job in jobs.items()
    }


def _same(one: Came, other: Came) -> bool:
    """The same end after the same attempts; when it came depends on what else its worker had to do."""
    return (one.state, one.attempts, one.failures, one.lost, one.reason) == (
        other.state,
        other.attempts,
        other.failures,
        other.lost,
        other.reason,
    )


def more_attempts(seed: int, before: int = 2, after: int = 5, jobs: int = 40) -> Judged:
    """What the log cannot know is said to be unknown: each job whose attempts were used up, and no other."""
    told = run(retrying(seed, before, jobs))
    count, wrong = 0, list[str]()
    for stretch, fold in zip(told.stretches, told.folds, strict=True):
        policies = {
            name: replace(policy, retry=replace(policy.retry, max_attempts=after))
            for name, policy in declared(stretch).items()
        }
        found = outcomes(what_if(stretch, policies), stretch)
        given = {f"{job.queue}~{job.id}": job.options.get("retry") for job in told.plan.jobs}
        for key, came in found.items():
            exhausted = fold.jobs[f"{stretch.tenant}.{key}"].dead == "exhausted" and not given[key]
            count += 1
            if (came.state == UNKNOWN) != exhausted:
                wrong.append(f"seed {seed}: {key} is foretold as {came}; used up: {exhausted}")
    return Judged(count, wrong)


def unchanged_with_faults(seed: int) -> Judged:
    return unchanged(of_both_sorts(seed))
