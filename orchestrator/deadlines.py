"""When something happens by itself."""

from __future__ import annotations

import heapq


class Deadlines:
    """When something happens to a job by itself: one live entry each, stale ones skipped when met."""

    _SLACK = 1_024

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._armed: dict[str, int] = {}

    def set(self, place: str, at: int | None) -> None:
        """Arms or disarms. A later deadline than the armed one is found when that one is met."""
        armed = self._armed.get(place)
        if at is None:
            if armed is not None:
                del self._armed[place]
        elif armed is None or at < armed:
            self._armed[place] = at
            heapq.heappush(self._heap, (at, place))
            if len(self._heap) > 2 * len(self._armed) + self._SLACK:
                self._heap = [(due, where) for where, due in self._armed.items()]
                heapq.heapify(self._heap)

    def armed(self, place: str) -> bool:
        """Whether a time is still to come for it."""
        return place in self._armed

    def armed_times(self) -> dict[str, int]:
        """Each address that a time is still to come for, with that time."""
        return dict(self._armed)

    def first(self) -> int | None:
        """The earliest entry, which may turn out to be stale; None where nothing is armed."""
        return self._heap[0][0] if self._heap else None

    def pop(self, now: int) -> str | None:
        """An address whose armed time has come, disarmed; None where there is none at `now`."""
        while self._heap and self._heap[0][0] <= now:
            at, place = heapq.heappop(self._heap)
            if self._armed.get(place) == at:
                del self._armed[place]
                return place
        return None
