"""Which alerts would have fired, and when, by what the log tells.

Each measure of a queue is a value that changes at known times: when a job comes and goes, and when what was
counted leaves the window. Between the changes only the age of a backlog grows. So the times at which a
threshold is passed are found exactly; nothing is sampled.

An alert that still stands at the log's last record has no end: what came later the log does not tell. Nor
does it know the price of a model that had none: an alert over money says how many usages it left out.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from writ.schemas.alerts import AlertPolicy, Measure
from writ.schemas.bounds import SECOND_US
from writ.schemas.events import AttemptFailed, Fact, JobDeadLettered, LeaseExpired, RetryScheduled
from writ.schemas.lifecycle import TERMINAL, State, micros

from .spending import Pricing, Tables, used
from .stretch import Stretch
from .threads import Step, lay_out

CITED_MAX: Final = 20
_USD: Final = 1_000_000
"""Micro-dollars in one: money is summed whole."""


class Firing(msgspec.Struct, frozen=True):
    """An alert that fired for a queue, in microseconds of log time; `until` is None where it still stood.

    `peak` is the highest value from when the threshold was passed. `records` are the newest, up to 20, of
    those that the value rested on when it fired: what was counted, or what brought the jobs that waited.
    """

    queue: str
    at: int
    until: int | None
    peak: float
    records: tuple[int, ...]


class Alerted(msgspec.Struct, frozen=True):
    """What an alert would have done: at least that, where `unknown` usages had no price."""

    name: str
    policy: AlertPolicy
    firings: tuple[Firing, ...]
    unknown: int = 0


class _Item(NamedTuple):
    """What counts from `start` to `end` with a weight, by record `seq`: of a whole, where it is a share."""

    start: int
    end: int
    weight: int
    seq: int
    whole: int = 0


class _Level(NamedTuple):
    """A value that holds from one time to the next; with `since` it is the time since then that grows."""

    start: int
    end: int
    value: float
    since: int | None = None

    def peak(self, upto: int) -> float:
        return self.value if self.since is None else (upto - self.since) / SECOND_US


def alerted(
    stretch: Stretch, policies: Mapping[str, AlertPolicy], prices: Tables | None = None
) -> tuple[Alerted, ...]:
    """What these alerts would have done over a log, as it was. Raises HistoryError.

    `prices` are those of models that have other ones than recorded.
    """
    threads = lay_out(stretch).threads.values()
    told = _Told(Pricing(prices or {}))
    for step, queue, key in sorted(
        ((step, thread.queue, thread.key) for thread in threads for step in thread.steps),
        key=lambda each: each[0].seq,
    ):
        told.take(step, queue, key)
    return tuple([told.answer(name, policy) for name, policy in policies.items()])


class _Told:
    """The log's steps, by what is measured."""

    def __init__(self, pricing: Pricing) -> None:
        self._pricing = pricing
        self._at = 0
        self._pending: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
        """By queue and job: since when it is pending, and the record that made it so."""

        self._waits: dict[str, list[_Item]] = defaultdict(list)
        self._events: dict[str, list[tuple[Step, Fact]]] = defaultdict(list)
        self._ends: dict[str, list[Step]] = defaultdict(list)

    def take(self, step: Step, queue: str, key: str) -> None:
        """The next step of any job."""
        self._at = max(self._at, step.at)
        waits = step.after.state is State.PENDING
        since = self._pending[queue].get(key)
        if waits and since is None:
            self._pending[queue][key] = step.at, step.seq
        elif not waits and since is not None:
            del self._pending[queue][key]
            self._waits[queue].append(_Item(since[0], step.at, 1, since[1]))
        self._events[queue] += [(step, event) for event in step.events]
        if step.after.state in TERMINAL and (step.before is None or step.before.state not in TERMINAL):
            self._ends[queue].append(step)

    def answer(self, name: str, policy: AlertPolicy) -> Alerted:
        queues = [policy.queue] if policy.queue is not None else sorted(self._events)
        firings = [firing for queue in queues for firing in self._firings(policy, queue)]
        unknown = 0
        if policy.measure is Measure.SPEND_USD:
            unknown = sum(cost is None for queue in queues for _, cost in self._costs(queue))
        return Alerted(name, policy, tuple(sorted(firings, key=lambda each: (each.at, each.queue))), unknown)

    def _firings(self, policy: AlertPolicy, queue: str) -> Iterator[Firing]:
        items = self._items(policy, queue)
        unit = _USD if policy.measure is Measure.SPEND_USD else 1
        levels = _ages(items) if policy.measure is Measure.BACKLOG_AGE_S else _sums(items)
        for start, end, peak in _above(policy.above * unit, levels):
            at = start + micros(policy.for_s)
            if at < end and at <= self._at:
                counted = sorted(each.seq for each in items if each.start <= at < each.end)
                until = end if end <= self._at else None
                highest = peak(min(end, self._at)) / unit
                yield Firing(queue, at, until, highest, tuple(counted[-CITED_MAX:]))

    # --- what is counted ----------------------------------------------------------------------------------

    def _items(self, policy: AlertPolicy, queue: str) -> list[_Item]:
        window = micros(policy.window_s)
        match policy.measure:
            case Measure.BACKLOG | Measure.BACKLOG_AGE_S:
                still = self._pending[queue].values()
                return [*self._waits[queue], *(_Item(at, self._at + 1, 1, seq) for at, seq in still)]
            case Measure.DEAD_LETTERS:
                return self._counted(queue, JobDeadLettered, window)
            case Measure.FAILURES:
                return self._counted(queue, AttemptFailed, window)
            case Measure.LEASE_LOSSES:
                return self._counted(queue, LeaseExpired, window)
            case Measure.RETRIES:
                return self._counted(queue, RetryScheduled, window)
            case Measure.DEAD_LETTER_RATIO:
                return [
                    _Item(step.at, step.at + window, int(step.after.state is State.DEAD), step.seq, 1)
                    for step in self._ends[queue]
                ]
            case Measure.SPEND_USD:
                return [
                    _Item(step.at, step.at + window, cost, step.seq)
                    for step, cost in self._costs(queue)
                    if cost
                ]

    def _counted(self, queue: str, kind: type[Fact], window: int) -> list[_Item]:
        return [
            _Item(step.at, step.at + window, 1, step.seq)
            for step, event in self._events[queue]
            if isinstance(event, kind)
        ]

    def _costs(self, queue: str) -> Iterator[tuple[Step, int | None]]:
        return (
            (step, self._pricing.cost(usage, step.at))
            for step, event in self._events[queue]
            for usage in used((event,))
        )


