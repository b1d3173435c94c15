"""Drawings that the server makes: SVG of a few plain shapes, as wide as the page lets them be.

Lengths across are percentages and lengths down are pixels, so nothing is stretched and text stays legible on
a telephone. Colours come from the style sheet by class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from markupsafe import Markup, escape

from writ.orchestrator.replay.text import duration

from .text import plain

MARKS: Final = {
    "scheduled": "M6 1.2a4.8 4.8 0 1 0 0 9.6 4.8 4.8 0 0 0 0-9.6M6 3.2V6l2 1.4",
    "pending": "M6 1.6a4.4 4.4 0 1 0 0 8.8 4.4 4.4 0 0 0 0-8.8",
    "suspended": "M4 2v8M8 2v8",
    "running": "M3 1.8 10 6 3 10.2Z",
    "retrying": "M10 6a4 4 0 1 1-1.4-3M9.6 1v2.4H7.2",
    "completed": "M1.8 6.4 4.8 9.4 10.2 2.8",
    "cancelled": "M6 1.6a4.4 4.4 0 1 0 0 8.8 4.4 4.4 0 0 0 0-8.8M3 9l6-6",
    "dead": "M2.4 2.4l7.2 7.2M9.6 2.4 2.4 9.6",
}
"""The shape of each state, on 12 by 12: told apart without colour."""

_FILLED: Final = frozenset({"running"})


def mark(state: str) -> Markup:
    """The shape of a state; it says nothing by itself and stands beside the word."""
    return Markup(
        '<svg class="mark" viewBox="0 0 12 12" aria-hidden="true"><path class="{}" d="{}"/></svg>'
    ).format("solid" if state in _FILLED else "", MARKS.get(state, MARKS["pending"]))


def state(name: str, count: int | None = None) -> Markup:
    """A state: its shape and its word, and how many are in it."""
    number = Markup("") if count is None else Markup(" <b>{}</b>").format(f"{count:,}")
    return Markup('<span class="state s-{0}">{1}{0}{2}</span>').format(name, mark(name), number)


class Line(NamedTuple):
    """Numbers over time, oldest first, with the class of their colour."""

    name: str
    values: Sequence[float]
    kind: str


def area(lines: Sequence[Line], words: str, height: int = 96) -> Markup:
    """Lines over the same time, the first filled; `words` say for all what there is to see."""
    top = max([1.0, *[value for line in lines for value in line.values]])
    parts: list[Markup] = []
    for place, line in enumerate(lines):
        count = max(2, len(line.values))
        points = [
            f"{1000 * index / (count - 1):.1f},{height - 2 - (height - 8) * value / top:.1f}"
            for index, value in enumerate(line.values)
        ]
        if place == 0:
            filled = " ".join([f"0,{height}", *points, f"1000,{height}"])
            parts.append(Markup('<polygon class="fill {}" points="{}"/>').format(line.kind, filled))
        parts.append(
            Markup('<polyline class="line {}" points="{}" vector-effect="non-scaling-stroke"/>').format(
                line.kind, " ".join(points)
            )
        )
    return Markup(
        '<svg class="area" viewBox="0 0 1000 {0}" preserveAspectRatio="none" role="img" aria-label="{1}" '
        'height="{0}">{2}</svg>'
    ).format(height, words, Markup("").join(parts))


def bar(parts: Sequence[tuple[str, float, str]], words: str) -> Markup:
    """Shares of a whole side by side: name, value, class."""
    total = sum(value for _, value, _ in parts) or 1
    at = 0.0
    shapes: list[Markup] = []
    for name, value, kind in parts:
        if value <= 0:
            continue
        width = 100 * value / total
        shapes.append(_rect(at, width, 0, 10, kind, f"{name}: {value:,.10g}"))
        at += width
    return Markup('<svg class="bar" height="10" width="100%" role="img" aria-label="{}">{}</svg>').format(
        words, Markup("").join(shapes)
    )


def meter(value: float, most: float, kind: str = "accent") -> Markup:
    """How much of the most there is, for a cell of a table that says the number too."""
    width = 0.0 if most <= 0 else min(100.0, 100 * value / most)
    return Markup(
        '<svg class="meter" height="6" width="100%" aria-hidden="true"><rect class="rail" width="100%" '
        'height="6" rx="3"/><rect class="{}" width="{:.2f}%" height="6" rx="3"/></svg>'
    ).format(kind, width)


def _rect(x: float, width: float, y: int, height: int, kind: str, words: str, rx: int = 0) -> Markup:
    return Markup(
        '<rect class="{}" x="{:.3f}%" width="{:.3f}%" y="{}" height="{}" rx="{}"><title>{}</title></rect>'
    ).format(kind, x, max(width, 0.12), y, height, rx, plain(words, 300))


# --- a time line --------------------------------------------------------------------------------------------

LANE: Final = 26
_COLUMNS: Final = 800
"""Shapes that would fall on one of so many columns are drawn as one."""

_STEPS_US: Final = [
    unit * many
    for unit, manys in (
        (1_000, (1, 2, 5, 10, 20, 50, 100, 200, 500)),
        (1_000_000, (1, 2, 5, 10, 15, 30)),
        (60_000_000, (1, 2, 5, 10, 15, 30)),
        (3_600_000_000, (1, 2, 3, 6, 12)),
        (86_400_000_000, (1, 2, 7, 14, 30, 90, 365)),
    )
    for many in manys
]


class Span(NamedTuple):
    """Something from a time to a time, microseconds of log time; `kind` is a class, `words` tell of it."""

    start: int
    end: int
    kind: str
    words: str
    label: str = ""
    to: str = ""


class Lane(NamedTuple):
    """A line of a drawing: what lasts is a bar, what happened at once a stroke."""

    name: str
    spans: Sequence[Span]


def lanes(rows: Sequence[Lane], start: int, end: int, words: str) -> Markup:
    """Lanes below each other over one time, drawn to scale, with the time on a ruler above them."""
    whole = max(1, end - start)
    top = 18
    height = top + LANE * len(rows) + 2
    parts = [_ruler(start, whole, height)]
    for number, row in enumerate(rows):
        y = top + LANE * number
        parts.append(
            Markup('<text class="lane-name" x="0" y="{}">{}</text>').format(y + 9, plain(row.name, 60))
        )
        for span in _merged(row.spans, start, whole):
            parts.append(_span(span, start, whole, y + 12))
    return Markup('<svg class="lanes" width="100%" height="{}" role="group" aria-label="{}">{}</svg>').format(
        height, words, Markup("").join(parts)
    )


def _merged(spans: Sequence[Span], start: int, whole: int) -> list[Span]:
    """Spans of one kind that fall on the same column of the drawing are one: it stays small."""
    found: list[tuple[Span, int]] = []
    for span in spans:
        if found:
            last, count = found[-1]
            same = last.kind == span.kind and not (last.to or span.to)
            near = (span.end - last.start) * _COLUMNS < whole
            if same and near:
                found[-1] = (last._replace(end=max(last.end, span.end), label=""), count + 1)
                continue
        found.append((span, 1))
    return [
        span if count == 1 else span._replace(words=f"{count} times: {span.words}") for span, count in found
    ]


def _span(span: Span, start: int, whole: int, y: int) -> Markup:
    x = 100 * (span.start - start) / whole
    width = 100 * (span.end - span.start) / whole
    x = min(x, 99.85)
    if span.end == span.start:
        shape = _rect(x, 0.15, y, 12, span.kind, span.words)
    else:
        shape = _rect(x, min(width, 100 - x), y, 12, span.kind, span.words, 2)
    if span.label and width > 7:
        shape += Markup(  # a drawing of its own, which ends where the bar ends
            '<svg class="on" x="{:.3f}%" y="{}" width="{:.3f}%" height="12">'
            '<text x="5" y="9.5">{}</text></svg>'
        ).format(x, y, min(width, 100 - x), plain(span.label, 80))
    return Markup('<a href="{}">{}</a>').format(span.to, shape) if span.to else shape


def _ruler(start: int, whole: int, height: int) -> Markup:
    step = next((each for each in _STEPS_US if whole / each <= 8), _STEPS_US[-1])
    parts: list[Markup] = []
    for number in range(int(whole // step) + 1):
        x = 100 * number * step / whole
        parts.append(
            Markup('<line class="tick" x1="{0:.3f}%" x2="{0:.3f}%" y1="12" y2="{1}"/>').format(x, height)
        )
        if x < 94:
            words = "0" if not number else f"+{duration(number * step)}"
            kind = "tick-words" if number % 2 == 0 else "tick-words odd"
            parts.append(
                Markup('<text class="{}" x="{:.3f}%" dx="3" y="10">{}</text>').format(kind, x, escape(words))
            )
    return Markup("").join(parts)
