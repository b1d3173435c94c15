"""Figures in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .bars import middle, start_p50, start_p99
from .beside import middle as of_peer
from .figures import Report, Result, Spread

_INDENT = " " * 12


def show_result(result: Result) -> str:
    """A few lines for one run of one workload."""
    lines = [f"{result.workload:<12}{result.jobs or '':{',' if result.jobs else ''}} {result.about}".rstrip()]
    if result.jobs:
        lines += [
            f"{result.jobs_per_s:,.0f} jobs/s, {result.records_per_s:,.0f} records/s{_limit(result)}",
            *([f"sent late by     {_spread(result.late)}"] if result.late else []),
            f"submit to start  {_spread(result.start)}",
            *(f"  priority {name}     {_spread(each)}" for name, each in result.start_by_priority.items()),
            f"to completion    {_spread(result.completion)}",
            f"CPU us per job   {_by_process(result.cpu_us_per_job, '{:,.0f}')}",
            f"log, per job     {result.stored_bytes_per_job:,.0f} bytes, {result.records_per_job:g} records",
            f"view caught up   {result.view_lag_s:.3f} s after the last record",
        ]
    else:
        lines += [f"cores            {_by_process(result.cpu_cores, '{:.4f}')}"]
    lines += [f"resident MB      {_by_process(result.rss_mb, '{:,.0f}')}"]
    if result.evidence is not None:
        told = result.evidence
        ends = ", ".join(f"{number:,} {end}" for end, number in told.ends.items())
        lines += [f"log: {told.records_verified:,} records verified, {told.attempts:,} attempts, {ends}"]
        lines += [f"FAULT: {fault}" for fault in told.faults]
    return f"\n{_INDENT}".join(lines)


def show_peers(report: Report) -> str:
    """The table of medians, the fastest first; ours is on top."""
    ours = [
        middle(report.results, "single", lambda r: r.jobs_per_s),
        middle(report.results, "bulk", lambda r: r.jobs_per_s),
        middle(report.results, "light", start_p50),
        middle(report.results, "light", start_p99),
    ]
    rows = [_row("writ", ours, "JetStream, fsync; every transition kept in a hash chain")]
    theirs = {line["name"]: line for line in report.peers}
    figures = ("single_e2e_per_s", "bulk_e2e_per_s", "lat_p50_ms", "lat_p99_ms")
    found = {name: [of_peer(report.peers, name, figure) for figure in figures] for name in theirs}
    for name in sorted(found, key=lambda name: -max(found[name][0] or 0, found[name][1] or 0)):
        line = theirs[name]
        rows.append(_row(name, found[name], line.get("error") or f"{line['durability']}; {line['history']}"))
    head = f"{'':<22}{'one/s':>8}{'bulk/s':>9}{'p50 ms':>9}{'p99 ms':>9}  what is kept"
    return "\n".join([head, *rows])


def _row(name: str, figures: Sequence[float | None], kept: str) -> str:
    one, bulk, p50, p99 = figures
    rates = f"{_plain(one, ',.0f'):>8}{_plain(bulk, ',.0f'):>9}"
    return f"{name:<22}{rates}{_plain(p50, ',.2f'):>9}{_plain(p99, ',.2f'):>9}  {kept}"


def _plain(figure: float | None, form: str) -> str:
    return "-" if figure is None else format(figure, form)


def show_verdicts(report: Report) -> str:
    """Each bar on a line."""
    mark = {True: "kept  ", False: "MISSED", None: "-     "}
    return "\n".join(f"{mark[each.kept]}  {each.bar}: {each.figure}" for each in report.verdicts)


def summary(report: Report, seconds: float) -> str:
    """The one line at the end."""
    missed = [each.bar for each in report.verdicts if each.kept is False]
    open_ = sum(each.kept is None for each in report.verdicts)
    kept = sum(each.kept is True for each in report.verdicts)
    word = f"missed: {'; '.join(missed)}" if missed else "none missed"
    return (
        f"bench {report.mode}, commit {report.versions['commit']}, {seconds:.0f} s: "
        f"{kept} bars kept, {len(missed)} missed, {open_} not judged ({word})"
    )


def _limit(result: Result) -> str:
    if result.limit is None or result.limit_share is None:
        return ""
    tries = ", ".join(f"{rate:,}" for rate in result.limit.tries_records_per_s)
    return f", {result.limit_share:.1%} of the limit's bytes/s (plain batches: {tries} records/s)"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return (
        f"p50 {spread.p50_ms:,.2f}  p99 {spread.p99_ms:,.2f}  p99.9 {spread.p999_ms:,.2f}  "
        f"max {spread.max_ms:,.2f} ms"
    )


def _by_process(values: Mapping[str, float], form: str) -> str:
    return "  ".join(f"{who} {form.format(values[who])}" for who in sorted(values))
