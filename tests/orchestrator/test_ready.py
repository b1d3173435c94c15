"""The order of a queue while jobs are taken, held, freed and given back."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from writ.orchestrator.ready import of_key
from writ.orchestrator.round import Round
from writ.orchestrator.state import Partition, Undo
from writ.schemas.codec import decode
from writ.schemas.errors import ErrorClass
from writ.schemas.events import (
    CancelRequested,
    Fact,
    JobCancelled,
    JobCompleted,
    JobEdited,
    JobSubmitted,
    LeaseGranted,
    LeaseReleased,
    QueueDeclared,
)
from writ.schemas.lifecycle import Job, State
from writ.schemas.policy import QueuePolicy
from writ.schemas.sealed import seal

if TYPE_CHECKING:
    from tests.histories.builder import Histories, History

PLACE = "default.mail"
Snapshot = Callable[[Partition], dict[str, Any]]


def submit(task: str = "t", **keys: Any) -> JobSubmitted:
    return JobSubmitted(task, seal(b"1"), **keys)


def cancelled() -> tuple[Fact, ...]:
    return (CancelRequested("why"), JobCancelled("why"))


def fold(history: History) -> Partition:
    state = Partition(0, 1)
    for stored in history.records:
        state.apply(decode(stored.body), stored.body)
    return state


def picked(state: Partition, count: int = 1, task: str | None = None) -> list[Job]:
    """What an acquire would be given: each of these must now leave the state pending."""
    ready = state.ready(PLACE)
    most = state.queue(PLACE).policy.key_concurrency
    taken: dict[str, int] = {}

    def full(job: Job) -> str | None:
        key = job.concurrency_key
        if key is None or most is None:
            return None
        if state.running_by_key(PLACE, key) + taken.get(key, 0) >= most:
            return of_key(key)
        taken[key] = taken.get(key, 0) + 1
        return None

    if ready is None:
        return []
    return ready.pick(state.jobs, count, lambda job: task in (None, job.task), full, lambda _: True)


def would_get(state: Partition, task: str | None = None) -> list[str]:
    """What all would be, of which nothing is taken."""
    return [job.key for job in picked(copy.deepcopy(state), 1_000, task)]


class Following:
    """A history and the state that follows it, as a leader's does."""

    def __init__(self, histories: Histories, slots: int | None = 1) -> None:
        self.history = histories()
        self.history.add("queue", "mail", (QueueDeclared(1, QueuePolicy(key_concurrency=slots)),))
        self.state = fold(self.history)

    def add(self, job_id: str, *events: Fact) -> None:
        self.history.add("job", f"mail~{job_id}", events)
        self._follow()

    def declare(self, slots: int | None) -> None:
        version = self.state.queue(PLACE).version + 1
        self.history.add("queue", "mail", (QueueDeclared(version, QueuePolicy(key_concurrency=slots)),))
        self._follow()

    def _follow(self) -> None:
        stored = self.history.records[-1]
        self.state.apply(decode(stored.body), stored.body)

    def take(self, count: int = 1, task: str | None = None) -> list[str]:
        taken = picked(self.state, count, task)
        for job in taken:
            self.add(job.id, LeaseGranted("w1", job.attempt + 1))
        return [job.id for job in taken]

    def complete(self, job_id: str) -> None:
        job = self.history.jobs[f"mail~{job_id}"]
        self.add(job_id, JobCompleted(job.attempt, job.last_token))


def test_a_job_that_was_held_is_met_when_the_one_before_it_was_cancelled(history: Histories) -> None:
    queue = Following(history)
    for job_id in "rab":
        queue.add(job_id, submit(concurrency_key="k"))
    assert queue.take() == ["r"]
    assert queue.take() == []
    queue.add("a", *cancelled())
    queue.complete("r")
    assert queue.take() == ["b"]


def test_a_job_that_was_freed_and_cancelled_leaves_its_slot_to_the_next(history: Histories) -> None:
    queue = Following(history)
    for job_id in "rab":
        queue.add(job_id, submit(concurrency_key="k"))
    assert queue.take() == ["r"]
    assert queue.take() == []
    queue.complete("r")
    queue.add("a", *cancelled())
    assert queue.take() == ["b"]


def test_a_held_job_that_was_edited_is_met_once(history: Histories) -> None:
    queue = Following(history)
    for job_id in "rab":
        queue.add(job_id, submit(concurrency_key="k"))
    assert queue.take() == ["r"]
    assert queue.take() == []
    queue.add("a", JobEdited("why", priority=2))
    assert queue.take() == []
    queue.complete("r")
    assert queue.take(count=9) == ["a"]
    queue.complete("a")
    assert queue.take(count=9) == ["b"]


def test_a_free_slot_is_for_whoever_is_wanted(history: Histories) -> None:
    """The first of a key's held jobs is of a task that nobody asks for: the next one is not kept waiting."""
    queue = Following(history)
    for job_id, task in (("r", "one"), ("a", "one"), ("b", "two")):
        queue.add(job_id, submit(task, concurrency_key="k"))
    assert queue.take(task="one") == ["r"]
    assert queue.take(count=9) == []
    queue.complete("r")
    assert queue.take(task="two") == ["b"]


