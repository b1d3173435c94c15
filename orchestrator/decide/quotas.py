"""Deciding what a tenant's quotas and budget allow: taking jobs in, starting attempts, going on with them."""

from __future__ import annotations

from typing import Final, NamedTuple

from msgspec.structs import replace

from writ.schemas.errors import AttemptError, ErrorClass
from writ.schemas.events import AttemptFailed, DeadReason, Fact
from writ.schemas.hosting import SetQuotas
from writ.schemas.jobs import Job
from writ.schemas.quotas import (
    STOP_PERCENT,
    WARN_PERCENT,
    Account,
    Budget,
    BudgetReached,
    Quotas,
    QuotasSet,
    submitted,
)
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.steps import UsageRecorded, stepped

from .death import cancelled, dead

OVERSPENT: Final = "BudgetExceeded"
"""The error type of an attempt that was ended as its usage was more than the budget had."""


class Load(NamedTuple):
    """Of one tenant: jobs that have not ended, bytes of their inputs, workers with leases, and reserves."""

    jobs: int = 0
    input_bytes: int = 0
    workers: int = 0
    reserved_microusd: int = 0


NO_LOAD = Load()


class Standing(NamedTuple):
    """A tenant's account and load, as decisions need them."""

    account: Account
    load: Load

    @property
    def budget(self) -> Budget | None:
        return self.account.limits.budget

    def left_microusd(self, now: int) -> int | None:
        """What of the budget is neither spent nor reserved; None where there is none."""
        budget = self.budget
        if budget is None:
            return None
        return budget.limit_microusd - self.account.spent(now) - self.load.reserved_microusd


def set_quotas(account: Account, command: SetQuotas) -> tuple[Fact, ...] | Rejection:
    """The next version of a tenant's quotas; nothing to store where they say the same."""
    quotas, budget = command.quotas, command.quotas.budget
    if command.version is not None and command.version != account.version:
        reason = f"version is {command.version}, and the quotas are of version {account.version}: look again"
        return Rejection(RejectionKind.CONFLICT, reason, "version")
    if budget is not None and budget.reserve_microusd > budget.limit_microusd > 0:
        reason = (
            f"an attempt reserves {dollars(budget.reserve_microusd)}, and the budget is "
            f"{dollars(budget.limit_microusd)}: nothing could ever start"
        )
        return Rejection(RejectionKind.CONFLICT, reason, "quotas.budget.reserve_microusd")
    if account.quotas == quotas:
        return ()
    return (QuotasSet(account.version + 1, quotas, command.reason),)


def with_job(at: Standing, size_bytes: int, now: int) -> Standing:
    """The standing once another job was taken in."""
    load = at.load._replace(jobs=at.load.jobs + 1, input_bytes=at.load.input_bytes + size_bytes)
    return Standing(submitted(at.account, now), load)


# --- taking jobs in -------------------------------------------------------------------------------------


def refuses(
    at: Standing, size_bytes: int, reserve_microusd: int | None, now: int, index: int | None = None
) -> Rejection | None:
    """Why no further job, with an input of so many bytes, is taken in; None where one is."""
    account, (jobs, input_bytes, _, _) = at
    quotas = account.limits
    if quotas.jobs is not None and jobs >= quotas.jobs:
        return _over(f"it has {jobs} jobs that have not ended; its quota is {quotas.jobs}", "jobs", index)
    if quotas.input_bytes is not None and input_bytes + size_bytes > quotas.input_bytes:
        reason = (
            f"the inputs of its jobs have {input_bytes} bytes, and this one {size_bytes}; "
            f"its quota is {quotas.input_bytes}"
        )
        return _over(reason, "input_bytes", index)
    tokens = account.submit_tokens(now)
    if tokens is not None and tokens < 1:
        reason = (
            f"its rate of {quotas.submits_per_s:g} submits a second, with a burst of {quotas.submits_burst}, "
            f"has {tokens:.3f} tokens; a job takes 1"
        )
        return _over(reason, "submits_per_s", index)
    budget = quotas.budget
    if budget is not None:
        spent, reserve = account.spent(now), reserve_microusd or budget.reserve_microusd
        if spent + reserve > budget.limit_microusd:
            reason = (
                f"of its budget of {dollars(budget.limit_microusd)} a {budget.period} {dollars(spent)} are "
                f"spent, and an attempt reserves {dollars(reserve)}"
            )
            return _over(reason, "budget", index)
    return None


