"""The ends of jobs that did not complete: dead letters and cancellations, each with its reason.

Where recorded steps of the job can be undone, its end waits until they are: see `CompensationDue`.
"""

from __future__ import annotations

from writ.schemas.causes import fingerprint
from writ.schemas.errors import AttemptError
from writ.schemas.events import DeadReason, JobCancelled, JobDeadLettered
from writ.schemas.lifecycle import Job
from writ.schemas.steps import CompensationDue, owing


def dead(
    job: Job, reason: DeadReason, rule: str, error: AttemptError | None = None
) -> JobDeadLettered | CompensationDue:
    """The end of a job, with the fingerprint of its cause; `error` is what brought it about, if one did."""
    cause = fingerprint(job.task, reason, error)
    if job.compensation is not None:
        rule = f"{job.compensation.rule}; what its steps did is not undone: {rule}"
    elif reason is not DeadReason.HISTORY_LIMIT and owing(job.steps):
        return CompensationDue(rule, reason, cause)
    return JobDeadLettered(reason, rule, cause)


def cancelled(job: Job, reason: str) -> JobCancelled | CompensationDue:
    """The end of a job that somebody, or a rule, wants to end."""
    if job.compensation is not None:
        return JobCancelled(f"{job.compensation.rule}; what its steps did is not undone: {reason}")
    return CompensationDue(reason) if owing(job.steps) else JobCancelled(reason)


def compensated(job: Job) -> JobDeadLettered | JobCancelled:
    """The end that waited until all was undone."""
    end = job.compensation
    assert end is not None
    if end.dead is None:
        return JobCancelled(end.rule)
    return JobDeadLettered(end.dead, end.rule, end.cause)
