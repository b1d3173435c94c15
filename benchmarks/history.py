"""The figures over time: one line of JSON for each recorded run, and a drawing made from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

import msgspec

from .bars import cores, middle, start_p50, start_p99
from .figures import Report, Result

HISTORY: Final = Path(__file__).with_name("history.jsonl")
PLOT: Final = Path(__file__).with_name("history.svg")
_WIDTH, _HEIGHT, _LEFT, _TOP = 420, 110, 60, 34


@dataclass(frozen=True)
class Panel:
    """One figure over time. `better` says which way is up."""

    key: str
    title: str
    workload: str
    of: Callable[[Result], float | None]
    better: str = "more"


PANELS: Final[tuple[Panel, ...]] = (
    Panel("bulk_per_s", "bulk, jobs/s", "bulk", lambda r: r.jobs_per_s),
    Panel("bulk_share", "bulk, share of the limit", "bulk", lambda r: r.limit_share),
    Panel("single_per_s", "one at a time, jobs/s", "single", lambda r: r.jobs_per_s),
    Panel("fifty_per_s", "50 submitters, jobs/s", "fifty", lambda r: r.jobs_per_s),
    Panel("light_p50_ms", "50 jobs/s, p50 to start, ms", "light", start_p50, "less"),
    Panel("light_p99_ms", "50 jobs/s, p99 to start, ms", "light", start_p99, "less"),
    Panel("half_p99_ms", "half load, p99 to start, ms", "half", start_p99, "less"),
    Panel("node_us", "bulk, CPU of the node, us a job", "bulk", lambda r: r.cpu_us_per_job["node"], "less"),
    Panel("stored_bytes", "bulk, log bytes a job", "bulk", lambda r: r.stored_bytes_per_job, "less"),
    Panel("pollers_cores", "1,000 idle pollers, cores", "pollers", cores, "less"),
)


class Entry(msgspec.Struct, frozen=True):
    """A recorded run: medians of its passes."""

    at: str
    mode: str
    commit: str
    cpu: str
    filesystem: str
    figures: dict[str, float]


def entry(report: Report) -> Entry:
    """What is kept of a report."""
    figures = {panel.key: middle(report.results, panel.workload, panel.of) for panel in PANELS}
    return Entry(
        report.at,
        report.mode,
        report.versions["commit"],
        f"{report.machine['cores']} x {report.machine['cpu']}",
        report.machine["filesystem"],
        {key: round(figure, 4) for key, figure in figures.items() if figure is not None},
    )


def record(report: Report, history: Path = HISTORY, plot: Path = PLOT) -> None:
    """Adds a line to the history, and draws it anew."""
    with history.open("ab") as file:
        file.write(msgspec.json.encode(entry(report)) + b"\n")
    plot.write_text(draw(read(history)), encoding="utf-8")


def read(history: Path = HISTORY) -> list[Entry]:
    """Every recorded run, oldest first."""
    return [msgspec.json.decode(line, type=Entry) for line in history.read_bytes().splitlines() if line]


# --- the drawing ----------------------------------------------------------------------------------------


def draw(entries: Sequence[Entry]) -> str:
    """An SVG with a panel for each figure; the runs from left to right, from zero upwards."""
    parts = [_panel(panel, entries, place) for place, panel in enumerate(PANELS)]
    rows = (len(PANELS) + 1) // 2
    width, height = 2 * (_WIDTH + 2 * _LEFT), rows * (_HEIGHT + 2 * _TOP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' font-family="sans-serif" font-size="11">\n<rect width="{width}" height="{height}" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(panel: Panel, entries: Sequence[Entry], place: int) -> str:
    left = _LEFT + place % 2 * (_WIDTH + 2 * _LEFT)
    top = _TOP + place // 2 * (_HEIGHT + 2 * _TOP)
    found = [
        (x, each, each.figures[panel.key]) for x, each in enumerate(entries) if panel.key in each.figures
    ]
    most = max((figure for _, _, figure in found), default=0) or 1
    step = _WIDTH / max(1, len(entries) - 1)
    points = [
        (left + x * step, top + _HEIGHT * (1 - figure / most), each, figure) for x, each, figure in found
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
    dots = "\n".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#1f6feb">'
        f"<title>{escape(f'{each.at} {each.commit}: {figure:g}')}</title></circle>"
        for x, y, each, figure in points
    )
    last = f"{points[-1][3]:g}" if points else "-"
    return (
        f'<text x="{left}" y="{top - 12}" font-weight="bold">{escape(panel.title)}: {last}'
        f'<tspan font-weight="normal" fill="#777"> ({panel.better} is better)</tspan></text>\n'
        f'<line x1="{left}" y1="{top + _HEIGHT}" x2="{left + _WIDTH}" y2="{top + _HEIGHT}" stroke="#999"/>\n'
        f'<text x="{left - 6}" y="{top + 4}" text-anchor="end" fill="#777">{most:g}</text>\n'
        f'<text x="{left - 6}" y="{top + _HEIGHT + 4}" text-anchor="end" fill="#777">0</text>\n'
        f'<polyline points="{line}" fill="none" stroke="#1f6feb"/>\n{dots}'
    )