# --- values over time -----------------------------------------------------------------------------------


def _sums(items: Iterable[_Item]) -> Iterator[_Level]:
    """The sum of the weights of all that counts; where they have a whole, their share of it."""
    changes = sorted(
        change
        for each in items
        for change in ((each.start, each.weight, each.whole), (each.end, -each.weight, -each.whole))
    )
    value = whole = 0
    for index, (at, by, by_whole) in enumerate(changes):
        value, whole = value + by, whole + by_whole
        if index + 1 < len(changes) and changes[index + 1][0] > at:
            yield _Level(at, changes[index + 1][0], value / whole if whole else value)


def _ages(items: Iterable[_Item]) -> Iterator[_Level]:
    """How long the oldest of what is there has been there."""
    coming = sorted(items)
    there: list[tuple[int, int]] = []
    at = 0
    for index, each in enumerate(coming):
        at = each.start
        heapq.heappush(there, (each.start, each.end))
        upto = coming[index + 1].start if index + 1 < len(coming) else max(one.end for one in coming)
        while there and at < upto:
            since, end = there[0]
            if end <= at:
                heapq.heappop(there)
                continue
            yield _Level(at, min(end, upto), 0.0, since)
            at = min(end, upto)


def _above(threshold: float, levels: Iterable[_Level]) -> Iterator[tuple[int, int, Callable[[int], float]]]:
    """From when to when the value is above the threshold, and its peak up to a time."""
    run: list[_Level] = []
    for level in levels:
        start = level.start
        if level.since is not None:
            start = max(start, level.since + micros(threshold))
        if (level.since is None and level.value <= threshold) or start >= level.end:
            yield from _run(run)
            run = []
            continue
        if run and run[-1].end < start:
            yield from _run(run)
            run = []
        run.append(level._replace(start=start))
    yield from _run(run)


def _run(run: list[_Level]) -> Iterator[tuple[int, int, Callable[[int], float]]]:
    if run:
        found = list(run)
        yield (
            found[0].start,
            found[-1].end,
            lambda upto: max(each.peak(min(each.end, upto)) for each in found if each.start <= upto),
        )
