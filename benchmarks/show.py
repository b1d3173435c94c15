"""Figures in words."""

from __future__ import annotations

from collections.abc import Mapping

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
            f"log, per job     {result.stored_bytes_per_job:,.0f} bytes in {result.records_per_job:.2f} records; "
            f"the view caught up after {result.view_lag_s:.3f} s",
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
