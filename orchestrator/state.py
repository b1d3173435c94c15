"""The state of one partition: a fold of its log, with the indexes that deciding needs.

The live engine, recovery and the tests use the same `apply`; everything else here is derived from the jobs,
so that undoing a change is putting the old job back.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator

from writ.schemas.codec import digest
from writ.schemas.events import Fact, LeaderElected, LeasesRenewed, TimeResumed
from writ.schemas.lifecycle import (
    TERMINAL,
    IllegalTransition,
    Job,
    State,
    evolve,
    evolve_record,
    next_deadline,
    regranted,
    renewed,
)
from writ.schemas.records import GENESIS, Record, Source

Undo = list[tuple[str, Job | None]]
"""Addresses with the job that stood there before, oldest change first."""


def address(tenant: str, key: str) -> str:
    """A job's place in memory; neither part holds a dot."""
    return f"{tenant}.{key}"


class Ready:
    """The pending jobs of one queue: by priority, and first in first out within one."""

    def __init__(self) -> None:
        self._lines: dict[int, OrderedDict[str, int]] = {}

    def add(self, place: str, job: Job) -> None:
        self._lines.setdefault(job.priority, OrderedDict())[place] = job.since

    def remove(self, place: str, job: Job) -> None:
        line = self._lines[job.priority]
        del line[place]
        if not line:
            del self._lines[job.priority]

    def __iter__(self) -> Iterator[str]:
        for priority in sorted(self._lines):
            yield from self._lines[priority]

    def __bool__(self) -> bool:
        return bool(self._lines)

    def sort(self) -> None:
        """Restores the order after changes were undone."""
        for priority, line in self._lines.items():
            self._lines[priority] = OrderedDict(sorted(line.items(), key=lambda item: item[1]))


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


class Partition:
    """One partition's jobs, its position in its log and its indexes. `at` is the newest log time."""

    def __init__(self, number: int, epoch: int) -> None:
        self.number = number
        self.epoch = epoch
        self.seq = 0
        self.prev = GENESIS
        self.at = 0
        self.source = Source(0, 0, 0)
        self.leader: str | None = None
        self.jobs: dict[str, Job] = {}
        self.running: set[str] = set()
        self.deadlines = Deadlines()
        self._ready: dict[str, Ready] = {}

    def job(self, tenant: str, queue: str, job_id: str) -> Job | None:
        return self.jobs.get(f"{tenant}.{queue}~{job_id}")

    def ready(self, tenant: str, queue: str) -> Ready | None:
        """The pending jobs of a queue; None where it has none."""
        return self._ready.get(f"{tenant}.{queue}")

    def put(self, place: str, job: Job | None, undo: Undo | None = None) -> None:
        """The only way to change a job: keeps the indexes true, and notes how to go back."""
        old = self.jobs.get(place)
        if undo is not None:
            undo.append((place, old))
        waited = old if old is not None and old.state is State.PENDING else None
        stays = (
            waited is not None
            and job is not None
            and job.state is State.PENDING
            and waited.since == job.since
        )
        if waited is not None and not stays:
            self._leave_ready(place, waited)
        if job is None:
            self.jobs.pop(place, None)
            self.running.discard(place)
            self.deadlines.set(place, None)
            return
        self.jobs[place] = job
        if job.state is State.PENDING and not stays:
            queue = place.partition("~")[0]
            line = self._ready.get(queue)
            if line is None:
                line = self._ready[queue] = Ready()
            line.add(place, job)
        if job.lease is not None:
            self.running.add(place)
        else:
            self.running.discard(place)
        self.deadlines.set(place, None if job.state in TERMINAL else next_deadline(job))

    def _leave_ready(self, place: str, job: Job) -> None:
        queue = place.partition("~")[0]
        line = self._ready[queue]
        line.remove(place, job)
        if not line:
            del self._ready[queue]

    def rearm(self, place: str) -> None:
        """Arms a job's next deadline, after an earlier one was met and is no longer true."""
        self.deadlines.set(place, next_deadline(self.jobs[place]))

    def evolve(self, record: Record, undo: Undo | None = None) -> None:
        """What a record's events change. The position is moved apart from it, by `advance`."""
        if record.kind == "job":
            place = address(record.tenant, record.key)
            self.put(place, evolve_record(self.jobs.get(place), record), undo)
        else:
            for event in record.events:
                self._evolve_other(event, record, undo)

    def extend(self, record: Record, events: tuple[Fact, ...], undo: Undo) -> None:
        """Further events for a job's record of this round that has been evolved already."""
        place = address(record.tenant, record.key)
        job: Job | None = self.jobs[place]
        for event in events:
            job = evolve(job, event, record)
        self.put(place, job, undo)

    def _evolve_other(self, event: Fact, record: Record, undo: Undo | None) -> None:
        match event:
            case LeasesRenewed(leases=leases):
                for lease in leases:
                    place = address(record.tenant, lease.key)
                    job = self.jobs.get(place)
                    if job is None or job.lease is None or job.lease.token != lease.token:
                        raise IllegalTransition(lease.key, None if job is None else job.state, LeasesRenewed)
                    self.put(place, renewed(job, record.at), undo)
            case LeaderElected(leader=leader):
                self.leader = leader
                self._give_time_back(record.at, undo)
            case TimeResumed():
                self._give_time_back(record.at, undo)
            case _:
                pass  # refusals and barriers change no state: they are the audit's

    def _give_time_back(self, at: int, undo: Undo | None) -> None:
        for place in sorted(self.running):
            self.put(place, regranted(self.jobs[place], at), undo)

    def advance(self, record: Record, body_digest: str) -> None:
        """Moves the position behind a stored record."""
        self.seq = record.seq
        self.prev = body_digest
        self.at = record.at
        if record.source is not None:
            self.source = record.source

    def apply(self, record: Record, body: bytes) -> None:
        """One stored record, as recovery and replay read it."""
        self.evolve(record)
        self.advance(record, digest(body))

    def revert(self, undo: Undo) -> None:
        """Takes changes back, newest first."""
        queues: set[str] = set()
        for place, job in reversed(undo):
            self.put(place, job)
            queues.add(place.partition("~")[0])
        for queue in queues:
            line = self._ready.get(queue)
            if line is not None:
                line.sort()
