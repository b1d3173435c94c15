"""Schedules: what they say, their events, their state and the fold of it.

A schedule lives with the queue in which it starts jobs, under the key `<queue>~<name>`. It is not polled: its
state says when it is due next, and that is one deadline.
"""

from __future__ import annotations

import datetime
import math
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from .bounds import SECOND_US, TASK_MAX_BYTES, TOKEN_MAX_BYTES
from .due_times import LATEST_US, DueTimes, Every, cron, cron_fault, zone_fault
from .facts import Fact
from .ids import TOKEN_PATTERN, split_job_key
from .policy import PositiveSeconds, Priority, Retry
from .processes import ReleaseRef
from .sealed import Sealed

if TYPE_CHECKING:
    from .records import Record

EVERY_MIN_S: Final = 1
EVERY_MAX_S: Final = 10 * 365 * 86_400
CATCH_UP_MAX: Final = 100
"""The most that `catch_up_max` may be."""

_Key = Annotated[str, Meta(min_length=1, max_length=TOKEN_MAX_BYTES, pattern=TOKEN_PATTERN)]
_Task = Annotated[str, Meta(min_length=1, max_length=TASK_MAX_BYTES, pattern=r"^[^\x00-\x20\x7f]+$")]
_Time = Annotated[datetime.datetime, Meta(tz=True)]


class Overlap(StrEnum):
    """What becomes of a due time while a job that the schedule started before is live."""

    SKIP = "skip"
    """No job is started."""

    QUEUE = "queue"
    """The new job waits until those before it have ended."""

    CANCEL_RUNNING = "cancel_running"
    """Those before it are cancelled, and the new job starts when they have stopped."""

    ALLOW = "allow"
    """The new job starts beside them."""


class ScheduleSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """When jobs are started, and which. A default here never changes: old records leave defaults out.

    One of `cron` (five fields, on the clock of `tz`) and `every_s` (elapsed time, counted from `anchor` in
    both directions; without one from `starts_at`, or else from the declaration). Due times lie at or after
    `starts_at` and before `ends_at`.

    After downtime the newest `catch_up_max` of the times that were missed are run, unless they are more than
    `catch_up_within_s` old; a time that is met within a minute was not missed, and is run in any case.
    `overlap` says what happens while an earlier job of the schedule is live.

    The job is `task` with the other fields as in a submit; its input is beside the spec, sealed. `process`
    may name an alias, which each job looks up at its grants, a version or a digest.
    """

    task: _Task
    cron: Annotated[str, Meta(max_length=256)] | None = None
    every_s: (
        Annotated[float, Meta(extra_json_schema={"minimum": EVERY_MIN_S, "maximum": EVERY_MAX_S})] | None
    ) = None
    tz: Annotated[str, Meta(max_length=64)] = "UTC"
    anchor: _Time | None = None
    starts_at: _Time | None = None
    ends_at: _Time | None = None
    overlap: Overlap = Overlap.SKIP
    catch_up_max: Annotated[int, Meta(extra_json_schema={"minimum": 0, "maximum": CATCH_UP_MAX})] = 1
    catch_up_within_s: PositiveSeconds | None = None
    paused: bool = False
    priority: Priority | None = None
    retry: Retry | None = None
    lease_s: Annotated[float, Meta(ge=1, le=86_400)] | None = None
    attempt_timeout_s: PositiveSeconds | None = None
    job_timeout_s: PositiveSeconds | None = None
    expires_in_s: PositiveSeconds | None = None
    fairness_key: _Key | None = None
    concurrency_key: _Key | None = None
    process: ReleaseRef | None = None


class SpecFault(msgspec.Struct, frozen=True):
    """What is wrong with a spec: the field, and the reason in words."""

    field: str
    reason: str


def spec_fault(spec: ScheduleSpec) -> SpecFault | None:
    """Why a well-formed spec makes no sense; None where it does."""
    if spec.cron is not None and spec.every_s is not None:
        both = f"cron {spec.cron!r} and every_s {spec.every_s:g} are both given; give one of them"
        return SpecFault("every_s", both)
    if spec.cron is None and spec.every_s is None:
        return SpecFault("cron", "neither cron nor every_s is given; give one of them")
    return _cron_fault(spec) or _every_fault(spec) or _window_fault(spec) or _catch_up_fault(spec)


