"""Watching a canary: a test that may be looked at after every event, without raising more false alarms.

Results of canary and baseline are paired in the order they come, and money is bet on their difference. Under
the hypothesis the stake is worth no more than it was on average, so it ever multiplies by 1/level with a
chance of at most `level` (J. Ville, 1939), however often one looks and whenever one stops. The bets are a
mixture over fixed fractions. Sources: G. Shafer, Testing by betting (2021); I. Waudby-Smith and A. Ramdas,
Estimating means of bounded random variables by betting (2023).
"""

from __future__ import annotations

from collections import deque
from statistics import fmean

import msgspec

from writ.schemas.evaluations import Outcome

_FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
_KEPT = 100
"""Results that wait for one of the other side. Of more, the oldest go, whatever their value."""


class Watched(msgspec.Struct, frozen=True):
    """What a canary has shown until now. `pairs` results of each side were compared."""

    outcome: Outcome
    pairs: int
    change: float
    """The canary's mean less the baseline's."""
    worse: float
    """Evidence that the drop exceeds `tolerate`, as the factor that a bet on it has won. 1/level condemns."""
    fine: float
    """Evidence that the drop is less than `detect`. 1/level acquits."""


class Canary:
    """Compare results in 0 to 1 (1 is good) of a canary and its baseline, one by one.

    `tolerate` is the drop that is accepted, `detect` the one above which the canary must not pass; `level`
    bounds each error. With no results, or too few, it is inconclusive: no data is not success. Once decided
    it stays so.
    """

    def __init__(self, *, tolerate: float = 0.0, detect: float = 0.1, level: float = 0.05) -> None:
        if not 0 <= tolerate < detect <= 1:
            raise ValueError(
                f"0 <= tolerate < detect <= 1 must hold, not tolerate={tolerate} detect={detect}"
            )
        if not 0 < level < 1:
            raise ValueError(f"the level must lie between 0 and 1, not {level}")
        self._tolerate, self._detect, self._level = tolerate, detect, level
        self._waiting: tuple[deque[float], deque[float]] = (deque(maxlen=_KEPT), deque(maxlen=_KEPT))
        self._worse = [1.0] * len(_FRACTIONS)
        self._fine = [1.0] * len(_FRACTIONS)
        self._pairs, self._sum = 0, 0.0
        self.outcome = Outcome.INCONCLUSIVE

    def canary(self, result: float) -> None:
        """Take a result of the canary, 0 to 1."""
        self._take(0, result)

    def baseline(self, result: float) -> None:
        """Take a result of the baseline, 0 to 1."""
        self._take(1, result)

    def watched(self) -> Watched:
        """What has been shown until now."""
        return Watched(
            outcome=self.outcome,
            pairs=self._pairs,
            change=self._sum / self._pairs if self._pairs else 0.0,
            worse=fmean(self._worse),
            fine=fmean(self._fine),
        )

    def _take(self, side: int, result: float) -> None:
        if not 0 <= result <= 1:
            raise ValueError(f"a result lies between 0 and 1, not {result}")
        other = self._waiting[1 - side]
        if not other:
            self._waiting[side].append(result)
            return
        first = other.popleft()
        self._bet(result - first if side == 0 else first - result)

    def _bet(self, change: float) -> None:
        """Bet on one pair. A stake loses at most the fraction that was bet, so it stays above nought."""
        self._pairs += 1
        self._sum += change
        # The mean of `change + tolerate` is 0 or more if the canary is fine; it is at most 1 + tolerate.
        worse = -(change + self._tolerate) / (1 + self._tolerate)
        # The mean of `change + detect` is at most 0 if the drop is as large; it is at least detect - 1.
        fine = (change + self._detect) / (1 - self._detect or 1.0)
        for i, fraction in enumerate(_FRACTIONS):
            self._worse[i] *= 1 + fraction * worse
            self._fine[i] *= 1 + fraction * fine
        if self.outcome is not Outcome.INCONCLUSIVE:
            return
        if fmean(self._worse) >= 1 / self._level:
            self.outcome = Outcome.FAIL
        elif fmean(self._fine) >= 1 / self._level:
            self.outcome = Outcome.PASS
