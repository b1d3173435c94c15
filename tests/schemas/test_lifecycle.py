"""The table is total, `evolve` follows it, and every pair outside it is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from writ.schemas.errors import AttemptError, ErrorClass
from writ.schemas.events import (
    JOB_EVENTS,
    OTHER_EVENTS,
    AttemptFailed,
    AttemptStarted,
    Barrier,
    CancelRequested,
    DeadReason,
    Fact,
    JobCancelled,
    JobCompleted,
    JobDeadLettered,
    JobDue,
    JobRedriven,
    JobSubmitted,
    LeaseExpired,
    LeaseGranted,
    LeaseReleased,
    RetryScheduled,
    TimeResumed,
)
from writ.schemas.ids import fencing_token
from writ.schemas.lifecycle import (
    REFUSALS,
    TERMINAL,
    TRANSITIONS,
    IllegalTransition,
    Job,
    State,
    evolve,
    next_deadline,
    regranted,
    renewed,
)
from writ.schemas.policy import Limits
from writ.schemas.records import Record
from writ.schemas.sealed import seal

if TYPE_CHECKING:
    from tests.histories.builder import Histories

PLACES = (None, *State)
ANY = AttemptError(ErrorClass.SYSTEM, "Broken")
SAMPLES: dict[type[Fact], Fact] = {
    JobSubmitted: JobSubmitted("t", seal(b"1")),
    JobDue: JobDue(),
    LeaseGranted: LeaseGranted("w", 1),
    AttemptStarted: AttemptStarted(1, 7),
    AttemptFailed: AttemptFailed(1, 7, ANY),
    LeaseExpired: LeaseExpired(1, 7, "w", 5, 1, 5),
    LeaseReleased: LeaseReleased(1, 7, "drain"),
    RetryScheduled: RetryScheduled(9, "rule", 1, 5, 1.0, 0.1, 0.5),
    CancelRequested: CancelRequested("why"),
    JobCompleted: JobCompleted(1, 7),
    JobCancelled: JobCancelled("why"),
    JobDeadLettered: JobDeadLettered(DeadReason.POISON, "rule"),
    JobRedriven: JobRedriven(4, "why"),
}


def record(*events: Fact, seq: int = 50, at: int = 1_000_000_000) -> Record:
    return Record(1, seq, "default", "job", "mail~a", at, "worker-1", events)


def job_in(history: Histories, state: State | None) -> Job | None:
    """A job that came to the state by lawful steps."""
    job = history().job()
    match state:
        case None:
            return None
        case State.SCHEDULED:
            job.submitted(delay_s=60)
        case State.PENDING:
            job.submitted()
        case State.RUNNING:
            job.submitted().granted()
        case State.RETRYING:
            job.submitted().granted().failed()
        case State.COMPLETED:
            job.submitted().granted().completed()
        case State.CANCELLED:
            job.submitted().cancelled()
        case State.DEAD:
            job.submitted().granted().failed(class_=ErrorClass.POLICY)
    assert job.now.state is state
    return job.now


def test_every_job_event_has_a_sample_here() -> None:
    assert set(SAMPLES) == set(JOB_EVENTS)


def test_the_table_is_total_and_disjoint() -> None:
    pairs = {(place, event) for place in PLACES for event in JOB_EVENTS}
    assert set(TRANSITIONS) | set(REFUSALS) == pairs
    assert not set(TRANSITIONS) & set(REFUSALS)
    assert all(REFUSALS.values())


def test_no_event_leaves_a_terminal_state_but_a_redrive() -> None:
    leaving = {(place, event) for place, event in TRANSITIONS if place in TERMINAL}
    assert leaving == {(State.DEAD, JobRedriven)}


@pytest.mark.parametrize("event", JOB_EVENTS, ids=lambda e: e.__name__)
@pytest.mark.parametrize("place", PLACES)
def test_evolve_does_what_the_table_says(history: Histories, place: State | None, event: type[Fact]) -> None:
    job = job_in(history, place)
    sample = SAMPLES[event]
    if (place, event) in REFUSALS:
        with pytest.raises(IllegalTransition, match=REFUSALS[place, event]) as refused:
            evolve(job, sample, record(sample))
        assert refused.value.refusal == REFUSALS[place, event]
        return
    assert evolve(job, sample, record(sample)).state in TRANSITIONS[place, event]


def test_events_of_other_aggregates_are_no_transitions(history: Histories) -> None:
    assert not {event for _, event in TRANSITIONS} & set(OTHER_EVENTS)
    for place in PLACES:
        for event in (Barrier(), TimeResumed(5)):
            with pytest.raises(IllegalTransition, match="not_a_job_event"):
                evolve(job_in(history, place), event, record())


def test_a_live_lease_stands_in_running_alone(history: Histories) -> None:
    for state in State:
        job = job_in(history, state)
        assert job is not None
        assert (job.lease is not None) == (state is State.RUNNING)
        assert (job.finished_at is not None) == (state in TERMINAL)
        assert (job.ended_by > 0) == (state in TERMINAL)


def test_a_grant_makes_the_token_of_its_record(history: Histories) -> None:
    job = history().job().submitted().granted("w1").now
    assert job.lease is not None
    assert job.lease.token == job.last_token == fencing_token(1, 2)
    assert job.lease.principal == "worker-1"
    assert job.lease.expires_at == job.lease.granted_at + 30_000_000


def test_tokens_grow_over_the_life_of_a_log(history: Histories) -> None:
    words = history().job().submitted()
    seen = [words.granted().now.last_token]
    for _ in range(3):
        seen.append(words.failed().at_due().granted().now.last_token)
    assert seen == sorted(set(seen))
    assert fencing_token(2, 1) > fencing_token(1, 2**40 - 1)


def test_a_redrive_opens_a_round_with_its_counts_at_nought(history: Histories) -> None:
    words = history().job().submitted().granted().failed(class_=ErrorClass.POLICY)
    before = words.now
    job = words.after(5).redriven().now
    assert (job.state, job.round, job.attempt, job.failures, job.lease_losses) == (State.PENDING, 2, 0, 0, 0)
    assert (job.dead, job.error, job.reason, job.finished_at, job.cancel) == (None, None, None, None, None)
    assert (job.id, job.input, job.task, job.submitted_at) == (
        before.id,
        before.input,
        before.task,
        before.submitted_at,
    )
    assert job.round_at == job.round_due == job.due_at > before.round_at


def test_a_beat_moves_the_deadline_and_a_resume_only_ever_later(history: Histories) -> None:
    job = job_in(history, State.RUNNING)
    assert job is not None
    assert job.lease is not None
    later = job.lease.expires_at + 1
    beaten = renewed(job, later).lease
    assert beaten is not None
    assert beaten.expires_at == later + 30_000_000
    long = replace(job, lease=replace(job.lease, expires_at=later + 10**12))
    assert regranted(long, later) == long
    moved = regranted(job, later).lease
    assert moved is not None
    assert moved.expires_at == later + 30_000_000


def test_the_next_deadline_is_the_earliest(history: Histories) -> None:
    words = history().job().submitted(limits=Limits(expires_in_s=5, job_timeout_s=1_000), delay_s=2)
    job = words.now
    assert next_deadline(job) == job.due_at
    job = words.at_due().now
    assert next_deadline(job) == job.round_at + 5_000_000
    job = words.granted().now
    assert job.lease is not None
    assert next_deadline(job) == job.lease.expires_at
    words.renewed().renewed()
    long = replace(words.now, limits=Limits(lease_s=9_000, attempt_timeout_s=900))
    assert long.lease is not None
    granted_at = long.lease.granted_at
    assert next_deadline(renewed(long, granted_at)) == granted_at + 900_000_000
    for state in TERMINAL:
        ended = job_in(history, state)
        assert ended is not None
        assert next_deadline(ended) is None
