"""Deciding what operators ask of a queue or a batch."""

from __future__ import annotations

from writ.schemas.commands import Declare, DrainQueue, PauseQueue, ResumeQueue, SealBatch
from writ.schemas.events import BatchSealed, Fact, QueueDeclared, QueueDraining, QueuePaused, QueueResumed
from writ.schemas.queues import Mode, Queue
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.submits import retry_fault

Outcome = tuple[Fact, ...] | Rejection


def declare(queue: Queue, command: Declare) -> Outcome:
    """The next version of a queue's policy; nothing to store where it says the same."""
    fault = retry_fault(command.policy.retry, "policy.retry")
    if fault is not None:
        return fault
    if queue.version and queue.policy == command.policy:
        return ()  # also where it is asked for twice, of the version before
    if command.version is not None and command.version != queue.version:
        reason = f"version is {command.version}, and the policy is of version {queue.version}: look again"
        return Rejection(RejectionKind.CONFLICT, reason, "version")
    return (QueueDeclared(queue.version + 1, command.policy, command.reason),)


def pause(queue: Queue, command: PauseQueue) -> Outcome:
    """No more grants."""
    return () if queue.mode is Mode.PAUSED else (QueuePaused(command.reason),)


def drain(queue: Queue, command: DrainQueue) -> Outcome:
    """No more submits."""
    return () if queue.mode is Mode.DRAINING else (QueueDraining(command.reason),)


def resume(queue: Queue, command: ResumeQueue) -> Outcome:
    """Open again."""
    return () if queue.mode is Mode.OPEN else (QueueResumed(command.reason),)


def seal(known_size: int | None, jobs: int, command: SealBatch) -> Outcome:
    """Gives a batch its size, once. `jobs` is how many it has now."""
    if known_size == command.size:
        return ()
    if known_size is not None:
        reason = f"batch {command.batch} was sealed with size {known_size}; it cannot be given {command.size}"
        return Rejection(RejectionKind.CONFLICT, reason, "size")
    if jobs > command.size:
        reason = f"batch {command.batch} has {jobs} jobs already; size {command.size} is too small"
        return Rejection(RejectionKind.CONFLICT, reason, "size")
    return (BatchSealed(command.size, command.reason),)
