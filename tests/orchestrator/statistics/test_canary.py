"""A canary that is looked at after every event."""

from __future__ import annotations

import random

import pytest

from writ.orchestrator.statistics import Stream, stability
from writ.schemas.evaluations import Outcome


def watched(p: float, base: float, pairs: int, seed: int, level: float = 0.05, minimum: int = 1) -> Stream:
    rng, stream = random.Random(seed), Stream(level=level, minimum=minimum)
    for _ in range(pairs):
        stream = stream.canary(float(rng.random() < p)).baseline(float(rng.random() < base))
    return stream


def test_no_data_is_not_success() -> None:
    stream = Stream()
    assert stream.watched().outcome is Outcome.INCONCLUSIVE
    for _ in range(1000):
        stream = stream.baseline(1.0)
    assert stream.watched().outcome is Outcome.INCONCLUSIVE
    assert stream.watched().pairs == 0
    assert len(stream.waiting) == 100, "what waits is bounded"


def test_too_little_data_decides_nothing() -> None:
    assert watched(0.0, 1.0, 19, seed=1, minimum=20).outcome is Outcome.INCONCLUSIVE
    assert watched(0.0, 1.0, 20, seed=1, minimum=20).outcome is Outcome.FAIL


def test_a_canary_that_fails_is_condemned_and_stays_so() -> None:
    stream = watched(0.7, 0.95, 300, seed=1)
    assert stream.watched().outcome is Outcome.FAIL
    for _ in range(2000):
        stream = stream.canary(1.0).baseline(0.0)
    assert stream.watched().outcome is Outcome.FAIL


def test_a_canary_that_is_as_good_is_acquitted() -> None:
    assert watched(0.95, 0.95, 1500, seed=2).watched().outcome is Outcome.PASS


def test_false_alarms_stay_under_the_level_however_often_one_looks() -> None:
    """Small; `make bench-gates` takes 10,000 streams. Looked at after each pair, the first alarm counts."""
    alarms = sum(
        watched(0.9, 0.9, 200, seed=seed, level=0.1).watched().outcome is Outcome.FAIL for seed in range(300)
    )
    assert alarms <= 300 * 0.1


def test_results_and_bounds_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1, not 1\.5"):
        Stream().canary(1.5)
    with pytest.raises(ValueError, match="tolerate < detect"):
        Stream(tolerate=0.2, detect=0.1)
    with pytest.raises(ValueError, match="the level"):
        Stream(level=0)


def test_stability_counts_what_passes_every_time() -> None:
    told = stability(
        ["always", "half", "seldom", "never", "lost"],
        ((1.0,) * 4, (1.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0), (0.0,) * 4, (None,) * 4),
    )
    assert told.pass_hat == pytest.approx(((1 + 0.5 + 0.25) / 4, (1 + 1 / 6) / 4, 1 / 4, 1 / 4))
    assert told.flaky == ("half", "seldom")
