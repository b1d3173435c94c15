"""Deciding what a worker asks and reports: grants, beats, ends. The fencing token is checked here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec
from msgspec.structs import replace

from writ.schemas import bounds
from writ.schemas.commands import Acquire, Completion, Failure, Progress, Snooze, Suspend
from writ.schemas.errors import AttemptError
from writ.schemas.events import (
    AttemptFailed,
    AttemptStarted,
    DeadReason,
    Fact,
    JobCompleted,
    JobResumed,
    JobSnoozed,
    JobSuspended,
    LeaseGranted,
    LeaseReleased,
    ProgressReported,
    WaitReason,
)
from writ.schemas.lifecycle import Job, State, micros
from writ.schemas.policy import Isolation
from writ.schemas.processes import Process
from writ.schemas.queues import Queue
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import Sealed, seal
from writ.schemas.steps import CompensationEnded, Steps, StepState, owing
from writ.schemas.submits import content_fault, malformed

from .death import cancelled, compensated, dead
from .depend import Find, children_ended, ended
from .release import choose
from .retry import after_failure

_encode = msgspec.json.Encoder().encode
ASKED = "asked by the task"
"""What a job waits for whose task asks a person; no signal's name holds a blank."""

_ABOUT = "step {}"
"""What a job waits for that asks about a step; no signal's name holds a blank."""

ASKS = "the task asks for approval: "
_CUT = "\n[cut: {} characters in all]"


class Repeated(msgspec.Struct, frozen=True):
    """The same report was accepted before: nothing to store, and no refusal."""


def wanted(job: Job, command: Acquire, process: Process | None = None) -> bool:
    """Whether the worker runs this job's task, and holds the release that it would get, if there is one."""
    if command.tasks and job.task not in command.tasks:
        return False
    if job.process is None:
        return True
    digest = choose(job, process).digest
    return digest is None or digest in command.releases


def filled_bytes(job: Job, find: Find) -> int:
    """About what a job's input weighs once it is filled."""
    size_bytes = job.input.size_bytes
    for field, key in job.input_from.items():
        before = find(key)
        if before is not None and before.output is not None:
            size_bytes += before.output.size_bytes + len(field.encode())
    return size_bytes


def hopeless(job: Job, filled_bytes: int) -> tuple[Fact, ...]:
    """The end of a pending job that no worker may be given any more; nothing where one may.

    `filled_bytes` is what its input weighs with what `input_from` puts into it.
    """
    most = bounds.HISTORY_MAX_RECORDS
    if job.records >= most:
        rule = f"the history holds {job.records} records; at most {most} are allowed"
        return (dead(job, DeadReason.HISTORY_LIMIT, rule),)
    most = bounds.FILLED_MAX_BYTES
    if job.input_from and filled_bytes > most:
        rule = f"the input, filled by input_from, has {filled_bytes} bytes; at most {most} are allowed"
        return (dead(job, DeadReason.DEPENDENCY, rule),)
    return ()


def grant(
    job: Job,
    command: Acquire,
    principal: str,
    actor: str,
    reserved_microusd: int = 0,
    process: Process | None = None,
) -> tuple[Fact, ...]:
    """A lease for a pending job. `actor` is the record's, which the event need not repeat.

    `process` is the one that the job asks for a release of.
    """
    assert job.state is State.PENDING, f"{job.key} is {job.state}"
    named = None if principal == actor else principal
    release = None if job.process is None else choose(job, process).digest
    attempt = job.attempt + 1
    labels = command.labels if job.requires else {}
    offered, reserved = command.isolation, reserved_microusd
    return (LeaseGranted(command.worker, attempt, named, offered, reserved, release, labels),)


def waited_ms(job: Job) -> int | None:
    """How long a job was ready before the first lease of its round; None where it also waited for others."""
    if job.lease is None or job.attempt > 1 or job.stood_us:
        return None
    return max(0, job.lease.granted_at - max(job.due_at, job.round_at)) // 1_000


def too_open(queue: Queue, offered: Isolation) -> Rejection | None:
    """Why a worker that keeps attempts apart so far gets no lease of a queue; None where it may."""
    least = queue.policy.isolation
    if offered.reaches(least):
        return None
    reason = (
        f"version {queue.version} of the queue's policy wants isolation {least}, and this worker offers "
        f"{offered}: start it with --isolate {least}"
    )
    return Rejection(RejectionKind.CONFLICT, reason, "isolation")


class Claim(Protocol):
    """A job and the token under which somebody speaks for it: a held lease, or a report."""

    @property
    def id(self) -> str: ...

    @property
    def token(self) -> int: ...


