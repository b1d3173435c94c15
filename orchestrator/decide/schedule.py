"""Deciding what a schedule starts: due times, catching up, overlap, and what operators ask of it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from itertools import islice, takewhile
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from writ.schemas import bounds
from writ.schemas.events import Fact
from writ.schemas.ids import job_key, token_fault
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.schedules import (
    CATCH_UP_MAX,
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
    due_times,
    spec_fault,
    window,
)
from writ.schemas.sealed import seal
from writ.schemas.submits import content_fault, malformed, retry_fault

ON_TIME_S: Final = 60
"""A due time met within this was not missed."""

QUEUED_MAX: Final = 100
"""Live jobs of one schedule under overlap `queue`: each names those it comes after."""

BACKFILL_MAX: Final = 500
"""Jobs that one backfill starts: their records fit one batch."""

COUNTED_MAX: Final = CATCH_UP_MAX + 1
"""Missed times that are looked at one by one, newest first; there may be years of them."""

Outcome = tuple[Fact, ...] | Rejection
Exists = Callable[[str], bool]
_EPOCH = datetime.datetime(1970, 1, 1)


class Start(msgspec.Struct, frozen=True):
    """A job to start for the schedule. It comes after the jobs in `after`, however they end; those in
    `cancel` are asked to end. A `known` one was submitted before, and only the schedule did not know it.
    """

    id: str
    due_at: int
    after: tuple[str, ...] = ()
    cancel: tuple[str, ...] = ()
    known: bool = False


class Firing(msgspec.Struct, frozen=True):
    """What is decided at once: the events of one record of the schedule, and the jobs that go with it.

    To survive a crash in between, the records are stored in this order: cancels, jobs, schedule. A job's id
    follows from its due time, so that deciding again finds the job that is there.
    """

    events: tuple[Fact, ...] = ()
    starts: tuple[Start, ...] = ()


NOTHING: Final = Firing()


class _Due(NamedTuple):
    """A due time: run or not, and the rule that says so."""

    at: int
    run: bool
    rule: str


def due_job_id(name: str, due_at: int) -> str:
    """The id of the job of a due time: `<name>-20261121T083000Z`, with microseconds where there are any."""
    return f"{name}-{_stamp(due_at, due_at % bounds.SECOND_US != 0)}"


def triggered_job_id(name: str, at: int) -> str:
    """The id of a job that an operator started: no due time has it."""
    return f"{name}-{_stamp(at, True)}-triggered"


def _stamp(at: int, fine: bool) -> str:
    moment = _EPOCH + datetime.timedelta(microseconds=at)
    return moment.strftime("%Y%m%dT%H%M%S%fZ" if fine else "%Y%m%dT%H%M%SZ")


def due(schedule: Schedule, live: Sequence[str], now: int, exists: Exists | None = None) -> Firing:
    """What the due times up to `now` that are not dealt with lead to.

    `live` are the ids of the jobs that this schedule started and that have not ended, oldest first.
    `exists` says whether the queue has a job of an id, ended or not; left out, only the live ones count.
    """
    if schedule.paused is not None or schedule.deleted is not None:
        return NOTHING
    exists = exists or live.__contains__
    spec = schedule.spec
    first, last = window(spec)
    after, until = max(schedule.since, first - 1), min(now, last)
    times = due_times(spec, schedule.anchor)
    newest = list(takewhile(lambda at: at > after, islice(times.before(until + 1), COUNTED_MAX)))
    if not newest:
        return NOTHING
    wanted = [_caught_up(schedule, rank, at, now, exists) for rank, at in enumerate(newest)]
    wanted.reverse()
    starts, decided = _overlapped(schedule.name, spec.overlap, wanted, live, exists)
    events = _told(decided, {start.id: start for start in starts}, schedule)
    if len(newest) == COUNTED_MAX:
        oldest = next(times.after(after))
        events = _with_older(events, newest[-1], oldest, times.count(after, newest[-1] - 1))
    return Firing(events, starts)


def _caught_up(schedule: Schedule, rank: int, at: int, now: int, exists: Exists) -> _Due:
    """Whether catching up runs the due time that is `rank`-th from the newest."""
    spec, late_s = schedule.spec, (now - at) / bounds.SECOND_US
    if rank == 0 and late_s <= ON_TIME_S:
        return _Due(at, True, "on time")
    if exists(due_job_id(schedule.name, at)):
        return _Due(at, True, "its job was there already")
    if rank >= spec.catch_up_max:
        return _Due(at, False, f"missed, and not among the newest that catch_up_max {spec.catch_up_max} runs")
    if spec.catch_up_within_s is not None and late_s > spec.catch_up_within_s:
        return _Due(at, False, f"missed, and older than catch_up_within_s {spec.catch_up_within_s:g}")
    return _Due(
        at, True, f"missed by {late_s:.0f} s, and among the newest that catch_up_max {spec.catch_up_max} runs"
    )


def _overlapped(
    name: str, overlap: Overlap, wanted: list[_Due], live: Sequence[str], exists: Exists
) -> tuple[tuple[Start, ...], list[_Due]]:
    """The jobs to start, and the due times with those taken out that overlap forbids."""
    starts: list[Start] = []
    decided: list[_Due] = []
    line = list(live)
    newest = max((due.at for due in wanted if due.run), default=0)
    for due in wanted:
        start = (
            _start(due_job_id(name, due.at), due.at, overlap, line, exists, due.at == newest)
            if due.run
            else ""
        )
        if isinstance(start, Start):
            starts.append(start)
            decided.append(due)
            if start.id not in line and not start.known:
                line.append(start.id)
        else:
            decided.append(_Due(due.at, False, start or due.rule))
    return tuple(starts), decided


def _start(
    job: str, at: int, overlap: Overlap, line: list[str], exists: Exists, newest: bool = True
) -> Start | str:
    """The job to start, or the rule against it. `line` are the live jobs before it."""
    if exists(job):
        return Start(job, at, known=True)
    match overlap:
        case Overlap.ALLOW:
            return Start(job, at)
        case Overlap.QUEUE if len(line) >= QUEUED_MAX:
            return (
                f"overlap queue: {len(line)} jobs of the schedule are live; at most {QUEUED_MAX} are allowed"
            )
        case Overlap.QUEUE:
            return Start(job, at, after=tuple(line))
        case _ if not newest:
            return f"overlap {overlap}: gave way to the newest due time"
        case Overlap.CANCEL_RUNNING:
            return Start(job, at, after=tuple(line), cancel=tuple(line))
        case Overlap.SKIP if line:
            others = f" and {len(line) - 1} more are" if len(line) > 1 else " is"
            return f"overlap skip: job {line[0]}{others} live"
        case Overlap.SKIP:
            return Start(job, at)


def _told(decided: Sequence[_Due], starts: Mapping[str, Start], schedule: Schedule) -> tuple[Fact, ...]:
    """The events of due times in order, neighbours skipped by the same rule as one."""
    events: list[Fact] = []
    for due in decided:
        last = events[-1] if events else None
        if due.run:
            start = starts[due_job_id(schedule.name, due.at)]
            events.append(
                ScheduleFired(due.at, start.id, due.rule, schedule.spec.overlap, start.after, start.cancel)
            )
        elif isinstance(last, ScheduleSkipped) and last.rule == due.rule:
            first = last.due_at if last.first_due_at is None else last.first_due_at
            events[-1] = replace(last, due_at=due.at, count=last.count + 1, first_due_at=first)
        else:
            events.append(ScheduleSkipped(due.at, due.rule))
    return tuple(events)


def _with_older(events: tuple[Fact, ...], looked_at: int, oldest: int, older: int | None) -> tuple[Fact, ...]:
    """Adds the `older` missed times, None where they were not counted, before `looked_at`."""
    if looked_at == oldest:
        return events
    count, more, head = older or 0, older is None, events[0]
    if isinstance(head, ScheduleSkipped):
        return (replace(head, count=head.count + count, first_due_at=oldest, more=more), *events[1:])
    rule = f"missed, and not among the newest {COUNTED_MAX}"
    return (ScheduleSkipped(looked_at - 1, rule, max(1, count), oldest, more), *events)


def not_started(firing: Firing, refused: Mapping[str, str]) -> Firing:
    """The firing where the queue refuses some of its jobs, as one that drains does: ids to the reasons."""
    if not refused:
        return firing
    starts = [
        replace(start, after=tuple([job for job in start.after if job not in refused]))
        for start in firing.starts
        if start.id not in refused
    ]
    events: list[Fact] = []
    for event in firing.events:
        if isinstance(event, ScheduleFired) and event.job in refused:
            events.append(ScheduleSkipped(event.due_at, f"the queue refused its job: {refused[event.job]}"))
        elif isinstance(event, ScheduleFired):
            events.append(replace(event, after=tuple([job for job in event.after if job not in refused])))
        else:
            events.append(event)
    return Firing(tuple(events), tuple(starts))


def declare(
    schedule: Schedule | None, queue: str, name: str, spec: ScheduleSpec, content: bytes, reason: str
) -> Outcome:
    """The next version of a schedule; none to store where it says the same. `content` is the jobs' input."""
    fault = (
        _name_fault(queue, name)
        or _spec_fault(spec)
        or retry_fault(spec.retry, "spec.retry")
        or content_fault("input", content)
    )
    if fault is not None:
        return fault
    sealed = seal(content)
    if schedule is None:
        return (ScheduleDeclared(1, spec, sealed, reason),)
    same = spec == schedule.spec and sealed.digest == schedule.input.digest
    if same and schedule.deleted is None:
        return ()
    return (ScheduleDeclared(schedule.version + 1, spec, sealed, reason),)


