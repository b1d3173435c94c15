"""The table is total, `evolve` follows it, and every pair outside it is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from writ.schemas.assets import AssetRead
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
    JobDropped,
    JobDue,
    JobEdited,
    JobRedriven,
    JobRerun,
    JobResumed,
    JobSnoozed,
    JobSubmitted,
    JobSuspended,
    LeaseExpired,
    LeaseGranted,
    LeaseReleased,
    OnTimeout,
    ProgressReported,
    RetryScheduled,
    SignalReceived,
    TimeResumed,
    WaitReason,
)
from writ.schemas.ids import fencing_token
from writ.schemas.lifecycle import (
    REFUSALS,
    TERMINAL,
    TRANSITIONS,
    IllegalTransition,
    Job,
    Reopened,
    Signal,
    State,
    evolve,
    job_deadline,
    next_deadline,
    regranted,
    renewed,
)
from writ.schemas.policy import Limits
from writ.schemas.records import Record
from writ.schemas.sealed import seal
from writ.schemas.steps import (
    CompensationDue,
    CompensationEnded,
    StepCompensated,
    StepDone,
    StepFailed,
    StepIntended,
    ToolCalled,
    ToolOutcome,
    UsageRecorded,
)

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
    JobRerun: JobRerun(4, "why"),
    JobDropped: JobDropped("why"),
    JobSuspended: JobSuspended(WaitReason.PAUSED, "rule"),
    JobResumed: JobResumed(WaitReason.PAUSED, "rule"),
    JobSnoozed: JobSnoozed(1, 7, 9),
    ProgressReported: ProgressReported(1, 7, seal(b"0.5")),
    SignalReceived: SignalReceived("paid", seal(b"1")),
    JobEdited: JobEdited("why", priority=1),
    StepIntended: StepIntended(1, 7, 1, "charge", "ab" * 32),
    StepDone: StepDone(1, 7, 1),
    StepFailed: StepFailed(1, 7, 1, ANY),
    StepCompensated: StepCompensated(1, 7, 1),
    ToolCalled: ToolCalled(1, 7, "search", "1", seal(b"{}"), "ab" * 32, ToolOutcome.DONE),
    UsageRecorded: UsageRecorded(1, 7, "small", 10, 20),
    AssetRead: AssetRead(1, 7, "stripe-key", 2, True, "ab" * 32, 3),
    CompensationDue: CompensationDue("rule", DeadReason.EXHAUSTED),
    CompensationEnded: CompensationEnded(1, 7),
}
START_US = 1_767_225_600_000_000
SOON = START_US + 500_000
"""After every job of `job_in` was submitted, and before the delay or backoff of any is over."""

FAR = START_US + 900_000_000


def record(*events: Fact, seq: int = 50, at: int = SOON) -> Record:
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
        case State.SUSPENDED:
            job.submitted().add(SUSPENDED)
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


SUSPENDED = JobSuspended(WaitReason.APPROVAL, "the submit asks for approval")
TWO_WAYS: dict[tuple[State | None, type[Fact], State], tuple[State | None, Fact]] = {
    (None, JobSubmitted, State.PENDING): (None, JobSubmitted("t", seal(b"1"))),
    (None, JobSubmitted, State.SCHEDULED): (None, JobSubmitted("t", seal(b"1"), due_at=FAR)),
    (State.SCHEDULED, JobEdited, State.SCHEDULED): (State.SCHEDULED, JobEdited("why", priority=1)),
    (State.SCHEDULED, JobEdited, State.PENDING): (State.SCHEDULED, JobEdited("why", due_at=SOON)),
    (State.PENDING, JobEdited, State.PENDING): (State.PENDING, JobEdited("why", priority=1)),
    (State.PENDING, JobEdited, State.SCHEDULED): (State.PENDING, JobEdited("why", due_at=FAR)),
    (State.SUSPENDED, JobResumed, State.PENDING): (State.PENDING, JobResumed(WaitReason.APPROVAL, "rule")),
    (State.SUSPENDED, JobResumed, State.SCHEDULED): (
        State.SCHEDULED,
        JobResumed(WaitReason.APPROVAL, "rule"),
    ),
    (State.SUSPENDED, JobResumed, State.RETRYING): (
        State.RETRYING,
        JobResumed(WaitReason.APPROVAL, "rule"),
    ),
}
"""Where the data decide between places: an example of each way, from a job that stood in the state named."""

EDGES = [(place, event, target) for (place, event), targets in TRANSITIONS.items() for target in targets]


@pytest.mark.parametrize(
    ("place", "event", "target"), EDGES, ids=[f"{p}-{e.__name__}-{t}" for p, e, t in EDGES]
)
def test_every_edge_of_the_table_is_taken(
    history: Histories, place: State | None, event: type[Fact], target: State
) -> None:
    """Transition coverage: each edge is a case of its own, so a new one is tested, or fails, at once."""
    stood, fact = TWO_WAYS.get((place, event, target), (place, SAMPLES[event]))
    job = job_in(history, stood)
    if stood is not place:
        assert place is State.SUSPENDED
        job = evolve(job, SUSPENDED, record(SUSPENDED, seq=40))
    after = evolve(job, fact, record(fact))
    assert after.state is target
    assert (after.lease is not None) == (target is State.RUNNING)
    assert (after.wait is not None) == (target is State.SUSPENDED)
    assert (after.finished_at is not None) == (target in TERMINAL)


def test_where_the_data_decide_each_way_has_its_example() -> None:
    """Transition coverage: fails while an edge beside another from the same state and event is untested."""
    many = {edge for edge in EDGES if len(TRANSITIONS[edge[:2]]) > 1}
    assert many == set(TWO_WAYS)


def test_every_job_event_has_a_sample_here() -> None:
    """Transition coverage: fails while the edges of a new event have nothing to be taken by."""
    assert set(SAMPLES) == set(JOB_EVENTS)


def test_the_table_is_total_and_disjoint() -> None:
    pairs = {(place, event) for place in PLACES for event in JOB_EVENTS}
    assert set(TRANSITIONS) | set(REFUSALS) == pairs
    assert not set(TRANSITIONS) & set(REFUSALS)
    assert all(REFUSALS.values())


def test_no_event_leaves_a_terminal_state_but_a_redrive_or_a_rerun() -> None:
    after = {edge: targets for edge, targets in TRANSITIONS.items() if edge[0] in TERMINAL}
    leaving = {edge for edge, targets in after.items() if targets != (edge[0],)}
    assert leaving == {(State.DEAD, JobRedriven), *((state, JobRerun) for state in TERMINAL)}
    assert set(after) - leaving == {(State.DEAD, JobDropped)}


def test_every_refusal_is_for_a_reason_of_its_own_kind() -> None:
    """From nothing there is no job; a job that has ended says so, but to those who would open it again."""
    for (place, event), why in REFUSALS.items():
        if place is None:
            assert why == "unknown_job"
        elif event is JobSubmitted:
            assert why == "already_submitted"
        elif place in TERMINAL:
            assert why == ("not_dead" if event in (JobRedriven, JobDropped) else "already_finished")
        else:
            assert why not in ("unknown_job", "already_submitted")
    assert REFUSALS[State.RUNNING, JobRerun] == "not_finished"
    assert (
        REFUSALS[State.RUNNING, JobCancelled] == REFUSALS[State.RUNNING, JobDeadLettered] == "lease_is_live"
    )
    assert REFUSALS[State.PENDING, JobResumed] == "not_suspended"
    assert REFUSALS[State.RUNNING, JobEdited] == REFUSALS[State.RETRYING, JobEdited] == "already_started"


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
        assert (job.wait is not None) == (state is State.SUSPENDED)
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
    assert regranted(long, later, 1) == long
    moved = regranted(job, later, 1).lease
    assert moved is not None
    assert moved.expires_at == later + 30_000_000
    ended = regranted(long, later, 2).lease
    assert ended is not None
    assert ended.expires_at == later, "what was leased in an earlier epoch is leased no more"


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


# --- holding, waiting, opening again --------------------------------------------------------------------


def test_a_wait_stops_the_jobs_clocks_and_they_go_on_after_it(history: Histories) -> None:
    limits = Limits(job_timeout_s=100, expires_in_s=50)
    words = history().job().submitted(limits=limits)
    job = words.now
    assert next_deadline(job) == job.round_at + 50_000_000
    words.after(20).add(JobSuspended(WaitReason.PAUSED, "rule"))
    assert next_deadline(words.now) is None
    words.after(500).add(JobResumed(WaitReason.PAUSED, "rule"))
    assert words.now.stood_us == 500_000_000
    assert job_deadline(words.now) == job.round_due + 600_000_000
    assert next_deadline(words.now) == job.round_at + 550_000_000
    words.after(10).add(JobSuspended(WaitReason.PAUSED, "rule"))
    words.after(1).add(JobSuspended(WaitReason.DEPENDENCY, "rule", ("mail~x",)))
    wait = words.now.wait
    assert wait is not None
    assert (wait.reason, wait.on, wait.since_at) == (WaitReason.DEPENDENCY, ("mail~x",), words.history.at)
    words.after(2).add(JobResumed(WaitReason.DEPENDENCY, "rule"))
    assert words.now.stood_us == 503_000_000


def test_a_wait_with_an_end_is_the_only_deadline(history: Histories) -> None:
    words = history().job().submitted(limits=Limits(job_timeout_s=10))
    until = words.now.submitted_at + 3_600_000_000
    words.add(JobSuspended(WaitReason.SIGNAL, "rule", ("paid",), until, OnTimeout.RESUME))
    assert next_deadline(words.now) == until


def test_a_running_job_that_waits_gives_its_lease_back_and_keeps_its_token(history: Histories) -> None:
    job = history().job().submitted().granted().add(JobSuspended(WaitReason.SIGNAL, "rule", ("paid",))).now
    assert (job.state, job.lease, job.attempt) == (State.SUSPENDED, None, 1)
    assert job.last_token == fencing_token(1, 2)


def test_what_ends_a_wait_reaches_the_task_as_a_signal(history: Histories) -> None:
    words = history().job().submitted().add(SUSPENDED)
    words.add(SignalReceived("other", seal(b"1")))
    words.add(JobResumed(WaitReason.APPROVAL, "rule", seal(b'"yes"')))
    words.add(SignalReceived("late", seal(b"2")))
    assert words.now.signals == (
        Signal("other", seal(b"1"), 3),
        Signal("approval", seal(b'"yes"'), 4),
        Signal("late", seal(b"2"), 5),
    )
    bare = history().job().submitted().add(SUSPENDED).add(JobResumed(WaitReason.APPROVAL, "rule")).now
    assert bare.signals == ()


def test_a_snooze_ends_the_lease_and_waits_for_its_time(history: Histories) -> None:
    words = history().job().submitted().granted()
    token, due_at = words.now.last_token, words.now.submitted_at + 60_000_000
    words.add(JobSnoozed(1, token, due_at))
    job = words.now
    assert (job.state, job.lease, job.due_at, job.failures) == (State.SCHEDULED, None, due_at, 0)
    assert next_deadline(job) == due_at
    assert words.at_due().now.state is State.PENDING


def test_an_edit_changes_what_it_names_and_nothing_else(history: Histories) -> None:
    words = history().job().submitted(delay_s=60)
    before = words.now
    words.add(JobEdited("why", priority=1))
    assert words.now == replace(before, priority=1, since=2, records=2)
    due_at = before.due_at + 60_000_000
    words.add(JobEdited("why", due_at=due_at, input=seal(b"[]")))
    job = words.now
    assert (job.due_at, job.round_due, job.input, job.priority) == (due_at, due_at, seal(b"[]"), 1)
    assert job_deadline(job) == due_at + 86_400_000_000
    held = words.add(JobSuspended(WaitReason.PAUSED, "rule")).add(JobEdited("why", due_at=0)).now
    assert (held.state, held.due_at) == (State.SUSPENDED, 0)
    assert words.add(JobResumed(WaitReason.PAUSED, "rule")).now.state is State.PENDING


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_a_rerun_forgets_the_round_before_it(history: Histories, state: State) -> None:
    before = job_in(history, state)
    assert before is not None
    before = replace(
        before,
        signals=(Signal("paid", seal(b"1"), 3),),
        progress=seal(b"1"),
        stood_us=9,
        dropped="settled",
        cancel="enough",
        lease_losses=2,
    )
    job = evolve(before, JobRerun(before.ended_by, "why", "mail~op9"), record())
    fresh = replace(
        before,
        state=State.PENDING,
        since=50,
        round=2,
        round_at=SOON,
        round_due=SOON,
        due_at=SOON,
        attempt=0,
        failures=0,
        lease_losses=0,
        stood_us=0,
        cancel=None,
        output=None,
        error=None,
        progress=None,
        signals=(),
        dead=None,
        cause=None,
        operation="mail~op9",
        dropped=None,
        reason=None,
        finished_at=None,
        reopened=Reopened(50, before.ended_by, record().actor, "job_rerun", "why"),
    )
    assert job == fresh
    assert job.last_token == before.last_token


def test_a_dropped_dead_letter_is_dead_and_may_be_opened_again(history: Histories) -> None:
    dead = job_in(history, State.DEAD)
    assert dead is not None
    dropped = evolve(dead, JobDropped("settled"), record())
    assert dropped == replace(dead, dropped="settled")
    assert evolve(dropped, JobRedriven(4, "why"), record()).dropped is None


def test_progress_is_the_newest_alone(history: Histories) -> None:
    words = history().job().submitted().granted()
    for percent in (b"10", b"20"):
        words.add(ProgressReported(1, words.now.last_token, seal(percent)))
    assert words.now.progress == seal(b"20")
    assert words.now.state is State.RUNNING
