"""Which jobs belong together: who comes after whom, whose children they are, in which batch they count."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from writ.schemas.events import BatchEnded, BatchSealed, Fact
from writ.schemas.lifecycle import TERMINAL, Job, State

_Places = dict[str, None]
"""Addresses in the order in which they came: a set would let their order depend on the process."""


class Batch(msgspec.Struct, frozen=True):
    """What is known of a batch apart from its jobs: how many there shall be, and whether its end was told."""

    size: int
    ended: bool = False


def evolve_batch(batch: Batch | None, event: Fact) -> Batch:
    """The batch after one of its own events."""
    match event:
        case BatchSealed(size=size):
            return Batch(size)
        case BatchEnded() if batch is not None:
            return replace(batch, ended=True)
        case _:
            raise ValueError(f"{type(event).__name__} is no event of a batch in this state")


class Relations:
    """Indexes over the jobs' own fields, kept by `put`. Batches are by `<tenant>.<queue>~<name>`."""

    batches: dict[str, Batch]

    def __init__(self) -> None:
        self.batches = {}
        self._after: dict[str, _Places] = {}
        self._children: dict[str, _Places] = {}
        self._scheduled: dict[str, _Places] = {}
        self._tallies: dict[str, dict[State, int]] = {}
        self._reopened: dict[str, dict[State, int]] = {}

    def after(self, place: str) -> list[str]:
        """The jobs that come after one, as long as they have not ended."""
        return list(self._after.get(place, ()))

    def children(self, place: str) -> list[str]:
        """The jobs that one has started, as long as they have not ended."""
        return list(self._children.get(place, ()))

    def scheduled(self, schedule: str) -> list[str]:
        """The jobs of a schedule, by `<tenant>.<queue>~<name>`, that have not ended."""
        return list(self._scheduled.get(schedule, ()))

    def tally(self, batch: str) -> dict[State, int]:
        """How many jobs of a batch are in which state."""
        return self._tallies.get(batch, {})

    def reopened(self, operation: str) -> dict[State, int]:
        """How many jobs that an operation reopened are in which state."""
        return self._reopened.get(operation, {})

    def counts(self) -> dict[str, dict[str, dict[State, int]]]:
        """What batches and operations count of jobs, of those that have ended too."""
        return {
            name: {place: told for place, tally in sorted(tallies.items()) if (told := _told(tally))}
            for name, tallies in (("batches", self._tallies), ("operations", self._reopened))
        }

    def take_counts(self, counts: dict[str, dict[str, dict[State, int]]]) -> None:
        """Gives them what `counts` told, instead of what was counted until now."""
        self._tallies, self._reopened = counts["batches"], counts["operations"]

    def put(self, place: str, queue: str, old: Job | None, job: Job | None) -> None:
        """A job has changed from `old` to `job`."""
        known = job or old
        if known is None:
            return
        tenant = known.tenant
        live = job is not None and job.state not in TERMINAL
        for key in known.after:
            _list(self._after, f"{tenant}.{key}", place, live)
        if known.parent is not None:
            _list(self._children, f"{tenant}.{known.parent}", place, live)
        if known.schedule is not None:
            _list(self._scheduled, f"{queue}~{known.schedule}", place, live)
        if known.batch is not None:
            tally = self._tallies.setdefault(f"{queue}~{known.batch}", {})
            if old is not None:
                tally[old.state] -= 1
            if job is not None:
                tally[job.state] = tally.get(job.state, 0) + 1
        if old is not None and old.operation is not None:
            self._reopened[f"{tenant}.{old.operation}"][old.state] -= 1
        if job is not None and job.operation is not None:
            reopened = self._reopened.setdefault(f"{tenant}.{job.operation}", {})
            reopened[job.state] = reopened.get(job.state, 0) + 1


def _told(tally: dict[State, int]) -> dict[State, int]:
    return {state: count for state, count in sorted(tally.items()) if count}


def _list(index: dict[str, _Places], where: str, place: str, belongs: bool) -> None:
    if belongs:
        index.setdefault(where, {})[place] = None
    elif where in index:
        index[where].pop(place, None)
        if not index[where]:
            del index[where]
