"""How jobs would have come out otherwise, one by one and in total: what a telling is answered with."""

from __future__ import annotations

import msgspec

from .alerts import Alerted
from .spending import Spending
from .threads import Came


class Otherwise(msgspec.Struct, frozen=True):
    """A job that would have come out otherwise: it parts from its records at record `seq`, as `why` says.

    `later_us` is by how much its last step would have come later; below 0 sooner.
    """

    key: str
    seq: int
    why: str
    was: Came
    would_be: Came
    later_us: int


class Totals(msgspec.Struct, frozen=True):
    """All jobs together. `states` counts them, those whose end is not known among them as `unknown`.

    What `unpriced` usages of models cost is not known, and not in `cost_microusd`.
    """

    states: dict[str, int]
    attempts: int
    failures: int
    lost: int
    cost_microusd: int = 0
    unpriced: int = 0


class WhatIf(msgspec.Struct, frozen=True):
    """What was asked and what came of it.

    `queues` are those whose policy was another; `not_weighed` the fields that differ and are not looked at.
    `prices` are the models whose prices were others, and `spending` is by tenant, queue, task and model;
    `alerts` is what those that were asked for would have done over the log as it was.
    `moved` jobs come out the same at another time; `otherwise` lists them too, and all that part in any way.
    """

    queues: tuple[str, ...]
    not_weighed: dict[str, tuple[str, ...]]
    jobs: int
    was: Totals
    would_be: Totals
    moved: int
    otherwise: tuple[Otherwise, ...]
    prices: tuple[str, ...] = ()
    spending: tuple[Spending, ...] = ()
    alerts: tuple[Alerted, ...] = ()


class Sum:
    """Jobs being counted."""

    def __init__(self) -> None:
        self._states: dict[str, int] = {}
        self._counts = [0, 0, 0, 0, 0]

    def add(self, came: Came) -> None:
        self._states[came.state] = self._states.get(came.state, 0) + 1
        counts = (came.attempts, came.failures, came.lost, came.cost_microusd, came.unpriced)
        self._counts = [one + other for one, other in zip(self._counts, counts, strict=True)]

    def totals(self) -> Totals:
        return Totals(dict(sorted(self._states.items())), *self._counts)
