"""The figures of a run, as they are printed and kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, linear_regression
from typing import Any, Self

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """How long something took, in milliseconds, over `count` jobs."""

    count: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float

    @classmethod
    def of(cls, times_us: Iterable[float]) -> Self | None:
        """By nearest rank; None of no times."""
        ordered = sorted(times_us)
        if not ordered:
            return None

        def at(share: float) -> float:
            return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)] / 1_000, 3)

        return cls(len(ordered), at(0.5), at(0.99), at(0.999), at(1))


class Limit(msgspec.Struct, frozen=True):
    """Plain appends of the same messages in atomic batches of 1,000: each try, and the best of them."""

    records: int
    tries_records_per_s: tuple[int, ...]
    records_per_s: int
    bytes_per_s: int


class Evidence(msgspec.Struct, frozen=True):
    """What the log says of a workload's jobs. Without faults each history is whole and the chain holds."""

    records_verified: int
    jobs: int
    attempts: int
    ends: dict[str, int]
    faults: tuple[str, ...]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one workload. Rates and CPU are of the time from the first submit to the last job's end.

    A latency counts from the time at which the job was to be sent: to the begin of its body (`start`), and to
    the broker's own time of storing its terminal record (`completion`). `late` is how late it was sent: the
    benchmark's own part in both. `stored_bytes_per_job` is what the log grew by. `limit_share` compares bytes
    per second of records. `view_lag_s` is how long after the last record was stored the view told of it.
    """

    workload: str
    about: str
    settings: dict[str, str]
    jobs: int = 0
    seconds: float = 0.0
    jobs_per_s: float = 0.0
    submits_per_s: float = 0.0
    records_per_s: float = 0.0
    records_per_job: float = 0.0
    record_bytes_per_s: float = 0.0
    limit: Limit | None = None
    limit_share: float | None = None
    late: Spread | None = None
    start: Spread | None = None
    start_by_priority: dict[str, Spread] = {}
    completion: Spread | None = None
    cpu_us_per_job: dict[str, float] = {}
    cpu_cores: dict[str, float] = {}
    rss_mb: dict[str, float] = {}
    stored_bytes_per_job: float | None = None
    view_lag_s: float | None = None
    evidence: Evidence | None = None


class Verdict(msgspec.Struct, frozen=True):
    """A bar of the must-hold, and whether it holds. `kept` is None where this run cannot tell."""

    bar: str
    figure: str
    kept: bool | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of one run of the benchmark."""

    mode: str
    at: str
    machine: dict[str, str]
    versions: dict[str, str]
    results: list[Result]
    peers: list[dict[str, Any]] = []
    verdicts: list[Verdict] = []


class Step(msgspec.Struct, frozen=True):
    """What the probe cost with `count` of what is swept over; the median of its runs."""

    count: int
    node_us_per_job: float
    broker_us_per_job: float
    node_mb: float
    start_s: float | None


class Line(msgspec.Struct, frozen=True):
    """A straight line through the steps: the figure at none, what a thousand more add, and R²."""

    figure: str
    at_none: float
    per_thousand: float
    straight: float

    @classmethod
    def through(cls, figure: str, points: Sequence[tuple[float, float]]) -> Self:
        """By least squares."""
        slope, at_none = linear_regression([x for x, _ in points], [y for _, y in points])
        mean = fmean(y for _, y in points)
        off = sum((y - at_none - slope * x) ** 2 for x, y in points)
        spread = sum((y - mean) ** 2 for _, y in points)
        straight = 1 - off / spread if spread else 1.0
        return cls(figure, round(at_none, 3), round(slope * 1_000, 4), round(straight, 3))


class Axis(msgspec.Struct, frozen=True):
    """One sweep: its steps and the lines through them."""

    name: str
    steps: list[Step]
    lines: list[Line]


class Sweeps(msgspec.Struct, frozen=True):
    """Everything of one run of the sweep."""

    at: str
    machine: dict[str, str]
    versions: dict[str, str]
    axes: list[Axis]
