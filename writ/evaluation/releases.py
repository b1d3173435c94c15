"""Evaluations of releases: what an alias stood for when it began must be what it stands for when it ends.

A verdict belongs to digests. Where an alias has moved meanwhile, what was measured is of a release that
nobody asked about any more, and the analysis starts again with the new one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

import msgspec

from writ.broker.client import Client
from writ.schemas.evaluations import Scores
from writ.schemas.ids import job_key
from writ.schemas.processes import named

from .plan import Prepared
from .run import Evaluation, Evaluator, Side
from .scorers import Policy

STARTS_MAX: Final = 3
"""How often an evaluation starts, where aliases go on moving."""
_FOUND_MAX: Final = 20
"""Items that a policy check names."""


class EvaluationError(RuntimeError):
    """An evaluation cannot begin or end; says why."""


class Asked(msgspec.Struct, frozen=True):
    """One side as it was asked for: a release, `NAME@REF`, or none; and the task, where it is not the
    plan's."""

    release: str | None = None
    task: str | None = None


async def evaluate(
    client: Client,
    prepared: Prepared,
    candidate: Asked,
    baseline: Asked | None,
    tell: Callable[[str], None],
    *,
    fresh: bool = False,
) -> Evaluation:
    """Evaluate what both sides stand for, until they stand for the same before and after.

    With `fresh` everything is tried anew, also what the log knows of an earlier evaluation.

    Raises:
        EvaluationError: there is no such release or task, or the aliases moved in each of STARTS_MAX starts.
        WritError: as `Client` raises.
    """
    asked = [candidate, *([baseline] if baseline is not None else [])]
    # A task without a release is known by its name alone, and may be other code than at the last run.
    run = secrets.token_hex(8)
    sides = [await _side(client, prepared, each, run) for each in asked]
    moved: list[Side] = []
    for _ in range(STARTS_MAX):
        evaluator = Evaluator(client, prepared, tell, run if fresh else None)
        found = await evaluator.evaluate(sides[0], sides[1] if baseline is not None else None)
        before, sides = sides, [await _side(client, prepared, each, run) for each in asked]
        moved = [new for old, new in zip(before, sides, strict=True) if old != new]
        if not moved:
            return found
        for side in moved:
            tell(f"{side.name} is {side.release[:12]} by now: what was measured is of another release")
    raise EvaluationError(
        f"{moved[0].name} moved in each of {STARTS_MAX} starts; name a version or a digest, which stay"
    )


async def _side(client: Client, prepared: Prepared, asked: Asked, run: str) -> Side:
    """What a side stands for now. Raises EvaluationError."""
    plan = prepared.plan
    task = asked.task or plan.task
    if task is None:
        raise EvaluationError(f"plan {prepared.name} names no task; add `task` to it, or give --task")
    if asked.release is None:
        return Side(task, f"task-{run}", {"task": task})
    name, ref = named(asked.release)
    processes = await client.processes(name)
    release = processes[0].find(ref, plan.queue) if processes else None
    if release is None:
        raise EvaluationError(f"{name} has no release {ref} for queue {plan.queue}")
    options = {"process": f"{name}@{release.digest}", "task": task}
    return Side(asked.release, release.digest, options)


async def record(client: Client, prepared: Prepared, found: Evaluation) -> int:
    """Tell the log what was found of the candidate's release, for its gates; the record's position.

    Each policy among the dimensions is told as a check of its own as well: what one try broke, the release
    has broken, and a try that could not be checked is no pass.
    """
    process, digest = named(found.candidate.options["process"])
    job = job_key(prepared.plan.queue, found.jobs["candidate"][0][0])
    for measure, measured in zip(prepared.plan.dimension, found.measured, strict=True):
        if not isinstance(measure.scorer, Policy):
            continue
        broken = _broken(found, measured.candidate)
        check = type(measure.scorer).__struct_config__.tag
        assert isinstance(check, str)
        await client.record_policy_check(process, digest, check, broken, job=job)
    return await client.record_evaluation(
        process,
        digest,
        found.plan,
        found.data_digest,
        found.measured,
        baseline=_digest_of(found.baseline, process),
        job=job,
    )


def _broken(found: Evaluation, scores: Scores) -> list[str]:
    """Which items broke a policy, in which job first; a line each, and one for what is left out."""
    lines: list[str] = []
    for item, tries, ids in zip(found.items, scores, found.jobs["candidate"], strict=True):
        padded = (*tries, *[None] * (len(ids) - len(tries)))
        bad = [(value, id_) for value, id_ in zip(padded, ids, strict=True) if value != 1]
        if bad:
            value, id_ = bad[0]
            what = "could not be checked" if value is None else "broke it"
            lines.append(f"item {item} {what} in {len(bad)} of {len(ids)} tries, first in job {id_}")
    left = len(lines) - _FOUND_MAX
    return lines if left <= 0 else [*lines[:_FOUND_MAX], f"{left} more items"]


def _digest_of(side: Side | None, process: str) -> str | None:
    """The baseline's release, where it is one of the same process."""
    if side is None or "process" not in side.options:
        return None
    name, digest = named(side.options["process"])
    return digest if name == process else None
