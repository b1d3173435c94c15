"""Durations counted in steps, so that quantiles of very many can be told from few numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from writ.schemas.bounds import SECOND_US
from writ.schemas.lists import Quantiles

_SHARES: Final = (0.5, 0.95, 0.99)
_LEAST_US: Final = 4


def step_of(duration_us: int) -> int:
    """The step of a scale on which each is a quarter of a doubling: at most 25 % wide."""
    duration_us = max(duration_us, _LEAST_US)
    bits = duration_us.bit_length()
    return bits * 4 + ((duration_us >> (bits - 3)) & 3)


def top_of(step: int) -> int:
    """Where a step ends, in microseconds."""
    return (step % 4 + 5) << (step // 4 - 3)


def quantiles(counts: Iterable[tuple[int, int]]) -> Quantiles:
    """What so great a share did not exceed, from how many there are in each step."""
    steps: dict[int, int] = {}
    for step, n in counts:
        steps[step] = steps.get(step, 0) + n
    return Quantiles(*[_quantile(steps, share) for share in _SHARES])


def _quantile(steps: dict[int, int], share: float) -> float | None:
    left = share * sum(steps.values())
    for step in sorted(steps):
        left -= steps[step]
        if left <= 0:
            return top_of(step) / SECOND_US
    return None
