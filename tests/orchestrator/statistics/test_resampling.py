"""The bootstrap without drawing against the bootstrap with it."""

from __future__ import annotations

import random
from itertools import pairwise
from statistics import NormalDist, fmean

import pytest

from writ.orchestrator.statistics import Resampled

DRAWS = 20_000


def drawn(samples: list[tuple[list[float], float]], rng: random.Random) -> list[float]:
    """Sums of means of resampled samples, less their own mean, widened as the formula is."""
    sums = [0.0] * DRAWS
    for values, weight in samples:
        mean, size = fmean(values), len(values)
        wider = (size / (size - 1)) ** 0.5
        picks = rng.choices([(value - mean) * wider * weight for value in values], k=size * DRAWS)
        for i in range(DRAWS):
            sums[i] += sum(picks[i * size : (i + 1) * size]) / size
    return sorted(sums)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["binary", "smooth", "skewed"])
def test_the_tails_are_those_of_a_bootstrap(seed: int, kind: str) -> None:
    rng = random.Random(f"{kind} {seed}")
    samples: list[tuple[list[float], float]] = []
    for _ in range(30):
        size = rng.choice([3, 5, 8])
        if kind == "binary":
            values = [float(rng.random() < 0.5) for _ in range(size)]
        elif kind == "smooth":
            values = [rng.gauss(0.7, 0.2) for _ in range(size)]
        else:
            values = [rng.expovariate(1.0) ** 2 for _ in range(size)]
        samples.append((values, rng.choice([1, -1]) / 30))
    formula, draws = Resampled(samples), drawn(samples, rng)
    for chance in (0.005, 0.025, 0.2, 0.5, 0.8, 0.975, 0.995):
        at = draws[int(chance * DRAWS)]
        # Four standard errors of the counting, and what steps of a lattice leave open.
        assert formula.at_most(at) == pytest.approx(
            chance, abs=4 * (chance * (1 - chance) / DRAWS) ** 0.5 + 0.02
        )
        assert formula.at_most(formula.quantile(chance)) == pytest.approx(chance, abs=1e-4)


def test_many_equal_deviations_are_the_normal_distribution() -> None:
    many = Resampled([([0.0, 1.0, 2.0], 1.0)] * 500)
    for standard in (-3.0, -1.0, -1e-5, 0.0, 1e-5, 0.5, 2.5):
        assert many.at_most(standard * many.deviation) == pytest.approx(NormalDist().cdf(standard), abs=1e-3)


def test_chances_grow_from_nought_to_one_across_the_whole_range() -> None:
    lopsided = Resampled([([0.0, 0.0, 0.0, 0.0, 9.0], 1.0), ([1.0, 2.0], -0.5)])
    steps = [lopsided.at_most(-6 + i * 0.05) for i in range(400)]
    assert steps[0] == 0.0
    assert steps[-1] == 1.0
    assert all(before <= after + 1e-3 for before, after in pairwise(steps))


def test_samples_that_never_differ_leave_no_spread() -> None:
    still = Resampled([([1.0] * 5, 1.0), ([0.0, 0.0], -1.0)])
    assert still.deviation == 0
    assert (still.at_most(-1e-9), still.at_most(0.0)) == (0.0, 1.0)
