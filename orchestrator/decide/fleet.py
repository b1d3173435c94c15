"""Deciding which workers are granted nothing."""

from __future__ import annotations

from writ.schemas.bounds import DRAINED_MAX
from writ.schemas.events import Fact
from writ.schemas.fleet import DrainWorker, Fleet, UndrainWorker, WorkerDrained, WorkerUndrained
from writ.schemas.rejections import Rejection, RejectionKind


def drain(fleet: Fleet, command: DrainWorker) -> tuple[Fact, ...] | Rejection:
    """Drains a worker, whether it was heard of or not; nothing to store where it is drained."""
    if command.worker in fleet.drained:
        return ()
    if len(fleet.drained) >= DRAINED_MAX:
        reason = f"{len(fleet.drained)} workers are drained, and at most {DRAINED_MAX} may be: undrain some"
        return Rejection(RejectionKind.TOO_LARGE, reason, "worker")
    return (WorkerDrained(command.reason),)


def undrain(fleet: Fleet, command: UndrainWorker) -> tuple[Fact, ...]:
    """Lets a drained worker work again; nothing to store where it is not drained."""
    return (WorkerUndrained(command.reason),) if command.worker in fleet.drained else ()