def fence(job: Job | None, claim: Claim, principal: str, index: int | None = None) -> Rejection | None:
    """Why whoever makes the claim may not speak for the job; None where theirs is the live lease."""
    token = claim.token
    if job is None:
        reason = f"there is no job {claim.id} in this queue; token {token} is void"
        return Rejection(RejectionKind.NOT_FOUND, reason, "id", index)
    lease = job.lease
    if lease is None:
        last = f"its last lease had token {job.last_token}" if job.last_token else "it was never leased"
        reason = f"the job is {job.state}, and {last}; token {token} is void"
        return Rejection(RejectionKind.STALE, reason, "token", index)
    if token != lease.token:
        reason = f"the live lease has token {lease.token}, held by {lease.worker}; token {token} is void"
        return Rejection(RejectionKind.STALE, reason, "token", index)
    if principal != lease.principal:
        reason = f"the lease was granted to principal {lease.principal}, not to {principal}"
        return Rejection(RejectionKind.STALE, reason, "token", index)
    return None


def complete(
    job: Job | None, report: Completion, principal: str, index: int | None
) -> tuple[Fact, ...] | Repeated | Rejection:
    if job is not None and job.state is State.COMPLETED and report.token == job.last_token:
        return Repeated()
    void = fence(job, report, principal, index)
    if void is not None:
        return void
    assert job is not None
    output = None
    if bytes(report.output) != b"null":
        fault = content_fault("output", report.output, index)
        if fault is not None:
            return fault
        output = seal(bytes(report.output))
    if job.compensation is not None:
        if owing(job.steps):
            return replace(still_owed(job.steps), index=index)
        return (CompensationEnded(job.attempt, report.token, report.run_ms), compensated(job))
    return (JobCompleted(job.attempt, report.token, output, report.run_ms, report.isolation),)


def fail(
    job: Job | None,
    queue: Queue,
    report: Failure,
    principal: str,
    index: int | None,
    now: int,
    seed: float,
    sealing: Callable[[bytes], Sealed] = seal,
) -> tuple[Fact, ...] | Repeated | Rejection:
    """`sealing` is the job's own: a report told twice is known by it, and so is the cause of a death."""
    error = AttemptError(report.class_, report.type, error_text(report.text, sealing))
    if job is not None and report.token == job.last_token and error == job.error and _ended_by_failure(job):
        return Repeated()
    void = fence(job, report, principal, index)
    if void is not None:
        return void
    assert job is not None
    failed = AttemptFailed(
        job.attempt,
        report.token,
        error,
        report.run_ms,
        report.retry_after_s,
        report.isolation,
        report.crashed,
        report.permanent,
    )
    return after_failure(job, queue, failed, now, seed)


def error_text(text: str, sealing: Callable[[bytes], Sealed] = seal) -> Sealed | None:
    """A text of an error as the log keeps it: cut where it is too long."""
    if len(text) > bounds.ERROR_TEXT_MAX_CHARS:
        note = _CUT.format(len(text))
        text = text[: bounds.ERROR_TEXT_MAX_CHARS - len(note)] + note
    return sealing(_encode(text)) if text else None


def _ended_by_failure(job: Job) -> bool:
    """Whether the newest lease surely ended by a failure, not by expiry or release after an earlier one."""
    if job.state is State.DEAD:
        return job.dead in (DeadReason.EXHAUSTED, DeadReason.NON_RETRYABLE, DeadReason.POLICY)
    if job.wait is not None:
        return job.wait.reason is WaitReason.EXHAUSTED
    return job.state is State.RETRYING


def start(
    job: Job | None, held: Claim, principal: str, index: int | None
) -> tuple[Fact, ...] | Repeated | Rejection:
    void = fence(job, held, principal, index)
    if void is not None:
        return void
    assert job is not None
    assert job.lease is not None
    if job.lease.started_at is not None:
        return Repeated()
    return (AttemptStarted(job.attempt, held.token),)


def release(
    job: Job | None, held: Claim, principal: str, reason: str, index: int | None
) -> tuple[Fact, ...] | Repeated | Rejection:
    # A release said twice is stale the second time: the job does not tell how its last lease ended.
    void = fence(job, held, principal, index)
    if void is not None:
        return void
    assert job is not None
    released = LeaseReleased(job.attempt, held.token, reason)
    if job.stops is not None:
        return (released, cancelled(job, job.stops))
    return (released,)


