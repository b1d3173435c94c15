"""Deciding what the passing of time does to a job."""

from __future__ import annotations

from writ.schemas.errors import AttemptError, ErrorClass
from writ.schemas.events import AttemptFailed, DeadReason, Fact, JobDeadLettered, JobDue
from writ.schemas.lifecycle import TERMINAL, Job, State, job_deadline, micros

from .retry import after_failure, after_lost_lease


def due(job: Job, now: int, seed: float) -> tuple[Fact, ...]:
    """The events that are due at log time `now`; none where nothing is."""
    if job.state in TERMINAL:
        return ()
    if job.lease is not None:
        return _running(job, now, seed)
    limits = job.limits
    if (
        job.attempt == 0
        and limits.expires_in_s is not None
        and job.round_at + micros(limits.expires_in_s) <= now
    ):
        rule = f"not started within expires_in_s {limits.expires_in_s}"
        return (JobDeadLettered(DeadReason.EXPIRED, rule),)
    if job_deadline(job) <= now:
        return (_timed_out(job),)
    if job.state in (State.SCHEDULED, State.RETRYING) and job.due_at <= now:
        return (JobDue(),)
    return ()


def _running(job: Job, now: int, seed: float) -> tuple[Fact, ...]:
    lease, limits = job.lease, job.limits
    assert lease is not None
    over = job_deadline(job) <= now
    if over or lease.granted_at + micros(limits.attempt_timeout_s) <= now:
        kind = "JobTimeout" if over else "AttemptTimeout"
        error = AttemptError(ErrorClass.TIMEOUT, kind)
        failed = AttemptFailed(job.attempt, lease.token, error)
        if over and job.cancel is None:
            return (failed, _timed_out(job))
        return after_failure(job, failed, now, seed)
    if lease.expires_at <= now:
        return after_lost_lease(job)
    return ()


def _timed_out(job: Job) -> JobDeadLettered:
    rule = f"not finished within job_timeout_s {job.limits.job_timeout_s}"
    return JobDeadLettered(DeadReason.JOB_TIMEOUT, rule)
