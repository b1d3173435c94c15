"""Schedules: what a spec may say, when it is due across changes of the clocks, and the fold of its events."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from functools import cache, partial
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from writ.schemas.due_times import LATEST_US, Cron, Every, cron, zone_names
from writ.schemas.events import Fact
from writ.schemas.records import Record
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
    spec_fault,
)
from writ.schemas.sealed import seal

Work = Callable[[Callable[[], object]], int]

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def at(text: str) -> int:
    """Log time of an ISO time, UTC unless it says otherwise."""
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp()) * SECOND


def shown(times: list[int] | tuple[int, ...], zone: str) -> list[str]:
    """Times as clocks in the zone show them, with the offset."""
    local = [datetime.datetime.fromtimestamp(t // SECOND, ZoneInfo(zone)) for t in times]
    return [moment.strftime("%m-%d %H:%M%z") for moment in local]


def first(text: str, zone: str, after: str, count: int) -> list[str]:
    """The first times after a moment; walking back over them must find the same."""
    expression = cron(text, zone)
    forward = list(islice(expression.after(at(after)), count))
    assert list(islice(expression.before(forward[-1] + 1), count)) == forward[::-1]
    return shown(forward, zone)


# ---- changes of the clocks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # a fixed time that is skipped comes at the moment of the change
        ("30 2 * * *", ["03-28 02:30+0100", "03-29 03:00+0200", "03-30 02:30+0200"]),
        # several skipped ones come together as one, also with one that is there by itself
        ("0,30 2 * * *", ["03-28 02:00+0100", "03-28 02:30+0100", "03-29 03:00+0200", "03-30 02:00+0200"]),
        ("30 2,3 * * *", ["03-28 02:30+0100", "03-28 03:30+0100", "03-29 03:00+0200", "03-29 03:30+0200"]),
        ("0 2,3 29 * *", ["03-29 03:00+0200", "04-29 02:00+0200"]),
        # what follows the clock on the wall is not made up for
        ("*/30 2 * * *", ["03-28 02:00+0100", "03-28 02:30+0100", "03-30 02:00+0200"]),
    ],
)
def test_berlin_in_spring(text: str, expected: list[str]) -> None:
    assert first(text, "Europe/Berlin", "2026-03-27T12:00", len(expected)) == expected


def test_berlin_in_spring_hour_by_hour() -> None:
    hourly = ["03-29 01:00+0100", "03-29 03:00+0200", "03-29 04:00+0200"]
    assert first("0 * * * *", "Europe/Berlin", "2026-03-28T23:30", 3) == hourly
    quarters = ["03-29 01:30+0100", "03-29 01:45+0100", "03-29 03:00+0200", "03-29 03:15+0200"]
    assert first("*/15 * * * *", "Europe/Berlin", "2026-03-29T00:15", 4) == quarters
    two_hourly = ["03-29 00:00+0100", "03-29 04:00+0200", "03-29 06:00+0200"]
    assert first("0 */2 * * *", "Europe/Berlin", "2026-03-28T22:00", 3) == two_hourly


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        # a fixed time that is repeated comes in the first turn alone
        ("30 2 * * *", "2026-10-24T12:00", ["10-25 02:30+0200", "10-26 02:30+0100"]),
        ("30 2 * * *", "2026-10-25T00:30", ["10-26 02:30+0100", "10-27 02:30+0100"]),
        ("30 2 * * *", "2026-10-25T01:10", ["10-26 02:30+0100", "10-27 02:30+0100"]),
        ("0 0-4 * * *", "2026-10-24T23:00", ["10-25 02:00+0200", "10-25 03:00+0100", "10-25 04:00+0100"]),
        # what follows the clock on the wall comes in both
        ("0 * * * *", "2026-10-24T23:30", ["10-25 02:00+0200", "10-25 02:00+0100", "10-25 03:00+0100"]),
        (
            "*/30 2 * * *",
            "2026-10-24T22:00",
            [
                "10-25 02:00+0200",
                "10-25 02:30+0200",
                "10-25 02:00+0100",
                "10-25 02:30+0100",
                "10-26 02:00+0100",
            ],
        ),
        ("0 */2 * * *", "2026-10-24T23:30", ["10-25 02:00+0200", "10-25 02:00+0100", "10-25 04:00+0100"]),
        # once a year, in the repeated hour: the second turn is not overlooked
        (
            "*/30 2 25 10 *",
            "2026-10-25T00:00",
            ["10-25 02:30+0200", "10-25 02:00+0100", "10-25 02:30+0100", "10-25 02:00+0200"],
        ),
    ],
)
def test_berlin_in_autumn(text: str, after: str, expected: list[str]) -> None:
    assert first(text, "Europe/Berlin", after, len(expected)) == expected


def test_new_york() -> None:
    zone = "America/New_York"
    assert first("30 2 * * *", zone, "2026-03-08T00:00", 2) == ["03-08 03:00-0400", "03-09 02:30-0400"]
    assert first("30 1 * * *", zone, "2026-11-01T00:00", 2) == ["11-01 01:30-0400", "11-02 01:30-0500"]
    twice = ["11-01 01:00-0400", "11-01 01:00-0500", "11-01 02:00-0500"]
    assert first("0 * * * *", zone, "2026-11-01T04:30", 3) == twice


def test_lord_howe_moves_its_clocks_by_half_an_hour() -> None:
    zone = "Australia/Lord_Howe"
    assert first("15 2 * * *", zone, "2026-10-03T12:00", 2) == ["10-04 02:30+1100", "10-05 02:15+1100"]
    assert first("45 1 * * *", zone, "2026-04-04T12:00", 2) == ["04-05 01:45+1100", "04-06 01:45+1030"]
    halves = ["04-05 01:00+1100", "04-05 01:30+1100", "04-05 01:30+1030", "04-05 02:00+1030"]
    assert first("*/30 * * * *", zone, "2026-04-04T13:45", 4) == halves
    # hours after the change are whole ones again
    tens = ["10-04 03:00+1100", "10-04 03:10+1100", "10-04 03:20+1100"]
    assert first("*/10 3 * * *", zone, "2026-10-03T12:00", 3) == tens
    assert first("*/10 5 * * *", zone, "2026-04-04T16:00", 1) == ["04-05 05:00+1030"]


def test_clocks_that_change_at_midnight() -> None:
    zone = "America/Santiago"
    assert first("0 0 * * *", zone, "2026-09-05T12:00", 2) == ["09-06 01:00-0300", "09-07 00:00-0300"]
    assert first("*/15 0 * * 0", zone, "2026-09-05T12:00", 1) == ["09-13 00:00-0300"]
    assert first("30 23 * * *", zone, "2026-04-04T12:00", 2) == ["04-04 23:30-0300", "04-05 23:30-0400"]


def test_a_day_that_never_was() -> None:
    """Samoa went from 29 to 31 December 2011."""
    zone = "Pacific/Apia"
    assert first("0 12 30 12 *", zone, "2011-12-29T00:00", 1) == ["12-31 00:00+1400"]
    assert first("0 * 30 12 *", zone, "2011-12-29T00:00", 1) == ["12-30 00:00+1400"]  # of 2012


# Against a scan of every minute. (zone, a change of its clocks)
CHANGES = [
    ("UTC", "2026-03-29"),
    ("Europe/Berlin", "2026-03-29"),
    ("Europe/Berlin", "2026-10-25"),
    ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"),
    ("America/St_Johns", "2026-11-01"),
    ("Australia/Lord_Howe", "2026-04-05"),
    ("Australia/Lord_Howe", "2026-10-04"),
    ("America/Santiago", "2026-04-05"),
    ("America/Santiago", "2026-09-06"),
    ("America/Havana", "2026-11-01"),
    ("Asia/Beirut", "2026-03-29"),
    ("Antarctica/Troll", "2026-03-29"),  # by two hours
    ("Antarctica/Troll", "2026-10-25"),
    ("Europe/Dublin", "2026-10-25"),  # winter time is the exception there
    ("Pacific/Apia", "2011-12-30"),
]
_LIMITS = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)]


@cache
def scanned(zone: str, day: str) -> tuple[tuple[int, datetime.datetime], ...]:
    """Every minute of three weeks around a change, with what the clock shows."""
    begin = at(day) - 10 * DAY
    minutes = [begin + n * MINUTE for n in range(21 * 24 * 60)]
    known = ZoneInfo(zone)
    return tuple(
        [(t, datetime.datetime.fromtimestamp(t // SECOND, known).replace(tzinfo=None)) for t in minutes]
    )


@cache
def turns(zone: str, day: str) -> tuple[tuple[datetime.datetime, int], ...]:
    """Every minute that a wall calendar has in that time: when it first came, or the next one that did."""
    scan = scanned(zone, day)
    came: dict[datetime.datetime, int] = {}
    for t, wall in scan:
        came.setdefault(wall, t)
    found: list[tuple[datetime.datetime, int]] = []
    wall, moment = max(came), came[max(came)]
    while wall >= scan[0][1]:
        moment = came.get(wall, moment)
        found.append((wall, moment))
        wall -= datetime.timedelta(minutes=1)
    return tuple(found)


def values(part: str, place: int) -> set[int]:
    """A field as the numbers it allows, read anew and simply."""
    low, high = _LIMITS[place]
    found: set[int] = set()
    for term in part.split(","):
        span, _, step = term.partition("/")
        if span == "*":
            begin, end = low, high
        elif "-" in span:
            begin, end = (int(n) for n in span.split("-"))
        else:
            begin = int(span)
            end = high if step else begin
        found |= set(range(begin, end + 1, int(step or 1)))
    return found


def brute_force(text: str, zone: str, day: str) -> list[int]:
    parts = text.split()
    minutes, hours, days, months, weekdays = (values(part, place) for place, part in enumerate(parts))
    both = parts[2].startswith("*") or parts[4].startswith("*")

    def matches(wall: datetime.datetime) -> bool:
        by_day, by_weekday = wall.day in days, (wall.weekday() + 1) % 7 in weekdays
        if wall.minute not in minutes or wall.hour not in hours or wall.month not in months:
            return False
        return (by_day and by_weekday) if both else (by_day or by_weekday)

    scan = scanned(zone, day)
    if parts[0].startswith("*") or parts[1].startswith("*"):
        return [t for t, wall in scan if matches(wall)]
    return sorted({t for wall, t in turns(zone, day) if matches(wall)})


def field(place: int, narrow: bool = False) -> st.SearchStrategy[str]:
    low, high = _LIMITS[place]
    if narrow and place == 1:
        low, high = 0, 5  # the hours in which clocks are changed
    number = st.integers(low, high)
    ranges = (
        st.tuples(number, number)
        .filter(lambda pair: pair[0] != pair[1])
        .map(lambda pair: f"{min(pair)}-{max(pair)}")
    )
    steps = st.tuples(st.one_of(st.just("*"), ranges), st.integers(1, 20)).map(
        lambda pair: f"{pair[0]}/{pair[1]}"
    )
    term = st.one_of(number.map(str), ranges, steps)
    lists = st.lists(st.one_of(number.map(str), ranges), min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), term, lists) if place != 3 else st.just("*")


EXPRESSIONS = st.tuples(
    field(0), st.one_of(field(1, True), field(1)), st.one_of(st.just("*"), field(2)), field(3), field(4)
).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(text=EXPRESSIONS, change=st.sampled_from(CHANGES), offset=st.integers(-2 * DAY, 2 * DAY))
def test_it_is_what_a_scan_of_every_minute_finds(text: str, change: tuple[str, str], offset: int) -> None:
    zone, day = change
    expected = brute_force(text, zone, day)
    begin, end = scanned(zone, day)[0][0], scanned(zone, day)[-1][0] - DAY
    expected = [t for t in expected if t < end]
    expression = Cron(text, zone)
    forward: list[int] = []
    for t in expression.after(begin - 1):
        if t >= end:
            break
        forward.append(t)
    assert forward == expected, text
    assert forward == sorted(set(forward))
    assert list(islice(expression.before(end), len(expected))) == expected[::-1], text
    # and from any moment near the change, in both directions, with and without whole seconds
    moment = at(day) + offset
    assert next(expression.after(moment)) == next(
        (t for t in expected if t > moment), next(expression.after(end - 1))
    )
    earlier = [t for t in expected if t < moment]
    if earlier:
        assert next(expression.before(moment)) == earlier[-1]


@pytest.mark.parametrize(("zone", "day"), CHANGES)
def test_every_second_around_a_change_finds_its_neighbours(zone: str, day: str) -> None:
    for text in ("*/20 * * * *", "10,40 0-4 * * *", "*/30 1-3 * * *", "15 2 * * *"):
        expected = brute_force(text, zone, day)
        expression = Cron(text, zone)
        for moment in range(at(day) - DAY, at(day) + DAY, 7 * MINUTE + 13 * SECOND + 1):
            assert next(expression.after(moment)) == next(t for t in expected if t > moment)
            assert next(expression.before(moment)) == next(t for t in reversed(expected) if t < moment)


def test_a_zone_that_changes_for_ramadan() -> None:
    """Morocco sets its clocks back for a month and forward again: every hour comes once an hour."""
    hourly = list(islice(cron("0 * * * *", "Africa/Casablanca").after(at("2026-01-01")), 24 * 365))
    assert {b - a for a, b in pairwise(hourly)} == {HOUR}


def test_cron_ends_with_the_century() -> None:
    assert list(cron("0 0 1 1 *", "UTC").after(at("2098-06-01"))) == [at("2099-01-01")]
    assert list(cron("0 0 1 1 *", "UTC").before(at("1970-06-01"))) == [0]
    assert list(cron("0 0 29 2 MON#5", "UTC").after(at("2097-01-01"))) == []


# ---- intervals


@given(
    every=st.integers(SECOND, 40 * DAY), anchor=st.integers(0, 2**52), moment=st.integers(0, LATEST_US // 2)
)
def test_intervals_are_whole_ones_from_their_anchor(every: int, anchor: int, moment: int) -> None:
    times = Every(every, anchor)
    later = list(islice(times.after(moment), 3))
    assert all((t - anchor) % every == 0 for t in later)
    assert moment < later[0] <= moment + every
    assert [b - a for a, b in pairwise(later)] == [every, every]
    earlier = next(times.before(moment), None)
    if earlier is not None:
        assert moment - every <= earlier < moment
        assert times.count(earlier, later[-1]) == (3 if (moment - anchor) % every else 4)


def test_intervals_are_elapsed_time_through_a_change_of_the_clocks() -> None:
    spec = ScheduleSpec(task="t", every_s=3_600.0)
    times = next_times(spec, at("2026-03-28T12:00"), at("2026-03-28T12:00"), 48)
    assert {b - a for a, b in pairwise(times)} == {HOUR}


# ---- what a spec may say


@pytest.mark.parametrize(
    ("spec", "named", "words"),
    [
        (ScheduleSpec(task="t"), "cron", "neither cron nor every_s is given"),
        (ScheduleSpec(task="t", cron="* * * * *", every_s=5.0), "every_s", "both given"),
        (ScheduleSpec(task="t", cron="61 * * * *"), "cron", "the minute field has '61'; allowed are 0 to 59"),
        (ScheduleSpec(task="t", cron="5,77 * * * *"), "cron", "the minute field has '77' in '5,77'"),
        (ScheduleSpec(task="t", cron="5,,7 * * * *"), "cron", "the minute field has '' in '5,,7'"),
        (ScheduleSpec(task="t", cron="0 24 * * *"), "cron", "the hour field has '24'; allowed are 0 to 23"),
        (ScheduleSpec(task="t", cron="0 0 32 * *"), "cron", "the day of month field has '32'"),
        (ScheduleSpec(task="t", cron="0 0 * FOO *"), "cron", "the month field has 'FOO'"),
        (ScheduleSpec(task="t", cron="0 0 * * MON-X"), "cron", "the day of week field has 'MON-X'"),
        (ScheduleSpec(task="t", cron="*/0 * * * *"), "cron", "the minute field has '*/0'"),
        (ScheduleSpec(task="t", cron="5-5/2 * * * *"), "cron", "the minute field has '5-5/2'"),
        (ScheduleSpec(task="t", cron="0 0 * * SUN-0/2"), "cron", "the day of week field has 'SUN-0/2'"),
        (ScheduleSpec(task="t", cron="0 0 ² * *"), "cron", "the day of month field has '²'"),
        (ScheduleSpec(task="t", cron="9" * 250 + " * * * *"), "cron", "the minute field has '9999"),
        (ScheduleSpec(task="t", cron="* * * *"), "cron", "has 4 fields; it takes 5: minute, hour,"),
        (ScheduleSpec(task="t", cron="0 * * * * *"), "cron", "has 6 fields"),
        (ScheduleSpec(task="t", cron=""), "cron", "has 0 fields"),
        (ScheduleSpec(task="t", cron="@daily"), "cron", "write it as '0 0 * * *'"),
        (ScheduleSpec(task="t", cron="0 0 31 2 *"), "cron", "names no day that ever comes"),
        (ScheduleSpec(task="t", cron="0 0 */20 * 1L"), "cron", "names no day that ever comes"),
        (ScheduleSpec(task="t", cron="0 0 * * *", tz="Europe/Berln"), "tz", "nearest are Europe/Berlin"),
        (ScheduleSpec(task="t", cron="0 0 * * *", tz="new york"), "tz", "America/New_York"),
        (ScheduleSpec(task="t", cron="0 0 * * *", tz="Mars/Olympus"), "tz", "an example is Europe/Berlin"),
        (ScheduleSpec(task="t", cron="0 0 * * *", tz="localtime"), "tz", "not the name of an IANA time zone"),
        (ScheduleSpec(task="t", cron="0 0 * * *", tz="../UTC"), "tz", "not the name"),
        (ScheduleSpec(task="t", cron="0 0 * * *", tz="right/UTC"), "tz", "not the name"),
        (
            ScheduleSpec(
                task="t", cron="0 0 * * *", anchor=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
            ),
            "anchor",
            "which is for every_s",
        ),
        (ScheduleSpec(task="t", every_s=0.5), "every_s", "every_s is 0.5; 1 to 315,360,000 are allowed"),
        (ScheduleSpec(task="t", every_s=float("inf")), "every_s", "every_s is inf"),
        (ScheduleSpec(task="t", every_s=float("nan")), "every_s", "every_s is nan"),
        (ScheduleSpec(task="t", every_s=60.0, tz="Europe/Berlin"), "tz", "which is for cron"),
        (
            ScheduleSpec(
                task="t",
                every_s=60.0,
                starts_at=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
                ends_at=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
            ),
            "ends_at",
            "it must be later",
        ),
        (
            ScheduleSpec(task="t", every_s=60.0, ends_at=datetime.datetime(2150, 1, 1, tzinfo=datetime.UTC)),
            "ends_at",
            "it must lie in 1970 to 2099",
        ),
        (
            ScheduleSpec(task="t", every_s=60.0, catch_up_max=101),
            "catch_up_max",
            "is 101; 0 to 100 are allowed",
        ),
        (ScheduleSpec(task="t", every_s=60.0, catch_up_max=-1), "catch_up_max", "is -1"),
    ],
)
def test_a_fault_names_the_field_the_limit_and_the_value(spec: ScheduleSpec, named: str, words: str) -> None:
    fault = spec_fault(spec)
    assert fault is not None
    assert fault.field == named
    assert words in fault.reason


@pytest.mark.parametrize(
    "text",
    [
        "* * * * *",
        "*/5 9-17 * * MON-FRI",
        "0 0 L * *",
        "0 0 LW * *",
        "0 12 * * FRI#2",
        "0 0 29 2 *",
        "7 4 1,15 * 7",
    ],
)
def test_sound_expressions(text: str) -> None:
    assert spec_fault(ScheduleSpec(task="t", cron=text, tz="Asia/Kolkata")) is None


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789*,-/#LWSUNMOJA @\t²é", max_size=30))
def test_any_text_is_judged_and_a_sound_one_is_due(text: str) -> None:
    spec = ScheduleSpec(task="t", cron=text)
    if spec_fault(spec) is None:
        assert next_times(spec, 0, at("2026-01-01"), 1)


def test_every_zone_that_is_known_can_be_used() -> None:
    for zone in sorted(zone_names()):
        assert next(Cron("0 12 * * *", zone).after(at("2026-01-01"))) < at("2026-01-03")


def test_a_spec_goes_over_the_wire_and_back() -> None:
    text = (
        b'{"task":"report.daily","cron":"0 6 * * *","tz":"Europe/Berlin","overlap":"cancel_running",'
        b'"starts_at":"2026-01-01T00:00:00+01:00","catch_up_max":3,"retry":{"max_attempts":2}}'
    )
    spec = msgspec.json.decode(text, type=ScheduleSpec)
    assert spec_fault(spec) is None
    assert spec.overlap is Overlap.CANCEL_RUNNING
    assert msgspec.json.decode(msgspec.json.encode(spec), type=ScheduleSpec) == spec
    with pytest.raises(msgspec.ValidationError, match="crom"):
        msgspec.json.decode(b'{"task":"t","crom":"* * * * *"}', type=ScheduleSpec)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"task":"t","every_s":60,"anchor":"2026-01-01T00:00:00"}', type=ScheduleSpec)


def test_starts_at_is_included_and_ends_at_is_not() -> None:
    day = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
    spec = ScheduleSpec(task="t", cron="0 0 * * *", starts_at=day, ends_at=day + datetime.timedelta(days=2))
    assert next_times(spec, 0, at("2026-01-01"), 5) == (at("2026-05-01"), at("2026-05-02"))
    assert next_times(spec, 0, at("2026-05-01"), 5) == (at("2026-05-02"),)
    assert next_times(spec, 0, at("2026-05-02"), 5) == ()


# ---- the fold

INPUT = seal(b"null")
NOON = at("2026-06-01T12:00")


def record(moment: int, *events: Fact) -> Record:
    return Record(1, 1, "acme", "schedule", "reports~daily", moment, "owner", events)


def fold(*steps: tuple[int, Fact], start: Schedule | None = None) -> Schedule:
    schedule = start
    for moment, event in steps:
        schedule = evolve_schedule(schedule, event, record(moment, event))
    assert schedule is not None
    return schedule


HOURLY = ScheduleSpec(task="t", every_s=3_600.0)


def test_an_interval_counts_from_its_declaration_its_start_or_its_anchor() -> None:
    schedule = fold((NOON + 5, ScheduleDeclared(1, HOURLY, INPUT)))
    assert (schedule.queue, schedule.name) == ("reports", "daily")
    assert next_due(schedule) == NOON + 5 + HOUR
    day = datetime.datetime(2026, 6, 3, 9, 30, tzinfo=datetime.UTC)
    later = ScheduleSpec(task="t", every_s=3_600.0, starts_at=day)
    assert next_due(fold((NOON, ScheduleDeclared(1, later, INPUT)))) == at("2026-06-03T09:30")
    anchored = ScheduleSpec(task="t", every_s=3_600.0, anchor=day)
    assert next_due(fold((NOON, ScheduleDeclared(1, anchored, INPUT)))) == at("2026-06-01T12:30")


def test_declaring_again_keeps_the_rhythm_unless_the_interval_changes() -> None:
    schedule = fold((NOON + 5, ScheduleDeclared(1, HOURLY, INPUT)))
    other = ScheduleSpec(task="u", every_s=3_600.0)
    kept = fold((NOON + MINUTE, ScheduleDeclared(2, other, INPUT)), start=schedule)
    assert (kept.version, next_due(kept)) == (2, NOON + 5 + HOUR)
    faster = ScheduleSpec(task="u", every_s=60.0)
    anew = fold((NOON + 90 * SECOND, ScheduleDeclared(3, faster, INPUT)), start=kept)
    assert next_due(anew) == NOON + 150 * SECOND


def test_times_dealt_with_are_not_due_again() -> None:
    schedule = fold((NOON, ScheduleDeclared(1, HOURLY, INPUT)))
    schedule = fold((NOON + HOUR + 5, ScheduleFired(NOON + HOUR, "j1", "on time")), start=schedule)
    assert (next_due(schedule), schedule.fired, schedule.last_job) == (NOON + 2 * HOUR, 1, "j1")
    schedule = fold(
        (NOON + 9 * HOUR, ScheduleSkipped(NOON + 8 * HOUR, "r", 7, NOON + 2 * HOUR)), start=schedule
    )
    assert (next_due(schedule), schedule.skipped) == (NOON + 9 * HOUR, 7)


def test_a_paused_schedule_is_not_due_and_makes_nothing_up() -> None:
    schedule = fold((NOON, ScheduleDeclared(1, HOURLY, INPUT)), (NOON + 5, SchedulePaused("night")))
    assert next_due(schedule) is None
    schedule = fold((NOON + 5 * HOUR + 1, ScheduleResumed("day")), start=schedule)
    assert next_due(schedule) == NOON + 6 * HOUR


def test_a_declaration_keeps_an_operators_pause_unless_it_says_otherwise() -> None:
    paused = ScheduleSpec(task="t", every_s=3_600.0, paused=True)
    schedule = fold((NOON, ScheduleDeclared(1, HOURLY, INPUT)), (NOON + 5, SchedulePaused("night")))
    other = ScheduleSpec(task="u", every_s=3_600.0)
    assert fold((NOON + 9, ScheduleDeclared(2, other, INPUT)), start=schedule).paused == "night"
    schedule = fold((NOON, ScheduleDeclared(1, paused, INPUT, "not yet")))
    assert schedule.paused == "not yet"
    schedule = fold((NOON + 5 * HOUR + 1, ScheduleDeclared(2, HOURLY, INPUT)), start=schedule)
    assert (schedule.paused, next_due(schedule)) == (None, NOON + 6 * HOUR)


def test_deleting_and_declaring_again() -> None:
    schedule = fold((NOON, ScheduleDeclared(1, HOURLY, INPUT)), (NOON + 5, ScheduleDeleted("over")))
    assert next_due(schedule) is None
    schedule = fold((NOON + 3 * HOUR, ScheduleDeclared(2, HOURLY, INPUT)), start=schedule)
    assert (schedule.deleted, schedule.version, next_due(schedule)) == (None, 2, NOON + 4 * HOUR)


def test_jobs_beside_the_due_times_move_nothing() -> None:
    schedule = fold((NOON, ScheduleDeclared(1, HOURLY, INPUT)))
    after = fold(
        (NOON + 5, ScheduleTriggered(NOON + 5, "j", "now")),
        (NOON + 6, ScheduleBackfilled(0, NOON, ("a", "b"), "gap")),
        start=schedule,
    )
    assert (next_due(after), after.fired) == (next_due(schedule), 3)


def test_events_out_of_place_are_refused() -> None:
    with pytest.raises(ValueError, match="never declared"):
        evolve_schedule(None, SchedulePaused("x"), record(NOON))
    schedule = fold((NOON, ScheduleDeclared(1, HOURLY, INPUT)))
    with pytest.raises(ValueError, match="no event of a schedule"):
        evolve_schedule(schedule, Fact(), record(NOON))


# ---- cost


def test_ten_thousand_schedules_are_cheap(work: Work) -> None:
    zones = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo"]
    specs = [
        ScheduleSpec(task="t", every_s=float(60 + n))
        if n % 5 == 0
        else ScheduleSpec(
            task="t", cron=f"{n % 60} {n % 24} * * {n % 7}" if n % 2 else "*/5 * * * *", tz=zones[n % 4]
        )
        for n in range(10_000)
    ]
    schedules = [fold((NOON, ScheduleDeclared(1, spec, INPUT))) for spec in specs]
    assert all(next_due(schedule) for schedule in schedules)
    most = max(work(partial(next_due, schedule)) for schedule in schedules)
    assert most < 300
