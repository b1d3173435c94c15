"""Deciding what the passing of time does to a job."""

from __future__ import annotations

from writ.schemas.errors import AttemptError, ErrorClass
from writ.schemas.events import (
    AttemptFailed,
    DeadReason,
    Fact,
    JobDue,
    JobResumed,
    OnTimeout,
)
from writ.schemas.lifecycle import TERMINAL, Job, State, job_deadline, micros
from writ.schemas.queues import Queue

from .death import dead
from .retry import after_failure, after_lost_lease


def due(job: Job, queue: Queue, now: int, seed: float) -> tuple[Fact, ...]:
    """The events that are due at log time `now`; none where nothing is."""
    if job.state in TERMINAL:
        return ()
    if job.lease is not None:
        return _running(job, queue, now, seed)
    if job.wait is not None:
        return _wait_over(job, now)
    limits = job.limits
    if (
        job.attempt == 0
        and job.compensation is None
        and limits.expires_in_s is not None
        and job.round_at + job.stood_us + micros(limits.expires_in_s) <= now
    ):
        rule = f"not started within expires_in_s {limits.expires_in_s}"
        return (dead(job, DeadReason.EXPIRED, rule),)
    if job_deadline(job) <= now:
        return (_timed_out(job),)
    if job.state in (State.SCHEDULED, State.RETRYING) and job.due_at <= now:
        return (JobDue(),)
    return ()


def _wait_over(job: Job, now: int) -> tuple[Fact, ...]:
    wait = job.wait
    assert wait is not None
    if wait.until is None or wait.until > now:
        return ()
    rule = f"nobody came: the wait for {wait.reason} ran out, and on_timeout is {wait.on_timeout}"
    if wait.on_timeout is OnTimeout.RESUME:
        return (JobResumed(wait.reason, rule),)
    return (dead(job, DeadReason.WAIT_TIMEOUT, rule),)


def _running(job: Job, queue: Queue, now: int, seed: float) -> tuple[Fact, ...]:
    lease, limits = job.lease, job.limits
    assert lease is not None
    over = job_deadline(job) <= now
    if over or lease.granted_at + micros(limits.attempt_timeout_s) <= now:
        kind = "JobTimeout" if over else "AttemptTimeout"
        error = AttemptError(ErrorClass.TIMEOUT, kind)
        failed = AttemptFailed(job.attempt, lease.token, error)
        if over and job.stops is None:
            return (failed, _timed_out(job))
        return after_failure(job, queue, failed, now, seed)
    if lease.expires_at <= now:
        return after_lost_lease(job)
    return ()


def _timed_out(job: Job) -> Fact:
    rule = f"not finished within job_timeout_s {job.limits.job_timeout_s}"
    return dead(job, DeadReason.JOB_TIMEOUT, rule)