def _cron_fault(spec: ScheduleSpec) -> SpecFault | None:
    if spec.cron is None:
        return None
    reason = cron_fault(spec.cron)
    if reason is not None:
        return SpecFault("cron", reason)
    reason = zone_fault(spec.tz)
    if reason is not None:
        return SpecFault("tz", reason)
    if spec.anchor is not None:
        given = f"anchor is {spec.anchor.isoformat()}"
        return SpecFault("anchor", f"{given}, which is for every_s; the times of a cron expression need none")
    return None


def _every_fault(spec: ScheduleSpec) -> SpecFault | None:
    if spec.every_s is None:
        return None
    if not math.isfinite(spec.every_s) or not EVERY_MIN_S <= spec.every_s <= EVERY_MAX_S:
        return SpecFault(
            "every_s", f"every_s is {spec.every_s}; {EVERY_MIN_S} to {EVERY_MAX_S:,} are allowed"
        )
    if spec.tz != "UTC":
        return SpecFault("tz", f"tz is {spec.tz!r}, which is for cron; every_s is elapsed time, in no zone")
    return None


def _window_fault(spec: ScheduleSpec) -> SpecFault | None:
    for name, value in (("anchor", spec.anchor), ("starts_at", spec.starts_at), ("ends_at", spec.ends_at)):
        if value is not None and not 0 <= log_time(value) < LATEST_US:
            return SpecFault(name, f"{name} is {value.isoformat()}; it must lie in 1970 to 2099")
    if spec.starts_at is not None and spec.ends_at is not None and spec.ends_at <= spec.starts_at:
        window = f"{spec.ends_at.isoformat()}, and starts_at {spec.starts_at.isoformat()}"
        return SpecFault("ends_at", f"ends_at is {window}; it must be later")
    return None


def _catch_up_fault(spec: ScheduleSpec) -> SpecFault | None:
    if not 0 <= spec.catch_up_max <= CATCH_UP_MAX:
        return SpecFault(
            "catch_up_max", f"catch_up_max is {spec.catch_up_max}; 0 to {CATCH_UP_MAX} are allowed"
        )
    return None


def log_time(moment: datetime.datetime) -> int:
    """A time with an offset as log time."""
    delta = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (delta.days * 86_400 + delta.seconds) * SECOND_US + delta.microseconds


class ScheduleDeclared(Fact, frozen=True):
    """`version` grows by one with each; `spec` is whole, not a difference."""

    version: int
    spec: ScheduleSpec
    input: Sealed
    reason: str = ""


class ScheduleFired(Fact, frozen=True):
    """A due time started `job`. `rule` says why it was run, `overlap` what governed the jobs before it.

    It comes after the jobs `after`, and those in `cancelled` were asked to end.
    """

    due_at: int
    job: str
    rule: str
    overlap: Overlap = Overlap.SKIP
    after: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()


class ScheduleSkipped(Fact, frozen=True):
    """Due times that started no job, up to `due_at`, and the rule that decided.

    `count` of them, from `first_due_at` on; with `more` there were others before, which were not counted.
    """

    due_at: int
    rule: str
    count: int = 1
    first_due_at: int | None = None
    more: bool = False


class SchedulePaused(Fact, frozen=True):
    """No time is due until it is resumed; those in between are not made up for."""

    reason: str


class ScheduleResumed(Fact, frozen=True):
    reason: str


class ScheduleDeleted(Fact, frozen=True):
    """No time is due any more. Jobs that it started are not touched; declaring it again revives it."""

    reason: str


class ScheduleTriggered(Fact, frozen=True):
    """An operator started `job` beside the due times."""

    at: int
    job: str
    reason: str
    overlap: Overlap = Overlap.SKIP
    after: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()


class ScheduleBackfilled(Fact, frozen=True):
    """An operator had the due times from `from_at` to `to_at` run; `jobs` are those started for it.

    `known` counts the times whose job was there already.
    """

    from_at: int
    to_at: int
    jobs: tuple[str, ...]
    reason: str
    overlap: Overlap = Overlap.QUEUE
    known: int = 0


SCHEDULE_EVENTS: Final[tuple[type[Fact], ...]] = (
    ScheduleDeclared,
    ScheduleFired,
    ScheduleSkipped,
    SchedulePaused,
    ScheduleResumed,
    ScheduleDeleted,
    ScheduleTriggered,
    ScheduleBackfilled,
)


