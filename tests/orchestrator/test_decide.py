"""Every decision as the pure function that it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from writ.orchestrator.decide import control, intake, lease, retry, timers
from writ.orchestrator.decide.lease import Repeated
from writ.orchestrator.logtime import Budget, LogTime
from writ.schemas import bounds, submits
from writ.schemas.causes import fingerprint
from writ.schemas.commands import Acquire, Cancel, Completion, Failure, Held, Redrive, SubmitJob
from writ.schemas.errors import AttemptError, ErrorClass
from writ.schemas.events import (
    AttemptFailed,
    CancelRequested,
    DeadReason,
    JobCancelled,
    JobCompleted,
    JobDeadLettered,
    JobDue,
    JobRedriven,
    JobSubmitted,
    JobSuspended,
    LeaseExpired,
    LeaseReleased,
    RetryScheduled,
    WaitReason,
)
from writ.schemas.lifecycle import TERMINAL, Job, State
from writ.schemas.policy import Limits, Retry
from writ.schemas.queues import BUILT_IN
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import seal, unseal

if TYPE_CHECKING:
    from tests.histories.builder import Histories

SECOND = 1_000_000
RAW = msgspec.Raw


def running(history: Histories, **policy: Any) -> Job:
    return history().job().submitted(retry_policy=Retry(**policy)).granted("w1").now


def failed(
    job: Job, class_: ErrorClass = ErrorClass.APPLICATION, type_: str = "Full", **more: Any
) -> tuple[Any, ...]:
    report = Failure(job.id, job.last_token, class_=class_, type=type_, **more)
    decided = lease.fail(job, BUILT_IN, report, "worker-1", None, 100 * SECOND, 0.5)
    assert isinstance(decided, tuple)
    return decided


# --- retry ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "failures", "expected"),
    [
        (Retry(), 1, 1.0),
        (Retry(), 2, 2.0),
        (Retry(), 7, 64.0),
        (Retry(), 8, 100.0),
        (Retry(), 100_000, 100.0),
        (Retry(backoff=1.0), 9, 1.0),
        (Retry(initial_interval_s=0), 9, 0.0),
        (Retry(initial_interval_s=0, backoff=1_000), 1_000_000, 0.0),
        (Retry(initial_interval_s=500), 1, 100.0),
        (Retry(backoff=1_000, max_interval_s=1e8), 1_000_000, 1e8),
    ],
)
def test_backoff_grows_to_its_cap(policy: Retry, failures: int, expected: float) -> None:
    assert retry.backoff_s(policy, failures) == expected


@given(st.floats(0, 1e8), st.floats(0, 1), st.floats(0, 1))
def test_jitter_stays_in_its_bounds(base: float, jitter: float, seed: float) -> None:
    delay = retry.delay_s(base, jitter, seed)
    assert delay >= 0
    assert base * (1 - jitter) <= delay * (1 + 1e-12) + 1e-9
    assert delay <= base * (1 + jitter) * (1 + 1e-12) + 1e-9


def test_jitter_reaches_both_ends_and_is_none_where_none_is_asked() -> None:
    assert [retry.delay_s(10, 0.2, seed) for seed in (0, 0.5, 1)] == [8, 10, 12]
    assert {retry.delay_s(10, 0, seed / 10) for seed in range(11)} == {10}


@given(
    st.integers(1, 1_000_000),
    st.floats(0, 1e8),
    st.floats(1, 1_000),
    st.floats(0, 1e8),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_every_retry_tells_all_it_was_computed_from(
    failures: int, initial: float, backoff: float, most: float, jitter: float, seed: float
) -> None:
    policy = Retry(0, initial, backoff, most, jitter)
    job = msgspec.structs.replace(BLANK, retry=policy, failures=failures - 1)
    error = AttemptError(ErrorClass.SYSTEM, "Gone")
    failed = AttemptFailed(1, 1, error)
    event = retry.consequence(job, BUILT_IN, failed, 1_000, seed)
    assert isinstance(event, RetryScheduled)
    again = retry.delay_s(event.base_s, event.jitter, event.seed)
    assert event.due_at == 1_000 + round(again * SECOND)
    assert event.base_s == retry.backoff_s(policy, event.failures) <= most
    assert event.due_at >= 1_000


BLANK = Job(
    tenant="default",
    key="mail~a",
    state=State.RUNNING,
    task="t",
    input=seal(b"null"),
    actor="owner",
    submitted_at=0,
    due_at=0,
    since=1,
    priority=3,
    retry=Retry(),
    limits=Limits(),
    policy=0,
)


@pytest.mark.parametrize("class_", [ErrorClass.SYSTEM, ErrorClass.APPLICATION, ErrorClass.TIMEOUT])
def test_these_classes_are_retried(history: Histories, class_: ErrorClass) -> None:
    events = failed(running(history), class_)
    assert [type(e) for e in events] == [AttemptFailed, RetryScheduled]
    assert str(class_) in events[1].rule


@pytest.mark.parametrize(
    ("class_", "reason"),
    [(ErrorClass.POLICY, DeadReason.POLICY), (ErrorClass.POISON, DeadReason.POISON)],
)
def test_these_classes_end_a_job_whatever_its_policy(
    history: Histories, class_: ErrorClass, reason: DeadReason
) -> None:
    events = failed(running(history, max_attempts=0), class_)
    assert (events[1].reason, events[1].rule) == (reason, f"class {class_} is never retried")
    error = AttemptError(class_, "Full")
    assert events[1].cause == fingerprint("mail.send", reason, error)


def test_a_worker_may_end_its_job_as_cancelled(history: Histories) -> None:
    assert isinstance(failed(running(history), ErrorClass.CANCELLED)[1], JobCancelled)


def test_a_listed_type_is_not_retried(history: Histories) -> None:
    job = running(history, non_retryable_types=("Bad", "Worse"))
    event = failed(job, type_="Worse")[1]
    assert (event.reason, event.rule) == (
        DeadReason.NON_RETRYABLE,
        "type Worse is listed in non_retryable_types",
    )
    assert isinstance(failed(job, type_="worse")[1], RetryScheduled)


def test_attempts_run_out(history: Histories) -> None:
    words = history().job().submitted(retry_policy=Retry(max_attempts=3))
    for _ in range(2):
        words.granted().failed().at_due()
    event = failed(words.granted().now)[1]
    assert (event.reason, event.rule) == (DeadReason.EXHAUSTED, "failed attempt 3 of max_attempts 3")


def test_nought_attempts_are_without_limit(history: Histories) -> None:
    job = replace(running(history, max_attempts=0), failures=10_000)
    assert isinstance(failed(job)[1], RetryScheduled)


@pytest.mark.parametrize(("wish", "delay"), [(None, 1.0), (0.5, 1.0), (7.5, 7.5)])
def test_a_worker_may_ask_for_a_later_retry_only(
    history: Histories, wish: float | None, delay: float
) -> None:
    event = failed(running(history, jitter=0), retry_after_s=wish)[1]
    assert event.due_at == 100 * SECOND + delay * SECOND
    assert ("the worker asked" in event.rule) == (delay == wish)


def test_losing_a_lease_uses_up_no_attempt_but_a_count_of_its_own(history: Histories) -> None:
    words = history().job().submitted(retry_policy=Retry(max_attempts=1, max_lease_losses=3))
    for losses in (1, 2):
        job = words.granted().expired().now
        assert (job.state, job.lease_losses, job.failures) == (State.PENDING, losses, 0)
    words.granted()
    events = retry.after_lost_lease(words.now)
    assert [type(e) for e in events] == [LeaseExpired, JobDeadLettered]
    assert isinstance(events[1], JobDeadLettered)
    assert (events[1].reason, events[1].rule) == (
        DeadReason.POISON,
        "lost its lease 3 times; max_lease_losses is 3",
    )


def test_a_long_text_is_cut_and_says_so(history: Histories) -> None:
    event = failed(running(history), text="é" * 50_000)[0]
    text = msgspec.json.decode(unseal(event.error.text))
    assert len(text) == bounds.ERROR_TEXT_MAX_CHARS
    assert text.endswith("[cut: 50000 characters in all]")


# --- cancel and redrive ---------------------------------------------------------------------------------


PAUSED = JobSuspended(WaitReason.PAUSED, "paused: requested")


def jobs(history: Histories) -> dict[State, Job]:
    new = history
    return {
        State.SCHEDULED: new().job().submitted(delay_s=9).now,
        State.PENDING: new().job().submitted().now,
        State.SUSPENDED: new()
        .job()
        .submitted()
        .add(JobSuspended(WaitReason.PAUSED, "paused: requested"))
        .now,
        State.RUNNING: new().job().submitted().granted().now,
        State.RETRYING: new().job().submitted().granted().failed().now,
        State.COMPLETED: new().job().submitted().granted().completed().now,
        State.CANCELLED: new().job().submitted().cancelled().now,
        State.DEAD: new().job().submitted().granted().failed(class_=ErrorClass.POLICY).now,
    }


@pytest.mark.parametrize("state", State)
def test_cancelling_in_each_state(history: Histories, state: State) -> None:
    decided = control.cancel(jobs(history)[state], Cancel(id="a", reason="enough"))
    if state in TERMINAL:
        assert isinstance(decided, Rejection)
        assert (decided.kind, decided.field) == (RejectionKind.CONFLICT, "id")
        assert f"job a is {state}" in decided.reason
    elif state is State.RUNNING:
        assert decided == (CancelRequested("enough"),)
    else:
        assert decided == (CancelRequested("enough"), JobCancelled("enough"))


@pytest.mark.parametrize("state", State)
def test_redriving_in_each_state(history: Histories, state: State) -> None:
    job = jobs(history)[state]
    decided = control.redrive(job, Redrive(id="a", reason="again"))
    if state is State.DEAD:
        assert decided == (JobRedriven(job.ended_by, "again"),)
    else:
        assert isinstance(decided, Rejection)
        assert decided.kind is RejectionKind.CONFLICT


def test_an_unknown_job_can_be_neither(history: Histories) -> None:
    for decided in (control.cancel(None, Cancel(id="x")), control.redrive(None, Redrive(id="x"))):
        assert isinstance(decided, Rejection)
        assert decided.kind is RejectionKind.NOT_FOUND


def test_a_cancel_asked_for_wins_over_retry_and_over_the_cap(history: Histories) -> None:
    job = history().job().submitted(retry_policy=Retry(max_lease_losses=1)).granted().cancelled("enough").now
    assert failed(job)[1] == JobCancelled("enough")
    assert retry.after_lost_lease(job)[1] == JobCancelled("enough")
    decided = lease.release(job, Held("a", job.last_token), "worker-1", "drain", None)
    assert isinstance(decided, tuple)
    assert [type(e) for e in decided] == [LeaseReleased, JobCancelled]
    assert control.cancel(job, Cancel(id="a")) == ()


# --- the fence ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [s for s in State if s is not State.RUNNING])
def test_without_a_live_lease_every_token_is_void(history: Histories, state: State) -> None:
    job = jobs(history)[state]
    for token in (0, 5, job.last_token):
        void = lease.fence(job, Held("a", token), "worker-1", 3)
        assert void is not None
        assert (void.kind, void.field, void.index) == (RejectionKind.STALE, "token", 3)
        assert f"the job is {state}" in void.reason


def test_only_token_and_principal_together_pass(history: Histories) -> None:
    job = running(history)
    assert lease.fence(job, Held("a", job.last_token), "worker-1") is None
    for token, principal in ((job.last_token - 1, "worker-1"), (job.last_token, "owner")):
        void = lease.fence(job, Held("a", token), principal)
        assert void is not None
        assert void.kind is RejectionKind.STALE


def test_a_repeated_report_is_known_and_another_is_not(history: Histories) -> None:
    words = history().job().submitted().granted()
    token = words.now.last_token
    done = words.completed().now
    assert isinstance(lease.complete(done, Completion("a", token), "worker-1", None), Repeated)
    assert isinstance(lease.complete(done, Completion("a", token - 1), "worker-1", None), Rejection)

    words = history().job().submitted().granted()
    token = words.now.last_token
    report = Failure("a", token, class_=ErrorClass.APPLICATION, type="MailboxFull", text="mailbox is full")
    retrying = words.failed().now
    again = lease.fail(retrying, BUILT_IN, report, "worker-1", None, 0, 0.5)
    assert isinstance(again, Repeated)
    other = lease.fail(retrying, BUILT_IN, replace(report, text="something else"), "worker-1", None, 0, 0.5)
    assert isinstance(other, Rejection)


def test_a_failure_after_a_lost_lease_is_not_the_earlier_ones_repetition(history: Histories) -> None:
    """The job still shows the error of attempt 1 when attempt 2 has lost its lease."""
    words = history().job().submitted().granted().failed().at_due().granted()
    report = Failure(
        "a", words.now.last_token, class_=ErrorClass.APPLICATION, type="MailboxFull", text="mailbox is full"
    )
    for job in (words.expired().now, words.cancelled().now):
        decided = lease.fail(job, BUILT_IN, report, "worker-1", None, 0, 0.5)
        assert isinstance(decided, Rejection)
        assert decided.kind is RejectionKind.STALE


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (b'"' + b"x" * bounds.INLINE_MAX_BYTES + b'"', RejectionKind.TOO_LARGE),
        (b"[" * 101 + b"1" + b"]" * 101, RejectionKind.MALFORMED),
        (b"[" * 9_000 + b"]" * 9_000, RejectionKind.MALFORMED),
        (b'"\\ud800"', RejectionKind.MALFORMED),
        (b"9" * 5_000, RejectionKind.MALFORMED),
    ],
)
def test_an_output_beyond_its_bounds_is_refused_by_its_field(
    history: Histories, output: bytes, kind: RejectionKind
) -> None:
    job = running(history)
    decided = lease.complete(job, Completion("a", job.last_token, RAW(output)), "worker-1", 2)
    assert isinstance(decided, Rejection)
    assert (decided.kind, decided.field, decided.index) == (kind, "output", 2)


@pytest.mark.parametrize("output", [b"null", b"[[[1.50]]]", b'"' + b"x" * 262_142 + b'"', b"1e3"])
def test_an_output_is_kept_to_the_byte(history: Histories, output: bytes) -> None:
    job = running(history)
    decided = lease.complete(job, Completion("a", job.last_token, RAW(output)), "worker-1", None)
    assert isinstance(decided, tuple)
    (event,) = decided
    assert isinstance(event, JobCompleted)
    assert (b"null" if event.output is None else unseal(event.output)) == output


def test_a_grant_names_the_principal_where_another_wrote_the_record(history: Histories) -> None:
    job = jobs(history)[State.PENDING]
    command = Acquire("w1")
    assert lease.grant(job, command, "robot", "robot")[0].principal is None  # type: ignore[attr-defined]
    assert lease.grant(job, command, "robot", "owner")[0].principal == "robot"  # type: ignore[attr-defined]


# --- time -----------------------------------------------------------------------------------------------


def test_nothing_happens_before_its_time(history: Histories) -> None:
    for state, job in jobs(history).items():
        assert (
            timers.due(job, BUILT_IN, job.submitted_at + 500_000 if state is not State.DEAD else 2**60, 0.5)
            == ()
        )


def test_a_delay_ends(history: Histories) -> None:
    job = jobs(history)[State.SCHEDULED]
    assert timers.due(job, BUILT_IN, job.due_at - 1, 0.5) == ()
    assert timers.due(job, BUILT_IN, job.due_at, 0.5) == (JobDue(),)


def test_an_attempt_ends_at_its_limit_though_its_lease_lives(history: Histories) -> None:
    limits = Limits(lease_s=9_000, attempt_timeout_s=60)
    job = history().job().submitted(limits=limits).granted().now
    assert job.lease is not None
    at = job.lease.granted_at + 60 * SECOND
    assert timers.due(job, BUILT_IN, at - 1, 0.5) == ()
    events = timers.due(job, BUILT_IN, at, 0.5)
    assert [type(e) for e in events] == [AttemptFailed, RetryScheduled]
    assert isinstance(events[0], AttemptFailed)
    assert (events[0].error.class_, events[0].token) == (ErrorClass.TIMEOUT, job.last_token)


def test_a_jobs_own_limit_wins(history: Histories) -> None:
    limits = Limits(lease_s=9_000, attempt_timeout_s=60, job_timeout_s=60)
    job = history().job().submitted(limits=limits).granted().now
    assert job.lease is not None
    events = timers.due(job, BUILT_IN, job.lease.granted_at + 60 * SECOND, 0.5)
    assert isinstance(events[1], JobDeadLettered)
    assert events[1].reason is DeadReason.JOB_TIMEOUT
    cancelled = replace(job, cancel="enough")
    assert timers.due(cancelled, BUILT_IN, job.lease.granted_at + 60 * SECOND, 0.5)[1] == JobCancelled(
        "enough"
    )


def test_expiry_counts_from_the_submit_and_only_to_the_first_start(history: Histories) -> None:
    words = history().job().submitted(limits=Limits(expires_in_s=10), delay_s=60)
    at = words.now.submitted_at + 10 * SECOND
    (event,) = timers.due(words.now, BUILT_IN, at, 0.5)
    assert isinstance(event, JobDeadLettered)
    assert (event.reason, event.rule) == (DeadReason.EXPIRED, "not started within expires_in_s 10")
    assert event.cause == fingerprint("mail.send", DeadReason.EXPIRED, None)
    words = history().job().submitted(limits=Limits(expires_in_s=10)).granted().released()
    assert timers.due(words.now, BUILT_IN, at, 0.5) == ()


class _Clock:
    def __init__(self) -> None:
        self.wall, self.mono = 10_000 * SECOND, 5 * SECOND

    def wall_us(self) -> int:
        return self.wall

    def mono_us(self) -> int:
        return self.mono


@given(st.lists(st.tuples(st.integers(-(10**12), 10**12), st.integers(0, 10**9)), max_size=30))
def test_log_time_never_goes_backwards_and_slews(steps: list[tuple[int, int]]) -> None:
    clock = _Clock()
    time = LogTime(clock, 0)
    before = time.now()
    for leap, elapsed in steps:
        clock.wall += leap
        clock.mono += elapsed
        after = time.now()
        assert elapsed - elapsed // 20 <= after - before <= elapsed + elapsed // 20
        before = after


def test_log_time_starts_behind_the_logs_last_record() -> None:
    assert LogTime(_Clock(), 20_000 * SECOND).now() == 20_000 * SECOND


def test_a_budget_is_a_burst_and_then_a_rate() -> None:
    budget = Budget(5, 2.0)
    assert [budget.take("a", 0) for _ in range(6)] == [True] * 5 + [False]
    assert budget.take("b", 0)
    assert not budget.take("a", 400_000)
    assert budget.take("a", 500_001)
    assert not budget.take("a", 500_001)
    assert sum(budget.take("a", 3_600 * SECOND) for _ in range(9)) == 5
    for number in range(5_000):
        budget.take(f"many{number}", 7_200 * SECOND + number * 10_000)
    assert budget.take("a", 7_300 * SECOND)


# --- submits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "due"),
    [
        ({}, None),
        ({"delay_s": 0}, None),
        ({"delay_s": 5}, 1_005 * SECOND),
        ({"not_before": "1970-01-01T00:00:00Z"}, None),
        ({"not_before": "1970-01-01T00:20:00Z"}, 1_200 * SECOND),
        ({"not_before": "1970-01-01T02:20:00+02:00"}, 1_200 * SECOND),
    ],
)
def test_when_a_job_is_due(given_: dict[str, Any], due: int | None) -> None:
    command = submits.parse(msgspec.json.encode({"task": "t", **given_}), None)
    assert isinstance(command, SubmitJob)
    (event,) = intake.submit(command, BUILT_IN, 1_000 * SECOND)
    assert isinstance(event, JobSubmitted)
    assert event.due_at == due


@given(st.recursive(st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_nesting_is_counted(value: Any) -> None:
    def depth(value: Any) -> int:
        if not isinstance(value, dict | list) or not value:
            return 0
        inner = cast("dict[str, Any] | list[Any]", value)
        return 1 + max(depth(each) for each in (inner.values() if isinstance(inner, dict) else inner))

    assert submits.nesting(value) == depth(value)
