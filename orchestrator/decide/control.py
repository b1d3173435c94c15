"""Deciding what operators ask: cancel, redrive."""

from __future__ import annotations

from writ.schemas.commands import Cancel, Redrive
from writ.schemas.events import CancelRequested, Fact, JobCancelled, JobRedriven
from writ.schemas.lifecycle import REFUSALS, TERMINAL, Job, State
from writ.schemas.rejections import Rejection, RejectionKind

_UNKNOWN = Rejection(RejectionKind.NOT_FOUND, "no such job in this queue", "id")


def cancel(job: Job | None, command: Cancel) -> tuple[Fact, ...] | Rejection:
    """Ends a waiting job at once; a running one is told at its next beat. None to store if already asked."""
    if job is None:
        return _UNKNOWN
    if job.state in TERMINAL:
        why = REFUSALS[job.state, CancelRequested]
        return Rejection(RejectionKind.CONFLICT, f"{why}: the job is {job.state}", "id")
    if job.state is State.RUNNING:
        return () if job.cancel is not None else (CancelRequested(command.reason),)
    return (CancelRequested(command.reason), JobCancelled(command.reason))


def redrive(job: Job | None, command: Redrive) -> tuple[Fact, ...] | Rejection:
    """Opens a new round of a dead letter."""
    if job is None:
        return _UNKNOWN
    if job.state is not State.DEAD:
        why = REFUSALS[job.state, JobRedriven]
        return Rejection(
            RejectionKind.CONFLICT, f"{why}: the job is {job.state}; only a dead letter can be", "id"
        )
    return (JobRedriven(job.ended_by, command.reason),)
