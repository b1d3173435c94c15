"""The state of a queue: its policy, whether it is open, and its token buckets. `evolve_queue` folds it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import replace

from .buckets import Bucket
from .events import Fact, QueueDeclared, QueueDraining, QueuePaused, QueueResumed
from .policy import QueuePolicy


class Mode(StrEnum):
    """Whether a queue takes submits and grants leases."""

    OPEN = "open"
    PAUSED = "paused"
    """Takes submits, grants nothing."""

    DRAINING = "draining"
    """Grants, takes no submits."""


class Queue(msgspec.Struct, frozen=True, gc=False):
    """A queue that somebody declared or paused; one that nobody did has the built-in policy, version 0."""

    policy: QueuePolicy = QueuePolicy()
    version: int = 0
    mode: Mode = Mode.OPEN
    reason: str = ""
    grants: Bucket | None = None
    retries: Bucket | None = None

    def grant_tokens(self, now: int) -> int | None:
        """Leases that the rate allows at `now`; None where there is no rate."""
        policy = self.policy
        if policy.rate_per_s is None:
            return None
        if self.grants is None:
            return policy.burst
        return max(0, int(self.grants.level(now, policy.rate_per_s, policy.burst)))

    def next_grant_at(self, now: int) -> int:
        """Log time at which the rate allows a lease."""
        policy = self.policy
        if policy.rate_per_s is None or self.grants is None:
            return now
        return self.grants.full_at(now, policy.rate_per_s, policy.burst)

    def retry_at(self, now: int) -> int:
        """Log time from which the retry budget allows another retry to start."""
        per_min = self.policy.retries_per_min
        if per_min is None or self.retries is None:
            return now
        return self.retries.full_at(now, per_min / 60, per_min)


BUILT_IN: Final = Queue()


def granted(queue: Queue, at: int) -> Queue:
    """The queue after a lease was granted in it."""
    policy = queue.policy
    if policy.rate_per_s is None:
        return queue
    bucket = queue.grants or Bucket(float(policy.burst), at)
    return replace(queue, grants=bucket.take(at, policy.rate_per_s, policy.burst))


def retried(queue: Queue, at: int) -> Queue:
    """The queue after a retry was scheduled in it."""
    per_min = queue.policy.retries_per_min
    if per_min is None:
        return queue
    bucket = queue.retries or Bucket(float(per_min), at)
    return replace(queue, retries=bucket.take(at, per_min / 60, per_min))


def evolve_queue(queue: Queue | None, event: Fact) -> Queue:
    """The queue after one of its own events."""
    queue = queue or BUILT_IN
    match event:
        case QueueDeclared(version=version, policy=policy):
            return replace(queue, version=version, policy=policy)
        case QueuePaused(reason=reason):
            return replace(queue, mode=Mode.PAUSED, reason=reason)
        case QueueDraining(reason=reason):
            return replace(queue, mode=Mode.DRAINING, reason=reason)
        case QueueResumed(reason=reason):
            return replace(queue, mode=Mode.OPEN, reason=reason)
        case _:
            raise ValueError(f"{type(event).__name__} is no event of a queue")
