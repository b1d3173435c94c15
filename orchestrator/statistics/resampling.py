"""The bootstrap distribution of a mean, without drawing.

A bootstrap draws with replacement thousands of times and counts. What it counts towards is a sum of
independent draws whose cumulant generating function is known, so its tails follow from the saddlepoint
formula: the same answer, to more digits than a few thousand draws have, without a seed, in milliseconds. That
is why a gate can be judged where a promotion is decided, and judged again by whoever doubts it.

Sources: A. C. Davison and D. V. Hinkley, Saddlepoint approximations in resampling methods, Biometrika 75
(1988); O. E. Barndorff-Nielsen, Inference on full or partial parameters, Biometrika 73 (1986), for the tail.
The deviations are widened by sqrt(r / (r - 1)), because r values draw their own spread too small by that
factor.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import NormalDist, fmean

_NORMAL = NormalDist()
_NEAR = 1e-3
"""Standard deviations from the mean within which the formula divides nought by nought: there it is a line."""
_FAR = 40.0
"""Standard deviations beyond which no chance is left."""
_STEPS = 100


class Resampled:
    """How far a sum of means of resampled samples falls from its own mean.

    Built from samples of at least two values each and the weight that each one's mean has in the sum.
    """

    def __init__(self, samples: Iterable[tuple[Sequence[float], float]]) -> None:
        counted: Counter[tuple[float, ...]] = Counter()
        for values, weight in samples:
            mean, size = fmean(values), len(values)
            wider = math.sqrt(size / (size - 1))
            sample = tuple(sorted((value - mean) * wider * weight for value in values))
            if sample[0] < sample[-1]:
                counted[sample] += 1
        # Deviations from a mean, of which as many are drawn as there are; and how many samples are alike.
        self._samples = tuple(counted.items())
        self.deviation = math.sqrt(
            sum(
                count * sum(each * each for each in sample) / len(sample) ** 2
                for sample, count in self._samples
            )
        )
        """The standard deviation."""
        self._least = sum(count * sample[0] for sample, count in self._samples)
        self._most = sum(count * sample[-1] for sample, count in self._samples)

    def at_most(self, x: float) -> float:
        """The chance that the sum falls to `x` or below, where its mean is 0."""
        if x >= self._most:
            return 1.0
        if x <= self._least:
            return 0.0
        return _NORMAL.cdf(self._standard(self._saddlepoint(x))[0])

    def quantile(self, chance: float) -> float:
        """The value that the sum falls to or below with this chance, 0 < chance < 1; 0 where it never
        moves."""
        if not self.deviation:
            return 0.0
        wanted = _NORMAL.inv_cdf(chance)
        # In t what is sought is nearly a straight line, and needs no search for a saddlepoint within the
        # search.
        before, t = (wanted - 0.5) / self.deviation, wanted / self.deviation
        standard, x = self._standard(before)
        off_before = standard - wanted
        for _ in range(_STEPS):
            standard, x = self._standard(t)
            off = standard - wanted
            if abs(off) <= 1e-9 or off == off_before:
                break
            before, off_before, t = t, off, t - off * (t - before) / (off - off_before)
        return min(max(x, self._least), self._most)

    def _standard(self, t: float) -> tuple[float, float]:
        """The standard normal value with the same chance as the value at saddlepoint `t`, and that value."""
        near = _NEAR / self.deviation
        if abs(t) < near:
            below, above = self._standard(-near), self._standard(near)
            part = (t + near) / (2 * near)
            return tuple(a + (b - a) * part for a, b in zip(below, above, strict=True))  # type: ignore[return-value]
        cumulant, x, curvature = self._tilted(t)
        root = math.copysign(math.sqrt(max(2 * (t * x - cumulant), 0.0)), t)
        slope = t * math.sqrt(curvature)
        if root == 0 or slope == 0:
            return math.copysign(_FAR, t), x
        return root + math.log(slope / root) / root, x

    def _saddlepoint(self, x: float) -> float:
        """The t at which the tilted mean is `x`. Newton's steps, kept within a bracket."""
        t, low, high = x / self.deviation**2, -math.inf, math.inf
        for _ in range(_STEPS):
            _, mean, curvature = self._tilted(t)
            if mean < x:
                low = t
            else:
                high = t
            if abs(mean - x) <= 1e-10 * self.deviation:
                break
            step = t + (x - mean) / curvature if curvature > 0 else math.inf
            if not low < step < high:
                # Beyond the bracket: halve it, or go on outwards while one side is open.
                step = (low + high) / 2 if math.isfinite(low + high) else 2 * t
            t = step
        return t

    def _tilted(self, t: float) -> tuple[float, float, float]:
        """K(t), K'(t) and K''(t) of the whole sum."""
        cumulant = mean = curvature = 0.0
        for sample, count in self._samples:
            size = len(sample)
            powers = [t * each / size for each in sample]
            top = max(powers)
            weights = [math.exp(power - top) for power in powers]
            total = math.fsum(weights)
            first = sum(w * each for w, each in zip(weights, sample, strict=True)) / total
            second = sum(w * each * each for w, each in zip(weights, sample, strict=True)) / total
            cumulant += count * size * (top + math.log(total / size))
            mean += count * first
            curvature += count * (second - first * first) / size
        return cumulant, mean, curvature
