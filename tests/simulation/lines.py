"""The rules of queues: whether they are open, their limits, and their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from writ.schemas import events as e
from writ.schemas.fleet import WorkerDrained, WorkerUndrained
from writ.schemas.policy import QueuePolicy
from writ.schemas.records import Record

from .bonds import Bonds
from .loop import SECOND_US
from .tally import Tally, need

_EPSILON = 1e-6


class Bucket:
    """Tokens that come at a rate, up to a burst; what was promised ahead of time is owed."""

    def __init__(self, per_s: float, burst: float) -> None:
        self.per_s = per_s
        self.burst = burst
        self.level = burst
        self.at = 0

    def upto(self, at: int) -> float:
        """The level at log time `at`."""
        self.level = min(self.burst, self.level + (at - self.at) * self.per_s / SECOND_US)
        self.at = at
        return self.level


class Line:
    """A queue."""

    def __init__(self) -> None:
        self.policy = QueuePolicy()
        self.policies: list[QueuePolicy] = []
        """All that were declared."""
        self.version = 0
        self.mode = "open"
        self.grants: Bucket | None = None
        self.retries: Bucket | None = None
        self.served: dict[str, int] = {}
        """Fairness key, empty for none, to the sequence of its last turn."""

    def declare(self, policy: QueuePolicy) -> None:
        rate, per_min = policy.rate_per_s, policy.retries_per_min
        if rate is None:
            self.grants = None
        elif self.grants is None or (rate, policy.burst) != (self.grants.per_s, self.grants.burst):
            self.grants = Bucket(rate, policy.burst)
        if per_min is None:
            self.retries = None
        elif self.retries is None or per_min != self.retries.burst:
            self.retries = Bucket(per_min / 60, per_min)
        self.policy = policy
        self.policies.append(policy)
        self.version += 1


class Grant(NamedTuple):
    """A lease of the round at hand: where its job stood in the line."""

    job: Tally
    worker: str
    priority: int
    fair: str
    since: int
    turn: int
    """The sequence of the fairness key's turn before."""


