"""Canaries that judge themselves: by which results, when they are decided, and what follows.

A *result* is 1 or 0: how the first attempt at a job went, or how the job ended. Those of the canary's
release and of the one that live points at are compared as they come: `writ.orchestrator.statistics.Stream`.

    canary_judged   what a canary's results proved; what follows from it stands in the same record
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from .evaluations import Outcome
from .facts import Fact


class Measure(StrEnum):
    """What a result is. Later attempts at a job are none: how they go is no news of the release."""

    ATTEMPTS = "attempts"
    """How the first attempt at a job went; one whose lease was lost has failed."""

    JOBS = "jobs"
    """Whether a job completed or died."""


class OnWorse(StrEnum):
    """What follows where the canary is proved worse."""

    END = "end"
    """Its jobs get live again, but for those that have recorded a step."""

    FREEZE = "freeze"
    """And no lease is given for its release, to those neither."""

    HOLD = "hold"
    """Nothing but the event: a person decides."""


class OnFine(StrEnum):
    """What follows where it is proved not worse by `detect`."""

    HOLD = "hold"
    END = "end"
    PROMOTE = "promote"
    """Live points at it, if the gates let it through."""


class CanaryPolicy(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How a canary is judged. `tolerate` and `detect` are parts of all results: 0.1 is ten of a hundred.

    `level` bounds both errors, however often one looks: that a canary which lost no more than `tolerate` is
    called worse, and that one which lost `detect` is called fine. Nothing is decided from fewer than
    `minimum` results of each side.
    """

    measure: Measure = Measure.ATTEMPTS
    level: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    tolerate: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    detect: Annotated[float, Meta(gt=0, le=1)] = 0.1
    minimum: Annotated[int, Meta(ge=1, le=1_000_000)] = 20
    on_worse: OnWorse = OnWorse.END
    on_fine: OnFine = OnFine.HOLD


class Watched(msgspec.Struct, frozen=True, gc=False):
    """What a canary has shown until now. `pairs` results of each side were compared."""

    outcome: Outcome
    pairs: int
    change: float
    """The canary's mean less the baseline's."""
    worse: float
    """Evidence that the drop exceeds `tolerate`, as the factor that a bet on it has won. 1/level condemns."""
    fine: float
    """Evidence that the drop is less than `detect`. 1/level acquits."""


class Finding(msgspec.Struct, frozen=True, gc=False):
    """What a partition has found of a canary, in the jobs that live there.

    `revision` is the record of the process that last changed what is compared: with another one all begins
    anew. `level` is this partition's share of the policy's.
    """

    process: str
    scope: str
    revision: int
    partition: int
    level: float
    watched: Watched


class CanaryJudged(Fact, frozen=True):
    """`digest` was compared with what live pointed at, and `found` is what came of it, by `policy`."""

    scope: str
    digest: str
    policy: CanaryPolicy
    found: Finding
