"""Evaluations: what a release scored on a data set beside another release, and what that proves.

A score is a number per item and repeat. A *dimension* is what was scored, with what counts as a drop. The
verdict is computed by `writ.orchestrator.statistics.judge` from the scores alone, so that anyone can compute
it again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from .forms import Token

Scores = tuple[tuple[float | None, ...], ...]
"""Per item of the data set, in its order, a value per repeat; None where there is none: it is missing, not
zero."""


class Better(StrEnum):
    """In which direction a score is good."""

    HIGHER = "higher"
    LOWER = "lower"


class Outcome(StrEnum):
    """What was proved. Only `pass` lets a release through; `inconclusive` says that more repeats would
    decide."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Dimension(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is scored, and which drop against the baseline counts.

    `tolerate` is the drop that is accepted, `detect` the one that must not be missed: an evaluation that
    could have missed it is inconclusive. Both are in units of the score, or, with `relative`, parts of the
    baseline's mean (0.1 is 10 %). `minimum` (for `better` higher) or `maximum` (lower) is a bound on the mean
    that holds without a baseline as well.
    """

    name: Token
    better: Better = Better.HIGHER
    relative: bool = False
    tolerate: Annotated[float, Meta(ge=0)] = 0.0
    detect: Annotated[float, Meta(gt=0)] = 0.1
    minimum: float | None = None
    maximum: float | None = None
    every: bool = False
    """The bound holds for each single score, and decides alone: for what must never happen."""


class Compared(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one dimension proved.

    `change` is the candidate's mean less the baseline's, turned so that negative is worse; `low` and `high`
    bound it with 95 % confidence. `p` is the chance of a drop as large as this one if nothing beyond
    `tolerate` was lost, `level` what `p` was held against (Holm's correction over dimensions).
    `smallest_drop` is the smallest true drop that would have been found in nine of ten such evaluations.
    `repeats_needed` would have found `detect`.
    """

    dimension: Token
    outcome: Outcome
    reason: str
    candidate: float | None = None
    baseline: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    level: float | None = None
    smallest_drop: float | None = None
    repeats_needed: int | None = None
    missing: int = 0


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an evaluation proved: the worst of its dimensions."""

    outcome: Outcome
    dimensions: tuple[Compared, ...]
    items: int
    repeats: int

    @property
    def reason(self) -> str:
        """The sentences of those dimensions that decided it."""
        return " ".join(
            f"{each.dimension}: {each.reason}" for each in self.dimensions if each.outcome is self.outcome
        )


class Measured(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The scores of one dimension: the candidate's and, if it is held against one, the baseline's."""

    dimension: Dimension
    candidate: Scores
    baseline: Scores | None = None
