"""A job's history as a drawing to scale and as rows, both of a size that does not grow with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from msgspec import structs

from writ.cli.queues import shown as value_words
from writ.orchestrator.replay.text import clock_time, duration, event_words
from writ.orchestrator.replay.text import shown as content_words
from writ.schemas.events import (
    AttemptFailed,
    AttemptStarted,
    Fact,
    JobCompleted,
    JobSnoozed,
    JobSuspended,
    LeaseExpired,
    LeaseGranted,
    LeaseReleased,
    LeasesRenewed,
    ProgressReported,
    SignalReceived,
    type_names,
)
from writ.schemas.lifecycle import Job
from writ.schemas.sealed import Sealed
from writ.schemas.steps import StepCompensated, StepDone, StepFailed, StepIntended, ToolCalled, UsageRecorded

from .drawing import Lane, Span, lanes
from .text import micros
from .visit import job_link

if TYPE_CHECKING:
    from markupsafe import Markup

    from writ.orchestrator.replay.history import Step
    from writ.schemas.queries import JobView

ROWS: Final = 100
CHILDREN: Final = 10

_ENDS: Final[dict[type[Fact], str]] = {
    JobCompleted: "s-completed",
    AttemptFailed: "s-dead",
    LeaseExpired: "lost",
    LeaseReleased: "s-cancelled",
    JobSnoozed: "s-scheduled",
    JobSuspended: "s-suspended",
}
_NOTED: Final = (StepIntended, StepDone, StepFailed, StepCompensated, ToolCalled, UsageRecorded)


def drawn(steps: Sequence[Step], children: Iterable[JobView], now: int) -> Markup:
    """The states, the attempts with what happened within them, and the children, over one time."""
    start, job = steps[0].record.at, steps[-1].job
    end = job.finished_at if job.finished_at is not None else max(now, steps[-1].record.at)
    end = max(end, steps[-1].record.at)
    states = state_spans(steps, end)
    rows = [Lane("State", states)]
    attempts, beats, noted, told = _within(steps, end)
    rows += [Lane("Attempts", attempts)] if attempts else []
    rows += [Lane("Lease renewals", beats)] if beats else []
    rows += [Lane("Steps, tools and usage", noted)] if noted else []
    rows += [Lane("Progress and signals", told)] if told else []
    for child in children:
        since = micros(child.submitted_at)
        until = end if child.finished_at is None else micros(child.finished_at)
        name = f"child {child.id}: {child.state}"
        began, ended = min(max(since, start), end), min(max(until, since), end)
        to = job_link(f"{child.queue}~{child.id}")
        rows.append(Lane(name, [Span(began, ended, f"s-{child.state}", name, child.state, to)]))
    return lanes(
        rows, start, end, f"{duration(end - start)} drawn to scale, from {steps[0].job.state} to {job.state}"
    )


def state_spans(steps: Sequence[Step], end: int) -> list[Span]:
    """The states that the job stood in one after the other."""
    found: list[Span] = []
    for step in steps:
        at, state = step.record.at, step.job.state.value
        if found and found[-1].label == state:
            continue
        if found:
            found[-1] = _closed(found[-1], at)
        found.append(Span(at, at, f"s-{state}", state, state))
    return [*found[:-1], _closed(found[-1], end)]


def _closed(span: Span, end: int) -> Span:
    return span._replace(end=end, words=f"{span.label} for {duration(end - span.start)}")


def _within(steps: Sequence[Step], end: int) -> tuple[list[Span], list[Span], list[Span], list[Span]]:
    """Attempts, and what happened at once within them: beats, notes, what was told."""
    attempts: list[Span] = []
    beats: list[Span] = []
    noted: list[Span] = []
    told: list[Span] = []
    live: tuple[int, LeaseGranted] | None = None
    for step in steps:
        at = step.record.at
        for event in step.record.events:
            words = f"#{step.record.seq} {type_names[type(event)]}: {event_words(event, step)}"
            to = f"#r{step.record.seq}"
            if isinstance(event, LeasesRenewed):
                beats.append(Span(at, at, "beat", words))
            elif live is not None and type(event) in _ENDS:
                attempts.append(_attempt(live, at, _ENDS[type(event)], words, to))
                live = None
            elif isinstance(event, LeaseGranted):
                live = (at, event)
            elif isinstance(event, AttemptStarted):
                beats.append(Span(at, at, "start", words))
            elif isinstance(event, _NOTED):
                noted.append(Span(at, at, "note", words))
            elif isinstance(event, ProgressReported | SignalReceived):
                told.append(Span(at, at, "told", words))
        if live is not None and step.job.lease is None:
            attempts.append(_attempt(live, at, "s-cancelled", "the lease ended", f"#r{step.record.seq}"))
            live = None
    if live is not None:
        attempts.append(_attempt(live, end, "s-running", "it runs", ""))
    return attempts, beats, noted, told


def _attempt(live: tuple[int, LeaseGranted], end: int, kind: str, words: str, to: str) -> Span:
    since, granted = live
    label = f"attempt {granted.attempt} · {granted.worker}"
    return Span(since, end, kind, f"{label}, {duration(end - since)}; {words}", label, to)


# --- rows ---------------------------------------------------------------------------------------------------


class Event(NamedTuple):
    """An event: its type, and what it says."""

    type: str
    words: str


class Row(NamedTuple):
    """A record of a history; `moved` is the state that it led to, where that is another one."""

    seq: int
    at: int
    since_us: int
    actor: str
    events: list[Event]
    moved: str | None
    is_context: bool


class Rows(NamedTuple):
    """Some records in order, and the first sequences of the pages around them, None where there is none."""

    rows: list[Row]
    before: int | None
    after: int | None
    first: int
    total: int


def rows(steps: Sequence[Step], seq: int | None, most: int = ROWS) -> Rows:
    """The page that record `seq` is on; the newest one without."""
    pages = max(1, -(-len(steps) // most))
    page = pages - 1
    if seq is not None:
        place = next((n for n, step in enumerate(steps) if step.record.seq >= seq), len(steps) - 1)
        page = place // most
    start = page * most
    began = steps[0].record.at
    found = [row(step, began) for step in steps[start : start + most]]
    before = steps[start - most].record.seq if page else None
    after = steps[start + most].record.seq if page < pages - 1 else None
    return Rows(found, before, after, start + 1, len(steps))


def row(step: Step, began: int) -> Row:
    record = step.record
    events = [Event(type_names[type(event)], event_words(event, step)) for event in record.events]
    moved = step.before is None or step.before.state is not step.job.state
    state = step.job.state.value if moved else None
    return Row(record.seq, record.at, record.at - began, record.actor, events, state, step.is_context)


# --- the job at a record ------------------------------------------------------------------------------------


_TIMES: Final = frozenset(
    {"submitted_at", "due_at", "round_at", "round_due", "finished_at", "granted_at", "expires_at"}
    | {"started_at", "until", "since_at"}
)
"""Fields that are log time."""


class Was(NamedTuple):
    """A field of a job after a record: what it is, and what it was where the record changed it."""

    name: str
    value: str
    before: str | None


def fields_at(step: Step) -> list[Was]:
    """What is known of the job after a record, what the record changed first."""
    now, before = _flat(step.job), {} if step.before is None else _flat(step.before)
    found = [
        Was(name, now.get(name, "none"), before.get(name, "none"))
        if now.get(name) != before.get(name)
        else Was(name, now[name], None)
        for name in {**now, **before}
    ]
    return sorted(found, key=lambda each: each.before is None)


def _flat(job: Job) -> dict[str, str]:
    """The fields of a job that say anything, in words."""
    found: dict[str, str] = {}
    for field in structs.fields(Job):
        value: Any = getattr(job, field.name)
        if value is None or value in ((), {}, ""):
            continue
        if isinstance(value, msgspec.Struct) and field.name not in ("retry", "limits"):
            for name, inner in structs.asdict(value).items():
                if inner not in (None, (), {}, ""):
                    found[f"{field.name}.{name}"] = _words(name, inner)
        else:
            found[field.name] = _words(field.name, value)
    return found


def _words(name: str, value: Any) -> str:
    if isinstance(value, Sealed):
        return content_words(value)
    if name in _TIMES and isinstance(value, int):
        return clock_time(value)
    return value_words(msgspec.json.decode(msgspec.json.encode(value)))
