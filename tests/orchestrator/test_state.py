"""A partition's state: undone, it is as it was; folded anew, it is the same."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from writ.orchestrator.round import Round
from writ.orchestrator.state import Deadlines, Partition, Undo
from writ.schemas.codec import decode
from writ.schemas.lifecycle import Job, next_deadline
from writ.schemas.records import Record

if TYPE_CHECKING:
    from tests.histories.builder import Histories


def snapshot(state: Partition) -> dict[str, Any]:
    queues = {place.partition("~")[0] for place in state.jobs}
    return {
        "position": (state.seq, state.prev, state.at, state.source),
        "jobs": dict(state.jobs),
        "running": set(state.running),
        "ready": {q: list(r) for q in queues if (r := state.ready(*q.split(".", 1))) is not None},
    }


def alarms(state: Partition) -> list[tuple[int, str]]:
    """When the deadlines wake whom, stale entries met and set right, until nothing is armed."""
    met: list[tuple[int, str]] = []
    armed = state.deadlines
    while (at := armed.first()) is not None:
        place = armed.pop(at)
        if place is None:
            continue
        due = next_deadline(state.jobs[place])
        assert due is not None, f"{place} is armed and has no deadline"
        assert due >= at, f"{place} is armed too late"
        if due == at:
            met.append((at, place))
        else:
            armed.set(place, due)
    return sorted(met)


def true_alarms(state: Partition) -> list[tuple[int, str]]:
    return sorted((due, p) for p, job in state.jobs.items() if (due := next_deadline(job)) is not None)


def fold(history: Any, count: int | None = None) -> Partition:
    state = Partition(0, 1)
    for stored in history.records[:count]:
        state.apply(decode(stored.body), stored.body)
    return state


@pytest.mark.parametrize("seed", range(60))
def test_what_is_undone_never_was(history: Histories, seed: int) -> None:
    """Random records, applied and taken back in random stretches: jobs, order of queues, deadlines."""
    whole = history.wander(seed, 250)
    draw = random.Random(seed)
    at = draw.randrange(len(whole.records))
    state = fold(whole, at)
    while at < len(whole.records):
        before = snapshot(state)
        undo: Undo = []
        ahead = whole.records[at : at + draw.choice((1, 2, 5, 30, 100))]
        for stored in ahead:
            state.evolve(decode(stored.body), undo)
        state.revert(undo)
        assert snapshot(state) == before
        step = draw.randint(1, 40)
        for stored in whole.records[at : at + step]:
            state.apply(decode(stored.body), stored.body)
        at += step
        assert snapshot(state) == snapshot(fold(whole, at))
    assert snapshot(state) == snapshot(fold(whole))
    assert true_alarms(state) == alarms(state)


@pytest.mark.parametrize("seed", range(20))
def test_the_fold_is_what_the_histories_tell(history: Histories, seed: int) -> None:
    whole = history.wander(seed, 400)
    state = fold(whole)
    assert {p.partition(".")[2]: job for p, job in state.jobs.items()} == whole.jobs
    assert {p.partition(".")[2] for p in state.running} == {
        k for k, job in whole.jobs.items() if job.lease is not None
    }


@pytest.mark.parametrize("seed", range(20))
def test_queues_are_in_order_of_priority_and_then_of_entering(history: Histories, seed: int) -> None:
    state = fold(history.wander(seed, 300, jobs=60))
    for queue in {place.partition("~")[0] for place in state.jobs}:
        ready = state.ready(*queue.split(".", 1))
        line = [state.jobs[place] for place in ready] if ready is not None else []
        assert [(j.priority, j.since) for j in line] == sorted((j.priority, j.since) for j in line)
        assert {j.key for j in line} == {
            j.key for p, j in state.jobs.items() if p.startswith(f"{queue}~") and j.state == "pending"
        }


def test_a_dropped_round_leaves_no_trace_and_a_kept_one_is_the_fold(history: Histories) -> None:
    whole = history.wander(5, 200)
    half = len(whole.records) // 2
    state = fold(whole, half)
    for keep in (False, True):
        before = snapshot(state)
        round_ = Round(state, state.at)
        for stored in whole.records[half:]:
            record: Record = decode(stored.body)
            round_.now = record.at
            round_.record(
                record.tenant,
                record.kind,
                record.key,
                record.events,
                actor=record.actor,
                cause=record.cause or "",
            )
        encoded = round_.encode()
        assert state.seq == half
        if keep:
            round_.keep(encoded.digests)
            assert state.seq == len(whole.records)
            assert snapshot(state)["jobs"] == snapshot(fold(whole))["jobs"]
        else:
            round_.drop()
            assert snapshot(state) == before


def test_deadlines_keep_one_live_entry_each() -> None:
    deadlines = Deadlines()
    draw = random.Random(1)
    armed: dict[str, int] = {}
    for _ in range(20_000):
        place = f"p{draw.randrange(50)}"
        at = draw.choice((None, draw.randrange(1_000)))
        deadlines.set(place, at)
        if at is None:
            armed.pop(place, None)
        else:
            armed[place] = min(at, armed.get(place, at))
    met: list[tuple[str, int]] = []
    for now in range(1_000):
        while (reached := deadlines.pop(now)) is not None:
            met.append((reached, now))
    assert sorted(met) == sorted(armed.items())
    assert deadlines.first() is None


def test_a_million_beats_cost_no_memory(history: Histories) -> None:
    """Each beat moves a deadline: entries that are no longer true are swept out."""
    deadlines = Deadlines()
    for beat in range(50_000):
        deadlines.set("a", None)
        deadlines.set("a", beat)
    heap: list[tuple[int, str]] = vars(deadlines)["_heap"]
    assert len(heap) < 5_000
    job: Job = history().job().submitted().granted().now
    assert next_deadline(job) is not None
