"""Workers whose acquire found nothing: parked until a job comes or their wait is over."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator

import msgspec

from writ.broker.ports import Answer
from writ.schemas.commands import Acquire


class Waiter(msgspec.Struct, frozen=True, eq=False):
    """A parked acquire; `until` is monotonic time in microseconds, `since` the log time at which it came."""

    tenant: str
    principal: str
    queue: str
    command: Acquire
    send: Answer
    until: int
    since: int

    @property
    def place(self) -> str:
        """Its queue, as `<tenant>.<queue>`."""
        return f"{self.tenant}.{self.queue}"


class Waiting:
    """Parked acquires by queue, first come first served."""

    def __init__(self) -> None:
        self._lines: dict[str, OrderedDict[int, Waiter]] = {}
        self._ends: list[tuple[int, int, str]] = []
        self._count = 0

    def park(self, waiter: Waiter) -> None:
        self._count += 1
        self._lines.setdefault(waiter.place, OrderedDict())[self._count] = waiter
        heapq.heappush(self._ends, (waiter.until, self._count, waiter.place))

    def queues(self) -> Iterator[str]:
        """`<tenant>.<queue>` of every queue with somebody waiting."""
        return iter(tuple(self._lines))

    def line(self, place: str) -> Iterable[tuple[int, Waiter]]:
        """Who waits for a queue, in order, each with the number to `leave` by afterwards."""
        return self._lines.get(place, OrderedDict[int, Waiter]()).items()

    def leave(self, place: str, number: int) -> None:
        line = self._lines[place]
        del line[number]
        if not line:
            del self._lines[place]

    def first_end(self) -> int | None:
        """Monotonic time at which the next wait may be over; None where nobody waits."""
        while self._ends and self._ends[0][1] not in self._lines.get(self._ends[0][2], ()):
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else None

    def over(self, mono_us: int) -> Iterator[Waiter]:
        """Takes out those whose wait is over."""
        while (end := self.first_end()) is not None and end <= mono_us:
            _, number, place = heapq.heappop(self._ends)
            waiter = self._lines[place][number]
            self.leave(place, number)
            yield waiter
