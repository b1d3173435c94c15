"""What an evaluation found, for people and for CI: Markdown, JUnit XML, a page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from statistics import fmean
from typing import Final, NamedTuple
from xml.etree import ElementTree

from writ.schemas.evaluations import Better, Compared, Outcome

from .run import Evaluation

WORST: Final = 50
"""Items that a report lists, the worst regressions first."""

_MARKS: Final = {Outcome.PASS: "✔ pass", Outcome.FAIL: "✘ fail", Outcome.INCONCLUSIVE: "? inconclusive"}


class Changed(NamedTuple):
    """How one item's mean moved in one dimension, turned so that negative is worse."""

    item: str
    dimension: str
    change: float
    candidate: tuple[float | None, ...]
    baseline: tuple[float | None, ...]


def regressions(found: Evaluation) -> list[Changed]:
    """Items whose mean moved, the worst first: by the share of the largest move in their dimension."""
    moved: list[tuple[float, Changed]] = []
    for measured in found.measured:
        if measured.baseline is None:
            continue
        sign = 1.0 if measured.dimension.better is Better.HIGHER else -1.0
        changes: list[Changed] = []
        for item, ours, theirs in zip(found.items, measured.candidate, measured.baseline, strict=True):
            means = [mean(side) for side in (ours, theirs)]
            if means[0] is None or means[1] is None or means[0] == means[1]:
                continue
            changes.append(Changed(item, measured.dimension.name, sign * (means[0] - means[1]), ours, theirs))
        most = max((abs(each.change) for each in changes), default=1.0)
        moved += [(each.change / most, each) for each in changes]
    return [each for _, each in sorted(moved, key=lambda pair: (pair[0], pair[1].item))]


