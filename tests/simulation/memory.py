"""What a leader has in memory against what its log says."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from writ.schemas.lifecycle import Job

from .fold import Fold
from .tally import Tally

if TYPE_CHECKING:
    from writ.orchestrator.engine import Engine


_STEP = {"intended": "open", "done": "done", "failed": "failed", "compensated": "undone"}


def _of_job(job: Job) -> tuple[object, ...]:
    """A leader's job, in the order of `_of_tally`."""
    lease, wait = job.lease, job.wait
    return (
        job.state.value, job.attempt, job.failures, job.lease_losses, job.round, job.cancel, job.priority,
        job.due_at, job.since, job.records, job.last_token, job.stood_us, job.dropped, job.operation,
        tuple([(signal.name, signal.seq) for signal in job.signals]),
        (0, 0, "", False) if lease is None
        else (lease.token, lease.expires_at, lease.principal, lease.started_at is not None),
        None if wait is None else (wait.reason, wait.on, wait.until, wait.on_timeout, wait.since_at),
        job.tool_calls, None if job.compensation is None else job.compensation.rule,
        tuple([(step.name, step.seq, _STEP[step.state], step.passed) for step in job.steps]),
    )  # fmt: skip


def _of_tally(job: Tally) -> tuple[object, ...]:
    return (
        job.state, job.attempt, job.failures, job.losses, job.round, job.cancel, job.priority,
        job.due_at, job.since, job.records, job.last_token, job.stood, job.dropped, job.operation,
        tuple([(name, seq) for name, seq, _ in job.signals]),
        (job.token, job.expires_at, job.principal, job.started) if job.token else (0, 0, "", False),
        None if job.wait is None else tuple(job.wait),
        job.calls, None if job.undoes is None else job.undoes.rule,
        tuple([(step.name, step.seq, step.state, step.passed) for step in job.steps]),
    )  # fmt: skip


def difference(engine: Engine, fold: Fold, places: Iterable[str]) -> str | None:
    """The first difference in jobs, or in their queues; None where there is none."""
    state = engine.state
    queues: dict[str, None] = {}
    for place in sorted(places):
        mine, theirs = fold.jobs.get(place), state.jobs.get(place)
        if mine is None or theirs is None:
            return f"do not agree on whether {place} exists"
        have, want = _of_job(theirs), _of_tally(mine)
        if have != want:
            return f"remembers of {place} {have}, the log says {want}"
        queues[mine.queue] = None
    if len(state.jobs) != len(fold.jobs):
        return f"remembers {len(state.jobs)} jobs, its log has {len(fold.jobs)}"
    for queue in queues:
        found = _in_queue(engine, fold, queue)
        if found is not None:
            return found
    return None


def _in_queue(engine: Engine, fold: Fold, queue: str) -> str | None:
    state, running, line = engine.state, fold.lines.running(queue), fold.lines.at(queue)
    keys = {job.given.concurrency_key for job in fold.jobs.values() if job.queue == queue} - {None}
    by_key = {key: sum(job.given.concurrency_key == key for job in running) for key in keys}
    theirs = state.queue(queue)
    have: Any = (
        theirs.mode.value, theirs.version, state.running_in(queue), state.pending_in(queue),
        {key: state.running_by_key(queue, cast("str", key)) for key in keys},
    )  # fmt: skip
    want = line.mode, line.version, len(running), len(fold.lines.pending(queue)), by_key
    return None if have == want else f"remembers of {queue} {have}, the log says {want}"


def difference_at_rest(engine: Engine, fold: Fold) -> str | None:
    """As `difference`, of everything, and of what the queues would give out in which order."""
    state = engine.state
    found = difference(engine, fold, set(fold.jobs) | set(state.jobs))
    if found is not None:
        return found
    for queue in sorted({job.queue for job in fold.jobs.values()}):
        line = copy.deepcopy(state.ready(queue))
        picked: list[Job] = []
        if line is not None:
            line.free_all()
            picked = line.pick(state.jobs, 1_000, lambda job: True, lambda job: None, lambda job: True)
        have, want = [f"{job.tenant}.{job.key}" for job in picked], fold.lines.order(queue)
        if have != want:
            return f"would give out {have}, the log says {want}"
    ops = {place: (op.done, op.ended is not None) for place, op in state.operations.items()}
    mine = {place: (op.done, op.ended) for place, op in fold.operations.known.items()}
    if ops != mine:
        return f"remembers operations {ops}, the log says {mine}"
    theirs = {
        place: (schedule.version, schedule.since, schedule.paused is not None, schedule.deleted is not None)
        for place, schedule in state.schedules.items()
    }
    ours = {
        place: (schedule.version, schedule.since, schedule.paused, schedule.deleted)
        for place, schedule in fold.timetable.schedules.items()
    }
    return None if theirs == ours else f"remembers schedules {theirs}, the log says {ours}"