def snooze(
    job: Job | None, command: Snooze, principal: str, now: int
) -> tuple[Fact, ...] | Repeated | Rejection:
    """The task asks to be run later: its lease ends, and no attempt is used up."""
    void = fence(job, command, principal)
    if void is not None:
        return void
    assert job is not None
    snoozed = JobSnoozed(job.attempt, command.token, now + micros(command.delay_s))
    if job.stops is not None:
        return (LeaseReleased(job.attempt, command.token, "snooze"), cancelled(job, job.stops))
    return (snoozed,)


def suspend(
    job: Job | None, command: Suspend, principal: str, now: int, find: Find
) -> tuple[Fact, ...] | Repeated | Rejection:
    """The task waits: its lease and slot end here. What has come already resumes it at once."""
    void = fence(job, command, principal)
    if void is not None:
        return void
    assert job is not None
    if job.stops is not None:
        return (LeaseReleased(job.attempt, command.token, "suspend"), cancelled(job, job.stops))
    reason = WaitReason(command.reason)
    if reason is WaitReason.SIGNAL and command.on is None:
        return malformed("on is missing; a wait for a signal names it there", "on")
    until = None if command.timeout_s is None else now + micros(command.timeout_s)
    children = command.children
    if command.step is not None:
        return _asks_about_step(job, command, reason, until)
    if command.asks is not None:
        if reason is not WaitReason.APPROVAL:
            return malformed(f"asks is for a wait for approval, not for {reason}", "asks")
        rule = f"{ASKS}{command.asks}"
        return (JobSuspended(reason, rule, (ASKED,), until, command.on_timeout, job.attempt, command.token),)
    if reason is WaitReason.CHILD and not children:
        return malformed("children is empty; a wait for children names them there", "children")
    for key in children:
        if find(key) is None:
            return Rejection(RejectionKind.NOT_FOUND, f"there is no job {key} to wait for", "children")
    if reason is WaitReason.CHILD:
        on = tuple([key for key in children if not ended(find(key))])
        rule = f"the task waits for {len(on)} of {len(children)} children"
    else:
        on = () if command.on is None else (command.on,)
        rule = f"the task waits for {reason}{' ' + command.on if command.on else ''}"
    waits = JobSuspended(reason, rule, on, until, command.on_timeout, job.attempt, command.token)
    if reason is WaitReason.CHILD and not on:
        return (waits, children_ended(len(children)))
    if reason is WaitReason.SIGNAL and any(
        s.name == command.on and s.seq > command.seen for s in job.signals
    ):
        return (waits, JobResumed(reason, f"signal {command.on} had come already"))
    return (waits,)


def _asks_about_step(
    job: Job, command: Suspend, reason: WaitReason, until: int | None
) -> tuple[Fact, ...] | Rejection:
    """A person is to say whether a step was done."""
    number = command.step or 0
    step = job.steps[number - 1] if number <= len(job.steps) else None
    if reason is not WaitReason.APPROVAL or step is None or step.state is not StepState.INTENDED:
        told = "there is none such" if step is None else f"it is {step.state}"
        return malformed(f"step {number} is not one to ask about, for {reason}: {told}", "step")
    rule = (
        f"the outcome of step {number}, {step.name!r}, is unknown: attempt {step.attempt} ended within it. "
        'Approve with {"done": true, "result": ...} or {"done": false}'
    )
    on = (_ABOUT.format(number),)
    return (JobSuspended(reason, rule, on, until, command.on_timeout, job.attempt, command.token),)


def about_step(on: tuple[str, ...]) -> int | None:
    """The number of the step that a wait asks about; None where it asks about none."""
    head, blank, number = on[0].partition(" ") if len(on) == 1 else ("", "", "")
    return int(number) if blank and head == _ABOUT.partition(" ")[0] and number.isdigit() else None


def awaits_word(job: Job) -> bool:
    """Whether the job waits for a person's word about a step."""
    about = [_ABOUT.format(number) for number in range(1, len(job.steps) + 1)]
    return job.wait is not None and any(on in about for on in job.wait.on)


def progress(job: Job | None, command: Progress, principal: str) -> tuple[Fact, ...] | Repeated | Rejection:
    """What the attempt says of itself."""
    void = fence(job, command, principal)
    if void is not None:
        return void
    fault = content_fault("progress", command.progress)
    if fault is not None:
        return fault
    assert job is not None
    return (ProgressReported(job.attempt, command.token, seal(bytes(command.progress))),)


def still_owed(steps: Steps) -> Rejection:
    """The refusal of a compensation said to be over too early."""
    numbers = ", ".join([f"{number} ({steps[number - 1].name})" for number in owing(steps)])
    return Rejection(RejectionKind.CONFLICT, f"steps that are not undone yet: {numbers}", "output")
