"""Token buckets: what a rate with a burst allows, as of log time."""

from __future__ import annotations

import msgspec

from .bounds import SECOND_US


class Bucket(msgspec.Struct, frozen=True, gc=False):
    """A token bucket as of log time `at`. May go below zero: then tokens are promised ahead of time."""

    tokens: float
    at: int

    def level(self, now: int, per_s: float, burst: float) -> float:
        """Tokens at log time `now`."""
        return min(burst, self.tokens + max(0, now - self.at) * per_s / SECOND_US)

    def take(self, now: int, per_s: float, burst: float) -> Bucket:
        """The bucket after one more is taken, whether it was there or not."""
        return Bucket(self.level(now, per_s, burst) - 1, max(now, self.at))

    def full_at(self, now: int, per_s: float, burst: float) -> int:
        """Log time at which there is a whole token."""
        missing = 1 - self.level(now, per_s, burst)
        return now if missing <= 0 else now + 1 + int(missing * SECOND_US / per_s)