class Schedule(msgspec.Struct, frozen=True):
    """A schedule. Times up to `since` are dealt with; `next_due` follows from it.

    `anchor` is what its interval counts from. `paused` and `deleted` hold the reason while it is so.
    """

    key: str
    version: int
    spec: ScheduleSpec
    input: Sealed
    anchor: int
    since: int
    declared_at: int
    paused: str | None = None
    deleted: str | None = None
    last_due: int | None = None
    last_job: str | None = None
    fired: int = 0
    skipped: int = 0

    @property
    def queue(self) -> str:
        return split_job_key(self.key)[0]

    @property
    def name(self) -> str:
        return split_job_key(self.key)[1]


def evolve_schedule(schedule: Schedule | None, event: Fact, record: Record) -> Schedule:
    """The schedule after one of its events. Raises ValueError for any other event."""
    if isinstance(event, ScheduleDeclared):
        return _declared(schedule, event, record)
    if schedule is None:
        raise ValueError(f"{type(event).__name__} of schedule {record.key}, which was never declared")
    match event:
        case ScheduleFired(due_at=due_at, job=job):
            since = max(schedule.since, due_at)
            return replace(schedule, since=since, last_due=due_at, last_job=job, fired=schedule.fired + 1)
        case ScheduleSkipped(due_at=due_at, count=count):
            return replace(schedule, since=max(schedule.since, due_at), skipped=schedule.skipped + count)
        case SchedulePaused(reason=reason):
            return replace(schedule, paused=reason)
        case ScheduleResumed():
            return replace(schedule, paused=None, since=max(schedule.since, record.at))
        case ScheduleDeleted(reason=reason):
            return replace(schedule, deleted=reason)
        case ScheduleTriggered(job=job):
            return replace(schedule, last_job=job, fired=schedule.fired + 1)
        case ScheduleBackfilled(jobs=jobs):
            return replace(schedule, fired=schedule.fired + len(jobs))
        case _:
            raise ValueError(f"{type(event).__name__} is no event of a schedule")


def _declared(old: Schedule | None, event: ScheduleDeclared, record: Record) -> Schedule:
    spec = event.spec
    paused = (event.reason or "declared as paused") if spec.paused else None
    fixed = spec.anchor or spec.starts_at
    if old is None or old.deleted is not None:
        anchor = record.at if fixed is None else log_time(fixed)
        return Schedule(
            key=record.key,
            version=event.version,
            spec=spec,
            input=event.input,
            anchor=anchor,
            since=record.at,
            declared_at=record.at,
            paused=paused,
            fired=0 if old is None else old.fired,
            skipped=0 if old is None else old.skipped,
        )
    anchor = old.anchor if old.spec.every_s == spec.every_s else record.at
    if old.spec.paused == spec.paused:
        paused = old.paused
    anew = _timing(old.spec) != _timing(spec) or (old.paused is not None and paused is None)
    return replace(
        old,
        version=event.version,
        spec=spec,
        input=event.input,
        anchor=anchor if fixed is None else log_time(fixed),
        since=max(old.since, record.at) if anew else old.since,
        paused=paused,
    )


def _timing(spec: ScheduleSpec) -> tuple[object, ...]:
    return (spec.cron, spec.every_s, spec.tz, spec.anchor, spec.starts_at, spec.ends_at)


def due_times(spec: ScheduleSpec, anchor: int) -> DueTimes:
    """The times that a valid spec names, whether within its `starts_at` and `ends_at` or not."""
    if spec.cron is not None:
        return cron(spec.cron, spec.tz)
    assert spec.every_s is not None
    return Every(round(spec.every_s * SECOND_US), anchor)


def window(spec: ScheduleSpec) -> tuple[int, int]:
    """The first and the last log time at which the spec may be due."""
    first = 0 if spec.starts_at is None else log_time(spec.starts_at)
    last = LATEST_US if spec.ends_at is None else log_time(spec.ends_at)
    return first, last - 1


def next_times(spec: ScheduleSpec, anchor: int, after: int, count: int) -> tuple[int, ...]:
    """The next `count` due times later than `after`; fewer where the spec ends before."""
    first, last = window(spec)
    times = islice(due_times(spec, anchor).after(max(after, first - 1)), count)
    return tuple([due for due in times if due <= last])


def next_due(schedule: Schedule) -> int | None:
    """When the schedule is due next, which may be in the past; None where it is not."""
    if schedule.paused is not None or schedule.deleted is not None:
        return None
    times = next_times(schedule.spec, schedule.anchor, schedule.since, 1)
    return times[0] if times else None