def markdown(found: Evaluation) -> str:
    """A summary for a pull request or a terminal."""
    verdict = found.verdict
    against = f" against {found.baseline.name}" if found.baseline is not None else ""
    lines = [
        f"## {_MARKS[verdict.outcome]}: {found.candidate.name}{against} on {found.plan}",
        "",
        f"{verdict.items} items, {found.repeats} repeats, data {found.data} `{found.data_digest[:12]}`.",
        "",
        "| dimension | verdict | candidate | baseline | change (95 %) | why |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in verdict.dimensions:
        change = "" if each.change is None else f"{each.change:+.3g} ({each.low:+.3g} to {each.high:+.3g})"
        cells = [
            each.dimension,
            _MARKS[each.outcome],
            _number(each.candidate),
            _number(each.baseline),
            change,
        ]
        lines.append(f"| {' | '.join(cells)} | {each.reason.replace('|', chr(92) + '|')} |")
    worse = [each for each in regressions(found) if each.change < 0]
    if worse:
        lines += ["", f"{len(worse)} items are worse in a dimension; the first:", ""]
        for moved in worse[:10]:
            was, now = (_number(mean(side)) for side in (moved.baseline, moved.candidate))
            lines.append(f"- `{moved.item}` {moved.dimension}: {was} to {now}")
    for name, stable in found.stability.items():
        if stable.flaky:
            lines += ["", f"{len(stable.flaky)} items are flaky in {name}: {', '.join(stable.flaky[:10])}."]
    lines += [f"\nMissing: {fault}" for fault in found.faults]
    return "\n".join(lines) + "\n"


def junit(found: Evaluation) -> str:
    """A test case for each dimension: what is inconclusive is an error, as it has decided nothing."""
    outcomes = [each.outcome for each in found.verdict.dimensions]
    suite = ElementTree.Element(
        "testsuite",
        name=f"{found.plan}: {found.candidate.name}",
        tests=str(len(outcomes)),
        failures=str(outcomes.count(Outcome.FAIL)),
        errors=str(outcomes.count(Outcome.INCONCLUSIVE)),
    )
    for each in found.verdict.dimensions:
        case = ElementTree.SubElement(suite, "testcase", classname=found.plan, name=each.dimension)
        if each.outcome is not Outcome.PASS:
            kind = "failure" if each.outcome is Outcome.FAIL else "error"
            ElementTree.SubElement(case, kind, message=each.reason).text = each.reason
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --dim: #777;
  --pass: #2da44e; --fail: #d1373f; --unsure: #d9a400; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.45rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2.4rem 0 .6rem; }
.dim { color: var(--dim); }
.badge { display: inline-block; padding: .05rem .6rem; border-radius: 1rem; color: #fff; font-size: .85rem;
  white-space: nowrap; }
.pass { background: var(--pass); } .fail { background: var(--fail); }
.inconclusive { background: var(--unsure); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid var(--line); }
th { font-weight: 500; color: var(--dim); font-size: .85rem; }
td { overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } svg text { fill: currentColor; font-size: 12px; }
.axis { stroke: var(--line); } .worse { color: var(--fail); } .better { color: var(--pass); }
"""


def html(found: Evaluation) -> Iterator[str]:
    """The page, in pieces: verdicts, a plot of the changes, and the items, the worst regressions first."""
    verdict, against = found.verdict, ""
    if found.baseline is not None:
        against = f" against {escape(found.baseline.name)}"
    title = f"{escape(found.candidate.name)}{against}"
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<title>{title}: {verdict.outcome}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{title} {_badge(verdict.outcome)}</h1>"
    yield (
        f'<p class="dim">Plan {escape(found.plan)}, {verdict.items} items of {escape(found.data)}'
        f" ({found.data_digest[:12]}), {found.repeats} repeats. Candidate {escape(found.candidate.release)}"
        f"{', baseline ' + escape(found.baseline.release) if found.baseline is not None else ''}.</p>"
    )
    yield "<h2>Verdicts</h2><table><tr><th>dimension<th>verdict<th>candidate<th>baseline<th>why</tr>"
    for each in verdict.dimensions:
        yield (
            f"<tr><td>{escape(each.dimension)}<td>{_badge(each.outcome)}<td>{_number(each.candidate)}"
            f"<td>{_number(each.baseline)}<td>{escape(each.reason)}</tr>"
        )
    yield "</table>"
    yield from _plot(verdict.dimensions)
    yield from _stability(found)
    yield from _items(found)
    if found.faults:
        yield (
            "<h2>Missing</h2><ul>" + "".join(f"<li>{escape(fault)}</li>" for fault in found.faults) + "</ul>"
        )
    yield "</body></html>\n"


def _plot(dimensions: tuple[Compared, ...]) -> Iterator[str]:
    """Each change with its interval, around a line at none; a tick: the smallest drop that would be found."""
    drawn = [each for each in dimensions if each.change is not None]
    if not drawn:
        return
    reach = max(
        (abs(value) for each in drawn for value in (each.low, each.high, each.smallest_drop) if value),
        default=1.0,
    )
    row, left, width = 34, 160, 640
    height = row * len(drawn) + 30

    def x(value: float) -> float:
        return left + width / 2 + value / reach * width / 2 * 0.95

    yield "<h2>Change against the baseline, with 95 % confidence; left is worse</h2>"
    yield f'<svg viewBox="0 0 {left + width + 20} {height}" role="img" aria-label="changes by dimension">'
    yield f'<line class="axis" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="0" y2="{height - 24}"/>'
    for i, each in enumerate(drawn):
        y = row * i + row / 2
        low, high, change = each.low or 0.0, each.high or 0.0, each.change or 0.0
        color = {Outcome.PASS: "--pass", Outcome.FAIL: "--fail"}.get(each.outcome, "--unsure")
        yield f'<text x="0" y="{y + 4}">{escape(each.dimension[:24])}</text>'
        yield (
            f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}" stroke="var({color})"'
            ' stroke-width="4" stroke-linecap="round"/>'
        )
        yield f'<circle cx="{x(change):.1f}" cy="{y}" r="6" fill="var({color})"/>'
        if each.smallest_drop:
            at = x(-each.smallest_drop)
            yield f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{y - 9}" y2="{y + 9}"/>'
    for value in (-reach, 0.0, reach):
        yield f'<text x="{x(value):.1f}" y="{height - 6}" text-anchor="middle">{value:+.2g}</text>'
    yield "</svg>"


def _stability(found: Evaluation) -> Iterator[str]:
    if not found.stability:
        return
    most = max(len(each.pass_hat) for each in found.stability.values())
    yield "<h2>Stability of the candidate: the chance that so many tries at an item all pass</h2><table>"
    yield f"<tr><th>dimension{''.join(f'<th>{k}' for k in range(1, most + 1))}<th>flaky items</tr>"
    for name, each in found.stability.items():
        cells = "".join(f"<td>{value:.1%}" for value in each.pass_hat)
        cells += "<td>" * (most - len(each.pass_hat))
        yield f"<tr><td>{escape(name)}{cells}<td>{escape(', '.join(each.flaky[:20]))}</tr>"
    yield "</table>"


def _items(found: Evaluation) -> Iterator[str]:
    changed = regressions(found)
    if not changed:
        return
    shown = changed[:WORST]
    left = f", {len(changed) - len(shown)} more are left out" if len(changed) > len(shown) else ""
    yield f"<h2>Items that moved, the worst first{left}</h2>"
    yield "<table><tr><th>item<th>dimension<th>change<th>baseline<th>candidate</tr>"
    for each in shown:
        kind = "worse" if each.change < 0 else "better"
        tries = [" ".join(_number(value) for value in side) for side in (each.baseline, each.candidate)]
        yield (
            f'<tr><td>{escape(each.item)}<td>{escape(each.dimension)}<td class="{kind}">{each.change:+.3g}'
            f"<td>{tries[0]}<td>{tries[1]}</tr>"
        )
    yield "</table>"


def _badge(outcome: Outcome) -> str:
    return f'<span class="badge {outcome}">{_MARKS[outcome]}</span>'


def mean(values: tuple[float | None, ...]) -> float | None:
    """Of the values that are there; None without any."""
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if math.isfinite(value) else str(value)
