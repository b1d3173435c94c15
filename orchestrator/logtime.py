"""Log time, whether a clock may give it, and the budget for recording refusals."""

from __future__ import annotations

from writ.broker.clock import Clock
from writ.schemas import bounds

from .replay.text import clock_time

CLOCK_MAX_S = 2.0
"""Whose clock is further than this off the broker's does not lead: log time would follow it."""


class ClockOff(Exception):
    """This engine's clock and the broker's do not agree: it does not lead."""


def compare_clocks(begun_us: int, ended_us: int, stored_us: int) -> None:
    """Raises ClockOff where the broker stored a record far from the time in which it was appended.

    Wall times in microseconds: this clock's before and after the append, and the broker's in between.
    """
    told_us = min(max(stored_us, begun_us), ended_us)
    off_s = (told_us - stored_us) / bounds.SECOND_US
    if abs(off_s) > CLOCK_MAX_S:
        raise ClockOff(
            f"its clock told {clock_time(told_us)} as the broker stored a record at {clock_time(stored_us)}: "
            f"{off_s:+.3f} s off, and at most {CLOCK_MAX_S:g} s are allowed; set the clocks of both right"
        )


class LogTime:
    """Microseconds UTC that never go backwards: monotonic time since a start, slewed towards wall time."""

    def __init__(self, clock: Clock, last_at: int) -> None:
        self._clock = clock
        self._at = max(last_at, clock.wall_us())
        self._mono = clock.mono_us()

    def now(self) -> int:
        mono = self._clock.mono_us()
        elapsed = max(0, mono - self._mono)
        self._mono = mono
        error = self._clock.wall_us() - (self._at + elapsed)
        most = elapsed // bounds.SLEW
        self._at += elapsed + max(-most, min(most, error))
        return self._at


class Budget:
    """A token bucket: `take` says whether one more is within the burst and the rate."""

    def __init__(self, burst: int = bounds.REFUSALS_BURST, per_s: float = bounds.REFUSALS_PER_S) -> None:
        self._burst = burst
        self._per_us = per_s / bounds.SECOND_US
        self._left: dict[str, tuple[float, int]] = {}

    def take(self, whose: str, now: int) -> bool:
        left, since = self._left.get(whose, (float(self._burst), now))
        left = min(self._burst, left + (now - since) * self._per_us)
        if left < 1:
            self._left[whose] = (left, now)
            return False
        self._left[whose] = (left - 1, now)
        if len(self._left) > bounds.BATCH_MAX_RECORDS:
            self._forget(now)
        return True

    def _forget(self, now: int) -> None:
        """Drops the full buckets, so that many names cost no memory for ever."""
        refill_us = self._burst / self._per_us
        self._left = {k: v for k, v in self._left.items() if now - v[1] < refill_us}
