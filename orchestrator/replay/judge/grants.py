"""Leases, judged again: whether the queue's mode, slots and rate allowed each, and whether it was its turn.

Which tasks a worker runs, and which releases it holds, is not in the log. So the order is judged among jobs
of the granted one's task and release that demand no labels but those told there: those that any worker who
took it would have taken as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from writ.schemas.events import LeaseGranted
from writ.schemas.fleet import label_words, meets
from writ.schemas.lifecycle import Job
from writ.schemas.processes import named
from writ.schemas.queues import Mode
from writ.schemas.records import Record

from ...decide import quotas
from ...decide.lease import too_open
from ...decide.release import choose
from ...ready import of_key, of_process
from ...state import Partition, address
from .differs import need


class Passed(NamedTuple):
    """A job that stood before the one that record `seq` grants, and must be gone by the round's end."""

    seq: int
    place: str
    since: int
    words: str


class Grants:
    """Judges the leases of one log. Knows of each round which queues have granted in it."""

    def __init__(self, state: Partition) -> None:
        self._state = state
        self._granted: set[str] = set()
        self._passed: list[Passed] = []

    def begin(self) -> None:
        """A round begins."""
        self._granted.clear()
        self._passed.clear()

    def judge(self, job: Job, event: LeaseGranted, record: Record) -> None:
        """Of a pending job, before the lease is folded. Raises Differs."""
        queue = address(job.tenant, job.queue)
        need(event.attempt == job.attempt + 1, f"grants attempt {event.attempt} after {job.attempt}")
        need(job.stops is None, "the job is asked to end")
        self._of_release(job, event)
        need(not self._state.is_drained(job.tenant, event.worker), f"worker {event.worker} is drained")
        self._has_labels(job, event)
        if queue in self._state.queues:
            self._within_limits(queue, job, event, record.at)
        self._within_quotas(job, event, record)
        self._in_order(queue, job, record, event.labels)
        self._granted.add(queue)

    def finish(self) -> tuple[int, str] | None:
        """The first grant of the round that passed a job over which waits still."""
        for passed in self._passed:
            job = self._state.jobs.get(passed.place)
            if job is not None and job.since == passed.since and self._is_full(job) is None:
                return passed.seq, passed.words
        return None

    @staticmethod
    def _has_labels(job: Job, event: LeaseGranted) -> None:
        lacks = f"the job demands {label_words(job.requires)} of its worker, which has "
        need(meets(event.labels, job.requires), lacks + (label_words(event.labels) or "no labels"))
        need(bool(job.requires) or not event.labels, "labels are told, and the job demands none")

    def _within_limits(self, place: str, job: Job, event: LeaseGranted, now: int) -> None:
        state, queue = self._state, self._state.queue(place)
        policy, running = queue.policy, self._state.running_in(place)
        open_ = too_open(queue, event.isolation)
        need(open_ is None, "" if open_ is None else open_.reason)
        need(queue.mode is not Mode.PAUSED, f"the queue is paused: {queue.reason}")
        most = policy.concurrency
        need(most is None or running < most, f"{running} jobs of the queue run; its concurrency is {most}")
        key, most = job.concurrency_key, policy.key_concurrency
        if key is not None and most is not None:
            running = state.running_by_key(place, key)
            need(running < most, f"{running} jobs with key {key} run; the queue's key_concurrency is {most}")
        tokens = queue.grant_tokens(now)
        need(tokens is None or tokens > 0, f"the queue's rate of {policy.rate_per_s} a second has no token")

    def _within_quotas(self, job: Job, event: LeaseGranted, record: Record) -> None:
        standing = self._state.standing(job.tenant)
        reserved = 0 if standing is None else quotas.reserve(standing.account, job)
        words = f"reserves {event.reserved_microusd} micro-dollars; by what holds it is {reserved}"
        need(event.reserved_microusd == reserved, words)
        if standing is None:
            return
        over = quotas.holds(standing, job, record.at)
        need(over is None, over or "")
        worker = event.principal or record.actor, event.worker
        over = quotas.too_many_workers(standing, self._state.usage.holds_lease(job.tenant, *worker))
        need(over is None, over or "")

    def _of_release(self, job: Job, event: LeaseGranted) -> None:
        """Raises Differs where the lease is for another release than the job is to get."""
        if job.process is None:
            need(event.release is None, f"grants release {event.release} to a job that names none")
            return
        chosen = choose(job, self._state.process_of(job))
        need(chosen.digest is not None, f"grants a lease, and {chosen.why}")
        need(
            event.release == chosen.digest,
            f"grants release {event.release}, not {chosen.digest}: {chosen.why}",
        )

    def _release(self, job: Job) -> str | None:
        """The release that a job would get, where it names one."""
        return None if job.process is None else choose(job, self._state.process_of(job)).digest

    def _is_full(self, job: Job) -> str | None:
        """What a job must wait for: a release that may run, or a slot of its concurrency key."""
        if job.process is not None and self._release(job) is None:
            return of_process(named(job.process).process)
        place, key = address(job.tenant, job.queue), job.concurrency_key
        most = self._state.queue(place).policy.key_concurrency
        if key is None or most is None or self._state.running_by_key(place, key) < most:
            return None
        return of_key(key)

    def _in_order(self, queue: str, job: Job, record: Record, labels: dict[str, str]) -> None:
        first = self._next(queue, lambda each: True, labels)
        if first is not None and (first.task != job.task or self._release(first) != self._release(job)):
            release = self._release(job)

            def alike(each: Job) -> bool:
                return each.task == job.task and self._release(each) in (None, release)

            first = self._next(queue, alike, labels)
        if first is None or first.key == job.key or not self._comes_before(queue, first, job):
            return
        words = (
            f"{first.key} waits since record {first.since} with priority {first.priority}, and {job.key}, "
            f"since {job.since} with priority {job.priority}, is granted before it"
        )
        # Where nothing limits a queue, a record may hold a lease that was granted behind others of its round.
        place = address(first.tenant, first.key)
        self._passed.append(Passed(record.seq, place, first.since, words))

    def _comes_before(self, queue: str, first: Job, job: Job) -> bool:
        if first.priority != job.priority:
            return first.priority < job.priority
        if (first.fairness_key or "") == (job.fairness_key or ""):
            return first.since < job.since
        # Within an acquire turns are taken by priority, and where one ends is not in the log.
        return queue not in self._granted

    def _next(self, queue: str, wanted: Callable[[Job], bool], labels: dict[str, str]) -> Job | None:
        """Whose turn it is among those that are wanted and demand no other labels; the line is as it was."""
        line = self._state.ready(queue)
        if line is None:
            return None
        found = line.pick(self._state.jobs, 1, wanted, self._is_full, lambda job: True, labels)
        if not found:
            return None
        line.add(address(found[0].tenant, found[0].key), found[0])
        line.remove()
        return found[0]
