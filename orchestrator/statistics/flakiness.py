"""Stability: whether what passes once passes every time."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from statistics import fmean

import msgspec

from writ.schemas.evaluations import Scores


class Stability(msgspec.Struct, frozen=True):
    """`pass_hat` holds, for k = 1, 2, ..., the chance that k tries at an item chosen at random all pass."""

    pass_hat: tuple[float, ...]
    flaky: tuple[str, ...]
    """Items that passed sometimes, those nearest to even first."""


def stability(items: Sequence[str], scores: Scores, threshold: float = 1.0) -> Stability:
    """Fold scores into pass^k, an item's try passing at `threshold` or above. Missing tries are left out.

    The estimate of an item with c passes in n tries is C(c, k) / C(n, k), which is unbiased: see S. Yao et
    al., tau-bench (2024). Items with fewer than k tries are left out for that k.
    """
    counts: list[tuple[str, int, int]] = []
    for item, tries in zip(items, scores, strict=True):
        there = [value for value in tries if value is not None]
        counts.append((item, sum(value >= threshold for value in there), len(there)))
    most = max((tries for _, _, tries in counts), default=0)
    pass_hat = tuple(
        fmean(comb(passes, k) / comb(tries, k) for _, passes, tries in counts if tries >= k)
        for k in range(1, most + 1)
    )
    mixed = [each for each in counts if 0 < each[1] < each[2]]
    mixed.sort(key=lambda each: (abs(each[1] / each[2] - 0.5), each[0]))
    return Stability(pass_hat=pass_hat, flaky=tuple(item for item, _, _ in mixed))