def reopens(at: Standing, size_bytes: int) -> Rejection | None:
    """Why no ended job may be opened again: the rate is for submits, and a budget holds it where it waits."""
    limits = at.account.limits
    counted = Quotas(jobs=limits.jobs, input_bytes=limits.input_bytes)
    return refuses(at._replace(account=Account(limits=counted)), size_bytes, None, 0)


def grows(at: Standing, more_bytes: int) -> Rejection | None:
    """Why the input of a job that waits may not become larger by so many bytes."""
    most, known = at.account.limits.input_bytes, at.load.input_bytes
    if most is None or more_bytes <= 0 or known + more_bytes <= most:
        return None
    reason = (
        f"the inputs of its jobs have {known} bytes, and {more_bytes} would come to them; its quota is {most}"
    )
    return _over(reason, "input_bytes", None, "input")


def _over(reason: str, quota: str, index: int | None, field: str | None = None) -> Rejection:
    return Rejection(
        RejectionKind.CONFLICT, f"the tenant is at its limit: {reason} [quota.{quota}]", field, index
    )


# --- starting attempts ----------------------------------------------------------------------------------


def reserve(account: Account, job: Job) -> int:
    """Micro-dollars that an attempt of the job reserves; 0 where the tenant has no budget."""
    budget = account.limits.budget
    return 0 if budget is None else job.reserve_microusd or budget.reserve_microusd


def holds(at: Standing, job: Job, now: int) -> str | None:
    """Why the budget lets no attempt of a job start now; None where it does."""
    left, budget = at.left_microusd(now), at.budget
    needed = reserve(at.account, job)
    if left is None or budget is None or needed <= left:
        return None
    return (
        f"of the tenant's budget of {dollars(budget.limit_microusd)} a {budget.period} "
        f"{dollars(at.account.spent(now))} are spent and {dollars(at.load.reserved_microusd)} reserved; an "
        f"attempt reserves {dollars(needed)} [quota.budget]"
    )


def too_many_workers(at: Standing, has_lease: bool) -> str | None:
    """Why a worker gets no lease: as many as the quota allows hold some; None where it may have one."""
    most = at.account.limits.workers
    if most is None or has_lease or at.load.workers < most:
        return None
    return f"{at.load.workers} workers hold leases of the tenant; its quota is {most} [quota.workers]"


# --- going on -------------------------------------------------------------------------------------------


def with_end(at: Standing, job: Job, noted: tuple[Fact, ...], now: int) -> tuple[Fact, ...]:
    """What an attempt noted; and its end, where it used more than it reserved and the budget has no more.

    What was spent is recorded as it is. The attempt ends as a `policy` failure, which nothing retries; one
    that undoes what steps did goes on.
    """
    lease, left = job.lease, at.left_microusd(now)
    costs = [event.cost_microusd or 0 for event in noted if isinstance(event, UsageRecorded)]
    if left is None or lease is None or job.compensation is not None or not any(costs):
        return noted
    more = sum(costs) - lease.outstanding_microusd
    if more <= max(left, 0):
        return noted
    for event in noted:
        job = replace(job, steps=stepped(job.steps, event, 0))
    error = AttemptError(ErrorClass.POLICY, OVERSPENT)
    failed = AttemptFailed(job.attempt, lease.token, error)
    rule = (
        f"the attempt reserved {dollars(lease.reserved_microusd)} and used "
        f"{dollars(lease.used_microusd + sum(costs))}; the tenant's budget has {dollars(max(left, 0))} more "
        "[quota.budget]"
    )
    ended = dead(job, DeadReason.POLICY, rule, error) if job.stops is None else cancelled(job, job.stops)
    return (*noted, failed, ended)


def reached(at: Standing, now: int) -> tuple[Fact, ...]:
    """What is to be told of how much is spent, and was not yet."""
    account, budget = at.account, at.budget
    if budget is None:
        return ()
    spent = account.spent(now)
    percent = 0
    if spent * 100 >= budget.limit_microusd * WARN_PERCENT:
        percent = WARN_PERCENT
    if spent + budget.reserve_microusd > budget.limit_microusd:
        percent = STOP_PERCENT
    if percent <= account.told(now):
        return ()
    since = budget.period.begin(now)
    return (BudgetReached(percent, since, budget.limit_microusd, spent, at.load.reserved_microusd),)


def dollars(microusd: int) -> str:
    """An amount as people read it."""
    text = f"{microusd / 1_000_000:.6f}".rstrip("0")
    return f"${text}00"[: len(text) + 1 + max(0, 2 - len(text.rpartition(".")[2]))]
