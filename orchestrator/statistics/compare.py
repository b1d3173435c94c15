"""Hold a candidate's scores against a baseline's, item by item, and say what that proves.

The items are what a release must be able to do, not a sample of something larger: chance is in the repeats.
Each item's repeats are resampled on both sides (a paired bootstrap, see `resampling`). Where an item was
tried once there is nothing to resample, and the items' differences are resampled instead, which asks more.

`fail` is a drop beyond `tolerate` that luck does not explain: its p-value is below the level, by Holm's
procedure (Scand. J. Statist. 6, 1979) over the dimensions. `pass` is no such drop, *and* that a drop of
`detect` would have been found in nine of ten such evaluations, *and* that nothing is missing. What is neither
is `inconclusive`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from statistics import NormalDist, fmean
from typing import NamedTuple

from writ.schemas.evaluations import Better, Compared, Dimension, Measured, Outcome, Scores, Verdict

from .resampling import Resampled

LEVEL = 0.025
"""How often a release that lost nothing fails, over all its dimensions together."""
POWER = 0.9
"""How often a drop of `detect` must be found for a pass to count."""

_NORMAL = NormalDist()
_EXCLUDED = 3.0
"""Of N tries that all went well, 3/N is the failure rate that they exclude with 95 %: J. A. Hanley and
A. Lippman-Hand, If nothing goes wrong, is everything all right?, JAMA 249 (1983)."""

_Item = tuple[Sequence[float], Sequence[float]]
"""The values of both sides, at least one each."""


def judge(measured: Sequence[Measured]) -> Verdict:
    """What these scores prove, over all dimensions.

    Raises:
        ValueError: two dimensions of one name, or of different numbers of items.
    """
    names = [each.dimension.name for each in measured]
    if len(set(names)) < len(names):
        raise ValueError(f"each dimension may be scored once, not {sorted(names)}")
    sizes = {
        len(scores) for each in measured for scores in (each.candidate, each.baseline) if scores is not None
    }
    if len(sizes) > 1:
        raise ValueError(f"every dimension and side must score the same items, not {sorted(sizes)} of them")
    seen = [_see(each) for each in measured]
    compared = tuple(_conclude(one, level, len(seen)) for one, level in zip(seen, _levels(seen), strict=True))
    return Verdict(
        outcome=_worst({each.outcome for each in compared}),
        dimensions=compared,
        items=next(iter(sizes), 0),
        repeats=max((len(tries) for each in measured for tries in each.candidate), default=0),
    )


def _worst(outcomes: Set[Outcome]) -> Outcome:
    if Outcome.FAIL in outcomes:
        return Outcome.FAIL
    return Outcome.PASS if outcomes == {Outcome.PASS} else Outcome.INCONCLUSIVE


class _Seen(NamedTuple):
    """One dimension, before the correction over all of them. Changes are turned so that negative is worse."""

    dimension: Dimension
    missing: int
    candidate: float | None = None
    baseline: float | None = None
    change: float | None = None
    spread: Resampled | None = None
    p: float = 1.0
    repeats: int = 0
    tries: int = 0
    bound: tuple[Outcome, str] | None = None
    """What the dimension's minimum or maximum says."""
    nothing: str = ""
    """Why there is nothing to compare."""


def _see(measured: Measured) -> _Seen:
    dimension = measured.dimension
    baseline = None if dimension.every else measured.baseline
    missing = _missing(measured.candidate) + (_missing(baseline) if baseline is not None else 0)
    ours = [_there(tries) for tries in measured.candidate]
    if not any(ours):
        return _Seen(dimension, missing, nothing="the candidate has no score, and no data is not success.")
    bound = _hold_bound(dimension, [tries for tries in ours if tries])
    if baseline is None:
        mean = fmean(fmean(tries) for tries in ours if tries)
        nothing = "" if bound else "there is neither a baseline nor a bound to hold it against."
        return _Seen(dimension, missing, mean, bound=bound, nothing=nothing)
    items: list[_Item] = [
        (mine, theirs)
        for mine, theirs in zip(ours, (_there(tries) for tries in baseline), strict=True)
        if mine and theirs
    ]
    if not items:
        return _Seen(
            dimension, missing, nothing="no item was scored on both sides, and no data is not success."
        )
    candidate, base = (fmean(fmean(item[side]) for item in items) for side in (0, 1))
    scale = abs(base) if dimension.relative else 1.0
    if scale == 0:
        return _Seen(dimension, missing, candidate, base, nothing="parts of a baseline of 0 say nothing.")
    turned = (1.0 if dimension.better is Better.HIGHER else -1.0) / scale
    change, spread = turned * (candidate - base), _spread(items, turned)
    lost = change + dimension.tolerate
    return _Seen(
        dimension, missing, candidate, base, change, spread,
        p=spread.at_most(lost) if spread.deviation else float(lost >= -1e-12),
        repeats=min(len(tries) for item in items for tries in item),
        tries=min(sum(len(item[side]) for item in items) for side in (0, 1)),
        bound=bound,
    )  # fmt: skip


def _there(tries: Sequence[float | None]) -> list[float]:
    return [value for value in tries if value is not None]


def _missing(scores: Scores) -> int:
    """Values that are not there; an item without any try lacks one."""
    return sum(1 if not tries else sum(value is None for value in tries) for tries in scores)


def _spread(items: Sequence[_Item], turned: float) -> Resampled:
    """The bootstrap distribution of the mean change."""
    weight = turned / len(items)
    if all(len(tries) > 1 for item in items for tries in item):
        return Resampled(
            (tries, side * weight) for item in items for side, tries in zip((1, -1), item, strict=True)
        )
    return Resampled(
        [([fmean(mine) - fmean(theirs) for mine, theirs in items], turned)] if len(items) > 1 else []
    )


