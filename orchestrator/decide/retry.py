"""Deciding what follows a failed attempt or a lost lease."""

from __future__ import annotations

import msgspec

from writ.schemas.errors import AttemptError, ErrorClass
from writ.schemas.events import (
    AttemptFailed,
    DeadReason,
    Fact,
    JobSuspended,
    LeaseExpired,
    RetryScheduled,
    WaitReason,
)
from writ.schemas.lifecycle import Job, micros
from writ.schemas.policy import NEVER_RETRIED, OnExhausted, Retry
from writ.schemas.queues import Queue

from .death import cancelled, dead


def backoff_s(policy: Rules | Retry, failures: int) -> float:
    """Exponential backoff before jitter, in seconds: `initial * backoff**(failures - 1)`, capped."""
    try:
        grown = policy.initial_interval_s * policy.backoff ** (failures - 1)
    except OverflowError:
        return policy.max_interval_s
    return min(grown, policy.max_interval_s)


def delay_s(base_s: float, jitter: float, seed: float) -> float:
    """The base spread evenly over `base * (1 - jitter)` to `base * (1 + jitter)` by a seed in 0 to 1."""
    return base_s * (1 + jitter * (2 * seed - 1))


class Rules(msgspec.Struct, frozen=True):
    """A retry policy as it holds for one error class."""

    max_attempts: int
    initial_interval_s: float
    backoff: float
    max_interval_s: float


class Counted(msgspec.Struct, frozen=True):
    """Why a job is tried again: what was counted, of how many, and by which rules it waits."""

    rule: str
    count: int
    most: int
    rules: Rules


def rules_for(policy: Retry, class_: ErrorClass) -> Rules:
    """The policy with the overrides for an error class."""
    over = policy.per_class.get(class_.value)  # type: ignore[call-overload]  # other classes have none
    if over is None:
        return Rules(policy.max_attempts, policy.initial_interval_s, policy.backoff, policy.max_interval_s)
    return Rules(
        policy.max_attempts if over.max_attempts is None else over.max_attempts,
        policy.initial_interval_s if over.initial_interval_s is None else over.initial_interval_s,
        policy.backoff if over.backoff is None else over.backoff,
        policy.max_interval_s if over.max_interval_s is None else over.max_interval_s,
    )


def after_failure(job: Job, queue: Queue, failed: AttemptFailed, now: int, seed: float) -> tuple[Fact, ...]:
    """The failure and its consequence, as the events of one record."""
    return (failed, what_follows(job, queue, failed, now, seed))


def what_follows(job: Job, queue: Queue, failed: AttemptFailed, now: int, seed: float) -> Fact:
    """The consequence of a failed attempt; of one whose process died, by the losses that it may have."""
    if failed.crashed:
        return _after_crash(job, queue, failed.error, now, seed)
    return consequence(job, queue, failed, now, seed)


def _after_crash(job: Job, queue: Queue, error: AttemptError, now: int, seed: float) -> Fact:
    losses, cap = job.lease_losses + 1, job.retry.max_lease_losses
    if job.stops is not None:
        return cancelled(job, job.stops)
    if losses >= cap:
        rule = f"its process died, {error.type}: loss {losses}; max_lease_losses is {cap}"
        return dead(job, DeadReason.POISON, rule, error)
    rule = f"its process died, {error.type}: loss {losses} of max_lease_losses {cap}"
    counted = Counted(rule, losses, cap, rules_for(job.retry, error.class_))
    return _again(job, queue, counted, None, now, seed)


def consequence(job: Job, queue: Queue, failed: AttemptFailed, now: int, seed: float) -> Fact:
    """Retry, dead letter or cancelled: the class decides first, then the type, then the count."""
    policy, failures, error = job.retry, job.failures + 1, failed.error
    if job.stops is not None:
        return cancelled(job, job.stops)
    if error.class_ is ErrorClass.CANCELLED:
        return cancelled(job, "the worker ended it as cancelled")
    if error.class_ in NEVER_RETRIED:
        reason = DeadReason.POLICY if error.class_ is ErrorClass.POLICY else DeadReason.POISON
        return dead(job, reason, f"class {error.class_} is never retried", error)
    if error.type in policy.non_retryable_types:
        rule = f"type {error.type} is listed in non_retryable_types"
        return dead(job, DeadReason.NON_RETRYABLE, rule, error)
    if failed.permanent:
        rule = f"{error.type} is permanent: another attempt would fail in the same way"
        return dead(job, DeadReason.NON_RETRYABLE, rule, error)
    rules = rules_for(policy, error.class_)
    if rules.max_attempts and failures >= rules.max_attempts:
        return _exhausted(job, error, failures, rules.max_attempts)
    rule = f"class {error.class_} is retried: failed attempt {failures} of max_attempts {rules.max_attempts}"
    return _again(
        job, queue, Counted(rule, failures, rules.max_attempts, rules), failed.retry_after_s, now, seed
    )


def _exhausted(job: Job, error: AttemptError, failures: int, most: int) -> Fact:
    rule = f"failed attempt {failures} of max_attempts {most}"
    match job.retry.on_exhausted:
        case OnExhausted.DEAD_LETTER:
            return dead(job, DeadReason.EXHAUSTED, rule, error)
        case OnExhausted.CANCEL:
            return cancelled(job, f"{rule}; on_exhausted is cancel")
        case OnExhausted.SUSPEND:
            return JobSuspended(WaitReason.EXHAUSTED, f"{rule}; on_exhausted is suspend")


def _again(
    job: Job, queue: Queue, counted: Counted, retry_after_s: float | None, now: int, seed: float
) -> RetryScheduled:
    rules, rule = counted.rules, counted.rule
    base = backoff_s(rules, counted.count)
    wait = delay_s(base, job.retry.jitter, seed)
    if retry_after_s is not None and retry_after_s > wait:
        wait, rule = retry_after_s, f"{rule}; the worker asked for {retry_after_s} s"
    due_at = now + micros(wait)
    allowed_at = queue.retry_at(now)
    if allowed_at > due_at:
        due_at = allowed_at
        rule = f"{rule}; held back by the queue's retries_per_min {queue.policy.retries_per_min}"
    return RetryScheduled(
        due_at=due_at,
        rule=rule,
        failures=counted.count,
        max_attempts=counted.most,
        base_s=base,
        jitter=job.retry.jitter,
        seed=seed,
        retry_after_s=retry_after_s,
        budget_at=allowed_at if allowed_at > now else None,
    )


def after_lost_lease(job: Job) -> tuple[Fact, ...]:
    """The expiry and its consequence: pending again at once, or the end where the cap is reached."""
    lease = job.lease
    assert lease is not None
    losses, cap = job.lease_losses + 1, job.retry.max_lease_losses
    expired = LeaseExpired(job.attempt, lease.token, lease.worker, lease.expires_at, losses, cap)
    if job.stops is not None:
        return (expired, cancelled(job, job.stops))
    if losses >= cap:
        rule = f"lost its lease {losses} times; max_lease_losses is {cap}"
        return (expired, dead(job, DeadReason.POISON, rule))
    return (expired,)
