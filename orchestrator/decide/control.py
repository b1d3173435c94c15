"""Deciding what operators ask of a job: end it, open it again, hold it, answer it, change it."""

from __future__ import annotations

import msgspec

from writ.schemas import bounds
from writ.schemas.commands import (
    Approve,
    Cancel,
    Control,
    Drop,
    Edit,
    Pause,
    Redrive,
    Reject,
    Reopening,
    Rerun,
    Resume,
    Signal,
    Terminate,
)
from writ.schemas.events import (
    CancelRequested,
    DeadReason,
    Fact,
    JobCancelled,
    JobDropped,
    JobEdited,
    JobRedriven,
    JobRerun,
    JobResumed,
    JobSuspended,
    LeaseReleased,
    SignalReceived,
    WaitReason,
    type_names,
)
from writ.schemas.lifecycle import REFUSALS, TERMINAL, TRANSITIONS, Job, State, micros
from writ.schemas.lifecycle import Signal as Signalled
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import seal
from writ.schemas.submits import content_fault, filled_fault

from .death import cancelled, dead
from .depend import ask_approval
from .lease import ASKED, awaits_word
from .steps import outcome_fault

Outcome = tuple[Fact, ...] | Rejection
_NULL = b"null"
_RESUMABLE = (WaitReason.PAUSED, WaitReason.EXHAUSTED, WaitReason.DEPENDENCY)


def unknown(command: Control) -> Rejection:
    """The refusal of a command about a job that is not there."""
    return Rejection(RejectionKind.NOT_FOUND, f"there is no job {command.id} in this queue", "id")


def refused(job: Job, event: type[Fact], more: str = "") -> Rejection:
    """The table's refusal of an event in the job's state, with the states that it allows."""
    why = REFUSALS.get((job.state, event), "already_started")
    allowed = ", ".join([state for state in State if (state, event) in TRANSITIONS])
    return _conflict(f"{why}: job {job.id} is {job.state}{more}; allowed are {allowed}")


def _conflict(reason: str) -> Rejection:
    return Rejection(RejectionKind.CONFLICT, reason, "id")


def _allowed(job: Job, event: type[Fact]) -> bool:
    return (job.state, event) in TRANSITIONS


def cancel(job: Job | None, command: Cancel) -> Outcome:
    """Ends a waiting job at once; a running one is told at its next beat. None to store if already asked."""
    if job is None:
        return unknown(command)
    if job.state in TERMINAL:
        return refused(job, CancelRequested)
    if job.compensation is not None:
        return _ending(job)
    if job.state is State.RUNNING:
        return () if job.cancel is not None else (CancelRequested(command.reason),)
    return (CancelRequested(command.reason), cancelled(job, command.reason))


def _ending(job: Job) -> Rejection:
    reason = f"job {job.id} is ending, and undoes what its steps did; terminate ends it without that"
    return _conflict(f"already_ending: {reason}")


def terminate(job: Job | None, command: Terminate) -> Outcome:
    """Ends a job at once: a running one loses its lease here, and its worker hears that it is void.

    What its steps did is not undone.
    """
    if job is None:
        return unknown(command)
    if job.state in TERMINAL:
        return refused(job, CancelRequested)
    asked = (CancelRequested(command.reason),) if job.cancel is None else ()
    if job.lease is not None:
        released = LeaseReleased(job.attempt, job.lease.token, "terminated")
        return (*asked, released, JobCancelled(command.reason))
    return (*asked, JobCancelled(command.reason))


def answered(job: Job | None, command: Reopening, actor: str) -> Outcome | None:
    """What becomes of a command about another end than the job's last; None where there is none such.

    The decision that opened the job's round, come again, is done already: there is nothing to store.
    """
    answers = command.answers
    if job is None or answers is None or (job.state in TERMINAL and job.ended_by == answers):
        return None
    opened = job.reopened
    if opened is not None and opened.answers == answers:
        verb = JobRedriven if isinstance(command, Redrive) else JobRerun
        if (opened.by, opened.event, opened.reason) == (actor, type_names[verb], command.reason):
            return ()
        more = f"which record {opened.seq} has answered: {opened.event} by {opened.by}, {opened.reason}"
    elif job.state in TERMINAL:
        more = f"but the newest end of the job is record {job.ended_by}"
    else:
        last = f"record {job.ended_by}" if job.ended_by else "none yet"
        more = f"but the job is {job.state} in round {job.round}; its newest end is {last}"
    return Rejection(RejectionKind.CONFLICT, f"the command answers record {answers}, {more}", "answers")


def redrive(job: Job | None, command: Redrive, operation: str | None = None) -> Outcome:
    """Opens a new round of a dead letter."""
    if job is None:
        return unknown(command)
    if not _allowed(job, JobRedriven):
        return refused(job, JobRedriven, "; only a dead letter can be redriven")
    return (JobRedriven(job.ended_by, command.reason, operation),)


def drop(job: Job | None, command: Drop) -> Outcome:
    """Settles a dead letter for good: it stays dead, with the reason, and is listed no more."""
    if job is None:
        return unknown(command)
    if not _allowed(job, JobDropped):
        return refused(job, JobDropped, "; only a dead letter can be dropped")
    if job.dropped is not None:
        return _conflict(f"already dropped: job {job.id} was settled for good, as {job.dropped}")
    return (JobDropped(command.reason),)


