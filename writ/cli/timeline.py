"""A job's history on the screen: two calm lines an event on a terminal, one plain line in a pipe."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .output import on_terminal, paint, state

if TYPE_CHECKING:
    from writ.orchestrator.replay.history import Step
    from writ.schemas.events import Fact
    from writ.schemas.queries import RecordView

_INDENT = 22
_WIDEST = 110


def steps_of(tenant: str, queue: str, id: str, records: Sequence[RecordView]) -> list[Step]:
    """The records folded: the job after each. Raises HistoryError."""
    from writ.orchestrator.replay.history import Entry, steps
    from writ.schemas.ids import job_key

    entries = [Entry(each.seq, each.subject, bytes(each.record)) for each in records]
    return steps(entries, tenant, job_key(queue, id))


def timeline_lines(steps: Sequence[Step], *, states: bool = False) -> Iterator[str]:
    """One entry for each event; `states` adds where each record left the job."""
    from writ.orchestrator.replay.text import clock_time, duration

    if not steps:
        return
    began = steps[0].record.at
    yield paint(f"from {clock_time(began)}", "dim")
    for step in steps:
        for number, event in enumerate(step.record.events):
            first, last = number == 0, number == len(step.record.events) - 1
            place = f"#{step.record.seq}" if first else ""
            since = f"+{duration(step.record.at - began)}" if first else ""
            moved = last and (states or step.before is None or step.before.state is not step.job.state)
            yield from _entry(step, event, place, since, moved)


def _entry(step: Step, event: Fact, place: str, since: str, moved: bool) -> Iterator[str]:
    from writ.orchestrator.replay.text import event_words
    from writ.schemas.events import type_names

    name, words = type_names[type(event)], event_words(event, step)
    head = f"{paint(f'{place:>8}', 'dim')}  {since:>10}  "
    if not on_terminal():
        left = f" -> {step.job.state.value}" if moved else ""
        yield f"{head}{name:<18}  {words}{left}".rstrip()
        return
    width = _width()
    styled = paint(name, "dim" if step.is_context else "bold")
    left = " " * max(1, width - _INDENT - len(name) - len(step.job.state.value) - 4) if moved else ""
    yield f"{head}{styled}{left}{state(step.job.state.value) if moved else ''}"
    for line in wrapped(words, _INDENT):
        yield paint(line, "dim")


def wrapped(text: str, indent: int) -> list[str]:
    """Text as indented lines: within the terminal on one, on a single line in a pipe."""
    if not on_terminal():
        return [" " * indent + text]
    lines = textwrap.wrap(text, max(30, _width() - indent - 2), break_on_hyphens=False)
    return [" " * indent + line for line in lines]


def _width() -> int:
    return min(shutil.get_terminal_size().columns, _WIDEST)
