"""The jobs of a partition by address: the live ones in memory, those that have ended where they rest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar, overload

from writ.schemas.lifecycle import TERMINAL, Job, State

from .ended import Ended, encode_job, in_order_of_rest

_T = TypeVar("_T")
_AT_ONCE: Final = 200
"""Jobs of which it is looked whether they rest: a few milliseconds."""


class Jobs(Mapping[str, Job]):
    """Memory comes first: what is in it has changed since the jobs that rest were written, or is live.

    Reading a job that rests takes some 50 us. Raises SnapshotDamaged where it cannot be read.
    """

    def __init__(self) -> None:
        self.here: dict[str, Job] = {}
        """Every live job, and those that have ended of late."""

        self.resting = Ended()
        self._ended: dict[str, None] = {}
        self._missed = ""
        """The address that was asked for last and is nowhere: a submit asks for its own several times."""

    @property
    def live(self) -> int:
        """How many jobs have not ended."""
        return len(self.here) - len(self._ended)

    @overload
    def get(self, place: str, /) -> Job | None: ...
    @overload
    def get(self, place: str, default: Job, /) -> Job: ...
    @overload
    def get(self, place: str, default: _T, /) -> Job | _T: ...
    def get(self, place: str, default: Any = None, /) -> Any:
        job = self.here.get(place)
        if job is not None:
            return job
        if not self.resting.parts or place == self._missed:
            return default
        job = self.resting.get(place)
        if job is None:
            self._missed = place
            return default
        return job

    def __getitem__(self, place: str) -> Job:
        job = self.here.get(place) or self.get(place)
        if job is None:
            raise KeyError(place)
        return job

    def __contains__(self, place: object) -> bool:
        return isinstance(place, str) and self.get(place) is not None

    def __iter__(self) -> Iterator[str]:
        yield from list(self.here)
        for job in self.resting.walk():
            place = f"{job.tenant}.{job.key}"
            if place not in self.here:
                yield place

    def __len__(self) -> int:
        again = sum(self.resting.row(place) is not None for place in self.here) if self.resting.parts else 0
        return len(self.here) + len(self.resting) - again

    def walk(self, states: Collection[State], *, sealed: bool = False) -> Iterator[Job]:
        """The jobs in these states, wherever they are; with `sealed` at least those whose content is."""
        for job in list(self.here.values()):
            if job.state in states:
                yield job
        for job in self.resting.walk(TERMINAL & set(states), sealed=sealed):
            if f"{job.tenant}.{job.key}" not in self.here:
                yield job

    def put(self, place: str, job: Job | None) -> None:
        """A job as it stands now; None where it was never submitted after all."""
        if job is None:
            self.here.pop(place, None)
            self._ended.pop(place, None)
            return
        self.here[place] = job
        if job.state in TERMINAL:
            self._ended[place] = None
        else:
            self._ended.pop(place, None)

    def ended(self) -> dict[str, Job]:
        """Those in memory that have ended."""
        return {place: self.here[place] for place in self._ended}

    def rest_on(self, ended: Ended) -> None:
        """Has jobs rest there instead: all that rest now, and more as they were at a later record."""
        self.resting, self._missed = ended, ""

    def forget(self, places: Iterable[str]) -> None:
        """Frees the memory of jobs that rest as they are."""
        for place in places:
            del self.here[place], self._ended[place]

    def that_rest(self, may_rest: Callable[[str, Job], bool]) -> Iterator[list[str]]:
        """Those in memory that rest as they are, some at a time: reading them takes a while."""
        places = in_order_of_rest(self._ended)
        for start in range(0, len(places), _AT_ONCE):
            some = [(place, self.here.get(place)) for place in places[start : start + _AT_ONCE]]
            yield [
                place
                for place, job in some
                if job is not None and may_rest(place, job) and self.resting.row(place) == encode_job(job)
            ]
