"""The clock that the rooms are given, so that the simulator can give another."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Both in microseconds: `wall_us` since 1970 UTC, `mono_us` from any start and never backwards."""

    def wall_us(self) -> int: ...

    def mono_us(self) -> int: ...


class SystemClock:
    """The machine's own clocks."""

    def wall_us(self) -> int:
        return time.time_ns() // 1_000

    def mono_us(self) -> int:
        return time.monotonic_ns() // 1_000
