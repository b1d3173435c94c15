"""When something is due: cron expressions in a time zone, and intervals. Log time goes in and comes out.

`cronsim` reads cron expressions and steps through the wall-clock times that they name, without a zone; what a
change of the clocks does to them is settled here, by the rules of Debian's cron:

- An expression whose minute or hour field starts with `*` (`*/15 * * * *`, `0 * * * *`, `0 */2 * * *`)
  follows the clock on the wall: a time that is skipped in spring does not come, and one that is repeated in
  autumn comes twice. An hourly job so runs every hour of real time.
- Any other (`30 2 * * *`, `0 0-23 * * *`) names fixed times: each comes once a day. One that is skipped in
  spring comes at the moment of the change, several skipped ones together as one; of one that is repeated in
  autumn the first counts.

Two more from there: where both day fields are given, and neither starts with `*`, either may match; otherwise
both must. Intervals are elapsed time, which no change of the clocks touches.

The zones' rules are data that governments change. What a schedule did is therefore in its events, and these
functions only say what comes next.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterator
from copy import copy
from difflib import get_close_matches
from functools import lru_cache
from typing import Final, Literal, Protocol
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from .bounds import SECOND_US

Direction = Literal[1, -1]
LATEST_US: Final = 4_102_444_800 * SECOND_US
"""The year 2100: nothing is due from there on."""

_YEARS: Final = range(1970, 2100)
_EPOCH: Final = datetime.datetime(1970, 1, 1)
_EPOCH_UTC: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_SECOND: Final = datetime.timedelta(seconds=1)
_DAY_US: Final = 86_400 * SECOND_US
_FIELDS: Final = (
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of month", "1 to 31, L for the last, LW for the last from Monday to Friday"),
    ("month", "1 to 12, or JAN to DEC"),
    ("day of week", "0 to 7, or SUN to SAT; FRI#2 for the second of a month, 5L for its last"),
)
_SHORTHANDS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_NO_ZONES: Final = frozenset({"localtime", "Factory"})
"""Names in the zone database that mean another zone on each machine, or none."""


class DueTimes(Protocol):
    """Points in log time, in order, that go on to the year 2100."""

    def after(self, at: int) -> Iterator[int]:
        """Those later than `at`, earliest first."""
        ...

    def before(self, at: int) -> Iterator[int]:
        """Those earlier than `at`, latest first."""
        ...

    def count(self, after: int, until: int) -> int | None:
        """How many lie later than `after` and not later than `until`; None where that is not known without
        stepping through them.
        """
        ...


class Every:
    """An interval: `anchor` and every whole interval before and after it."""

    def __init__(self, every_us: int, anchor: int) -> None:
        self._every = every_us
        self._anchor = anchor

    def after(self, at: int) -> Iterator[int]:
        due = at + self._every - (at - self._anchor) % self._every
        while due < LATEST_US:
            yield due
            due += self._every

    def before(self, at: int) -> Iterator[int]:
        due = at - 1 - (at - 1 - self._anchor) % self._every
        while due >= 0:
            yield due
            due -= self._every

    def count(self, after: int, until: int) -> int | None:
        anchor, every = self._anchor, self._every
        return max(0, (until - anchor) // every - (after - anchor) // every)


class Cron:
    """A cron expression of five fields in a zone. Both are valid: see `cron_fault` and `zone_fault`."""

    def __init__(self, text: str, zone: str) -> None:
        self._sim = CronSim(text, _EPOCH)
        self._zone = ZoneInfo(zone)
        minute, hour = text.split()[:2]
        self._fixed = not minute.startswith("*") and not hour.startswith("*")

    def after(self, at: int) -> Iterator[int]:
        last, start, offset = at, self._wall(at), self._offset(at)
        while True:
            for wall in self._walls(start, 1):
                due = next((due for due in self._instants(wall) if due > last), None)
                if due is None:
                    continue
                near = min(due, last + _DAY_US)
                shown = self._offset(near)
                if shown < offset:  # the clock is set back before that: it shows older times again
                    change = self._change(last, near)
                    last, start, offset = change - 1, self._wall(change) - _SECOND, self._offset(change)
                    break
                yield due
                last, offset = due, shown if near == due else self._offset(due)
            else:
                return

    def before(self, at: int) -> Iterator[int]:
        last, start, offset = at, self._wall(at - 1) + _SECOND, self._offset(at - 1)
        while True:
            for wall in self._walls(start, -1):
                due = next((due for due in reversed(self._instants(wall)) if due < last), None)
                if due is None:
                    continue
                near = max(due, last - _DAY_US)
                shown = self._offset(near)
                if shown > offset:  # the clock was set back after that: it had shown newer times before
                    change = self._change(near, last)
                    last, start, offset = change, self._wall(change - 1) + _SECOND, self._offset(change - 1)
                    break
                yield due
                last, offset = due, shown if near == due else self._offset(due)
            else:
                return

    def count(self, after: int, until: int) -> int | None:  # as the protocol says: not without stepping
        return None

    def _walls(self, start: datetime.datetime, direction: Direction) -> Iterator[datetime.datetime]:
        """Wall-clock times that match, beyond `start`."""
        sim = copy(self._sim)
        sim.tick_direction = direction
        sim.dt = start
        for wall in sim:
            if wall.year not in _YEARS:
                return
            yield wall

    def _wall(self, at: int) -> datetime.datetime:
        """What a clock on the wall shows, in whole seconds."""
        moment = _EPOCH_UTC + datetime.timedelta(microseconds=at)
        return moment.astimezone(self._zone).replace(tzinfo=None, fold=0, microsecond=0)

    def _instants(self, wall: datetime.datetime) -> tuple[int, ...]:
        """When the wall shows a time: once; twice where it is repeated; never where it is skipped, unless the
        expression names fixed times.
        """
        early, late = self._zone.utcoffset(wall), self._zone.utcoffset(wall.replace(fold=1))
        assert early is not None
        assert late is not None
        naive = _micros(wall - _EPOCH)
        first = naive - _micros(early)
        if early == late:
            return (first,)
        second = naive - _micros(late)
        if early > late:
            return (first,) if self._fixed else (first, second)
        return (self._change(second, first),) if self._fixed else ()

    def _change(self, low: int, high: int) -> int:
        """The moment of a change of the clocks, which lies after `low` and not after `high`."""
        before = self._offset(low)
        low, high = low // SECOND_US, high // SECOND_US
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(middle * SECOND_US) == before:
                low = middle
            else:
                high = middle
        return high * SECOND_US

    def _offset(self, at: int) -> datetime.timedelta:
        moment = _EPOCH_UTC + datetime.timedelta(microseconds=at)
        offset = moment.astimezone(self._zone).utcoffset()
        assert offset is not None
        return offset


def _micros(delta: datetime.timedelta) -> int:
    return (delta.days * 86_400 + delta.seconds) * SECOND_US + delta.microseconds


@lru_cache(maxsize=4_096)
def cron(text: str, zone: str) -> Cron:
    """A cron expression ready for use; the ones used last are kept."""
    return Cron(text, zone)


def cron_fault(text: str) -> str | None:
    """Why `text` is no cron expression, with the field and the value; None where it is one."""
    if text.lower() in _SHORTHANDS:
        return f"cron {text!r} is a shorthand; write it as {_SHORTHANDS[text.lower()]!r}"
    parts = text.split()
    if len(parts) != len(_FIELDS):
        names = ", ".join(name for name, _ in _FIELDS)
        return f"cron {text!r} has {len(parts)} fields; it takes {len(_FIELDS)}: {names}"
    for place, (part, (name, allowed)) in enumerate(zip(parts, _FIELDS, strict=True)):
        for term in part.split(","):
            if not _reads(place, term):
                within = "" if term == part else f" in {part!r}"
                return (
                    f"cron {text!r}: the {name} field has {term!r}{within}; allowed are {allowed}, "
                    "and ranges a-b, lists a,b and steps */n of them"
                )
    try:
        sim = CronSim(text, datetime.datetime(2000, 1, 1))
        never = next(sim, None) is None
    except CronSimError:
        never = True
    return f"cron {text!r} names no day that ever comes" if never else None


def _reads(place: int, term: str) -> bool:
    """Whether one term of one field can be read."""
    if not term or not term.isascii() or _values(place, term) is None:
        return False
    span, _, step = term.partition("/")
    # `cronsim` takes the step of a range of one value, 5-5/2, to lead beyond it: nobody means that
    return not (step and "-" in span and len(_values(place, span) or ()) == 1)


def _values(place: int, term: str) -> Collection[object] | None:
    """What one term of one field stands for, all other fields being `*`; None where it cannot be read."""
    parts = ["*"] * len(_FIELDS)
    parts[place] = term
    try:
        sim = CronSim(" ".join(parts), _EPOCH)
    except CronSimError:
        return None
    return (sim.minutes, sim.hours, sim.days, sim.months, sim.weekdays)[place]


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """The time zones that this machine knows, its own aliases left out."""
    return frozenset(available_timezones() - _NO_ZONES)


def zone_fault(name: str) -> str | None:
    """Why `name` is no time zone, with the nearest names; None where it is one."""
    if name == "UTC" or name in zone_names():
        return None
    known = {zone.lower(): zone for zone in sorted(zone_names())}
    places = {zone.lower().rpartition("/")[2]: zone for zone in sorted(zone_names()) if "/" in zone}
    wanted = name.lower().strip().replace(" ", "_")
    near = [known[found] for found in get_close_matches(wanted, known, 3, 0.7)]
    near += [places[found] for found in get_close_matches(wanted, places, 2, 0.8)]
    hint = f"; nearest are {', '.join(dict.fromkeys(near))}" if near else "; an example is Europe/Berlin"
    return f"tz {name!r} is not the name of an IANA time zone{hint}"
