"""Deciding what follows a failed attempt or a lost lease."""

from __future__ import annotations

from writ.schemas.errors import AttemptError, ErrorClass
from writ.schemas.events import (
    AttemptFailed,
    DeadReason,
    Fact,
    JobCancelled,
    JobDeadLettered,
    LeaseExpired,
    RetryScheduled,
)
from writ.schemas.lifecycle import Job, micros
from writ.schemas.policy import NEVER_RETRIED, Retry


def backoff_s(policy: Retry, failures: int) -> float:
    """Exponential backoff before jitter, in seconds: `initial * backoff**(failures - 1)`, capped."""
    try:
        grown = policy.initial_interval_s * policy.backoff ** (failures - 1)
    except OverflowError:
        return policy.max_interval_s
    return min(grown, policy.max_interval_s)


def delay_s(base_s: float, jitter: float, seed: float) -> float:
    """The base spread evenly over `base * (1 - jitter)` to `base * (1 + jitter)` by a seed in 0 to 1."""
    return base_s * (1 + jitter * (2 * seed - 1))


def after_failure(job: Job, failed: AttemptFailed, now: int, seed: float) -> tuple[Fact, ...]:
    """The failure and its consequence, as the events of one record."""
    return (failed, consequence(job, failed.error, failed.retry_after_s, now, seed))


def consequence(job: Job, error: AttemptError, retry_after_s: float | None, now: int, seed: float) -> Fact:
    """Retry, dead letter or cancelled: the class decides first, then the type, then the count."""
    policy, failures = job.retry, job.failures + 1
    if job.cancel is not None:
        return JobCancelled(job.cancel)
    if error.class_ is ErrorClass.CANCELLED:
        return JobCancelled("the worker ended it as cancelled")
    if error.class_ in NEVER_RETRIED:
        reason = DeadReason.POLICY if error.class_ is ErrorClass.POLICY else DeadReason.POISON
        return JobDeadLettered(reason, f"class {error.class_} is never retried")
    if error.type in policy.non_retryable_types:
        return JobDeadLettered(
            DeadReason.NON_RETRYABLE, f"type {error.type} is listed in non_retryable_types"
        )
    if policy.max_attempts and failures >= policy.max_attempts:
        rule = f"failed attempt {failures} of max_attempts {policy.max_attempts}"
        return JobDeadLettered(DeadReason.EXHAUSTED, rule)
    base = backoff_s(policy, failures)
    wait = delay_s(base, policy.jitter, seed)
    rule = f"class {error.class_} is retried: failed attempt {failures} of max_attempts {policy.max_attempts}"
    if retry_after_s is not None and retry_after_s > wait:
        wait, rule = retry_after_s, f"{rule}; the worker asked for {retry_after_s} s"
    return RetryScheduled(
        due_at=now + micros(wait),
        rule=rule,
        failures=failures,
        max_attempts=policy.max_attempts,
        base_s=base,
        jitter=policy.jitter,
        seed=seed,
        retry_after_s=retry_after_s,
    )


def after_lost_lease(job: Job) -> tuple[Fact, ...]:
    """The expiry and its consequence: pending again at once, or the end where the cap is reached."""
    lease = job.lease
    assert lease is not None
    losses, cap = job.lease_losses + 1, job.retry.max_lease_losses
    expired = LeaseExpired(job.attempt, lease.token, lease.worker, lease.expires_at, losses, cap)
    if job.cancel is not None:
        return (expired, JobCancelled(job.cancel))
    if losses >= cap:
        rule = f"lost its lease {losses} times; max_lease_losses is {cap}"
        return (expired, JobDeadLettered(DeadReason.POISON, rule))
    return (expired,)
