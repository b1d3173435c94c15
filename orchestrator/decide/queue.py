"""Deciding what operators ask of a queue or a batch."""

from __future__ import annotations

from collections.abc import Callable

from writ.schemas.commands import Declare, DrainQueue, PauseQueue, ResumeQueue, SealBatch
from writ.schemas.events import BatchSealed, Fact, QueueDeclared, QueueDraining, QueuePaused, QueueResumed
from writ.schemas.ids import LANE_MARK, lanes_of, queue_fault, queue_of
from writ.schemas.lifecycle import Job
from writ.schemas.queues import Mode, Queue
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.submits import malformed, retry_fault

Outcome = tuple[Fact, ...] | Rejection


def declare(queue: Queue, command: Declare, name: str, keyed: Callable[[], Job | None]) -> Outcome:
    """The next version of a queue's policy; nothing to store where it says the same.

    `keyed` finds a live job of it that has a unique key.
    """
    fault = retry_fault(command.policy.retry, "policy.retry") or _lanes_fault(queue, command, name, keyed)
    if fault is not None:
        return fault
    if queue.version and queue.policy == command.policy:
        return ()  # also where it is asked for twice, of the version before
    if command.version is not None and command.version != queue.version:
        reason = f"version is {command.version}, and the policy is of version {queue.version}: look again"
        return Rejection(RejectionKind.CONFLICT, reason, "version")
    return (QueueDeclared(queue.version + 1, command.policy, command.reason),)


def _lanes_fault(
    queue: Queue, command: Declare, name: str, keyed: Callable[[], Job | None]
) -> Rejection | None:
    """Why a queue cannot have so many lanes: another number would pick others for live keys."""
    was, lanes = queue.policy.lanes, command.policy.lanes
    if LANE_MARK in name and name not in lanes_of(queue_of(name), lanes):
        reason = f"{name} is no lane of a queue with lanes = {lanes}; declare the queue, {queue_of(name)}"
        return Rejection(RejectionKind.CONFLICT, reason, "policy.lanes")
    if was == lanes:
        return None
    unnamed = next((fault for lane in lanes_of(queue_of(name), lanes) if (fault := queue_fault(lane))), None)
    if unnamed is not None:
        return malformed(f"lanes is {lanes}, and none can be named: {unnamed}", "policy.lanes")
    if was > 1:
        reason = (
            f"lanes is {lanes}, and the queue has {was} for good; a queue of another name may have {lanes}"
        )
        return Rejection(RejectionKind.CONFLICT, reason, "policy.lanes")
    live = keyed()
    if live is None:
        return None
    reason = (
        f"lanes is {lanes}, and the live job {live.key} has the unique_key {live.unique_key}, which may pick "
        "another lane: declare it again when no live job of the queue has one"
    )
    return Rejection(RejectionKind.CONFLICT, reason, "policy.lanes", None, live.key)


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
