"""Lines of what waits, one for each tenant, and whose turn it is: whoever has had least goes first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """First come first served within a line; between lines by what each was served, in records.

    A line that was empty begins where the others are: nobody saves up turns, and a flood of one line costs
    another at most what is being served already.
    """

    def __init__(self) -> None:
        self._lines: dict[str, deque[T]] = {}
        self._served: dict[str, int] = {}
        self._now = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return (item for line in self._lines.values() for item in line)

    @property
    def lines(self) -> int:
        """How many have something waiting."""
        return len(self._lines)

    def length(self, whose: str) -> int:
        """How many wait in a line."""
        return len(self._lines.get(whose, ()))

    def add(self, whose: str, item: T) -> None:
        self._line(whose).append(item)
        self._count += 1

    def put_back(self, whose: str, items: Iterable[T]) -> None:
        """What was taken in vain waits again, before all else of its line and in its order."""
        again = list(items)
        self._line(whose).extendleft(reversed(again))
        self._count += len(again)

    def _line(self, whose: str) -> deque[T]:
        line = self._lines.get(whose)
        if line is None:
            line = self._lines[whose] = deque()
            self._served[whose] = max(self._served.get(whose, 0), self._now)
        return line

    def first(self, whose: str) -> T:
        """The first of a line that is not empty."""
        return self._lines[whose][0]

    def next(self, among: Callable[[str], bool] | None = None) -> T | None:
        """What is to be taken next, of all lines or those among them; it stays where it is."""
        if not self._lines:
            return None
        if among is None:
            return self._lines[self._whose()][0]
        whose = min(filter(among, self._lines), key=self._served.__getitem__, default=None)
        return None if whose is None else self._lines[whose][0]

    def take(self, records: int, whose: str | None = None) -> T:
        """Takes the next one, or that of a line whose turn is to come; it makes about so many records."""
        turn = self._whose()
        whose = whose or turn
        line = self._lines[whose]
        self._now = self._served[turn]
        self._served[whose] += records
        item = line.popleft()
        self._count -= 1
        if not line:
            del self._lines[whose]
            self._forget()
        return item

    def _whose(self) -> str:
        if len(self._lines) == 1:
            return next(iter(self._lines))
        return min(self._lines, key=self._served.__getitem__)

    def _forget(self) -> None:
        """Drops what was served to those who wait for nothing and are behind already."""
        if len(self._served) > 2 * len(self._lines) + 64:
            self._served = {w: n for w, n in self._served.items() if w in self._lines or n > self._now}

    def clear(self) -> None:
        self._lines.clear()
        self._served.clear()
        self._now = self._count = 0
