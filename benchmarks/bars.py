"""The bars: what must hold, held against the medians of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan
from statistics import median
from typing import Any, Final

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

Peer = dict[str, Any]
"""A peer's line, as its harness printed it."""


def verdicts(results: Sequence[Result], peers: Sequence[Peer]) -> list[Verdict]:
    """Each bar with its figure; None where nothing was measured that could tell."""
    return [
        *_rates(results, peers),
        *_latencies(results),
        *_costs(results),
        _whole(results),
    ]


def middle(results: Sequence[Result], workload: str, of: Callable[[Result], float | None]) -> float | None:
    """The median of a figure over all runs of a workload."""
    found = [figure for each in results if each.workload == workload if (figure := of(each)) is not None]
    return median(found) if found else None


def ahead_of(peers: Sequence[Peer], figure: str, names: Callable[[Peer], bool]) -> tuple[str, float] | None:
    """The fastest of some peers by the median of a figure. One without it in any pass counts as absent."""
    best: tuple[str, float] | None = None
    for name in {peer_name(peer) for peer in peers if names(peer)}:
        rates = [float(peer.get(figure, "nan")) for peer in peers if peer_name(peer) == name]
        if not any(map(isnan, rates)) and (best is None or median(rates) > best[1]):
            best = (name, median(rates))
    return best


def peer_name(peer: Peer) -> str:
    return peer["peer"] if peer["mode"] == "default" else f"{peer['peer']} ({peer['mode']})"


def is_synced(peer: Peer) -> bool:
    """Whether it has a job on disk before it says so; the bare stream that bounds us is no peer."""
    promise = str(peer.get("durability", ""))
    return "floor" not in peer["peer"] and ("fsync" in promise or "own log on disk" in promise)


def _rates(results: Sequence[Result], peers: Sequence[Peer]) -> list[Verdict]:
    bulk = middle(results, "bulk", lambda r: r.jobs_per_s)
    share = middle(results, "bulk", lambda r: r.limit_share)
    single = middle(results, "single", lambda r: r.jobs_per_s)
    fifty = middle(results, "fifty", lambda r: r.jobs_per_s)
    pgqueuer = ahead_of(peers, "bulk_e2e_per_s", lambda p: p["peer"] == "pgqueuer")
    synced = ahead_of(peers, "single_e2e_per_s", is_synced)
    return [
        _beside("bulk: ahead of PgQueuer", bulk, pgqueuer),
        _at_least("bulk: share of the limit", share, LIMIT_SHARE_MIN, "{:.2f}"),
        _beside("one at a time: ahead of every peer that syncs", single, synced),
        _at_least("50 submitters: jobs/s", fifty, FIFTY_MIN_PER_S, "{:,.0f}"),
    ]


def _latencies(results: Sequence[Result]) -> list[Verdict]:
    light50 = middle(results, "light", lambda r: r.start.p50_ms if r.start else None)
    light99 = middle(results, "light", lambda r: r.start.p99_ms if r.start else None)
    halves = [
        _at_most(f"{name}: p99 to start, ms", at, HALF_P99_MAX_MS, "{:.1f}")
        for name in ("half", "half-bulk")
        for at in [middle(results, name, lambda r: r.start.p99_ms if r.start else None)]
    ]
    return [
        _at_most("50 jobs/s: p50 to start, ms", light50, LIGHT_P50_MAX_MS, "{:.2f}"),
        _at_most("50 jobs/s: p99 to start, ms", light99, LIGHT_P99_MAX_MS, "{:.2f}"),
        *halves,
    ]


def _costs(results: Sequence[Result]) -> list[Verdict]:
    def cores(result: Result) -> float:
        return result.cpu_cores["node"] + result.cpu_cores["broker"]

    polling = middle(results, "pollers", cores)
    resting = middle(results, "idle", cores)
    memory = middle(results, "idle", lambda r: r.rss_mb["node"] + r.rss_mb["broker"])
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