def _hold_bound(dimension: Dimension, ours: Sequence[Sequence[float]]) -> tuple[Outcome, str] | None:
    """Hold the candidate's own mean, with what chance may have added, against the bound."""
    higher = dimension.better is Better.HIGHER
    bound = dimension.minimum if higher else dimension.maximum
    if bound is None:
        return None
    side = "at least" if higher else "at most"
    if dimension.every:
        worst = min(map(min, ours)) if higher else max(map(max, ours))
        held = worst >= bound if higher else worst <= bound
        said = f"the worst score is {worst:.4g}, where {side} {bound:g} is asked of each."
        return (Outcome.PASS if held else Outcome.FAIL), said
    mean = fmean(fmean(tries) for tries in ours)
    many = all(len(tries) > 1 for tries in ours)
    spread = Resampled(
        [(tries, 1 / len(ours)) for tries in ours]
        if many
        else [([fmean(tries) for tries in ours], 1.0)]
        if len(ours) > 1
        else []
    )
    least, most = _interval(mean, spread)
    if (most < bound) if higher else (least > bound):
        return Outcome.FAIL, f"{mean:.4g}, where {side} {bound:g} is asked."
    if (least >= bound) if higher else (most <= bound):
        return Outcome.PASS, f"{mean:.4g}, {side} {bound:g} as asked."
    return (
        Outcome.INCONCLUSIVE,
        f"{mean:.4g} may or may not be {side} {bound:g}: it lies in {least:.4g} to {most:.4g}.",
    )


def _interval(mean: float, spread: Resampled) -> tuple[float, float]:
    if not spread.deviation:
        return mean, mean
    return mean - spread.quantile(1 - LEVEL), mean - spread.quantile(LEVEL)


def _levels(seen: Sequence[_Seen]) -> list[float]:
    """What each p-value is held against. Holm: the smallest against level/m, the next against level/(m - 1),
    ...

    After the first that is not below its own, none is: those get a level of 0.
    """
    tested = sorted((one.p, i) for i, one in enumerate(seen) if one.change is not None)
    levels, going = [0.0] * len(seen), True
    for rank, (p, i) in enumerate(tested):
        level = LEVEL / (len(tested) - rank)
        going = going and p <= level
        levels[i] = level if going else 0.0
    return levels


def _conclude(seen: _Seen, level: float, dimensions: int) -> Compared:
    """The verdict on one dimension, and the sentence that says why."""
    dimension, change, spread = seen.dimension, seen.change, seen.spread
    smallest = repeats = low = high = None
    if change is not None and spread is not None:
        low, high = _interval(change, spread)
        smallest, repeats = _resolution(seen, spread, LEVEL / dimensions)
    outcome, reason = _outcome(seen, level, smallest, repeats)
    return Compared(
        dimension=dimension.name,
        outcome=outcome,
        reason=reason,
        candidate=_rounded(seen.candidate),
        baseline=_rounded(seen.baseline),
        change=_rounded(change),
        low=_rounded(low),
        high=_rounded(high),
        p=_rounded(seen.p) if change is not None else None,
        level=_rounded(level) if change is not None else None,
        smallest_drop=_rounded(smallest),
        repeats_needed=repeats,
        missing=seen.missing,
    )


def _rounded(value: float | None) -> float | None:
    """To six digits: the last ones depend on the machine, and verdicts must be the same on each."""
    return None if value is None else float(f"{value:.6g}")


def _outcome(seen: _Seen, level: float, smallest: float | None, repeats: int | None) -> tuple[Outcome, str]:
    unit = " of the baseline" if seen.dimension.relative else ""
    if seen.bound and seen.bound[0] is Outcome.FAIL:
        return seen.bound
    if seen.nothing:
        return Outcome.INCONCLUSIVE, seen.nothing
    if seen.change is not None and level > 0:
        beyond = f" beyond the {seen.dimension.tolerate:g} tolerated" if seen.dimension.tolerate else ""
        return (
            Outcome.FAIL,
            f"a drop of {-seen.change:.4g}{unit}{beyond}, which luck gives with p = {seen.p:.2g}.",
        )
    if seen.missing:
        return Outcome.INCONCLUSIVE, f"{seen.missing} scores are missing, and a missing item is never a pass."
    if smallest is not None and smallest > seen.dimension.detect:
        more = f" {repeats} repeats would decide it." if repeats else " More items would decide it."
        return (
            Outcome.INCONCLUSIVE,
            f"no drop was found, but one of {seen.dimension.detect:g}{unit} could have been missed:"
            f" the smallest that would be found is {smallest:.2g}.{more}",
        )
    if seen.bound and seen.bound[0] is Outcome.INCONCLUSIVE:
        return seen.bound
    if smallest is None:
        assert seen.bound is not None
        return seen.bound
    return Outcome.PASS, f"no drop; one of {smallest:.2g}{unit} or more would have been found."


def _resolution(seen: _Seen, spread: Resampled, level: float) -> tuple[float, int | None]:
    """The smallest true drop that is found with `POWER`, and how many repeats would find `detect`.

    Scores without any spread do not show that there is none: they exclude what would have shown in so many
    tries.
    """
    reach = (_NORMAL.inv_cdf(1 - level) + _NORMAL.inv_cdf(POWER)) * spread.deviation
    unseen = _EXCLUDED / seen.tries
    smallest = seen.dimension.tolerate + max(reach, unseen)
    room = seen.dimension.detect - seen.dimension.tolerate
    if smallest <= seen.dimension.detect or room <= 0:
        return smallest, None
    # The deviation falls with the root of the repeats, what no try showed with their number.
    factor = max((reach / room) ** 2, unseen / room)
    return smallest, math.ceil(max(seen.repeats, 1) * factor)
