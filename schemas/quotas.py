"""What a tenant may use: its quotas, its budget, and how much of them is used. Events and their fold.

    quotas_set       what the tenant may use from here on; an aggregate of kind `tenant`, key `quotas`
    budget_reached   so many percent of the budget are spent: at 80 a warning, at 100 nothing more starts

A budget is *reserved* before an attempt starts (`lease_granted` says how much) and *settled* by what the
attempt uses (`usage_recorded`). What is spent and what is still reserved never add up to more than the
budget, as long as attempts use no more than they reserved; one that does, where the budget has no more, ends.
"""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from .buckets import Bucket
from .facts import Fact

QUOTAS_KEY: Final = "quotas"
"""The key of a tenant's quotas, an aggregate of kind `tenant`."""

WARN_PERCENT: Final = 80
STOP_PERCENT: Final = 100
_UTC_START: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

Count = Annotated[int, Meta(ge=0, le=10**9)]
Bytes = Annotated[int, Meta(ge=0, le=10**15)]
Microusd = Annotated[int, Meta(ge=0, le=10**15)]
Reserve = Annotated[int, Meta(ge=1, le=10**15)]
"""What an attempt may cost, in micro-dollars."""


class Period(StrEnum):
    """After what time a budget begins anew, in UTC."""

    DAY = "day"
    MONTH = "month"
    NEVER = "never"

    def begin(self, at: int) -> int:
        """Log time at which the period that holds log time `at` began."""
        if self is Period.NEVER:
            return 0
        day = _UTC_START + datetime.timedelta(microseconds=at)
        first = day.replace(hour=0, minute=0, second=0, microsecond=0)
        return _micros(first.replace(day=1) if self is Period.MONTH else first)

    def end(self, at: int) -> int | None:
        """Log time at which the next one begins; None where none does."""
        if self is Period.NEVER:
            return None
        begun = _UTC_START + datetime.timedelta(microseconds=self.begin(at))
        if self is Period.DAY:
            return _micros(begun + datetime.timedelta(days=1))
        return _micros((begun + datetime.timedelta(days=32)).replace(day=1))


def _micros(moment: datetime.datetime) -> int:
    return (moment - _UTC_START) // datetime.timedelta(microseconds=1)


class Budget(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """What the usage of a tenant may cost in a period, in micro-dollars.

    `reserve_microusd` is what an attempt reserves where neither its job nor its queue says.
    """

    limit_microusd: Microusd
    reserve_microusd: Reserve
    period: Period = Period.DAY


class Quotas(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """What a tenant may use; None is without limit. A default here never changes.

    `jobs` that have not ended; `submits_per_s` jobs taken in, with a `submits_burst`; `input_bytes` of the
    jobs that have not ended; `workers` that hold leases at the same time; and a `budget`.
    """

    jobs: Count | None = None
    submits_per_s: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    submits_burst: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    input_bytes: Bytes | None = None
    workers: Count | None = None
    budget: Budget | None = None

    def share(self, partition: int, partitions: int) -> Quotas:
        """What of it one of several partitions may use: whole parts, which add up to it."""
        if partitions == 1:
            return self

        def part(whole: int | None) -> int | None:
            return None if whole is None else (whole + partitions - 1 - partition) // partitions

        rate, burst = self.submits_per_s, part(self.submits_burst) or 1
        budget = self.budget
        if budget is not None:
            budget = replace(budget, limit_microusd=part(budget.limit_microusd) or 0)
        return Quotas(
            part(self.jobs),
            None if rate is None else rate / partitions,
            burst,
            part(self.input_bytes),
            part(self.workers),
            budget,
        )


NO_QUOTAS: Final = Quotas()


class QuotasSet(Fact, frozen=True):
    """`version` grows by one with each; `quotas` is whole, not a difference."""

    version: int
    quotas: Quotas
    reason: str = ""


class BudgetReached(Fact, frozen=True):
    """Of the budget `percent` are spent in the period that began at log time `since`.

    At 100 what is left is less than an attempt reserves. Told once for a period and version of the quotas.
    """

    percent: int
    since: int
    limit_microusd: int
    spent_microusd: int
    reserved_microusd: int


QUOTA_EVENTS: Final[tuple[type[Fact], ...]] = (QuotasSet, BudgetReached)


class Account(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A tenant's quotas, and what of those is used that is no count of what there is now.

    `limits` is what of the quotas holds here: all of them, or a share where there are several partitions.

    `spent_microusd` is what usage cost in the period that began at `since`; `told_percent` is the newest
    `budget_reached` of it.
    """

    version: int = 0
    quotas: Quotas = NO_QUOTAS
    limits: Quotas = NO_QUOTAS
    submits: Bucket | None = None
    since: int = 0
    spent_microusd: int = 0
    told_percent: int = 0

    def spent(self, now: int) -> int:
        """Micro-dollars spent in the period that holds log time `now`."""
        budget = self.limits.budget
        return self.spent_microusd if budget is not None and budget.period.begin(now) == self.since else 0

    def told(self, now: int) -> int:
        """The percentage that was told of in the period that holds log time `now`."""
        budget = self.limits.budget
        return self.told_percent if budget is not None and budget.period.begin(now) == self.since else 0

    def submit_tokens(self, now: int) -> float | None:
        """Submits that the rate allows at log time `now`; None where there is no rate."""
        rate, burst = self.limits.submits_per_s, self.limits.submits_burst
        if rate is None:
            return None
        return float(burst) if self.submits is None else self.submits.level(now, rate, burst)


NO_ACCOUNT: Final = Account()


def evolve_account(
    account: Account | None, event: Fact, at: int, partition: int = 0, partitions: int = 1
) -> Account:
    """The account after one of its own events, at log time `at`, in one of several partitions.

    What was spent stays where the budget's period stays; what was told is told again under new quotas.
    """
    known = account or NO_ACCOUNT
    match event:
        case QuotasSet(version=version, quotas=quotas):
            limits = quotas.share(partition, partitions)
            old, new = known.limits.budget, limits.budget
            kept = old is not None and new is not None and old.period is new.period
            since = 0 if new is None else new.period.begin(at)
            same_rate = known.limits.submits_per_s == limits.submits_per_s
            spent = known.spent(at) if kept else 0
            return Account(version, quotas, limits, known.submits if same_rate else None, since, spent)
        case BudgetReached(percent=percent):
            return replace(_in_period(known, at), told_percent=percent)
        case _:
            raise ValueError(f"{type(event).__name__} is no event of a tenant's quotas")


def submitted(account: Account, at: int) -> Account:
    """The account after a job was taken in."""
    rate, burst = account.limits.submits_per_s, account.limits.submits_burst
    if rate is None:
        return account
    bucket = account.submits or Bucket(float(burst), at)
    return replace(account, submits=bucket.take(at, rate, burst))


def spent(account: Account, cost_microusd: int | None, at: int) -> Account:
    """The account after usage was recorded; what has no price costs nothing."""
    if account.limits.budget is None or not cost_microusd:
        return account
    account = _in_period(account, at)
    return replace(account, spent_microusd=account.spent_microusd + cost_microusd)


def _in_period(account: Account, at: int) -> Account:
    """The account in the period that holds log time `at`."""
    budget = account.limits.budget
    since = 0 if budget is None else budget.period.begin(at)
    return (
        account if since == account.since else replace(account, since=since, spent_microusd=0, told_percent=0)
    )
