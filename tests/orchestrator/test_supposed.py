"""What-if for prices and alerts: against arithmetic of its own, and against looking at every moment."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from msgspec import ValidationError, convert

from writ.orchestrator.decide.death import compensated
from writ.orchestrator.replay.alerts import Firing, alerted
from writ.orchestrator.replay.history import Entry
from writ.orchestrator.replay.stretch import Coverage, Stretch
from writ.orchestrator.replay.threads import lay_out
from writ.orchestrator.replay.whatif import supposing, what_if
from writ.schemas.alerts import THRESHOLD_MAX, AlertPolicy, Measure
from writ.schemas.bounds import SECOND_US
from writ.schemas.events import (
    AttemptFailed,
    JobDeadLettered,
    JobSubmitted,
    LeaseExpired,
    QueueDeclared,
    RetryScheduled,
)
from writ.schemas.lifecycle import TERMINAL, State
from writ.schemas.policy import QueuePolicy, Retry
from writ.schemas.prices import Price, PricePolicy
from writ.schemas.sealed import seal
from writ.schemas.steps import (
    CompensationEnded,
    OnUnknown,
    StepCompensated,
    StepDone,
    StepIntended,
    UsageRecorded,
)
from writ.schemas.supposed import Supposed

if TYPE_CHECKING:
    from tests.histories.builder import Histories, History, JobWords


def stretch_of(told: History) -> Stretch:
    entries = tuple([Entry(stored.seq, stored.subject, stored.body) for stored in told.records])
    return Stretch("default", 0, told.epoch, len(entries), Coverage.WHOLE, entries)


def used(job: JobWords, model: str, tokens: tuple[int, int], cost: int | None) -> None:
    job.add(UsageRecorded(job.now.attempt, job.now.last_token, model, *tokens, cost))


# --- prices -----------------------------------------------------------------------------------------------


def spent(history: Histories) -> Stretch:
    """Three jobs that use two models; `free` has no price."""
    told = history()
    for name, queue, tokens in (("a", "mail", 1_000), ("b", "mail", 2_500), ("c", "post", 10)):
        job = told.job(name, queue).submitted(f"{queue}.send").granted()
        used(job, "small", (tokens, 10), tokens + 50)
        if name == "b":
            used(job, "free", (7, 7), None)
        job.completed().after(5)
    return stretch_of(told)


def test_other_prices_are_told_job_by_job_by_group_and_in_total(history: Histories) -> None:
    prices: dict[str, tuple[PricePolicy, ...]] = {
        "small": (PricePolicy(2.0, 5.0),),
        "unused": (PricePolicy(1.0, 1.0),),
    }
    found = supposing(spent(history), Supposed(prices=prices))
    cost = {"mail~a": 2_050, "mail~b": 5_050, "post~c": 70}
    assert {each.key: each.would_be.cost_microusd for each in found.otherwise} == cost
    assert {each.key: each.was.cost_microusd for each in found.otherwise} == {
        "mail~a": 1_050, "mail~b": 2_550, "post~c": 60
    }  # fmt: skip
    assert (found.was.cost_microusd, found.would_be.cost_microusd) == (3_660, 7_170)
    assert (found.was.unpriced, found.would_be.unpriced) == (1, 1), "what free costs stays unknown"
    groups = {
        (g.tenant, g.queue, g.task, g.model): (g.was.cost_microusd, g.would_be.cost_microusd, g.was.unpriced)
        for g in found.spending
    }
    assert groups == {
        ("default", "mail", "mail.send", "small"): (3_600, 7_100, 0),
        ("default", "mail", "mail.send", "free"): (0, 0, 1),
        ("default", "post", "post.send", "small"): (60, 70, 0),
    }
    assert found.moved == 0, "nothing came at another time"
    assert all("model small would cost otherwise" in each.why for each in found.otherwise)
    assert found.prices == ("small", "unused")


def test_the_prices_that_held_change_nothing(history: Histories) -> None:
    found = supposing(spent(history), Supposed(prices={"small": (PricePolicy(1.0, 5.0),)}))
    assert found.otherwise == ()
    assert found.was == found.would_be


def test_a_price_holds_from_its_time_on_and_before_that_it_is_unknown(history: Histories) -> None:
    stretch = spent(history)
    (first, second, _) = [
        step.at for thread in lay_out(stretch).threads.values() for step in thread.steps[2:3]
    ]
    later = {"small": (Price("small", second, 1_000_000, 0),)}
    found = what_if(stretch, {}, later)
    came = {each.key: each.would_be for each in found.otherwise}
    assert first < second
    assert (came["mail~a"].cost_microusd, came["mail~a"].unpriced) == (0, 1)
    assert (came["mail~b"].cost_microusd, came["mail~b"].unpriced) == (2_500, 1)


def test_an_attempt_that_would_not_have_been_costs_nothing(history: Histories) -> None:
    told = history()
    policy = QueuePolicy(retry=Retry(max_attempts=3, initial_interval_s=0.1))
    told.add("queue", "mail", (QueueDeclared(1, policy, ""),))
    job = told.job()
    job.add(JobSubmitted("mail.send", seal(b"{}"), retry=policy.retry, policy=1))
    for attempt in range(3):
        job.granted()
        used(job, "small", (100, 0), 100)
        job.failed() if attempt < 2 else job.completed()
        if attempt < 2:
            job.at_due()
    fewer = {"mail": QueuePolicy(retry=Retry(max_attempts=1))}
    (each,) = what_if(stretch_of(told), fewer).otherwise
    assert (each.was.cost_microusd, each.would_be.cost_microusd) == (300, 100)
    assert (each.was.state, each.would_be.state) == ("completed", "dead")


def test_steps_move_with_their_attempt_and_undoing_that_never_ran_is_unknown(history: Histories) -> None:
    """A job that undid its steps comes out as it did; what would have had to be undone sooner is unknown."""
    told = history()
    policy = QueuePolicy(retry=Retry(max_attempts=2, initial_interval_s=0.1))
    told.add("queue", "mail", (QueueDeclared(1, policy, ""),))
    job = told.job()
    job.add(JobSubmitted("mail.send", seal(b"{}"), retry=policy.retry, policy=1)).granted()
    held = (job.now.attempt, job.now.last_token)
    job.add(StepIntended(*held, 1, "take", "0" * 64, OnUnknown.ASK, compensable=True))
    job.add(StepDone(*held, 1, seal(b"1")))
    job.failed().at_due().granted().failed().granted()
    assert job.now.compensation is not None
    undoing = (job.now.attempt, job.now.last_token)
    job.add(StepCompensated(*undoing, 1))
    job.add(CompensationEnded(*undoing), compensated(job.now))
    stretch = stretch_of(told)
    assert what_if(stretch, {"mail": policy}).otherwise == ()
    later = QueuePolicy(retry=Retry(max_attempts=2, initial_interval_s=60))
    (moved,) = what_if(stretch, {"mail": later}).otherwise
    assert (moved.would_be.state, moved.would_be.attempts) == ("dead", 3)
    assert moved.later_us > 0
    (sooner,) = what_if(stretch, {"mail": QueuePolicy(retry=Retry(max_attempts=1))}).otherwise
    assert sooner.would_be.state == "unknown"
    assert "when its steps are undone" in sooner.why


# --- alerts -----------------------------------------------------------------------------------------------

_KINDS = {
    Measure.DEAD_LETTERS: JobDeadLettered,
    Measure.FAILURES: AttemptFailed,
    Measure.LEASE_LOSSES: LeaseExpired,
    Measure.RETRIES: RetryScheduled,
}


def value(stretch: Stretch, policy: AlertPolicy, queue: str, now: int) -> float:
    """A measure at a moment, counted from the beginning."""
    threads = [t for t in lay_out(stretch).threads.values() if t.queue == queue]
    waits: list[int] = []
    for thread in threads:
        upto = [step for step in thread.steps if step.at <= now]
        if upto and upto[-1].after.state is State.PENDING:
            since = upto[-1].at
            for step in reversed(upto):
                if step.after.state is not State.PENDING:
                    break
                since = step.at
            waits.append(since)
    within = [
        step
        for thread in threads
        for step in thread.steps
        if now - policy.window_s * SECOND_US < step.at <= now
    ]
    events = [event for step in within for event in step.events]
    ends = [
        step for step in within
        if step.after.state in TERMINAL and (step.before is None or step.before.state not in TERMINAL)
    ]  # fmt: skip
    match policy.measure:
        case Measure.BACKLOG:
            return len(waits)
        case Measure.BACKLOG_AGE_S:
            return max([(now - since) / SECOND_US for since in waits], default=0)
        case Measure.DEAD_LETTER_RATIO:
            return sum(step.after.state is State.DEAD for step in ends) / len(ends) if ends else 0
        case Measure.SPEND_USD:
            return sum(e.cost_microusd or 0 for e in events if isinstance(e, UsageRecorded)) / 1e6
        case counted:
            return sum(isinstance(event, _KINDS[counted]) for event in events)


@pytest.mark.parametrize("measure", list(Measure))
@pytest.mark.parametrize("seed", range(2))
def test_an_alert_fires_exactly_while_its_measure_is_above_the_threshold(
    measure: Measure, seed: int, history: Histories
) -> None:
    """At each end of each firing, a microsecond before and after it, and at random moments."""
    draw = random.Random(seed)
    told = history.wander(seed + 30, 250)
    if measure is Measure.SPEND_USD:
        for number in range(20):
            job = told.job(f"u{number}").submitted().granted()
            used(job, "small", (1, 1), draw.randrange(900_000))
            job.completed().after(draw.randrange(900))
    stretch = stretch_of(told)
    last = told.records[-1]
    at_end = max(step.at for thread in lay_out(stretch).threads.values() for step in thread.steps)
    begin = min(step.at for thread in lay_out(stretch).threads.values() for step in thread.steps)
    assert last.seq == stretch.last
    fired = 0
    for above in (0.0, 0.3, 2.0, 20.0):
        policy = AlertPolicy(measure, above, window_s=draw.choice((30.0, 600.0)), queue="mail")
        (found,) = alerted(stretch, {"any": policy})
        fired += len(found.firings)
        moments = [draw.randint(begin, at_end) for _ in range(10)]
        for firing in draw.sample(found.firings, min(3, len(found.firings))):
            moments += [firing.at - 1, firing.at, firing.at + 1]
            moments += [] if firing.until is None else [firing.until - 1, firing.until, firing.until + 1]
        for now in moments:
            if begin <= now <= at_end:
                is_above = value(stretch, policy, "mail", now) > above
                stands = _stands(found.firings, now)
                at_the_edge = measure is Measure.BACKLOG_AGE_S and now in [f.at for f in found.firings]
                assert stands == is_above or at_the_edge, (measure, above, now)
        for firing in found.firings:
            assert firing.peak > above
            assert firing.records == tuple(sorted(firing.records))
    assert fired, "none of the thresholds was passed"


def _stands(firings: tuple[Firing, ...], now: int) -> bool:
    return any(each.at <= now and (each.until is None or now < each.until) for each in firings)


def test_an_alert_waits_for_its_time_and_names_what_it_rests_on(history: Histories) -> None:
    told = history()
    for name in "abc":
        told.job(name).submitted()
    began = told.at
    told.job("a").after(50).granted()
    told.job("b").after(100).granted()
    told.job("c").after(100).granted()
    stretch = stretch_of(told)

    def fires(above: float, for_s: float = 0) -> list[tuple[float, float | None, tuple[int, ...]]]:
        (found,) = alerted(stretch, {"old": AlertPolicy(Measure.BACKLOG, above, for_s=for_s)})
        return [(seconds(f.at), f.until and seconds(f.until), f.records) for f in found.firings]

    def seconds(at: int) -> int:
        return round((at - began) / SECOND_US)

    assert fires(above=1.0) == [(0, 150, (1, 2, 3))]
    assert fires(above=1.0, for_s=100) == [(100, 150, (2, 3))], "by then the first is gone"
    assert fires(above=1.0, for_s=200) == [], "it did not stand for so long"
    assert fires(above=2.0, for_s=10) == [(10, 50, (1, 2, 3))]


@pytest.mark.parametrize("measure", list(Measure))
def test_the_highest_threshold_is_never_passed(measure: Measure, history: Histories) -> None:
    told = history.wander(31, 250)
    highest = {"measure": measure.value, "above": THRESHOLD_MAX}
    (found,) = alerted(stretch_of(told), {"any": convert(highest, AlertPolicy)})
    assert found.firings == ()
    with pytest.raises(ValidationError, match=r"\$.above"):
        convert(highest | {"above": 1.1e308}, AlertPolicy)


def test_an_alert_over_money_says_what_has_no_price(history: Histories) -> None:
    alerts = {"spend": AlertPolicy(Measure.SPEND_USD, 0.003, window_s=86_400)}
    stretch = spent(history)
    (found,) = supposing(stretch, Supposed(alerts=alerts)).alerts
    assert [firing.queue for firing in found.firings] == ["mail"]
    assert found.firings[0].peak == pytest.approx(0.0036)
    assert (found.unknown, found.firings[0].until) == (1, None)
    dear: dict[str, tuple[PricePolicy, ...]] = {"free": (PricePolicy(1_000.0, 0.0),)}
    (other,) = supposing(stretch, Supposed(prices=dear, alerts=alerts)).alerts
    assert other.unknown == 0
    assert other.firings[0].peak == pytest.approx(0.0106)
