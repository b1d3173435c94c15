"""`make bench-gates`: how often a gate's verdict is right, by simulation, through the function that promotion
calls.

Items of which 30 % are flaky (they pass with a chance between 0.2 and 0.8, the others always) are scored five
times on both sides. A drop takes its points from whole items: they never pass any more. The canary's test is
looked at after every pair. Exits 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from typing import Final, NamedTuple

from writ.orchestrator.statistics import Stream, judge
from writ.schemas.evaluations import Dimension, Measured, Outcome, Scores

FLAKY: Final = 0.3
REPEATS: Final = 5
CANARY_LEVEL: Final = 0.05
PAIRS: Final = 500


class Case(NamedTuple):
    """One row of the table: how large a drop, and how often it may or must be blocked."""

    name: str
    items: int
    drop: float
    detect: float
    at_most: float
    at_least: float
    failing: bool
    """Whether only `fail` counts as caught, or whatever does not pass as blocked."""


CASES: Final = (
    Case("harmless", 100, 0.0, 0.1, at_most=0.05, at_least=0.0, failing=False),
    Case("drop of 10 points", 100, 0.1, 0.1, at_most=1.0, at_least=0.95, failing=True),
    Case("harmless", 200, 0.0, 0.05, at_most=0.05, at_least=0.0, failing=False),
    Case("drop of 5 points", 200, 0.05, 0.05, at_most=1.0, at_least=0.90, failing=True),
)


def verdict(case: Case, rng: random.Random) -> Outcome:
    """One trial."""
    flaky = round(case.items * FLAKY)
    chances = [rng.uniform(0.2, 0.8) for _ in range(flaky)] + [1.0] * (case.items - flaky)
    left, lower = case.drop * case.items, list(chances)
    for i in rng.sample(range(case.items), case.items):
        taken = min(left, lower[i])
        lower[i], left = lower[i] - taken, left - taken
    dimension = Dimension("exact", detect=case.detect)
    return judge([Measured(dimension, _tried(lower, rng), _tried(chances, rng))]).outcome


def _tried(chances: list[float], rng: random.Random) -> Scores:
    return tuple(tuple(float(rng.random() < p) for _ in range(REPEATS)) for p in chances)


def alarmed(success: float, rng: random.Random) -> bool:
    """Whether a canary that is as good as its baseline is condemned at any look."""
    stream = Stream(level=CANARY_LEVEL)
    for _ in range(PAIRS):
        stream = stream.canary(float(rng.random() < success)).baseline(float(rng.random() < success))
        if stream.outcome is Outcome.FAIL:
            return True
    return False


def main(trials: int, streams: int, seed: int) -> int:
    """The exit code."""
    rng, missed = random.Random(seed), 0
    print(f"{'candidate':<20}{'items':>6}{'repeats':>8}{'pass':>8}{'unsure':>8}{'fail':>8}   bar")
    for case in CASES:
        counts = Counter(verdict(case, rng) for _ in range(trials))
        shares = {outcome: counts[outcome] / trials for outcome in Outcome}
        blocked = shares[Outcome.FAIL] if case.failing else 1 - shares[Outcome.PASS]
        kept = case.at_least <= blocked <= case.at_most
        missed += not kept
        bar = f"caught in {case.at_least:.0%}" if case.failing else f"blocked in at most {case.at_most:.0%}"
        print(
            f"{case.name:<20}{case.items:>6}{REPEATS:>8}{shares[Outcome.PASS]:>8.1%}"
            f"{shares[Outcome.INCONCLUSIVE]:>8.1%}{shares[Outcome.FAIL]:>8.1%}"
            f"   {bar}: {'kept' if kept else 'MISSED'}",
            flush=True,
        )
    for success in (0.5, 0.9, 0.99):
        share = sum(alarmed(success, rng) for _ in range(streams)) / streams
        kept = share <= CANARY_LEVEL
        missed += not kept
        told = "kept" if kept else "MISSED"
        print(
            f"canary as good as its baseline (success {success:.0%}): a false alarm in {share:.2%} of"
            f" {streams} streams, {PAIRS} looks each; level {CANARY_LEVEL:.0%}: {told}",
            flush=True,
        )
    print(f"gates: {trials} trials a row, seed {seed}: {missed} bars missed")
    return 1 if missed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make bench-gates")
    parser.add_argument("--trials", type=int, default=2_000)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    sys.exit(main(told.trials, told.streams, told.seed))
