"""What a log tells of a job, a queue or a tenant at a moment, as one document, and how two of them differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from writ.schemas.lifecycle import Job, State

from ..state import Partition
from .stretch import Point, Stretch, folded


class Scope(msgspec.Struct, frozen=True):
    """Of what: a tenant, one of its queues, or one job by its key."""

    tenant: str
    queue: str | None = None
    job: str | None = None

    @property
    def words(self) -> str:
        if self.job is not None:
            queue, _, job_id = self.job.partition("~")
            return f"job {job_id} of queue {queue}"
        return f"tenant {self.tenant}" if self.queue is None else f"queue {self.queue}"

    def holds(self, tenant: str, key: str) -> bool:
        """Whether a job, schedule, batch or operation with that key, `<queue>~<name>`, belongs here."""
        if tenant != self.tenant:
            return False
        if self.job is not None:
            return key == self.job
        return self.queue is None or key.partition("~")[0] == self.queue


class Picture(msgspec.Struct, frozen=True):
    """All that stands within a scope after record `seq`, of log time `at`.

    `jobs`, `schedules`, `batches` and `operations` are by key, `queues` by name. `states` counts the jobs,
    and `order` has the keys of each queue's pending jobs as they would be granted, were there room for all.
    """

    scope: Scope
    seq: int
    at: int
    states: dict[str, int]
    jobs: dict[str, Job]
    queues: dict[str, Any]
    order: dict[str, list[str]]
    schedules: dict[str, Any]
    batches: dict[str, Any]
    operations: dict[str, Any]


def picture(state: Partition, scope: Scope) -> Picture:
    """What a state holds within a scope."""
    tenant = scope.tenant
    jobs = {job.key: job for job in state.jobs.values() if scope.holds(job.tenant, job.key)}
    states: dict[str, int] = {}
    for job in jobs.values():
        states[job.state] = states.get(job.state, 0) + 1
    if scope.job is not None:
        return Picture(scope, state.seq, state.at, states, jobs, {}, {}, {}, {}, {})
    queues = {key: queue for key, queue in _within(state.queues, tenant) if scope.queue in (None, key)}
    names = sorted({*queues, *(job.queue for job in jobs.values() if job.state is State.PENDING)})
    return Picture(
        scope=scope,
        seq=state.seq,
        at=state.at,
        states=dict(sorted(states.items())),
        jobs=jobs,
        queues=queues,
        order={name: line for name in names if (line := _order(state, f"{tenant}.{name}"))},
        schedules={k: v for k, v in _within(state.schedules, tenant) if scope.holds(tenant, k)},
        batches={k: v for k, v in _within(state.relations.batches, tenant) if scope.holds(tenant, k)},
        operations={k: v for k, v in _within(state.operations, tenant) if scope.holds(tenant, k)},
    )


def picture_at(stretch: Stretch, scope: Scope, point: Point) -> Picture:
    """What stood there at a moment. Raises HistoryError."""
    return picture(folded(stretch, point), scope)


def _within(places: dict[str, Any], tenant: str) -> Iterator[tuple[str, Any]]:
    """What belongs to a tenant, by key."""
    for place, value in sorted(places.items()):
        whose, _, key = place.partition(".")
        if whose == tenant:
            yield key, value


def _order(state: Partition, place: str) -> list[str]:
    """The pending jobs of a queue in the order of their turns. Takes them out of the line of this state."""
    line = state.ready(place)
    if line is None or not line.size:
        return []
    line.free_all()
    found = line.pick(state.jobs, line.size, lambda job: True, lambda job: None, lambda job: True)
    for job in found:
        line.add(f"{job.tenant}.{job.key}", job)
        line.remove()
    return [job.key for job in found]


class Change(msgspec.Struct, frozen=True):
    """One thing that differs: `what` is job, queue, schedule, batch or operation, and `key` which.

    `fields` are those that changed, each as it was and as it is. `change` is new, gone or changed.
    """

    what: str
    key: str
    change: str
    fields: dict[str, tuple[Any, Any]] = {}


def difference(before: Picture, after: Picture) -> list[Change]:
    """What changed within a scope between two moments, in the order of kinds and keys."""
    changes: list[Change] = []
    for what, old, new in (
        ("job", before.jobs, after.jobs),
        ("queue", before.queues, after.queues),
        ("schedule", before.schedules, after.schedules),
        ("batch", before.batches, after.batches),
        ("operation", before.operations, after.operations),
    ):
        for key in sorted({*old, *new}):
            change = _change(what, key, old.get(key), new.get(key))
            if change is not None:
                changes.append(change)
    return changes


def _change(what: str, key: str, old: Any, new: Any) -> Change | None:
    if old == new:
        return None
    if old is None or new is None:
        return Change(what, key, "new" if old is None else "gone")
    fields = {
        name: (getattr(old, name), getattr(new, name))
        for name in old.__struct_fields__
        if getattr(old, name) != getattr(new, name)
    }
    return Change(what, key, "changed", fields)
