"""Reads of the metrics view's file: what it tells, as families."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Final

from writ.schemas import catalog
from writ.schemas.bounds import SECOND_US
from writ.schemas.lifecycle import State
from writ.schemas.metrics import Family, Series, Value

from .metrics import NONE, decode_histogram, decode_labels, encode_labels, label_names
from .places import live

_OLDEST: Final = "SELECT at FROM jobs WHERE line = ? AND state = 'pending' ORDER BY at LIMIT 1"

Labels = tuple[str, ...]
Told = dict[str, dict[Labels, Value]]


def families_in(path: Path, now_us: int) -> list[Family]:
    """All that the view which lives at `path` tells at `now_us`, in microseconds since 1970.

    Its runner may be writing meanwhile. Empty where there is no file yet. Raises sqlite3.Error.
    """
    file = live(path)
    if file is None:
        return []
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as db:
        db.execute("BEGIN")  # one state of the file for all that follows
        told = _series(db)
        told[catalog.JOBS.name] = _jobs(told.get(catalog.TRANSITIONS.name, {}))
        lines = list(told.get(catalog.SUBMITTED.name, {}))
        told[catalog.OLDEST.name] = _oldest(db, lines, now_us)
        told[catalog.NAMES_FULL.name] = _full(db)
        for epoch, at in db.execute("SELECT epoch, at FROM position"):
            told[catalog.EPOCH.name], told[catalog.NEWEST.name] = {(): epoch}, {(): at / SECOND_US}
    return [
        Family(metric.name, [Series(labels, value) for labels, value in sorted(told[metric.name].items())])
        for metric in catalog.BY_SOURCE[catalog.LOG]
        if told.get(metric.name)
    ]


def _series(db: sqlite3.Connection) -> Told:
    told: Told = {}
    for metric, labels, value in db.execute("SELECT metric, labels, value FROM numbers"):
        unit = catalog.CATALOG[metric].unit
        told.setdefault(metric, {})[decode_labels(labels)] = value if unit == 1 else value / unit
    for metric, labels, body in db.execute("SELECT metric, labels, body FROM histograms"):
        told.setdefault(metric, {})[decode_labels(labels)] = decode_histogram(body)
    return told


def _jobs(transitions: dict[Labels, Value]) -> dict[Labels, Value]:
    """Jobs by state: those that came into it less those that left."""
    jobs: Counter[Labels] = Counter()
    for (tenant, queue, before, after), number in transitions.items():
        assert isinstance(number, int), "transitions are counted"
        for state in State:
            jobs[tenant, queue, state.value] += 0  # each queue tells of all states
        jobs[tenant, queue, after] += number
        if before != NONE:
            jobs[tenant, queue, before] -= number
    return dict(jobs)


def _oldest(db: sqlite3.Connection, lines: list[Labels], now_us: int) -> dict[Labels, Value]:
    ages: dict[Labels, float] = {}
    for line in lines:
        found = db.execute(_OLDEST, (encode_labels(line),)).fetchone()
        age_s = 0.0 if found is None else max(0.0, (now_us - found[0]) / SECOND_US)
        ages[line[:2]] = max(age_s, ages.get(line[:2], 0.0))
    return dict(ages)


def _full(db: sqlite3.Connection) -> dict[Labels, Value]:
    known: dict[str, int] = dict(db.execute("SELECT label, count(*) FROM names GROUP BY label").fetchall())
    return {(label,): int(known.get(label, 0) >= names.limit) for label, names in label_names().items()}
