"""What is measured, as data: metrics, series of them, and histograms that need no agreement on buckets.

A component tells `Family` after `Family`; how they are written down is the business of `writ.metrics`.
Histograms count each observation twice: in *classic* buckets with fixed bounds, and in *native* ones, whose
bounds are powers of 2 ** (1/8) and which cost nothing where nothing was observed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

NATIVE_SCHEMA: Final = 3
"""2 ** 3 native buckets for each doubling: an estimated quantile is off by 4.4 % at most."""

_DOUBLINGS: Final = range(-20 << NATIVE_SCHEMA, (30 << NATIVE_SCHEMA) + 1)
"""From a microsecond to 34 years, in seconds."""


class Kind(StrEnum):
    """What may be done with a metric: a counter only grows, a gauge is what it is now."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Scale:
    """How observations, whole numbers, fall into buckets. `unit` of them are one of what the metric is in."""

    def __init__(self, unit: int, bounds: tuple[float, ...]) -> None:
        self.unit = unit
        self.bounds = bounds
        self._classic = [round(bound * unit) for bound in bounds]
        # Rounded down: a whole number is at most a bound just if it is at most the whole part of it.
        self._native = [int(2 ** (i / (1 << NATIVE_SCHEMA)) * unit) for i in _DOUBLINGS]

    def classic(self, observed: int) -> int:
        """Index of the first bound that is not below; the number of bounds for what is above them all."""
        return bisect_left(self._classic, observed)

    def native(self, observed: int) -> int:
        """The native bucket, i for those above 2 ** ((i - 1) / 8) and up to 2 ** (i / 8)."""
        return _DOUBLINGS.start + min(bisect_left(self._native, observed), len(self._native) - 1)


SECONDS: Final = Scale(
    1_000_000,
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600),
)
"""Observed in microseconds."""

RECORDS: Final = Scale(1, (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000))


class Histogram(msgspec.Struct, array_like=True):
    """Counts of observations by bucket, with their sum; all whole numbers, so that order does not matter.

    `classic` holds one count for each bound and one for what is above, `native` those of buckets with any.
    """

    classic: list[int]
    native: dict[int, int] = {}
    zeros: int = 0
    sum: int = 0

    @property
    def count(self) -> int:
        return sum(self.classic)

    def observe(self, observed: int, scale: Scale) -> None:
        """Counts one observation, in `scale.unit`ths; below zero counts as zero."""
        observed = max(0, observed)
        self.classic[scale.classic(observed)] += 1
        if observed:
            bucket = scale.native(observed)
            self.native[bucket] = self.native.get(bucket, 0) + 1
        else:
            self.zeros += 1
        self.sum += observed


def histogram(scale: Scale) -> Histogram:
    """One that has observed nothing."""
    return Histogram([0] * (len(scale.bounds) + 1))


class Metric(msgspec.Struct, frozen=True):
    """A metric's name, in Prometheus' conventions, and what it means. `scale` is a histogram's.

    What is counted in millionths, such as microseconds, is told divided by `unit`.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    scale: Scale | None = None
    unit: int = 1


Value = int | float | Histogram


class Series(msgspec.Struct, frozen=True, array_like=True):
    """One value of a metric; `labels` are the values of its labels, in their order."""

    labels: tuple[str, ...]
    value: Value


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric's name and its series."""

    name: str
    series: list[Series]


def told(metric: Metric, value: Value, *labels: str) -> Family:
    """A family of one series."""
    return Family(metric.name, [Series(labels, value)])


def of_partition(number: int, families: Iterable[Family]) -> list[Family]:
    """The same families, with a last label more on each series: the partition that they tell of."""
    return [
        Family(each.name, [Series((*one.labels, str(number)), one.value) for one in each.series])
        for each in families
    ]


OTHER: Final = "other"
"""Stands for every label value past the limit."""


class Names:
    """Label values up to a limit, the first that come; all later ones are folded into `other`.

    The same names in the same order are folded the same way. `known` are those that are told by themselves.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.known: dict[tuple[str, ...], None] = {}

    def fold(self, within: tuple[str, ...], name: str) -> tuple[str, ...]:
        """The values of `within` and behind them the name, or `other` in its place."""
        labels = (*within, name)
        if labels in self.known:
            return labels
        if len(self.known) < self.limit:
            self.known[labels] = None
            return labels
        return (*within, OTHER)

    def find(self, within: tuple[str, ...], name: str) -> tuple[str, ...]:
        """The same for a name that may be made up: it never takes a place."""
        labels = (*within, name)
        return labels if labels in self.known else (*within, OTHER)

    @property
    def full(self) -> bool:
        """Whether a new name would be folded."""
        return len(self.known) >= self.limit
