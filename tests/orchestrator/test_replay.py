"""Forensics: the timeline, the explanation and the verification, from the log alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from writ.orchestrator.replay.explain import Explanation, QueueStanding, explain
from writ.orchestrator.replay.history import (
    Entry,
    HistoryError,
    at_point,
    state_at,
    steps,
    steps_of_views,
    timeline,
)
from writ.orchestrator.replay.text import clock_time, duration, lines
from writ.orchestrator.replay.verify import Range, verify, verify_entries
from writ.schemas.buckets import Bucket
from writ.schemas.errors import ErrorClass
from writ.schemas.events import JobSuspended, LeaseExpired, LeaseGranted, RetryScheduled, WaitReason
from writ.schemas.lifecycle import State, evolve_record
from writ.schemas.policy import Limits, QueuePolicy, Retry
from writ.schemas.queries import RecordView
from writ.schemas.queues import Queue

if TYPE_CHECKING:
    from tests.histories.builder import Histories, History

MAIL = ("default", "mail~a")


def entries(told: History) -> list[Entry]:
    return [Entry(s.seq, s.subject, s.body) for s in told.records]


# --- history ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
async def test_a_timeline_folds_to_the_job_as_it_is(seed: int, history: Histories) -> None:
    told = history.wander(seed, 400)
    log = told.log(seed, 40)
    for key, job in told.jobs.items():
        found = await timeline(log, "default", key)
        assert found[-1].job == job
        assert [s.record.seq for s in found] == sorted({s.record.seq for s in found})
        assert found == steps(entries(told)[: found[-1].record.seq], "default", key)


async def test_the_state_at_a_sequence_or_a_time(history: Histories) -> None:
    told = history().elected()
    told.after(1)
    job = told.job().submitted().after(1).granted("w1").after(1)
    between = told.at
    job.after(1).completed()
    log = told.log()
    assert await state_at(log, *MAIL, seq=1) is None
    states = [(await state_at(log, *MAIL, seq=seq)) for seq in (2, 3, 4)]
    assert [s.state if s else None for s in states] == [State.PENDING, State.RUNNING, State.COMPLETED]
    then = await state_at(log, *MAIL, at=between)
    assert then is not None
    assert then.lease is not None
    assert then.lease.worker == "w1"
    assert await timeline(log, "default", "mail~nobody") == []


async def test_beats_and_leaders_move_the_lease_and_others_are_left_out(history: Histories) -> None:
    told = history().elected()
    told.submitted().granted("w1").after(10).renewed()
    told.job("b").submitted().granted("w1").renewed()
    told.barrier().resumed(7)
    found = await timeline(told.log(), *MAIL)
    assert [(s.record.seq, s.is_context) for s in found] == [(2, False), (3, False), (4, True), (9, True)]
    deadlines = [s.job.lease.expires_at - told.at for s in found if s.job.lease]
    assert deadlines == [13_000_000, 23_000_000, 30_000_000]


def test_steps_from_the_pages_of_a_query(history: Histories) -> None:
    told = history.wander(3, 200)
    views = [RecordView(s.seq, s.subject, "", msgspec.Raw(s.body)) for s in told.records]
    first = next(s.subject.split(".")[-1] for s in told.records if ".job." in s.subject)
    assert steps_of_views(views) == steps(entries(told), "default", first)
    assert steps_of_views(views[:1]) == []


def test_messages_that_contradict_themselves_are_named(history: Histories) -> None:
    told = history()
    told.submitted().granted().completed()
    good = entries(told)
    for spoiled, reason in (
        ([good[0], good[1]._replace(seq=7)], "record 7: its body says sequence 2"),
        ([good[0]._replace(subject=good[0].subject + "x")], "its subject is"),
        ([good[1], good[0]], "record 2"),
        ([good[0], good[0]], "comes after"),
        ([good[0]._replace(body=b"[]")], "cannot be read"),
    ):
        with pytest.raises(HistoryError, match=reason):
            steps(spoiled, *MAIL)


# --- text -------------------------------------------------------------------------------------------------


def test_a_timeline_in_words(history: Histories) -> None:
    told = history()
    job = told.submitted().after(0.02).granted("w1").after(1).failed(seed=0.75)
    job.at_due().granted("w2").after(2).expired().granted("w3").completed()
    text = list(lines(steps(entries(told), *MAIL)))
    assert text[0] == "2026-01-01T00:00:00.000Z  job a in queue mail"
    assert (
        'job_submitted      task mail.send by owner, priority 3, input {"to":"a@example.com"}  -> pending'
        in text[1]
    )
    assert "+20 ms  lease_granted      attempt 1 to worker w1, token 1099511627778 (record 2)" in text[2]
    assert "attempt 1 after 12 ms: application error MailboxFull: mailbox is full" in text[3]
    assert "in 1.05 s (backoff 1 s for failure 1, jitter 0.1 placed it in 0.9 to 1.1 s" in text[4]
    assert text[4].endswith("failed attempt 1 of max_attempts 5  -> retrying")
    assert "worker w2 did not renew; 0 ms over time; loss 1 of 5  -> pending" in text[7]
    assert text[-1].endswith("attempt 3 after 20 ms, output sent  -> completed")
    assert list(lines([])) == []


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, "0 ms"),
        (1_500, "1.5 ms"),
        (12_500_000, "12.5 s"),
        (60_000_000, "1 min"),
        (200_000_000, "3 min 20 s"),
        (7_500_000_000, "2 h 5 min"),
        (90_000_000_000, "1 d 1 h"),
        (-2_000_000, "-2 s"),
    ],
)
def test_durations(us: int, text: str) -> None:
    assert duration(us) == text


# --- explain ----------------------------------------------------------------------------------------------


def explained(told: History, later_us: int = 0) -> Explanation:
    return explain(steps(entries(told), *MAIL), told.at + later_us)


def test_the_questions_of_a_dead_letter(history: Histories) -> None:
    told = history().elected()
    policy = Retry(max_attempts=2)
    job = told.job().submitted(retry_policy=policy).granted("w1").started().failed("boom").at_due()
    job.granted("w2").failed("boom again")
    found = explained(told, 5_000_000)
    assert found.state is State.DEAD
    assert "owner submitted it at 2026-01-01T00:00:00.000Z" in found.who.sentences[0]
    assert found.who.records == (2,)
    assert "Task mail.send; its release is not recorded." in found.code.sentences
    assert found.code.records == (2, 3, 7)
    assert "None is recorded" in found.tools.sentences[0]
    assert found.retries.records == (5, 8)
    assert found.retries.sentences[-1] == (
        "Not retried, dead-lettered as exhausted: failed attempt 2 of max_attempts 2."
    )
    assert found.policies.sentences[-2] == "Verdict: exhausted; failed attempt 2 of max_attempts 2."
    assert "the release of its code is not recorded" in found.reproducible.sentences[1]
    assert "dead letter 5 s ago" in found.not_running.sentences[0]
    assert found.not_running.records == (8,)
    text = "\n".join(found.lines())
    assert "7. Why is it not running now?" in text
    assert "from records #5, #8" in text


STANDING: list[tuple[Callable[[History], object], str, int]] = [
    (lambda h: h.submitted(), "has been ready for 5 s with priority 3", 1),
    (lambda h: h.job().submitted(delay_s=65), "its time comes in 1 min", 1),
    (lambda h: h.submitted().granted("w1"), "attempt 1 by worker w1", 2),
    (lambda h: h.submitted().granted("w1").failed(retry_after_s=20.0), "due in 15 s", 3),
    (lambda h: h.submitted().granted().released(), "has been ready for 5 s", 3),
    (lambda h: h.submitted().cancelled("no need"), "cancelled 5 s ago: no need", 2),
    (lambda h: h.submitted().granted().completed(), "completed 5 s ago", 3),
    (
        lambda h: h.submitted().add(JobSuspended(WaitReason.SIGNAL, "", ("paid",))),
        "the signal paid has not come: writ signal a paid",
        2,
    ),
    (
        lambda h: (
            h.submitted()
            .granted()
            .released()
            .add(JobSuspended(WaitReason.APPROVAL, "pay\n7 euros?", attempt=1))
        ),
        "writ approve a, or writ reject a. Attempt 1 asks: pay 7 euros?",
        4,
    ),
]


@pytest.mark.parametrize(("tell", "words", "record"), STANDING)
def test_why_it_is_not_running(
    tell: Callable[[History], object], words: str, record: int, history: Histories
) -> None:
    told = history()
    tell(told)
    found = explained(told, 5_000_000)
    assert words in found.not_running.sentences[0]
    assert found.not_running.records == (record,)


def standing(now: int, **policy: Any) -> QueueStanding:
    """A queue with one token left of its burst a second ago, and two pending jobs."""
    return QueueStanding(Queue(QueuePolicy(**policy), 1, grants=Bucket(0.1, now - 1_000_000)), 1, 3)


def test_a_rate_says_when_the_next_lease_may_be_granted(history: Histories) -> None:
    told = history()
    told.submitted()
    found = explain(steps(entries(told), *MAIL), told.at, standing(told.at, rate_per_s=0.1, burst=2))
    words = found.not_running.sentences
    next_at = told.at + 8_000_001
    assert words[1:3] == (
        "Queue mail grants 0.1 a second with a burst of 2, and has 0.2 tokens; a lease takes 1: "
        f"the next may be granted in 8 s, at {clock_time(next_at)}.",
        "2 other jobs of queue mail are pending.",
    )
    assert "No worker" not in " ".join(words), "what is known to hold it back is said, and nothing guessed"
    free = explain(steps(entries(told), *MAIL), told.at, standing(told.at, rate_per_s=0.9, burst=2))
    assert "No worker that runs mail.send has asked for it yet" in free.not_running.sentences[1]
    assert "tokens" not in " ".join(free.not_running.sentences)


LAST: list[tuple[Callable[[History], object], str | None]] = [
    (lambda h: h.submitted(), None),
    (lambda h: h.submitted().granted("w1").expired(), "attempt 1 lost its lease, as worker w1 did not renew"),
    (lambda h: h.submitted().granted("w1").released(), "attempt 1 was given back unfinished"),
    (lambda h: h.submitted().granted("w1").failed("boom"), "attempt 1 failed with application error"),
    (
        lambda h: h.submitted().granted("w1").released().add(JobSuspended(WaitReason.PAUSED, "paused")),
        "attempt 1 was given back unfinished",
    ),
    (lambda h: h.submitted().granted("w1"), None),
    (lambda h: h.submitted().granted("w1").failed(class_=ErrorClass.POLICY).redriven(), None),
]


@pytest.mark.parametrize(("tell", "words"), LAST)
def test_how_the_last_lease_ended(
    tell: Callable[[History], object], words: str | None, history: Histories
) -> None:
    told = history()
    tell(told)
    found = explained(told, 5_000_000).not_running
    said = [sentence for sentence in found.sentences if "last lease" in sentence]
    if words is None:
        assert said == []
    else:
        assert said[0].startswith("Its last lease ended 5 s ago: " + words)
        assert 3 in found.records


def test_an_operator_is_named_too(history: Histories) -> None:
    told = history()
    job = told.submitted().granted().failed(class_=ErrorClass.POLICY).redriven("fixed")
    job.granted().cancelled("stop it")
    found = explained(told)
    assert found.who.records == (1, 4, 6)
    assert "redrove it" in found.who.sentences[1]
    assert "asked to end (stop it)" in found.not_running.sentences[-1]
    with pytest.raises(ValueError, match="no such job"):
        explain([], 0)


# --- verify -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
async def test_a_lawful_log_has_no_fault(seed: int, history: Histories) -> None:
    told = history.wander(seed, 500)
    report = await verify(told.log(seed))
    assert report.ok, report.lines()
    assert (report.records, report.jobs, report.digest) == (len(told.records), len(told.jobs), told.prev)
    assert report.decisions > 10


async def test_time_limits_are_recomputed(history: Histories) -> None:
    told = history()
    limits = Limits(lease_s=400.0, attempt_timeout_s=20.0, job_timeout_s=60.0)
    job = told.job().submitted(limits=limits).granted().after(20).due().at_due().granted().after(50).due()
    assert job.now.dead == "job_timeout"
    report = await verify(told.log())
    assert report.ok, report.lines()
    assert report.decisions == 6


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("due_at", 1, "retry_scheduled.due_at was recorded as 1; recomputed it is"),
        ("base_s", 1.5, "retry_scheduled.base_s was recorded as 1.5; recomputed it is 1.0"),
        ("rule", "because", "retry_scheduled.rule was recorded as 'because'"),
    ],
)
def test_a_retry_that_was_decided_otherwise_is_found(
    field: str, value: object, reason: str, history: Histories
) -> None:
    told = history()
    told.submitted().granted().failed().at_due()
    failed, scheduled = told.forged(3).events
    assert isinstance(scheduled, RetryScheduled)
    forged = told.forge(3, events=(failed, msgspec.structs.replace(scheduled, **{field: value})))
    report = verify_entries(entries(forged))
    first = report.faults[0]
    assert (first.seq, first.rule) == (3, "decision")
    assert reason in first.reason
    assert f"record 3: decision: {first.reason}" in report.lines()


def test_a_missing_consequence_is_found(history: Histories) -> None:
    told = history()
    told.job().submitted(retry_policy=Retry(max_lease_losses=1)).granted().expired()
    (expired, _) = told.forged(3).events
    assert isinstance(expired, LeaseExpired)
    report = verify_entries(entries(told.forge(3, events=(expired,))))
    assert [(f.seq, f.reason) for f in report.faults] == [(3, "job_dead_lettered is missing")]


def test_an_expiry_before_its_time_is_found(history: Histories) -> None:
    told = history()
    told.submitted().granted().expired()
    report = verify_entries(entries(told.forge(3, at=told.at - 1)))
    assert report.faults[0].reason == "lease_expired was recorded, but nothing was due"


def test_decisions_of_another_version_are_reported_not_judged(history: Histories) -> None:
    told = history()
    told.submitted().granted().failed()
    failed, _ = told.forged(3).events
    report = verify_entries(entries(told.forge(3, logic=0, events=(failed,))))
    assert (report.ok, report.decisions, report.not_recomputable) == (True, 2, (Range(0, 3, 3),))
    assert "records 3 to 3: not recomputable, as logic 0 decided them" in report.lines()


def test_a_second_lease_is_found(history: Histories) -> None:
    told = history()
    told.submitted().granted("w1")
    told.put(msgspec.structs.replace(told.forged(2), seq=3, events=(LeaseGranted("w2", 2),)))
    report = verify_entries(entries(told))
    assert [f.rule for f in report.faults] == ["lease", "lifecycle"]
    assert "granted a second lease; worker w1 still holds" in report.faults[0].reason


def test_a_report_with_a_stale_token_is_found(history: Histories) -> None:
    told = history()
    told.submitted().granted("w1").completed()
    (completed,) = told.forged(3).events
    stale = msgspec.structs.replace(completed, token=5)
    faults = verify_entries(entries(told.forge(3, events=(stale,)))).faults
    assert [fault.rule for fault in faults] == ["decision", "lease"]
    assert all("token 5" in fault.reason for fault in faults)


def test_what_happened_to_the_bytes_is_found(history: Histories) -> None:
    told = history.wander(9, 30)
    good = entries(told)
    edited = good[9]._replace(body=good[9].body.replace(b'"at":1', b'"at":2'))
    for spoiled, seq, rule in (
        ([*good[:9], edited, *good[10:]], 11, "chain"),
        ([*good[:9], *good[10:]], 11, "chain"),
        ([*good[:9], good[9]._replace(subject="writ.log.0.default.job.x"), *good[10:]], 10, "body"),
    ):
        assert (seq, rule) in [(f.seq, f.rule) for f in verify_entries(spoiled).faults]


def test_time_that_goes_back_is_found(history: Histories) -> None:
    told = history().barrier().after(1).barrier()
    (fault,) = verify_entries(entries(told.forge(2, at=told.at - 1_500_000))).faults
    assert (fault.seq, fault.rule, fault.reason) == (2, "time", "goes back by 500000 microseconds")


async def test_a_lease_survives_what_the_log_says_it_survives(history: Histories) -> None:
    """Folding with context and folding the job's own records differ only in the lease's deadline."""
    told = history()
    told.submitted().granted().after(20).renewed()
    found = await timeline(told.log(), *MAIL)
    own = None
    for step in found:
        own = own if step.is_context else evolve_record(own, step.record)
    last = at_point(found)
    assert own is not None
    assert last is not None
    assert last.lease is not None
    assert own.lease is not None
    assert last.lease.expires_at - own.lease.expires_at == 20_000_000
