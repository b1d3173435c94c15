"""The bars: what must hold, held against the medians of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

from .beside import Line, did_not_run, fastest
from .figures import Result, Verdict

LIMIT_SHARE_MIN: Final = 0.60
FIFTY_MIN_PER_S: Final = 5_000
LIGHT_P50_MAX_MS: Final = 1.5
LIGHT_P99_MAX_MS: Final = 4.0
HALF_P99_MAX_MS: Final = 20.0
POLLERS_MAX_CORES: Final = 0.05
IDLE_MAX_CORES: Final = 0.01
IDLE_MAX_MB: Final = 150
STORED_MAX_BYTES: Final = 2_000

_SERVICE: Final = ("node", "views", "broker")
"""All that `writ up` runs."""


def verdicts(results: Sequence[Result], peers: list[Line]) -> list[Verdict]:
    """Each bar with its figure; None where nothing was measured that could tell."""
    return [
        *_rates(results, peers),
        *_latencies(results),
        *_costs(results),
        _whole(results),
        *([_all_ran(peers)] if peers else []),
    ]


def middle(results: Sequence[Result], workload: str, of: Callable[[Result], float | None]) -> float | None:
    """The median of a figure over all runs of a workload."""
    found = [figure for each in results if each.workload == workload if (figure := of(each)) is not None]
    return median(found) if found else None


def _rates(results: Sequence[Result], peers: list[Line]) -> list[Verdict]:
    bulk = middle(results, "bulk", lambda r: r.jobs_per_s)
    share = middle(results, "bulk", lambda r: r.limit_share)
    single = middle(results, "single", lambda r: r.jobs_per_s)
    fifty = middle(results, "fifty", lambda r: r.jobs_per_s)
    pgqueuer = fastest(peers, "bulk_e2e_per_s", name="pgqueuer")
    synced = fastest(peers, "single_e2e_per_s", synced=True)
    return [
        _beside("bulk: ahead of PgQueuer", bulk, pgqueuer),
        _at_least("bulk: share of the limit", share, LIMIT_SHARE_MIN, "{:.2f}"),
        _beside("one at a time: ahead of every peer that syncs", single, synced),
        _at_least("50 submitters: jobs/s", fifty, FIFTY_MIN_PER_S, "{:,.0f}"),
    ]


def _latencies(results: Sequence[Result]) -> list[Verdict]:
    light50 = middle(results, "light", start_p50)
    light99 = middle(results, "light", start_p99)
    halves = [
        _at_most(f"{name}: p99 to start, ms", at, HALF_P99_MAX_MS, "{:.1f}")
        for name in ("half", "half-bulk")
        for at in [middle(results, name, start_p99)]
    ]
    return [
        _at_most("50 jobs/s: p50 to start, ms", light50, LIGHT_P50_MAX_MS, "{:.2f}"),
        _at_most("50 jobs/s: p99 to start, ms", light99, LIGHT_P99_MAX_MS, "{:.2f}"),
        *halves,
    ]


def start_p50(result: Result) -> float | None:
    """Of submit to start, in milliseconds."""
    return result.start.p50_ms if result.start else None


def start_p99(result: Result) -> float | None:
    """Of submit to start, in milliseconds."""
    return result.start.p99_ms if result.start else None


def cores(result: Result) -> float:
    """What the node and its broker use."""
    return sum(result.cpu_cores.get(who, 0.0) for who in _SERVICE)


def _costs(results: Sequence[Result]) -> list[Verdict]:
    polling = middle(results, "pollers", cores)
    resting = middle(results, "idle", cores)
    memory = middle(results, "idle", lambda r: sum(r.rss_mb.get(who, 0.0) for who in _SERVICE))
    stored = [
        bytes_
        for name in ("bulk", "single", "fifty", "light")
        if (bytes_ := middle(results, name, lambda r: r.stored_bytes_per_job)) is not None
    ]
    return [
        _at_most("1,000 idle pollers: cores of node and broker", polling, POLLERS_MAX_CORES, "{:.3f}"),
        _at_most("idle: cores of node and broker", resting, IDLE_MAX_CORES, "{:.4f}"),
        _at_most("idle: MB of node and broker", memory, IDLE_MAX_MB, "{:.0f}"),
        _at_most("log bytes of a no-op job", max(stored, default=None), STORED_MAX_BYTES, "{:,.0f}"),
    ]


def _whole(results: Sequence[Result]) -> Verdict:
    faults = [f"{r.workload}: {fault}" for r in results if r.evidence for fault in r.evidence.faults]
    jobs = sum(r.evidence.jobs for r in results if r.evidence)
    figure = f"{len(faults)} faults, first {faults[0]}" if faults else f"{jobs:,} jobs"
    return Verdict("each history is whole", figure, not faults if jobs else None)


def _all_ran(peers: list[Line]) -> Verdict:
    missing = did_not_run(peers)
    return Verdict("every peer ran", "; ".join(missing) or f"{len(peers)} runs", not missing)


def _at_least(bar: str, figure: float | None, least: float, form: str) -> Verdict:
    return _verdict(bar, figure, f"at least {form.format(least)}", lambda f: f >= least, form)


def _at_most(bar: str, figure: float | None, most: float, form: str) -> Verdict:
    return _verdict(bar, figure, f"at most {form.format(most)}", lambda f: f <= most, form)


def _verdict(
    bar: str, figure: float | None, wanted: str, good: Callable[[float], bool], form: str
) -> Verdict:
    if figure is None:
        return Verdict(bar, f"not measured, {wanted}", None)
    return Verdict(bar, f"{form.format(figure)}, {wanted}", good(figure))


def _beside(bar: str, figure: float | None, peer: tuple[str, float] | None) -> Verdict:
    if figure is None or peer is None:
        ours = "not measured" if figure is None else f"{figure:,.0f} jobs/s"
        return Verdict(bar, f"{ours}; no peer ran beside it", None)
    name, theirs = peer
    return Verdict(bar, f"{figure:,.0f} jobs/s, {name} {theirs:,.0f}", figure > theirs)
