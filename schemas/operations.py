"""Operations on many jobs: a plan, its limits, and how far it has come."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from .buckets import Bucket
from .events import Fact, Filter, OperationEnded, OperationPlanned
from .lifecycle import Job

OPERATION_CAUSE: Final = "operation:"
"""A job's record whose cause begins so was made by the operation with the key that follows."""


class Operation(msgspec.Struct, frozen=True):
    """An operation as its records tell it.

    `planned` is the sequence of its plan; only jobs that have not changed since are meant.
    """

    plan: OperationPlanned
    planned: int
    planned_at: int
    done: int = 0
    pace: Bucket | None = None
    ended: str | None = None

    def allowance(self, now: int) -> int:
        """How many jobs the limit and the rate allow at log time `now`, apart from the canary."""
        left = self.plan.limit - self.done if self.plan.limit else 1 << 30
        rate = self.plan.rate_per_s
        if rate is None:
            return left
        tokens = 1.0 if self.pace is None else self.pace.level(now, rate, max(1.0, rate))
        return max(0, min(left, int(tokens)))

    def next_at(self, now: int) -> int:
        """Log time at which the rate allows the next job."""
        rate = self.plan.rate_per_s
        return now if rate is None or self.pace is None else self.pace.full_at(now, rate, max(1.0, rate))


def evolve_operation(operation: Operation | None, event: Fact, seq: int, at: int) -> Operation:
    """The operation after one of its own events."""
    match event:
        case OperationPlanned():
            return Operation(event, seq, at)
        case OperationEnded(reason=reason) if operation is not None:
            return replace(operation, ended=reason)
        case _:
            raise ValueError(f"{type(event).__name__} is no event of an operation in this state")


def acted(operation: Operation, at: int) -> Operation:
    """The operation after it changed one job."""
    rate = operation.plan.rate_per_s
    if rate is None:
        return replace(operation, done=operation.done + 1)
    pace = operation.pace or Bucket(1.0, at)
    return replace(operation, done=operation.done + 1, pace=pace.take(at, rate, max(1.0, rate)))


def selects(filter_: Filter, job: Job) -> bool:
    """Whether a filter matches a job that is not settled."""
    return job.dropped is None and matches(filter_, job)


def matches(filter_: Filter, job: Job) -> bool:
    """Whether a filter matches a job."""
    error = job.error
    return (
        (not filter_.states or job.state in filter_.states)
        and (filter_.task is None or job.task == filter_.task)
        and (filter_.cause is None or job.cause == filter_.cause)
        and (filter_.dead_reason is None or job.dead == filter_.dead_reason)
        and (filter_.error_class is None or (error is not None and error.class_ == filter_.error_class))
        and (filter_.error_type is None or (error is not None and error.type == filter_.error_type))
        and (filter_.ids is None or job.id in filter_.ids)
    )