class Lines:
    """The queues of a log, by `<tenant>.<queue>`. What is free and who is first is counted from the jobs."""

    def __init__(self, jobs: dict[str, Tally]) -> None:
        self._jobs = jobs
        self._lines: dict[str, Line] = {}
        self._first = 1
        self._granted: list[Grant] = []
        self._before: dict[str, dict[str, int]] = {}
        """The turns as they were before the round, of the queues in which it granted."""
        self._freed: Counter[tuple[str, str | None]] = Counter()
        self._changed: set[str] = set()
        self.knows: Callable[[str, Tally], bool] = lambda worker, job: not job.given.requires
        """Whether a worker runs a job's task, and has the labels that it demands."""
        self.drained: set[str] = set()
        """Workers that may be granted nothing."""

    def at(self, queue: str) -> Line:
        line = self._lines.get(queue)
        if line is None:
            line = self._lines[queue] = Line()
        return line

    def running(self, queue: str) -> list[Tally]:
        return [job for job in self._jobs.values() if job.token and job.queue == queue]

    def pending(self, queue: str) -> list[Tally]:
        return [job for job in self._jobs.values() if job.state == "pending" and job.queue == queue]

    def holders(self, queue: str, unique_key: str) -> list[Tally]:
        """The live jobs that have a unique key."""
        mine = [job for job in self._jobs.values() if job.live and job.queue == queue]
        return [job for job in mine if job.given.unique_key == unique_key]

    # --- what happens in a queue --------------------------------------------------------------------------

    def change(self, event: e.Fact, record: Record) -> None:
        """An event of the queue itself."""
        queue = f"{record.tenant}.{record.key}"
        line = self.at(queue)
        need(record.actor and not record.actor.startswith("writ:"), "nobody asked for it")
        self._changed.add(queue)
        match event:
            case e.QueueDeclared(version=version, policy=policy):
                need(version == line.version + 1, f"version {version} after {line.version}")
                line.declare(policy)
            case e.QueuePaused():
                line.mode = "paused"
            case e.QueueDraining():
                line.mode = "draining"
            case _:
                line.mode = "open"

    def drains(self, event: WorkerDrained | WorkerUndrained, record: Record) -> None:
        """A worker is to be granted nothing, or may be granted something again."""
        need(record.actor and not record.actor.startswith("writ:"), "nobody asked for it")
        drains = isinstance(event, WorkerDrained)
        need((record.key in self.drained) is not drains, "nothing changed by it")
        self.drained ^= {record.key}

    def submits(self, queue: str, event: e.JobSubmitted, bonds: Bonds, record: Record) -> None:
        """A job is accepted."""
        line = self.at(queue)
        need(event.policy == line.version, f"accepted under policy {event.policy}, not {line.version}")
        need(line.mode != "draining", "accepted while the queue drains")
        most, waiting = line.policy.pending_max, len(self.pending(queue))
        need(most is None or waiting < most, f"accepted beside {waiting} pending jobs; pending_max is {most}")
        for key in event.after:
            need(bonds.find(record.tenant, key) is not None, f"comes after {key}, which does not exist")
        if event.parent is not None:
            parent = bonds.find(record.tenant, event.parent)
            need(parent is not None, f"a child of {event.parent}, which does not exist")
        if event.unique_key is not None:
            live = self.holders(queue, event.unique_key)
            replaced = line.policy.on_clash == "replace" and all(job.cancel is not None for job in live)
            need(replaced or not live, f"{[job.key for job in live]} has its unique_key")

    def refuses(self, queue: str, element: dict[str, Any], kind: str, bonds: Bonds, tenant: str) -> bool:
        """Whether a submit may be refused in this way."""
        line = self.at(queue)
        most, unique_key = line.policy.pending_max, element.get("unique_key")
        parent = None if "parent" not in element else bonds.find(tenant, element["parent"])
        live = [] if unique_key is None else self.holders(queue, unique_key)
        # A refusal stands behind all else of its message, and so may what ended the holder meanwhile.
        ended = [job for job in self._jobs.values() if not job.live and job.ended_by >= self._first]
        same = [job for job in ended if job.queue == queue and job.given.unique_key == unique_key]
        live += [] if unique_key is None else same
        named = [*element.get("after", ()), *([element["parent"]] if "parent" in element else ())]
        match kind:
            case "duplicate":
                return bool(live) and line.policy.on_clash == "return"
            case "not_found":
                return any(bonds.find(tenant, key) is None for key in named)
            case "conflict":
                return (
                    line.mode == "draining"
                    or (most is not None and len(self.pending(queue)) >= most)
                    or (parent is not None and not parent.live)
                    or (bool(live) and line.policy.on_clash == "reject")
                    or any(job.key.partition(".")[2] in named for job in live)
                )
            case _:
                return False

    def may_replace(self, job: Tally) -> bool:
        """Whether a newcomer may end a job."""
        return job.given.unique_key is not None and self.at(job.queue).policy.on_clash == "replace"

    def reopens(self, job: Tally) -> None:
        """A finished job becomes live again."""
        key = job.given.unique_key
        live = [] if key is None else self.holders(job.queue, key)
        need(not live, f"{[other.key for other in live]} has its unique_key")

    def retries(self, job: Tally, event: e.RetryScheduled, record: Record) -> None:
        """A retry takes a token of the queue's budget, ahead of time if need be."""
        bucket = self.at(job.queue).retries
        if bucket is None:
            return
        missing = 1 - bucket.upto(record.at)
        allowed_at = record.at + missing * SECOND_US / bucket.per_s if missing > 0 else record.at
        bucket.level -= 1
        early_us = allowed_at - event.due_at
        need(early_us <= 2, f"retried {early_us:.0f} us before the queue's retry budget allows it")

    def grants(self, job: Tally, record: Record) -> None:
        """A pending job gets a lease: is there room for it?"""
        line, key = self.at(job.queue), job.given.concurrency_key
        policy = line.policy
        need(line.mode != "paused", "granted while the queue is paused")
        need(job.worker not in self.drained, f"granted to {job.worker}, which is drained")
        need(self.knows(job.worker, job), f"granted to {job.worker}, which lacks its task or its labels")
        running = self.running(job.queue)
        most = policy.concurrency
        need(
            most is None or len(running) < most,
            f"granted beside {len(running)} running; concurrency is {most}",
        )
        same = sum(other.given.concurrency_key == key for other in running)
        most = None if key is None else policy.key_concurrency
        need(
            most is None or same < most,
            f"granted beside {same} running of key {key}; key_concurrency is {most}",
        )
        if line.grants is not None:
            level = line.grants.upto(record.at)
            need(level >= 1 - _EPSILON, f"granted with {level:.3f} tokens left of {policy.rate_per_s}/s")
            line.grants.level -= 1
        fair = job.given.fairness_key or ""
        before = self._before.setdefault(job.queue, dict(line.served))
        place = job.queue, job.priority, fair
        again = any((grant.job.queue, grant.priority, grant.fair) == place for grant in self._granted)
        # Turns are taken within a priority: what a key had of another one at once does not count.
        turn = (line.served if again else before).get(fair, 0)
        self._granted.append(Grant(job, job.worker, job.priority, fair, job.since, turn))
        line.served[fair] = record.seq

    def frees(self, job: Tally) -> None:
        """A lease has ended."""
        self._freed[job.queue, job.given.concurrency_key] += 1

    # --- order --------------------------------------------------------------------------------------------

    def open(self, first: int) -> None:
        """A round begins with this record."""
        self._first = first
        self._granted.clear()
        self._before.clear()
        self._freed.clear()
        self._changed.clear()

    def close(self) -> None:
        """The records of a round are complete: nobody who waited before it was passed over."""
        for queue in sorted({grant.job.queue for grant in self._granted} - self._changed):
            granted = [grant for grant in self._granted if grant.job.queue == queue]
            served = {grant.fair for grant in granted}
            for job in self.pending(queue):
                if job.since < self._first and self._had_room(job):
                    for grant in granted:
                        self._in_order(job, grant, served)

    def _had_room(self, job: Tally) -> bool:
        """Whether a slot of the job's key was free all through the round."""
        queue, key = job.queue, job.given.concurrency_key
        most = self.at(queue).policy.key_concurrency
        if key is None or most is None:
            return True
        same = sum(other.given.concurrency_key == key for other in self.running(queue))
        return same + self._freed[queue, key] < most

    def _in_order(self, job: Tally, grant: Grant, served: set[str]) -> None:
        if not self.knows(grant.worker, job):
            return
        mine = f"{job.key} waits since {job.since}, and {grant.job.key} was granted"
        need(job.priority >= grant.priority, f"{mine}: priority {job.priority} against {grant.priority}")
        if job.priority > grant.priority:
            return
        fair = job.given.fairness_key or ""
        if fair == grant.fair:
            need(job.since > grant.since, f"{mine}, which waits since {grant.since}")
        elif fair not in served:
            turn = self.at(job.queue).served.get(fair, 0)
            need(
                turn >= grant.turn,
                f"{mine}: key {fair!r} had its turn at {turn}, {grant.fair!r} at {grant.turn}",
            )

    def order(self, queue: str) -> list[str]:
        """The pending jobs of a queue as they would be granted at once, were there room for all."""
        waiting = sorted(self.pending(queue), key=lambda job: job.since)
        order: list[str] = []
        for priority in sorted({job.priority for job in waiting}):
            left = [job for job in waiting if job.priority == priority]
            served, turn = dict(self.at(queue).served), 1 << 62
            while left:
                fairs = {job.given.fairness_key or "" for job in left}
                fair = min(fairs, key=lambda key: (served.get(key, 0), key))
                job = next(job for job in left if (job.given.fairness_key or "") == fair)
                turn += 1
                served[fair] = turn
                order.append(job.key)
                left.remove(job)
        return order