def _name_fault(queue: str, name: str) -> Rejection | None:
    fault = token_fault(name, "name")
    if fault is not None:
        return malformed(fault, "name")
    size = len(job_key(queue, triggered_job_id(name, 0)))
    if size > bounds.TOKEN_MAX_BYTES:
        reason = f"the jobs' keys would have {size} bytes; at most {bounds.TOKEN_MAX_BYTES} are allowed"
        return malformed(f"name is too long: {reason}", "name")
    return None


def _spec_fault(spec: ScheduleSpec) -> Rejection | None:
    fault = spec_fault(spec)
    return None if fault is None else malformed(fault.reason, fault.field)


def known(schedule: Schedule | None, name: str) -> Schedule | Rejection:
    """The schedule of that name, which everything below is about; refused where there is none."""
    if schedule is None or schedule.deleted is not None:
        return Rejection(RejectionKind.NOT_FOUND, f"there is no schedule {name} in this queue", "name")
    return schedule


def pause(schedule: Schedule, reason: str) -> Outcome:
    """No time is due until it is resumed."""
    if schedule.paused is not None:
        reason = f"already paused: schedule {schedule.name}, for {schedule.paused}"
        return Rejection(RejectionKind.CONFLICT, reason, "name")
    return (SchedulePaused(reason),)


