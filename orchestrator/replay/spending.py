"""What usage cost, by tenant, queue, task and model, and what it would have cost at other prices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from writ.schemas.events import Fact
from writ.schemas.prices import Price, Prices
from writ.schemas.steps import UsageRecorded

from .threads import Step, Thread

Tables = Mapping[str, Sequence[Price]]
"""The prices of some models, by name, each from its time on."""


class Spent(msgspec.Struct, frozen=True):
    """Usage in all. `unpriced` of the usages had no price; what they cost is not known, nor counted."""

    usages: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_microusd: int = 0
    unpriced: int = 0

    def with_(self, usage: UsageRecorded, cost_microusd: int | None) -> Spent:
        return Spent(
            self.usages + 1,
            self.input_tokens + usage.input_tokens,
            self.output_tokens + usage.output_tokens,
            self.cost_microusd + (cost_microusd or 0),
            self.unpriced + (cost_microusd is None),
        )


_Group = tuple[str, str, str, str]
"""Tenant, queue, task and model."""

NOTHING: Final = Spent()


class Spending(msgspec.Struct, frozen=True):
    """What was spent on a model by a task of a queue, and what would have been."""

    tenant: str
    queue: str
    task: str
    model: str
    was: Spent
    would_be: Spent


class Pricing:
    """Usage priced anew for some models; that of the others costs what is recorded."""

    def __init__(self, tables: Tables) -> None:
        self.models = tuple(sorted(tables))
        self._prices = Prices(0, tuple([price for model in self.models for price in tables[model]]))

    def cost(self, usage: UsageRecorded, at: int) -> int | None:
        """Micro-dollars of a usage at a log time; None where it has no price."""
        if usage.model not in self.models:
            return usage.cost_microusd
        return self._prices.cost(usage.model, usage.input_tokens, usage.output_tokens, at)


class Ledger:
    """The sums of one telling."""

    def __init__(self, tables: Tables) -> None:
        self.pricing = Pricing(tables)
        self._was: dict[_Group, Spent] = {}
        self._would_be: dict[_Group, Spent] = {}

    def lay_out(self, thread: Thread) -> None:
        """Takes what a job's usage cost as it was."""
        for step in thread.steps:
            for usage in used(step.events):
                self._enter(self._was, thread, step, usage, usage.cost_microusd)

    def tell(self, thread: Thread, step: Step, now: int) -> str | None:
        """Takes the usage of a step as it would be; a model whose usage would cost otherwise, if any does."""
        otherwise: str | None = None
        for usage in used(step.events):
            cost = self.pricing.cost(usage, now)
            if cost != usage.cost_microusd:
                otherwise = usage.model
            thread.spend(cost)
            self._enter(self._would_be, thread, step, usage, cost)
        return otherwise

    @staticmethod
    def _enter(
        into: dict[_Group, Spent], thread: Thread, step: Step, usage: UsageRecorded, cost: int | None
    ) -> None:
        group = (thread.tenant, thread.queue, step.after.task, usage.model)
        into[group] = into.get(group, NOTHING).with_(usage, cost)

    def lines(self) -> tuple[Spending, ...]:
        """All groups that spent anything, in their order."""
        groups = sorted({*self._was, *self._would_be})
        return tuple(
            [
                Spending(*group, self._was.get(group, NOTHING), self._would_be.get(group, NOTHING))
                for group in groups
            ]
        )


def used(events: Iterable[Fact]) -> Iterable[UsageRecorded]:
    """The usages among events."""
    return (event for event in events if isinstance(event, UsageRecorded))
