"""Deciding what the end of one job means for others: those that come after it, and its children."""

from __future__ import annotations

from collections.abc import Callable

from writ.schemas.events import (
    Approval,
    CancelRequested,
    DeadReason,
    Fact,
    JobResumed,
    JobSuspended,
    OnDead,
    OnParentEnd,
    WaitReason,
)
from writ.schemas.lifecycle import TERMINAL, Job, State, micros
from writ.schemas.links import Afar

from .death import cancelled, dead

Known = Job | Afar
"""A job of this partition, or what is known of one of another."""

Find = Callable[[str], Known | None]
"""A job of the same tenant by its key."""


def awaited(job: Job, find: Find) -> tuple[str, ...]:
    """The keys that a job still waits for."""
    return tuple([key for key in job.after if not ended(find(key))])


def ended(found: Known | None) -> bool:
    """Whether a job is known to have ended."""
    return found is not None and found.state in TERMINAL


def _how(found: Known) -> str:
    """How a job stands, in words."""
    return "nowhere to be found" if isinstance(found, Afar) and found.gone else str(found.state)


def on_submit(job: Job, find: Find) -> tuple[Fact, ...]:
    """What a new job's `after` makes of it: nothing where all have completed."""
    failed = _first_failed(job, find)
    if failed is not None:
        return _otherwise(job, failed)
    open_ = awaited(job, find)
    if not open_:
        return ()
    return (JobSuspended(WaitReason.DEPENDENCY, f"waits for {len(open_)} of {len(job.after)} jobs", open_),)


def ask_approval(approval: Approval | None, now: int) -> tuple[Fact, ...]:
    """The wait of a job that a person must allow first; nothing where nobody need be asked."""
    if approval is None:
        return ()
    until = None if approval.timeout_s is None else now + micros(approval.timeout_s)
    rule = "the submit asks for approval"
    return (JobSuspended(WaitReason.APPROVAL, rule, until=until, on_timeout=approval.on_timeout),)


def on_ended(job: Job, find: Find, now: int) -> tuple[Fact, ...]:
    """What the end of one that it waits for makes of a suspended job."""
    if job.wait is None or job.wait.reason is not WaitReason.DEPENDENCY:
        return ()
    failed = _first_failed(job, find)
    if failed is not None:
        return _otherwise(job, failed)
    if awaited(job, find):
        return ()
    rule = f"all {len(job.after)} jobs it comes after have completed"
    return (JobResumed(WaitReason.DEPENDENCY, rule), *ask_approval(job.approval, now))


def _first_failed(job: Job, find: Find) -> Known | None:
    if job.on_dead is OnDead.RUN:
        return None
    for key in job.after:
        found = find(key)
        if found is not None and found.state in (State.DEAD, State.CANCELLED):
            return found
    return None


def _otherwise(job: Job, failed: Known) -> tuple[Fact, ...]:
    rule = f"{failed.key}, which it comes after, is {_how(failed)}; on_dead is {job.on_dead}"
    match job.on_dead:
        case OnDead.DEAD_LETTER:
            return (dead(job, DeadReason.DEPENDENCY, rule),)
        case OnDead.CANCEL:
            return (cancelled(job, rule),)
        case OnDead.SUSPEND:
            # Told once; a person resumes, cancels, or redrives what failed.
            told = job.wait is not None and job.wait.on == (failed.key,)
            return () if told else (JobSuspended(WaitReason.DEPENDENCY, rule, (failed.key,)),)
        case OnDead.RUN:
            return ()


def on_parent_ended(child: Job, parent: Known) -> tuple[Fact, ...]:
    """What the end of its parent makes of a child, also of one that was taken in after that end."""
    if parent.state not in TERMINAL or parent.state is State.COMPLETED:
        return ()
    if child.on_parent_end is OnParentEnd.ABANDON or child.state in TERMINAL or child.cancel is not None:
        return ()
    if child.compensation is not None:
        return ()  # it ends anyway, when what its steps did is undone
    if child.reopened is not None and child.reopened.seq > parent.ended_by:
        return ()  # an operator wants it all the same
    reason = f"its parent {parent.key} is {_how(parent)}"
    if child.state is State.RUNNING:
        return (CancelRequested(reason),)
    return (CancelRequested(reason), cancelled(child, reason))


def on_child_ended(parent: Job, find: Find) -> tuple[Fact, ...]:
    """A parent that waits for its children goes on when the last of those it waits for has ended."""
    wait = parent.wait
    if wait is None or wait.reason is not WaitReason.CHILD:
        return ()
    if not all(ended(find(key)) for key in wait.on):
        return ()
    return (children_ended(len(wait.on)),)


def children_ended(count: int) -> JobResumed:
    """What a parent that waited for so many goes on with."""
    return JobResumed(WaitReason.CHILD, f"all {count} children it waits for have ended")
