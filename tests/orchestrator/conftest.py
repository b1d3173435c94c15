"""What the tests of the orchestrator share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from writ.orchestrator.decide.release import choose
from writ.orchestrator.ready import of_key, of_process
from writ.orchestrator.shards import Shards
from writ.orchestrator.state import Partition
from writ.schemas.lifecycle import Job, State
from writ.schemas.processes import named


def in_order(state: Partition, place: str, *, limited: bool) -> list[str]:
    """The jobs of a queue in the order in which one pick would take them all, on a copy.

    With `limited` a concurrency key has the slots that it has now; without, all it may want.
    """
    ready = copy.deepcopy(state.ready(place))
    if ready is None:
        return []
    most = state.queue(place).policy.key_concurrency if limited else None
    taken: dict[str, int] = {}

    def full(job: Job) -> str | None:
        if limited and job.process is not None and choose(job, state.process_of(job)).digest is None:
            return of_process(named(job.process).process)
        key = job.concurrency_key
        if key is None or most is None:
            return None
        taken[key] = taken.get(key, state.running_by_key(place, key)) + 1
        return of_key(key) if taken[key] > most else None

    if not limited:
        ready.free_all()
    return [job.key for job in ready.pick(state.jobs, 1 << 40, lambda _: True, full, lambda _: True)]


def told(state: Partition) -> dict[str, Any]:
    """Everything of a partition's state that decisions rest on, the order of its queues included.

    What is derived from the jobs is asked for by each name that a job gives to it.
    """
    jobs = state.jobs
    queues = sorted({place.partition("~")[0] for place in jobs} | set(state.queues))
    keys = sorted({(p.partition("~")[0], j.concurrency_key or "") for p, j in jobs.items()})
    unique = sorted({(p.partition("~")[0], j.unique_key) for p, j in jobs.items() if j.unique_key})
    holders = {at: None if (job := state.unique(*at)) is None else job.key for at in unique}
    turns = {q: dict(sorted(r.served.items())) for q in queues if (r := state.ready(q)) is not None}
    batches = sorted({f"{p.partition('~')[0]}~{j.batch}" for p, j in jobs.items() if j.batch})
    known = state.relations

    def counts(tally: dict[State, int]) -> dict[State, int]:
        return {state: count for state, count in sorted(tally.items()) if count}

    return {
        "seq": state.seq,
        "prev": state.prev,
        "at": state.at,
        "source": state.source,
        "leader": state.leader,
        "jobs": dict(jobs),
        "running": set(state.running),
        "running_in": {q: state.running_in(q) for q in queues},
        "running_by_key": {at: state.running_by_key(*at) for at in keys},
        "unique": holders,
        "queues": dict(state.queues),
        "schedules": dict(state.schedules),
        "operations": dict(state.operations),
        "batches": dict(known.batches),
        "pending_in": {q: state.pending_in(q) for q in queues},
        "served": {q: served for q, served in turns.items() if served},
        "order": {q: in_order(state, q, limited=False) for q in queues},
        "order_in_limits": {q: in_order(state, q, limited=True) for q in queues},
        "after": {p: sorted(found) for p in jobs if (found := known.after(p))},
        "children": {p: sorted(found) for p in jobs if (found := known.children(p))},
        "scheduled": {p: sorted(found) for p in state.schedules if (found := known.scheduled(p))},
        "tallies": {b: counts(known.tally(b)) for b in batches},
        "long": dict(state.long),
        "prices": dict(state.prices),
        "tenants": dict(state.tenants),
        "assets": dict(state.assets),
        "adopted": {p: dict(told) for p, told in state.links.adopted.items()},
        "principals": dict(state.principals),
        "governed": dict(state.governed),
        "erased": dict(state.erased),
        "holds": dict(state.holds),
        "processes": dict(state.processes),
        "gates": dict(state.gates),
        "watches": dict(state.watches),
        "findings": dict(state.findings),
        "afar": dict(state.links.afar),
        "watched": {p: dict(w) for p, w in state.links.watched.items()},
        "shards": {name: getattr(state.links.shards, name) for name in Shards.__annotations__},
        "messages": (state.links.sent, state.links.accepted, state.links.settled),
        "reopened": {o: counts(known.reopened(o)) for o in state.operations},
    }


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Partition], dict[str, Any]]:
    """Two partitions of which this gives the same decide the same."""
    return told
