"""A history in words: one line for each event, with the facts that matter."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence

import msgspec

from writ.schemas.bounds import SECOND_US
from writ.schemas.errors import AttemptError
from writ.schemas.events import (
    AttemptFailed,
    AttemptStarted,
    CancelRequested,
    Fact,
    JobCancelled,
    JobCompleted,
    JobDeadLettered,
    JobRedriven,
    JobSubmitted,
    LeaderElected,
    LeaseExpired,
    LeaseGranted,
    LeaseReleased,
    LeasesRenewed,
    RetryScheduled,
    TimeResumed,
    type_names,
)
from writ.schemas.ids import token_position
from writ.schemas.lifecycle import Job
from writ.schemas.sealed import UNSEALED, Sealed

from .history import Step

_SHOWN_CHARS = 120
_EPOCH = datetime.datetime(1970, 1, 1)


def clock_time(at: int) -> str:
    """Log time as RFC 3339 with milliseconds."""
    return f"{(_EPOCH + datetime.timedelta(microseconds=at)).isoformat(timespec='milliseconds')}Z"


def duration(us: int) -> str:
    """Microseconds in the units that fit: `850 ms`, `12.5 s`, `3 min 20 s`, `2 h 5 min`, `4 d 1 h`."""
    if us < 0:
        return f"-{duration(-us)}"
    if us < SECOND_US:
        return f"{us / 1_000:.3g} ms"
    if us < 60 * SECOND_US:
        return f"{us / SECOND_US:.3g} s"
    seconds = us // SECOND_US
    for large, small, unit, rest in ((86_400, 3_600, "d", "h"), (3_600, 60, "h", "min"), (60, 1, "min", "s")):
        if seconds >= large:
            more = seconds % large // small
            return f"{seconds // large} {unit}" + (f" {more} {rest}" if more else "")
    raise AssertionError("a minute has sixty seconds")


def shown(content: Sealed | None) -> str:
    """Content on one line, shortened; or why it cannot be shown."""
    if content is None:
        return "none"
    if content.key != UNSEALED:
        return f"sealed under key {content.key}"
    text = bytes(content.plain).decode()
    if text.startswith('"'):
        text = str(msgspec.json.decode(content.plain))
    return one_line(text)


def one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARS else f"{line[:_SHOWN_CHARS]}... ({len(text)} characters)"


def error_words(error: AttemptError) -> str:
    """Class, type and text of an error."""
    text = f": {shown(error.text)}" if error.text is not None else ""
    return f"{error.class_} error {error.type}{text}"


def delay_words(event: RetryScheduled, at: int) -> str:
    """How the delay of a retry came about."""
    low, high = event.base_s * (1 - event.jitter), event.base_s * (1 + event.jitter)
    how = (
        f"backoff {event.base_s:g} s for failure {event.failures}, "
        f"jitter {event.jitter:g} placed it in {low:.4g} to {high:.4g} s by seed {event.seed:.4f}"
    )
    if event.retry_after_s is not None:
        how += f", the worker asked for {event.retry_after_s:g} s"
    return f"in {duration(event.due_at - at)} ({how})"


def event_words(event: Fact, step: Step) -> str:
    """One event as a phrase, without its name."""
    record, job = step.record, step.job
    match event:
        case JobSubmitted(task=task, priority=priority):
            due = f", due in {duration(job.due_at - record.at)}" if event.due_at is not None else ""
            return f"task {task} by {record.actor}, priority {priority}{due}, input {shown(event.input)}"
        case LeaseGranted(worker=worker, attempt=attempt):
            token = job.last_token
            return f"attempt {attempt} to worker {worker}, token {token} (record {token_position(token)[1]})"
        case AttemptStarted(attempt=attempt):
            return f"attempt {attempt}: user code runs"
        case AttemptFailed(attempt=attempt, error=error, run_ms=run_ms):
            return f"attempt {attempt}{_ran(run_ms)}: {error_words(error)}"
        case LeaseExpired(worker=worker, losses=losses, max_lease_losses=cap, expires_at=expires_at):
            late = duration(record.at - expires_at)
            return f"worker {worker} did not renew; {late} over time; loss {losses} of {cap}"
        case LeaseReleased(attempt=attempt, reason=reason):
            return f"attempt {attempt} given back unfinished: {one_line(reason)}"
        case RetryScheduled(rule=rule):
            return f"{delay_words(event, record.at)}; {rule}"
        case CancelRequested(reason=reason):
            return f"by {record.actor}: {one_line(reason)}"
        case JobCompleted(attempt=attempt, output=output, run_ms=run_ms):
            return f"attempt {attempt}{_ran(run_ms)}, output {shown(output)}"
        case JobCancelled(reason=reason):
            return one_line(reason)
        case JobDeadLettered(reason=reason, rule=rule):
            return f"{reason}: {rule}"
        case JobRedriven(answers=answers, reason=reason):
            return f"round {job.round} by {record.actor}, answers record {answers}: {one_line(reason)}"
        case LeasesRenewed():
            return f"worker {record.key}{_lives_until(job, record.at)}"
        case LeaderElected(leader=leader, previous=previous):
            after = f" after {previous}" if previous else ""
            return f"{leader}{after}{_lives_until(job, record.at)}"
        case TimeResumed(gap_ms=gap_ms):
            return (
                f"the log could not be written for {duration(gap_ms * 1_000)}{_lives_until(job, record.at)}"
            )
        case _:
            return ""


def _ran(run_ms: int | None) -> str:
    return "" if run_ms is None else f" after {duration(run_ms * 1_000)}"


def _lives_until(job: Job, at: int) -> str:
    if job.lease is None:
        return ""
    return f"; the lease lives for {duration(job.lease.expires_at - at)} from here"


def lines(steps: Sequence[Step]) -> Iterator[str]:
    """The timeline: sequence, time since the first record, event, facts, and the state that it led to."""
    if not steps:
        return
    start = steps[0].record.at
    width = max(8, len(str(steps[-1].record.seq)) + 1)
    yield f"{clock_time(start)}  job {steps[0].job.id} in queue {steps[0].job.queue}"
    for step in steps:
        record = step.record
        for number, event in enumerate(record.events):
            last = number == len(record.events) - 1
            moved = step.before is None or step.before.state is not step.job.state
            state = f"  -> {step.job.state}" if last and moved else ""
            words = event_words(event, step)
            place = f"#{record.seq}" if number == 0 else ""
            since = f"+{duration(record.at - start)}" if number == 0 else ""
            yield f"{place:>{width}}  {since:>12}  {type_names[type(event)]:<18} {words}{state}".rstrip()