def resume(schedule: Schedule, reason: str) -> Outcome:
    """Due again from now on."""
    if schedule.paused is None:
        return Rejection(RejectionKind.CONFLICT, f"not paused: schedule {schedule.name}", "name")
    return (ScheduleResumed(reason),)


def delete(schedule: Schedule, reason: str) -> Outcome:
    """Ends a schedule; the jobs that it started go on."""
    return (ScheduleDeleted(reason),)


def trigger(
    schedule: Schedule,
    live: Sequence[str],
    now: int,
    reason: str,
    exists: Exists | None = None,
    overlap: Overlap | None = None,
) -> Firing | Rejection:
    """Starts a job now, beside the due times, of a paused schedule too. `overlap` is for this once."""
    exists = exists or live.__contains__
    at, overlap = now, overlap or schedule.spec.overlap
    while exists(triggered_job_id(schedule.name, at)):
        at += 1
    start = _start(triggered_job_id(schedule.name, at), at, overlap, list(live), exists)
    if isinstance(start, str):
        return Rejection(
            RejectionKind.CONFLICT, f"{start}; ask for another overlap to start it all the same", "overlap"
        )
    return Firing((ScheduleTriggered(at, start.id, reason, overlap, start.after, start.cancel),), (start,))


def backfill(
    schedule: Schedule,
    live: Sequence[str],
    now: int,
    from_at: int,
    to_at: int,
    reason: str,
    exists: Exists | None = None,
    limit: int = BACKFILL_MAX,
    overlap: Overlap = Overlap.QUEUE,
) -> Firing | Rejection:
    """Runs the due times from `from_at` to `to_at`, both included, oldest first.

    They may be older than the declaration. A time that was run has its job already, and is not run again.
    """
    exists = exists or live.__contains__
    fault = _backfill_fault(from_at, to_at, now, limit, overlap)
    if fault is not None:
        return fault
    first, last = window(schedule.spec)
    low, high = max(from_at, first), min(to_at, last)
    times = due_times(schedule.spec, schedule.anchor)
    found = list(takewhile(lambda at: at <= high, islice(times.after(low - 1), limit + 1)))
    span = f"from {_stamp(from_at, False)} to {_stamp(to_at, False)}"
    if not found:
        return Rejection(RejectionKind.NOT_FOUND, f"no due time lies {span}", "from")
    if len(found) > limit:
        reason = f"more than {limit} due times lie {span}; {limit} is the limit at once"
        return Rejection(RejectionKind.TOO_LARGE, reason, "limit")
    wanted = [_Due(at, True, "backfilled") for at in found]
    starts, decided = _overlapped(schedule.name, overlap, wanted, live, exists)
    against = next((due.rule for due in decided if not due.run), None)
    if against is not None:
        return Rejection(RejectionKind.TOO_LARGE, f"{len(found)} due times lie {span}; {against}", "overlap")
    new = tuple([start.id for start in starts if not start.known])
    if not new:
        return Firing((), starts)
    known = len(starts) - len(new)
    return Firing((ScheduleBackfilled(from_at, to_at, new, reason, overlap, known),), starts)


def _backfill_fault(from_at: int, to_at: int, now: int, limit: int, overlap: Overlap) -> Rejection | None:
    if overlap not in (Overlap.QUEUE, Overlap.ALLOW):
        return malformed(f"overlap is {overlap}; a backfill takes queue or allow", "overlap")
    if not 1 <= limit <= BACKFILL_MAX:
        return malformed(f"limit is {limit}; 1 to {BACKFILL_MAX} are allowed", "limit")
    if from_at > to_at:
        return malformed(f"from {_stamp(from_at, False)} is later than to {_stamp(to_at, False)}", "from")
    if to_at > now:
        later = f"to {_stamp(to_at, False)} is later than now, {_stamp(now, False)}"
        return malformed(f"{later}; later times come by themselves", "to")
    return None