def test_a_dropped_edit_leaves_no_second_place_in_the_order(history: Histories) -> None:
    """The round was not stored, and another edit got its sequence."""
    queue = Following(history)
    for job_id in "ab":
        queue.add(job_id, submit())
    round_ = Round(queue.state, queue.state.at)
    edited = (JobEdited("first", priority=1),)
    round_.record("default", "job", "mail~b", edited, actor="owner", cause="edit")
    round_.drop()
    queue.add("b", JobEdited("second", priority=5))
    assert would_get(queue.state) == would_get(fold(queue.history)) == ["mail~a", "mail~b"]


def test_a_grant_in_the_record_that_submits_is_a_turn_of_its_fairness_key(
    history: Histories, snapshot: Snapshot
) -> None:
    """The log shows the job running from its first record on: it was never seen to be pending."""
    queue = history()
    queue.add("job", "mail~a", (submit(fairness_key="x"), LeaseGranted("w1", 1)))
    queue.add("job", "mail~b", (submit(fairness_key="x"),))
    queue.add("job", "mail~c", (submit(fairness_key="y"),))
    state = fold(queue)
    assert snapshot(state)["served"] == {PLACE: {"x": 1}}
    assert would_get(state) == ["mail~c", "mail~b"]


def test_a_unique_key_is_the_newer_jobs_as_long_as_it_lives(history: Histories) -> None:
    """One that was replaced runs on until its worker has stopped; its beats do not take the key back."""
    told = history()
    told.add("job", "mail~a", (submit(unique_key="u"),))
    words = told.job("a").granted().cancelled()
    told.add("job", "mail~b", (submit(unique_key="u"),))
    for word in (words.renewed, words.released):
        word()
        holder = fold(told).unique(PLACE, "u")
        assert holder is not None
        assert holder.key == "mail~b"


def test_a_unique_key_is_given_back_when_a_redrive_is_undone(history: Histories) -> None:
    told = history()
    told.add("job", "mail~a", (submit(unique_key="u"),))
    words = told.job("a").granted().failed(class_=ErrorClass.POLICY)
    told.add("job", "mail~b", (submit(unique_key="u"),))
    state, undo = fold(told), Undo()
    words.redriven()
    state.evolve(decode(told.records[-1].body), undo)
    state.revert(undo)
    holder = state.unique(PLACE, "u")
    assert holder is not None
    assert holder.key == "mail~b"


def random_events(draw: random.Random, job: Job | None) -> tuple[Fact, ...]:
    if job is None:
        fair, key = draw.choice((None, "x", "y")), draw.choice((None, "k", "l"))
        task = draw.choice(("one", "two"))
        return (submit(task, priority=draw.randint(1, 3), fairness_key=fair, concurrency_key=key),)
    if job.lease is not None:
        token = job.lease.token
        return draw.choice(
            ((JobCompleted(job.attempt, token),), (LeaseReleased(job.attempt, token, "drain"),))
        )
    if job.state is State.PENDING:
        return draw.choice((cancelled(), (JobEdited("why", priority=draw.randint(1, 3)),)))
    return ()


@pytest.mark.parametrize("seed", range(60))
def test_whatever_was_held_or_undone_the_order_is_the_folds(
    history: Histories, snapshot: Snapshot, seed: int
) -> None:
    """Random submits, acquires, ends, edits, policies and rounds that were not stored."""
    draw = random.Random(seed)
    queue = Following(history, draw.choice((None, 1, 2)))
    for _ in range(150):
        job_id = str(draw.randrange(24))
        match draw.randrange(12):
            case 0:
                queue.declare(draw.choice((None, 1, 2)))
            case 1 | 2 | 3 | 4:
                queue.take(draw.randint(1, 3), draw.choice((None, "one", "two")))
            case 5 | 6:
                dropped_round(draw, queue.state)
            case _:
                events = random_events(draw, queue.history.jobs.get(f"mail~{job_id}"))
                if events:
                    queue.add(job_id, *events)
        anew = fold(queue.history)
        for task in (None, "one", "two"):
            assert would_get(queue.state, task) == would_get(anew, task)
    assert snapshot(queue.state) == snapshot(fold(queue.history))


def dropped_round(draw: random.Random, state: Partition) -> None:
    """A few steps that are not stored, with grants among them."""
    round_ = Round(state, state.at)
    for _ in range(draw.randint(1, 6)):
        job_id = str(draw.randrange(24))
        if draw.random() < 0.4:
            for job in picked(state, draw.randint(1, 2), draw.choice((None, "one", "two"))):
                events: tuple[Fact, ...] = (LeaseGranted("w1", job.attempt + 1),)
                round_.record("default", "job", job.key, events, actor="robot", cause="acquire")
            continue
        events = random_events(draw, state.job("default", "mail", job_id))
        if events:
            round_.record("default", "job", f"mail~{job_id}", events, actor="owner", cause="x")
    round_.drop()
