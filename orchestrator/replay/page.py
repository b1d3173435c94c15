"""A job's history as one HTML page that needs nothing else: no script, no font, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from writ.schemas.events import LeaseGranted, type_names
from writ.schemas.lifecycle import State

from .explain import Answer, Explanation
from .history import Step
from .text import clock_time, duration, event_words

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; --card: #8881;
  --scheduled: #5b8def; --pending: #9aa3ad; --suspended: #d9a400; --running: #16a3b8; --retrying: #e8833a;
  --completed: #2da44e; --cancelled: #a25bd6; --dead: #d1373f; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.45rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2.4rem 0 .6rem; }
p { margin: .25rem 0; }
.dim, .since, .seq { color: var(--dim); }
.badge { display: inline-block; padding: .05rem .6rem; border-radius: 1rem; color: #fff; font-size: .85rem; }
.bar { display: flex; height: 1.5rem; border-radius: .35rem; overflow: hidden; margin-top: 1rem; }
.bar div { min-width: 3px; }
.lanes { position: relative; margin-top: .35rem; }
.lane { position: relative; height: 1.35rem; }
.lane div { position: absolute; top: .15rem; height: 1.05rem; border-radius: .25rem; min-width: 3px;
  background: var(--running); opacity: .85; }
.lane span { position: absolute; font-size: .75rem; white-space: nowrap; padding: 0 .35rem;
  color: var(--dim); }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin-top: .5rem; font-size: .85rem; }
.key i { display: inline-block; width: .75rem; height: .75rem; border-radius: .2rem; margin-right: .35rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid var(--line); }
th { font-weight: 500; color: var(--dim); font-size: .85rem; }
td:nth-child(4) { overflow-wrap: anywhere; }
.seq, .since { font-variant-numeric: tabular-nums; white-space: nowrap; }
.context { opacity: .6; }
code { font-family: ui-monospace, monospace; font-size: .88rem; white-space: nowrap; }
.answer { background: var(--card); border-radius: .5rem; padding: .7rem 1rem; margin: .6rem 0; }
.answer b { display: block; }
.answer small { color: var(--dim); overflow-wrap: anywhere; }
@media (max-width: 40rem) { td, th { padding: .35rem .3rem; } .wide { display: none; } }
"""


def page(steps: Sequence[Step], explanation: Explanation | None = None) -> Iterator[str]:
    """The lines of the page; with an explanation its answers stand above the records.

    Raises ValueError where there is no history.
    """
    if not steps:
        raise ValueError("there is no history to show: the log has no such job")
    job, began = steps[-1].job, steps[0].record.at
    title = f"{escape(job.id)} &middot; {escape(job.queue)}"
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}</title><style>{_STYLE}</style></head><body>"
    yield f'<h1>job {escape(job.id)} <span class="badge" {_colour(job.state)}>{job.state}</span></h1>'
    where = f"in queue <b>{escape(job.queue)}</b> of tenant {escape(job.tenant)}"
    yield f"<p>task <b>{escape(job.task)}</b> {where}</p>"
    took = duration(steps[-1].record.at - began)
    yield f'<p class="dim">from {clock_time(began)}, {took}, {len(steps)} records</p>'
    yield from _bar(steps)
    if explanation is not None:
        yield "<h2>What happened, and why</h2>"
        for answer in explanation.answers:
            yield from _answer(answer)
    yield "<h2>Records</h2>"
    yield "<table><thead><tr><th>record</th><th>after</th><th>event</th><th>what it says</th>"
    yield '<th class="wide">then</th></tr></thead><tbody>'
    for step in steps:
        yield from _rows(step, began)
    yield "</tbody></table></body></html>"


def _colour(state: State) -> str:
    return f'style="background:var(--{state.value})"'


def _spans(steps: Sequence[Step]) -> list[tuple[State, int, int]]:
    """The states that the job stood in one after the other, each from when to when."""
    spans: list[tuple[State, int, int]] = []
    for step, after in zip(steps, [*steps[1:], steps[-1]], strict=True):
        state, start, end = step.job.state, step.record.at, after.record.at
        if spans and spans[-1][0] is state:
            spans[-1] = (state, spans[-1][1], end)
        else:
            spans.append((state, start, end))
    return spans


def _bar(steps: Sequence[Step]) -> Iterator[str]:
    """The states on a line as long as the history, with the attempts below it."""
    began, all_us = steps[0].record.at, max(1, steps[-1].record.at - steps[0].record.at)
    spans = _spans(steps)
    yield '<div class="bar">'
    for state, start, end in spans:
        words = f"{state}: {duration(end - start)}"
        share = max(0.2, 100 * (end - start) / all_us)
        yield f'<div title="{words}" style="flex:{share:.3f};background:var(--{state.value})"></div>'
    yield '</div><div class="lanes">'
    for words, start, end in _attempts(steps):
        left, width = 100 * (start - began) / all_us, 100 * (end - start) / all_us
        side = f"left:{left:.3f}%" if left < 60 else f"right:{100 - left:.3f}%"
        yield f'<div class="lane"><div style="left:{min(left, 99.5):.3f}%;width:{width:.3f}%"></div>'
        beside = f"left:{left + width:.3f}%" if left + width < 60 else side
        yield f'<span style="{beside}">{escape(words)}</span></div>'
    yield '</div><div class="key">'
    for state in dict.fromkeys(state for state, _, _ in spans):
        total = sum(end - start for each, start, end in spans if each is state)
        yield f"<span><i {_colour(state)}></i>{state.value} {duration(total)}</span>"
    yield "</div>"


def _attempts(steps: Sequence[Step]) -> list[tuple[str, int, int]]:
    """Each lease: which attempt by whom, from when to when."""
    found: list[tuple[str, int, int]] = []
    for index, step in enumerate(steps):
        for event in step.record.events:
            if isinstance(event, LeaseGranted) and not step.is_context:
                ends = (s.record.at for s in steps[index:] if s.job.lease is None)
                words = f"attempt {event.attempt}, {event.worker}"
                found.append((words, step.record.at, next(ends, steps[-1].record.at)))
    return found


def _answer(answer: Answer) -> Iterator[str]:
    yield f'<div class="answer"><b>{escape(answer.question)}</b>'
    for sentence in answer.sentences:
        yield f"<p>{escape(sentence)}</p>"
    if answer.records:
        links = ", ".join(f'<a href="#r{seq}">{seq}</a>' for seq in answer.records)
        yield f"<small>from records {links}</small>"
    yield "</div>"


def _rows(step: Step, began: int) -> Iterator[str]:
    record = step.record
    moved = step.before is None or step.before.state is not step.job.state
    for number, event in enumerate(record.events):
        first, last = number == 0, number == len(record.events) - 1
        name, words = type_names[type(event)], escape(event_words(event, step))
        then = (
            f'<span class="badge" {_colour(step.job.state)}>{step.job.state}</span>' if last and moved else ""
        )
        anchor = f' id="r{record.seq}"' if first else ""
        yield f"<tr{anchor}{' class=context' if step.is_context else ''}>"
        yield f'<td class="seq">{f"#{record.seq}" if first else ""}</td>'
        yield f'<td class="since">{f"+{duration(record.at - began)}" if first else ""}</td>'
        yield f'<td><code>{name}</code></td><td>{words}</td><td class="wide">{then}</td></tr>'
