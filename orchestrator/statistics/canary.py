"""Watching a canary: a test that may be looked at after every event, without raising more false alarms.

Results of canary and baseline are paired in the order they come, and money is bet on their difference. Under
the hypothesis the stake is worth no more than it was on average, so it ever multiplies by 1/level with a
chance of at most `level` (J. Ville, 1939), however often one looks and whenever one stops. The bets are a
mixture over fixed fractions. Sources: G. Shafer, Testing by betting (2021); I. Waudby-Smith and A. Ramdas,
Estimating means of bounded random variables by betting (2023).
"""

from __future__ import annotations

from statistics import fmean
from typing import Final

import msgspec
from msgspec.structs import replace

from writ.schemas.canaries import Watched
from writ.schemas.evaluations import Outcome

_FRACTIONS: Final = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
_KEPT: Final = 100
"""Results that wait for one of the other side. Of more, the oldest go, whatever their value."""

_UNBET: Final = (1.0,) * len(_FRACTIONS)


class Stream(msgspec.Struct, frozen=True, gc=False):
    """Results in 0 to 1 (1 is good) of a canary and its baseline, compared one by one.

    `tolerate` is the drop that is accepted, `detect` the one above which the canary must not pass; `level`
    bounds each error. With no results, or fewer pairs than `minimum`, it is inconclusive: no data is not
    success. Once decided it stays so.
    """

    tolerate: float = 0.0
    detect: float = 0.1
    level: float = 0.05
    minimum: int = 1
    outcome: Outcome = Outcome.INCONCLUSIVE
    pairs: int = 0
    total: float = 0.0
    waiting: tuple[float, ...] = ()
    """Results that no other was paired with yet: all of one side."""
    of_canary: bool = False
    """Which side that is."""
    worse: tuple[float, ...] = _UNBET
    fine: tuple[float, ...] = _UNBET

    def __post_init__(self) -> None:
        if not 0 <= self.tolerate < self.detect <= 1:
            given = f"tolerate={self.tolerate} detect={self.detect}"
            raise ValueError(f"0 <= tolerate < detect <= 1 must hold, not {given}")
        if not 0 < self.level < 1:
            raise ValueError(f"the level must lie between 0 and 1, not {self.level}")

    def canary(self, result: float) -> Stream:
        """With a result of the canary, 0 to 1."""
        return self._taken(result, of_canary=True)

    def baseline(self, result: float) -> Stream:
        """With a result of the baseline, 0 to 1."""
        return self._taken(result, of_canary=False)

    def watched(self) -> Watched:
        """What has been shown until now."""
        change = self.total / self.pairs if self.pairs else 0.0
        return Watched(self.outcome, self.pairs, change, fmean(self.worse), fmean(self.fine))

    def _taken(self, result: float, *, of_canary: bool) -> Stream:
        if not 0 <= result <= 1:
            raise ValueError(f"a result lies between 0 and 1, not {result}")
        if self.waiting and self.of_canary is not of_canary:
            first, waiting = self.waiting[0], self.waiting[1:]
            return self._bet(result - first if of_canary else first - result, waiting)
        return replace(self, waiting=(*self.waiting, result)[-_KEPT:], of_canary=of_canary)

    def _bet(self, change: float, waiting: tuple[float, ...]) -> Stream:
        """With a bet on one pair. A stake loses at most the fraction that was bet: it stays above nought."""
        # The mean of `change + tolerate` is 0 or more if the canary is fine; it is at most 1 + tolerate.
        lost = -(change + self.tolerate) / (1 + self.tolerate)
        # The mean of `change + detect` is at most 0 if the drop is as large; it is at least detect - 1.
        kept = (change + self.detect) / (1 - self.detect or 1.0)
        worse = tuple([stake * (1 + part * lost) for stake, part in zip(self.worse, _FRACTIONS, strict=True)])
        fine = tuple([stake * (1 + part * kept) for stake, part in zip(self.fine, _FRACTIONS, strict=True)])
        pairs, outcome = self.pairs + 1, self.outcome
        if outcome is Outcome.INCONCLUSIVE and pairs >= self.minimum:
            if fmean(worse) >= 1 / self.level:
                outcome = Outcome.FAIL
            elif fmean(fine) >= 1 / self.level:
                outcome = Outcome.PASS
        return replace(
            self,
            outcome=outcome,
            pairs=pairs,
            total=self.total + change,
            waiting=waiting,
            worse=worse,
            fine=fine,
        )
