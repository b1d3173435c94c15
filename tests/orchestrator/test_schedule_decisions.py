"""Deciding schedules: overlap and catching up in every combination, crashes, and what operators ask."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from functools import partial

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from writ.orchestrator.decide.schedule import (
    BACKFILL_MAX,
    COUNTED_MAX,
    NOTHING,
    QUEUED_MAX,
    Firing,
    Outcome,
    Start,
    backfill,
    declare,
    delete,
    due,
    due_job_id,
    known,
    not_started,
    pause,
    resume,
    trigger,
    triggered_job_id,
)
from writ.schemas.bounds import INLINE_MAX_BYTES
from writ.schemas.events import Fact
from writ.schemas.ids import token_fault
from writ.schemas.records import Record
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.schedules import (
    Overlap,
    Schedule,
    ScheduleBackfilled,
    ScheduleDeclared,
    ScheduleDeleted,
    ScheduleFired,
    SchedulePaused,
    ScheduleResumed,
    ScheduleSkipped,
    ScheduleSpec,
    ScheduleTriggered,
    evolve_schedule,
    next_due,
    next_times,
)
from writ.schemas.sealed import seal

Work = Callable[[Callable[[], object]], int]

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
NOON = 1_780_315_200 * SECOND
"""2026-06-01T12:00:00Z."""


def evolved(schedule: Schedule | None, now: int, *events: Fact) -> Schedule:
    record = Record(1, 1, "acme", "schedule", "reports~daily", now, "owner", events)
    for event in events:
        schedule = evolve_schedule(schedule, event, record)
    assert schedule is not None
    return schedule


def declared(**spec: object) -> Schedule:
    """A schedule declared at noon; hourly where nothing else is said, so due at 13:00, 14:00, ..."""
    whole = {"task": "t"} | spec
    if "every_s" not in whole:
        whole.setdefault("cron", "0 * * * *")
    return evolved(None, NOON, ScheduleDeclared(1, msgspec.convert(whole, ScheduleSpec), seal(b"{}")))


def job(hour: int) -> str:
    """The id of the job due at that hour of the day of the declaration."""
    return f"daily-20260601T{hour:02}0000Z"


def fired(firing: Firing) -> list[str]:
    """What was started, in order."""
    events = [event.job for event in firing.events if isinstance(event, ScheduleFired)]
    assert events == [start.id for start in firing.starts]
    return events


def skipped(firing: Firing) -> int:
    return sum(event.count for event in firing.events if isinstance(event, ScheduleSkipped))


def rules(firing: Firing) -> list[str]:
    return [event.rule for event in firing.events if isinstance(event, ScheduleFired | ScheduleSkipped)]


def refused(outcome: Outcome | Firing) -> Rejection:
    assert isinstance(outcome, Rejection)
    return outcome


def stored(outcome: Outcome) -> tuple[Fact, ...]:
    assert not isinstance(outcome, Rejection)
    return outcome


def firing_of(outcome: Firing | Rejection) -> Firing:
    assert isinstance(outcome, Firing)
    return outcome


# ---- the matrix


ON_TIME = NOON + HOUR + 2 * SECOND
"""13:00 is due, and nothing was missed."""

LATE = NOON + 5 * HOUR + 10 * MINUTE
"""13:00 to 17:00 were missed: five."""

LATE_AND_DUE = NOON + 5 * HOUR + 5 * SECOND
"""13:00 to 16:00 were missed: four; 17:00 is due now."""

CATCH_UP: list[tuple[int, int, float | None, list[int]]] = [
    # now, catch_up_max, catch_up_within_s, the hours that are run under overlap `allow`
    (ON_TIME, 0, None, [13]),
    (ON_TIME, 1, None, [13]),
    (ON_TIME, 3, 1.0, [13]),
    (LATE, 0, None, []),
    (LATE, 1, None, [17]),
    (LATE, 3, None, [15, 16, 17]),
    (LATE, 100, None, [13, 14, 15, 16, 17]),
    (LATE, 1, 300.0, []),
    (LATE, 1, 600.0, [17]),
    (LATE, 3, 5_000.0, [16, 17]),
    (LATE, 100, 8_000.0, [15, 16, 17]),
    (LATE_AND_DUE, 0, None, [17]),
    (LATE_AND_DUE, 1, None, [17]),
    (LATE_AND_DUE, 3, None, [15, 16, 17]),
    (LATE_AND_DUE, 3, 1.0, [17]),
    (LATE_AND_DUE, 3, 3_700.0, [16, 17]),
]
LIVE: list[list[str]] = [[], ["daily-1"], ["daily-1", "daily-2"]]


@pytest.mark.parametrize("live", LIVE, ids=len)
@pytest.mark.parametrize("overlap", list(Overlap))
@pytest.mark.parametrize(("now", "most", "within", "caught_up"), CATCH_UP)
def test_overlap_and_catching_up(
    now: int, most: int, within: float | None, caught_up: list[int], overlap: Overlap, live: list[str]
) -> None:
    schedule = declared(overlap=overlap, catch_up_max=most, catch_up_within_s=within)
    firing = due(schedule, live, now)
    passed = (now - NOON) // HOUR
    wanted = [job(hour) for hour in caught_up]
    match overlap:
        case Overlap.ALLOW:
            expected = [Start(each, 0) for each in wanted]
        case Overlap.QUEUE:
            expected = [Start(each, 0, after=(*live, *wanted[:place])) for place, each in enumerate(wanted)]
        case Overlap.CANCEL_RUNNING:
            expected = [Start(each, 0, after=tuple(live), cancel=tuple(live)) for each in wanted[-1:]]
        case Overlap.SKIP:
            expected = [Start(each, 0) for each in wanted[-1:] if not live]
    told = [msgspec.structs.replace(start, due_at=0) for start in firing.starts]
    assert told == expected
    assert [start.id for start in firing.starts] == [
        due_job_id("daily", start.due_at) for start in firing.starts
    ]
    assert fired(firing) == [start.id for start in expected]
    assert len(fired(firing)) + skipped(firing) == passed
    for event in firing.events:
        if isinstance(event, ScheduleFired):
            start = next(start for start in firing.starts if start.id == event.job)
            assert (event.overlap, event.after, event.cancelled) == (overlap, start.after, start.cancel)
    after = evolved(schedule, now, *firing.events)
    assert due(after, live, now) == NOTHING
    assert next_due(after) == NOON + (passed + 1) * HOUR
    assert (after.fired, after.skipped) == (len(expected), passed - len(expected))


def test_the_rules_name_the_limit_and_the_value() -> None:
    assert rules(due(declared(), [], ON_TIME)) == ["on time"]
    assert rules(due(declared(catch_up_max=0), [], LATE)) == [
        "missed, and not among the newest that catch_up_max 0 runs"
    ]
    assert rules(due(declared(), [], LATE)) == [
        "missed, and not among the newest that catch_up_max 1 runs",
        "missed by 600 s, and among the newest that catch_up_max 1 runs",
    ]
    assert rules(due(declared(catch_up_within_s=300.0), [], LATE))[-1] == (
        "missed, and older than catch_up_within_s 300"
    )
    assert rules(due(declared(), ["daily-1"], ON_TIME)) == ["overlap skip: job daily-1 is live"]
    assert rules(due(declared(), ["a", "b", "c"], ON_TIME)) == ["overlap skip: job a and 2 more are live"]
    assert rules(due(declared(catch_up_max=2, overlap="cancel_running"), [], LATE))[1:] == [
        "overlap cancel_running: gave way to the newest due time",
        "missed by 600 s, and among the newest that catch_up_max 2 runs",
    ]
    live = [f"daily-{n}" for n in range(QUEUED_MAX)]
    assert rules(due(declared(overlap="queue"), live, ON_TIME)) == [
        "overlap queue: 100 jobs of the schedule are live; at most 100 are allowed"
    ]
    assert len(due(declared(overlap="queue"), live[1:], ON_TIME).starts) == 1


def test_neighbours_skipped_by_one_rule_are_one_event() -> None:
    events = due(declared(), [], LATE).events
    assert events[0] == ScheduleSkipped(
        NOON + 4 * HOUR, "missed, and not among the newest that catch_up_max 1 runs", 4, NOON + HOUR
    )
    assert len(events) == 2


def test_nothing_is_due_before_its_time_nor_while_paused_or_deleted() -> None:
    schedule = declared()
    assert due(schedule, [], NOON + HOUR - 1) == NOTHING
    assert due(evolved(schedule, NOON, SchedulePaused("x")), [], LATE) == NOTHING
    assert due(evolved(schedule, NOON, ScheduleDeleted("x")), [], LATE) == NOTHING


def test_times_outside_of_the_window_are_not_due() -> None:
    schedule = declared(starts_at="2026-06-01T15:00:00Z", ends_at="2026-06-01T17:00:00Z", catch_up_max=9)
    schedule = msgspec.structs.replace(
        schedule, spec=msgspec.structs.replace(schedule.spec, overlap=Overlap.ALLOW)
    )
    firing = due(schedule, [], LATE)
    assert fired(firing) == [job(15), job(16)]
    assert skipped(firing) == 0
    assert next_due(evolved(schedule, LATE, *firing.events)) is None


# ---- changes of the clocks


def test_a_night_of_changing_clocks_runs_a_nightly_job_once() -> None:
    for day, expected in (
        (datetime.datetime(2026, 3, 28, 12, tzinfo=datetime.UTC), "daily-20260329T010000Z"),
        (datetime.datetime(2026, 10, 24, 12, tzinfo=datetime.UTC), "daily-20261025T003000Z"),
    ):
        begin = int(day.timestamp()) * SECOND
        spec = ScheduleSpec(task="t", cron="30 2 * * *", tz="Europe/Berlin")
        schedule = evolved(None, begin, ScheduleDeclared(1, spec, seal(b"{}")))
        started: list[str] = []
        for now in range(begin, begin + DAY, MINUTE):
            firing = due(schedule, [], now)
            started += fired(firing)
            schedule = evolved(schedule, now, *firing.events)
        assert started == [expected]


# ---- crashes


@pytest.mark.parametrize("overlap", list(Overlap))
def test_firing_again_after_a_crash_is_the_same_job(overlap: Overlap) -> None:
    """The jobs were stored and the schedule's record was not; a new leader decides again, later."""
    schedule = declared(overlap=overlap, catch_up_max=3)
    first = due(schedule, [], LATE)
    jobs = {start.id for start in first.starts}
    for now, live in ((LATE, sorted(jobs)), (LATE + MINUTE, sorted(jobs)), (LATE + MINUTE, [])):
        again = due(schedule, live, now, jobs.__contains__)
        assert [start.id for start in again.starts] == [start.id for start in first.starts]
        assert all(start.known and not start.cancel for start in again.starts)
    # two hours later there are two more times; what was started is not called skipped
    much_later = due(schedule, [], LATE + 2 * HOUR, jobs.__contains__)
    assert jobs <= {start.id for start in much_later.starts}
    assert len(fired(much_later)) + skipped(much_later) == 7


