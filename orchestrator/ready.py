"""The pending jobs of a queue, in the order in which they are to be granted."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

from writ.schemas.fleet import meets
from writ.schemas.lifecycle import Job, State

_Entry = tuple[int, str]
"""When the job became pending (a log sequence), and its address."""

_Apart = tuple[int, int, str, str]
"""Priority, when the job became pending, fairness key and address."""

_Demand = tuple[tuple[str, str], ...]
"""Labels in the order of their names."""


def of_key(concurrency_key: str) -> str:
    """What a job waits for whose concurrency key has no slot left."""
    return f"key {concurrency_key}"


def of_process(name: str) -> str:
    """What a job waits for whose process has no release for it."""
    return f"process {name}"


class Ready:
    """Priority first; within one, the fairness keys by turns; within a key, first in first out.

    Everything here is derived from the jobs, but for `served`, the sequence at which each fairness key
    had its last turn. Entries are dropped when met and found stale. Jobs that must wait for something
    of their own, a slot of their concurrency key or a release that may run, are held apart until it is there,
    so that a long line of them costs nothing: `of_key` and `of_process` say what for. So are those that
    demand labels, until a worker with them asks.
    """

    def __init__(self) -> None:
        self.served: dict[str, int] = {}
        self.size = 0
        self._lines: dict[int, dict[str, list[_Entry]]] = {}
        self._held: dict[str, dict[tuple[str, str], list[_Apart]]] = {}
        self._demanding: dict[_Demand, dict[tuple[str, str, str | None, str | None], list[_Apart]]] = {}
        """Jobs set apart by what they demand, in lines of those that are wanted, and full, together."""

    def add(self, place: str, job: Job) -> None:
        self.size += 1
        if job.requires:
            self._set_apart(place, job)
            return
        self._push(job.priority, job.fairness_key or "", job.since, place)

    def remove(self) -> None:
        """One that was added is pending no more; its entry is dropped when it is met."""
        self.size -= 1

    def _push(self, priority: int, fair: str, since: int, place: str) -> None:
        heapq.heappush(self._lines.setdefault(priority, {}).setdefault(fair, []), (since, place))

    def hold(self, place: str, job: Job, waits_for: str) -> None:
        """Keeps a job apart until `free` is called for what it waits for."""
        fair = job.fairness_key or ""
        held = self._held.setdefault(waits_for, {}).setdefault((job.task, fair), [])
        heapq.heappush(held, (job.priority, job.since, fair, place))

    def free(self, waits_for: str, jobs: Mapping[str, Job]) -> None:
        """One of those that wait for it may go on: a slot is free, or who might have taken one is gone.

        The next held job of each task and fairness key may be met again: whoever asks, asks for tasks, and
        whose turn it is shows only then.
        """
        lines = self._held.get(waits_for)
        if lines is None:
            return
        for line, held in list(lines.items()):
            while held:
                priority, since, fair, place = heapq.heappop(held)
                if _is_at(jobs.get(place), priority, since, fair):
                    self._push(priority, fair, since, place)
                    break
            if not held:
                del lines[line]
        if not lines:
            del self._held[waits_for]

    def free_all(self, waits_for: str | None = None) -> None:
        """Everything held may be met again, or all that waits for one thing: its limits changed."""
        for each in [*self._held] if waits_for is None else [waits_for]:
            for held in self._held.pop(each, {}).values():
                for priority, since, fair, place in held:
                    self._push(priority, fair, since, place)

    def _set_apart(self, place: str, job: Job) -> None:
        """Keeps a job that demands labels until a worker that has them asks."""
        fair = job.fairness_key or ""
        lines = self._demanding.setdefault(tuple(sorted(job.requires.items())), {})
        line = lines.setdefault((job.task, fair, job.concurrency_key, job.process), [])
        heapq.heappush(line, (job.priority, job.since, fair, place))

    def _call_back(self, jobs: Mapping[str, Job], count: int, labels: Mapping[str, str] | None) -> None:
        """Puts jobs back whose demands these labels meet: as many of each line as `count` may need.

        None meets all demands. Of a line all are wanted or none, and all full or none.
        """
        for demand in [each for each in self._demanding if labels is None or meets(labels, dict(each))]:
            lines = self._demanding[demand]
            for key, line in list(lines.items()):
                left = count
                while line and left:
                    priority, since, fair, place = heapq.heappop(line)
                    if _is_at(jobs.get(place), priority, since, fair):
                        self._push(priority, fair, since, place)
                        left -= 1
                if not line:
                    del lines[key]
            if not lines:
                del self._demanding[demand]

    def pick(
        self,
        jobs: Mapping[str, Job],
        count: int,
        wanted: Callable[[Job], bool],
        full: Callable[[Job], str | None],
        fits: Callable[[Job], bool],
        labels: Mapping[str, str] | None = None,
    ) -> list[Job]:
        """Takes out up to `count` jobs that are `wanted`, each of which must then leave the state pending.

        A job that is `full` (its concurrency key has no slot left, counting those picked so far, or there is
        no release for it) is held for what that names. One that demands other labels than these is set apart;
        None stands for all labels.
        The first that does not fit any more ends it.
        """
        if self._demanding:
            self._call_back(jobs, count, labels)
        picked: list[Job] = []
        skipped: list[tuple[int, str, int, str]] = []
        for priority in sorted(self._lines):
            if not self._pick_line(priority, jobs, count, wanted, full, fits, labels, picked, skipped):
                break
        for entry in skipped:
            self._push(*entry)
        return picked

    def _pick_line(
        self,
        priority: int,
        jobs: Mapping[str, Job],
        count: int,
        wanted: Callable[[Job], bool],
        full: Callable[[Job], str | None],
        fits: Callable[[Job], bool],
        labels: Mapping[str, str] | None,
        picked: list[Job],
        skipped: list[tuple[int, str, int, str]],
    ) -> bool:
        """Whether there is need and room for jobs of the next priority."""
        line = self._lines[priority]
        turns = [(self.served.get(fair, 0), fair) for fair in line]
        heapq.heapify(turns)
        turn = 1 << 62
        seen: set[str] = set()
        while turns and len(picked) < count:
            _, fair = turns[0]
            entries = line[fair]
            took = False
            while entries and not took:
                since, place = heapq.heappop(entries)
                job = jobs.get(place)
                if job is None or place in seen or not _is_at(job, priority, since, fair):
                    continue
                seen.add(place)
                if job.requires and labels is not None and not meets(labels, job.requires):
                    self._set_apart(place, job)
                elif not wanted(job):
                    skipped.append((priority, fair, since, place))
                elif (waits_for := full(job)) is not None:
                    self.hold(place, job, waits_for)
                elif not fits(job):
                    skipped.append((priority, fair, since, place))
                    return False
                else:
                    picked.append(job)
                    took = True
            if took and len(turns) > 1:
                # Its next turn comes after everybody else's.
                turn += 1
                heapq.heapreplace(turns, (turn, fair))
            elif not took:
                heapq.heappop(turns)
                del line[fair]
        if not line:
            del self._lines[priority]
        return len(picked) < count


def _is_at(job: Job | None, priority: int, since: int, fair: str) -> bool:
    """Whether an entry still tells where a job waits."""
    return (
        job is not None
        and job.state is State.PENDING
        and job.since == since
        and job.priority == priority
        and (job.fairness_key or "") == fair
    )
