"""A job's history as a Mermaid sequence diagram: who told whom what, in the order of the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    type_names,
)

from .history import Step
from .text import duration, event_words

_LOG = "log"
_BY_HOLDER = (AttemptStarted, AttemptFailed, JobCompleted, LeaseReleased, JobSnoozed, ProgressReported)
_MARKS = str.maketrans({";": "#59;", "#": "#35;", "<": "#lt;", ">": "#gt;", "\n": " ", '"': "#quot;"})


def diagram(steps: Sequence[Step]) -> Iterator[str]:
    """The lines of the diagram; none where there is no history."""
    if not steps:
        return
    job, began = steps[0].job, steps[0].record.at
    names = _names(steps)
    yield "sequenceDiagram"
    yield f"    title {_plain(f'job {job.id} of queue {job.queue}: {steps[-1].job.state}')}"
    for name, alias in names.items():
        shown = "Writ" if name == _LOG else name
        yield f"    {'participant' if name == _LOG else 'actor'} {alias} as {_plain(shown)}"
    for step in steps:
        for event in step.record.events:
            yield f"    {_message(step, event, names, step.record.at - began)}"
        moved = step.before is None or step.before.state is not step.job.state
        if moved:
            yield f"    Note right of {names[_LOG]}: {_plain(step.job.state)}"


def _names(steps: Sequence[Step]) -> dict[str, str]:
    """Whoever takes part, to a name that Mermaid takes, in the order in which they come."""
    found: dict[str, str] = {}
    for step in steps:
        for event in step.record.events:
            who = _who(step, event)
            if who not in found:
                found[who] = f"p{len(found)}"
            found.setdefault(_LOG, f"p{len(found)}")
    return found


def _who(step: Step, event: Fact) -> str:
    """The other side of an event: a person, a worker, or the log itself."""
    held = step.before.lease if step.before is not None else None
    if event is not step.record.events[0] and not isinstance(event, LeaseGranted):
        return _LOG  # what was decided on the first
    match event:
        case LeaseGranted(worker=worker) | LeaseExpired(worker=worker):
            return worker
        case LeasesRenewed():
            return step.record.key
        case _ if isinstance(event, _BY_HOLDER) or (
            isinstance(event, JobSuspended) and event.token is not None
        ):
            return held.worker if held is not None else step.record.actor
        case _:
            return _LOG if step.record.actor.startswith("writ:") else step.record.actor


def _message(step: Step, event: Fact, names: dict[str, str], since_us: int) -> str:
    who, log = names[_who(step, event)], names[_LOG]
    words = event_words(event, step)
    text = f"#{step.record.seq} +{duration(since_us)} {type_names[type(event)]}"
    text = _plain(f"{text}: {words}" if words else text)
    if who == log:
        return f"Note over {log}: {text}"
    if isinstance(event, LeaseGranted):
        return f"{log}->>{who}: {text}"
    return f"{who}--x{log}: {text}" if isinstance(event, LeaseExpired) else f"{who}->>{log}: {text}"


def _plain(text: str) -> str:
    """Text as Mermaid shows it, and takes for nothing else."""
    return text.translate(_MARKS)