def test_a_crash_in_the_middle_of_a_queue_goes_on_where_it_stood() -> None:
    schedule = declared(overlap="queue", catch_up_max=3)
    again = due(schedule, [job(15)], LATE, {job(15)}.__contains__)
    assert again.starts == (
        Start(job(15), NOON + 3 * HOUR, known=True),
        Start(job(16), NOON + 4 * HOUR, after=(job(15),)),
        Start(job(17), NOON + 5 * HOUR, after=(job(15), job(16))),
    )


def test_jobs_that_the_queue_refuses_are_told_as_skipped() -> None:
    schedule = declared(overlap="queue", catch_up_max=3)
    firing = due(schedule, ["x"], LATE)
    assert not_started(firing, {}) is firing
    less = not_started(firing, {job(16): "it is draining"})
    assert fired(less) == [job(15), job(17)]
    assert less.starts[-1].after == ("x", job(15))
    assert "the queue refused its job: it is draining" in rules(less)
    assert len(fired(less)) + skipped(less) == 5
    assert due(evolved(schedule, LATE, *less.events), [], LATE) == NOTHING


# ---- long downtime


@pytest.mark.parametrize("spec", [{"cron": "* * * * *", "tz": "Europe/Berlin"}, {"every_s": 1.0}], ids=str)
def test_years_of_downtime_are_not_stepped_through(spec: dict[str, object], work: Work) -> None:
    schedule = declared(**spec, catch_up_max=2, overlap="allow")
    now = NOON + 10 * 365 * DAY + 90 * SECOND
    firing = due(schedule, [], now)
    assert work(lambda: due(schedule, [], now)) < 20_000
    head = firing.events[0]
    assert isinstance(head, ScheduleSkipped)
    assert len(fired(firing)) == 2
    assert head.first_due_at == next_times(schedule.spec, schedule.anchor, NOON, 1)[0]
    if "cron" in spec:
        assert (head.count, head.more) == (COUNTED_MAX - 2, True)
    else:
        assert (head.count + 2, head.more) == ((now - NOON) // SECOND, False)
    assert next_due(evolved(schedule, now, *firing.events)) == now // SECOND * SECOND + (
        30 * SECOND if "cron" in spec else SECOND
    )