def rerun(job: Job | None, command: Rerun, operation: str | None = None) -> Outcome:
    """Opens a new round of any finished job: from its start, or from one of its recorded steps on."""
    if job is None:
        return unknown(command)
    if not _allowed(job, JobRerun):
        return refused(job, JobRerun)
    kept = 0
    if command.from_step is not None:
        names = [step.name for step in job.steps]
        if command.from_step not in names:
            known = ", ".join([repr(name) for name in names]) or "none"
            reason = f"the job has no step {command.from_step!r} to run from; its recorded steps: {known}"
            return Rejection(RejectionKind.NOT_FOUND, reason[: bounds.REASON_MAX_CHARS], "from_step")
        kept = names.index(command.from_step)
    return (JobRerun(job.ended_by, command.reason, operation, kept),)


def pause(job: Job | None, command: Pause) -> Outcome:
    """Holds a job that does not run until it is resumed."""
    if job is None:
        return unknown(command)
    if job.state is State.RUNNING:
        return _conflict(f"not_suspendable: job {job.id} is running; only its task can suspend a running job")
    if not _allowed(job, JobSuspended):
        return refused(job, JobSuspended)
    if job.wait is not None:
        return _conflict(
            f"already suspended: job {job.id} waits for {job.wait.reason}; allowed are those that do not"
        )
    return (JobSuspended(WaitReason.PAUSED, f"paused: {command.reason}"),)


def resume(job: Job | None, command: Resume, now: int) -> Outcome:
    """Lets a job go on that was paused, whose attempts were used up, or that waits for others.

    Whoever the submit wants to be asked for approval is still asked.
    """
    if job is None:
        return unknown(command)
    if job.wait is None:
        return refused(job, JobResumed)
    if job.wait.reason not in _RESUMABLE:
        return _conflict(
            f"not_resumable: job {job.id} waits for {job.wait.reason}, which it gets by approve, reject or "
            f"signal; allowed are {', '.join(_RESUMABLE)}"
        )
    resumed = JobResumed(job.wait.reason, f"resumed: {command.reason}")
    if job.wait.reason is WaitReason.DEPENDENCY:
        return (resumed, *ask_approval(job.approval, now))
    return (resumed,)


def approve(job: Job | None, command: Approve) -> Outcome:
    """Says yes."""
    fault = _no_approval(job, command)
    if fault is None and job is not None and awaits_word(job):
        fault = outcome_fault(command.data)
    if fault is None and job is not None:
        fault = _data_fault(job, WaitReason.APPROVAL, command.data)
    if fault is not None:
        return fault
    assert job is not None
    assert job.wait is not None
    # A task that asked has to see the yes in what it is given, also one without data.
    said = bytes(command.data) != _NULL or job.wait.on == (ASKED,)
    data = seal(bytes(command.data)) if said else None
    return (JobResumed(WaitReason.APPROVAL, f"approved: {command.reason}", data),)


def reject(job: Job | None, command: Reject) -> Outcome:
    """Says no."""
    fault = _no_approval(job, command)
    if fault is not None:
        return fault
    assert job is not None
    return (dead(job, DeadReason.REJECTED, f"rejected: {command.reason}"),)


def _no_approval(job: Job | None, command: Control) -> Rejection | None:
    if job is None:
        return unknown(command)
    if job.wait is None:
        return refused(job, JobResumed)
    if job.wait.reason is not WaitReason.APPROVAL:
        return _conflict(f"not_for_approval: job {job.id} waits for {job.wait.reason}, not for approval")
    return None


def signal(job: Job | None, command: Signal) -> Outcome:
    """Hands data to a job; one that waits for that name goes on with it."""
    if job is None:
        return unknown(command)
    if not _allowed(job, SignalReceived):
        return refused(job, SignalReceived)
    fault = _data_fault(job, command.name, command.data)
    if fault is not None:
        return fault
    received = SignalReceived(command.name, seal(bytes(command.data)))
    wait = job.wait
    if wait is not None and wait.reason is WaitReason.SIGNAL and command.name in wait.on:
        return (received, JobResumed(WaitReason.SIGNAL, f"signal {command.name} came"))
    return (received,)


def _data_fault(job: Job, name: str, data: msgspec.Raw) -> Rejection | None:
    """Why a job cannot take data from outside: a grant hands over all that came in the round at once."""
    fault = content_fault("data", data)
    if fault is not None:
        return fault
    size = sum(each.size_bytes for each in (*job.signals, Signalled(name, seal(bytes(data)), 0)))
    if size <= bounds.SIGNALS_MAX_BYTES:
        return None
    reason = (
        f"data {name} of {len(bytes(data))} bytes would have job {job.id} hold {size} bytes of signals; "
        f"at most {bounds.SIGNALS_MAX_BYTES} are held"
    )
    return Rejection(RejectionKind.TOO_LARGE, reason, "data")


def edit(job: Job | None, command: Edit, now: int) -> Outcome:
    """Changes a job that has not started."""
    if job is None:
        return unknown(command)
    if not _allowed(job, JobEdited) or job.attempt:
        more = f" in attempt {job.attempt}; only a job that has not started can be edited"
        return refused(job, JobEdited, more)
    if not isinstance(command.input, msgspec.UnsetType):
        fault = content_fault("input", command.input) or filled_fault(job.input_from, command.input)
        if fault is not None:
            return fault
    due_at = None if command.not_before is None else max(now, micros(command.not_before.timestamp()))
    content = None if isinstance(command.input, msgspec.UnsetType) else seal(bytes(command.input))
    return (JobEdited(command.reason, command.priority, due_at, content),)
