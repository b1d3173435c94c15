"""Log time, and the budget for recording refusals."""

from __future__ import annotations

from writ.broker.clock import Clock
from writ.schemas import bounds

_SLEW = 20
"""Log time may run one part in this many faster or slower than the monotonic clock."""


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
        most = elapsed // _SLEW
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