def test_the_count_is_exact_up_to_its_limit() -> None:
    schedule = declared(catch_up_max=0)
    for missed in (COUNTED_MAX - 1, COUNTED_MAX, COUNTED_MAX + 1):
        firing = due(schedule, [], NOON + missed * HOUR + 5 * MINUTE)
        (event,) = firing.events
        assert isinstance(event, ScheduleSkipped)
        assert (event.count, event.more) == (min(missed, COUNTED_MAX), missed > COUNTED_MAX)
        assert event.first_due_at == NOON + HOUR


@settings(max_examples=200, deadline=None)
@given(
    every=st.integers(1, 7_200),
    overlap=st.sampled_from(Overlap),
    most=st.integers(0, 100),
    within=st.none() | st.floats(1, 100_000),
    gaps=st.lists(st.integers(0, 40_000), min_size=1, max_size=6),
    ends=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_every_due_time_is_dealt_with_once(
    every: int, overlap: Overlap, most: int, within: float | None, gaps: list[int], ends: list[bool]
) -> None:
    spec: dict[str, object] = {"every_s": float(every), "overlap": overlap, "catch_up_max": most}
    schedule = declared(**spec, catch_up_within_s=within)
    now, live, known, dealt_with = NOON, list[str](), set[str](), 0
    for gap, end in zip(gaps, ends, strict=False):
        now += gap * SECOND
        live = [] if end else live
        firing = due(schedule, live, now, known.__contains__)
        ids = fired(firing)
        assert len(ids) <= max(1, most)
        assert not known & set(ids)
        if overlap in (Overlap.SKIP, Overlap.CANCEL_RUNNING):
            assert len(ids) <= 1
        for start in firing.starts:
            assert token_fault(start.id, "id") is None
            if overlap is Overlap.QUEUE:
                assert start.after == tuple(live)
            if overlap is Overlap.SKIP:
                assert not live
            live.append(start.id)
        assert len(live) <= QUEUED_MAX or overlap is Overlap.ALLOW or overlap is Overlap.CANCEL_RUNNING
        known |= set(ids)
        dealt_with += len(ids) + skipped(firing)
        times = [
            event.due_at for event in firing.events if isinstance(event, ScheduleFired | ScheduleSkipped)
        ]
        assert times == sorted(set(times))
        schedule = evolved(schedule, now, *firing.events)
        coming = next_due(schedule)
        assert coming is not None
        assert now < coming <= now + every * SECOND
    assert dealt_with == (now - NOON) // (every * SECOND)


# ---- what operators ask


def test_declaring() -> None:
    spec = ScheduleSpec(task="t", cron="0 * * * *")
    assert stored(declare(None, "reports", "daily", spec, b"{}", "new")) == (
        ScheduleDeclared(1, spec, seal(b"{}"), "new"),
    )
    schedule = declared()
    assert declare(schedule, "reports", "daily", spec, b"{}", "same") == ()
    (event,) = stored(declare(schedule, "reports", "daily", spec, b"[1]", "input"))
    assert isinstance(event, ScheduleDeclared)
    assert event.version == 2
    gone = evolved(schedule, NOON, ScheduleDeleted("x"))
    assert stored(declare(gone, "reports", "daily", spec, b"{}", "back"))
    assert msgspec.json.decode(msgspec.json.encode(event), type=ScheduleDeclared) == event


@pytest.mark.parametrize(
    ("name", "content", "spec", "kind", "named", "words"),
    [
        ("a b", b"{}", {}, RejectionKind.MALFORMED, "name", "holds ' '"),
        ("n" * 230, b"{}", {}, RejectionKind.MALFORMED, "name", "at most 256 are allowed"),
        ("n", b"{", {}, RejectionKind.MALFORMED, "input", "cannot be read"),
        (
            "n",
            b"[" * 101 + b"1" + b"]" * 101,
            {},
            RejectionKind.MALFORMED,
            "input",
            "at most 100 are allowed",
        ),
        ("n", b'"' + b"x" * INLINE_MAX_BYTES + b'"', {}, RejectionKind.TOO_LARGE, "input", "262144"),
        ("n", b"{}", {"cron": "0 25 * * *"}, RejectionKind.MALFORMED, "cron", "the hour field has '25'"),
        ("n", b"{}", {"tz": "Europe/Berln"}, RejectionKind.MALFORMED, "tz", "Europe/Berlin"),
    ],
)
def test_refused_declarations(
    name: str, content: bytes, spec: dict[str, object], kind: RejectionKind, named: str, words: str
) -> None:
    document = msgspec.convert({"task": "t", "cron": "0 * * * *"} | spec, ScheduleSpec)
    rejection = refused(declare(None, "reports", name, document, content, "r"))
    assert (rejection.kind, rejection.field) == (kind, named)
    assert words in rejection.reason


def test_pause_resume_and_delete() -> None:
    schedule = declared()
    paused = evolved(schedule, NOON, *stored(pause(schedule, "night")))
    assert refused(pause(paused, "again")).reason == "already paused: schedule daily, for night"
    assert stored(resume(paused, "day")) == (ScheduleResumed("day"),)
    assert refused(resume(schedule, "day")).reason == "not paused: schedule daily"
    gone = evolved(schedule, NOON, *stored(delete(schedule, "over")))
    for outcome in (known(gone, "daily"), known(None, "daily")):
        assert isinstance(outcome, Rejection)
        assert outcome.kind is RejectionKind.NOT_FOUND
    assert known(schedule, "daily") is schedule


def test_a_trigger_starts_a_job_beside_the_due_times() -> None:
    schedule = evolved(declared(), NOON, SchedulePaused("night"))
    firing = firing_of(trigger(schedule, [], NOON + 5, "try it"))
    job_id = "daily-20260601T120000000005Z-triggered"
    assert firing.starts == (Start(job_id, NOON + 5),)
    assert firing.events == (ScheduleTriggered(NOON + 5, job_id, "try it"),)
    again = firing_of(trigger(schedule, [], NOON + 5, "twice", {job_id}.__contains__))
    assert again.starts[0].id == triggered_job_id("daily", NOON + 6)


@pytest.mark.parametrize("overlap", list(Overlap))
def test_a_trigger_minds_overlap(overlap: Overlap) -> None:
    for schedule, asked in ((declared(overlap=overlap), None), (declared(), overlap)):
        outcome = trigger(schedule, ["daily-1"], NOON, "now", overlap=asked)
        if overlap is Overlap.SKIP:
            assert "overlap skip: job daily-1 is live" in refused(outcome).reason
            continue
        (start,) = firing_of(outcome).starts
        assert start.after == (() if overlap is Overlap.ALLOW else ("daily-1",))
        assert start.cancel == (("daily-1",) if overlap is Overlap.CANCEL_RUNNING else ())


def test_a_backfill_runs_times_of_the_past_once() -> None:
    schedule = declared(every_s=3_600.0)
    asked = (NOON - 3 * HOUR, NOON, "gap")
    firing = firing_of(backfill(schedule, ["x"], NOON, *asked))
    jobs = [job(9), job(10), job(11), job(12)]
    assert [start.id for start in firing.starts] == jobs
    assert [start.after for start in firing.starts] == [("x", *jobs[:place]) for place in range(4)]
    assert firing.events == (ScheduleBackfilled(*asked[:2], tuple(jobs), "gap"),)
    side_by_side = firing_of(backfill(schedule, ["x"], NOON, *asked, overlap=Overlap.ALLOW))
    assert not any(start.after for start in side_by_side.starts)
    some = firing_of(backfill(schedule, [], NOON, *asked, exists={job(10), job(11)}.__contains__))
    assert [(start.id, start.known) for start in some.starts] == [
        (each, each in (job(10), job(11))) for each in jobs
    ]
    assert some.events == (ScheduleBackfilled(*asked[:2], (job(9), job(12)), "gap", known=2),)
    assert firing_of(backfill(schedule, [], NOON, *asked, exists=lambda _: True)).events == ()


def test_refused_backfills_name_the_limit_and_the_value(work: Work) -> None:
    schedule = declared(every_s=60.0)
    cases = {
        "more than 500 due times lie from 19700101T000000Z": backfill(schedule, [], NOON, 0, NOON, "x"),
        "more than 2 due times": backfill(schedule, [], NOON, NOON - HOUR, NOON, "x", limit=2),
        "at most 100 are allowed": backfill(schedule, [], NOON, NOON - 2 * HOUR, NOON, "x"),
        "limit is 501; 1 to 500": backfill(schedule, [], NOON, 0, NOON, "x", limit=BACKFILL_MAX + 1),
        "limit is 0": backfill(schedule, [], NOON, 0, NOON, "x", limit=0),
        "is later than to": backfill(schedule, [], NOON, NOON, NOON - 1, "x"),
        "later times come by themselves": backfill(schedule, [], NOON, NOON, NOON + HOUR, "x"),
        "a backfill takes queue or allow": backfill(schedule, [], NOON, 0, NOON, "x", overlap=Overlap.SKIP),
        "no due time lies": backfill(schedule, [], NOON, NOON + 1 - MINUTE, NOON - 1, "x"),
    }
    assert work(lambda: backfill(schedule, [], NOON, 0, NOON, "x")) < 3_000
    for words, outcome in cases.items():
        assert words in refused(outcome).reason


def test_the_largest_backfill_fits_one_record() -> None:
    schedule = msgspec.structs.replace(declared(every_s=1.0), key="reports~" + "n" * 200)
    span = (NOON - (BACKFILL_MAX - 1) * SECOND, NOON)
    firing = firing_of(backfill(schedule, [], NOON, *span, "all", overlap=Overlap.ALLOW))
    assert len(firing.starts) == BACKFILL_MAX
    assert len(msgspec.json.encode(firing.events)) < 256 * 1024


def test_many_schedules_after_a_week_of_downtime(work: Work) -> None:
    for n in range(120):
        schedule = declared(cron=f"{'*' if n % 2 else n % 60} * * * *", tz="Europe/Berlin")
        assert len(due(schedule, [], NOON + 7 * DAY).starts) == 1
        assert work(partial(due, schedule, [], NOON + 7 * DAY)) < 20_000
