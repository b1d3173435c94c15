"""The cost view: tokens and what they cost, by days of log time, queue, task, model and release."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from writ.schemas.bounds import SECOND_US
from writ.schemas.chain import Violation
from writ.schemas.events import JobSubmitted, LeaseGranted
from writ.schemas.ids import split_job_key
from writ.schemas.lists import CostBy, CostPage, CostQuery, CostSum
from writ.schemas.records import Record
from writ.schemas.schedules import log_time
from writ.schemas.steps import UsageRecorded

from .collecting import Collecting
from .file import position_of
from .paging import END
from .shown import timestamp
from .view import Write

DAY_US: Final = 86_400 * SECOND_US
DAY: Final = 1
MONTH: Final = 32
"""The spans in which is summed up, in days. Where single days are not asked for, a year is 12 rows."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tasks ( -- what each job runs: usage does not say it
    tenant TEXT NOT NULL, queue TEXT NOT NULL, id TEXT NOT NULL, task TEXT NOT NULL,
    release TEXT NOT NULL, -- digest of what its newest lease is for, empty where it names none
    PRIMARY KEY (tenant, queue, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS costs (
    tenant TEXT NOT NULL,
    span INTEGER NOT NULL, -- so many days
    day INTEGER NOT NULL, -- the first of them, since 1970
    queue TEXT NOT NULL,
    task TEXT NOT NULL,
    model TEXT NOT NULL,
    release TEXT NOT NULL,
    calls INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_microusd INTEGER NOT NULL,
    unpriced INTEGER NOT NULL, -- calls of models without a price
    PRIMARY KEY (tenant, span, day, queue, task, model, release)
) WITHOUT ROWID;
"""
_TASK: Final = "INSERT INTO tasks VALUES (?, ?, ?, ?, '')"
_RELEASE: Final = "UPDATE tasks SET release = ? WHERE tenant = ? AND queue = ? AND id = ?"
_ADD: Final = (
    "INSERT INTO costs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
    " calls = calls + excluded.calls, input_tokens = input_tokens + excluded.input_tokens,"
    " output_tokens = output_tokens + excluded.output_tokens,"
    " cost_microusd = cost_microusd + excluded.cost_microusd, unpriced = unpriced + excluded.unpriced"
)
_NUMBERS: Final = ("calls", "input_tokens", "output_tokens", "cost_microusd", "unpriced")
_LOOKUP: Final = (
    "SELECT t.tenant, t.queue, t.id, t.task, t.release FROM json_each(?) AS wanted CROSS JOIN tasks AS t"
    " ON t.tenant = json_extract(wanted.value, '$[0]') AND t.queue = json_extract(wanted.value, '$[1]')"
    " AND t.id = json_extract(wanted.value, '$[2]')"
)


class CostView(Collecting):
    """The fold."""

    name = "cost"
    version = 3
    schema = _SCHEMA
    statements = (_TASK, _RELEASE, _ADD)

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, str], str] = {}
        self._releases: dict[tuple[str, str], str] = {}
        super().__init__()

    def load(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
        places = {
            (record.tenant, record.key): None
            for record in records
            for event in record.events
            if type(event) is UsageRecorded
        }
        if places:
            wanted = msgspec.json.encode([[tenant, *split_job_key(key)] for tenant, key in places]).decode()
            for tenant, queue, job_id, task, release in db.execute(_LOOKUP, (wanted,)):
                place = (tenant, f"{queue}~{job_id}")
                self._tasks[place], self._releases[place] = task, release

    def fold(self, records: Sequence[Record]) -> None:
        """Raises Violation for usage of a job that was not submitted."""
        for record in records:
            for event in record.events:
                if type(event) is JobSubmitted:
                    self._tasks[record.tenant, record.key] = event.task
                    self._put(_TASK, record.tenant, *split_job_key(record.key), event.task)
                elif type(event) is LeaseGranted:
                    if event.release is not None:
                        self._releases[record.tenant, record.key] = event.release
                        self._put(_RELEASE, event.release, record.tenant, *split_job_key(record.key))
                elif type(event) is UsageRecorded:
                    self._spend(record, event)

    def _spend(self, record: Record, usage: UsageRecorded) -> None:
        task = self._tasks.get((record.tenant, record.key))
        if task is None:
            raise Violation(record.seq, f"tells of usage of {record.key}, which was not submitted")
        release = self._releases.get((record.tenant, record.key), "")
        cost, tokens = usage.cost_microusd, (usage.input_tokens, usage.output_tokens)
        for span in (DAY, MONTH):
            day = record.at // DAY_US // span * span
            key = (record.tenant, span, day, split_job_key(record.key)[0], task, usage.model, release)
            self._count(_ADD, key, 1, *tokens, cost or 0, int(cost is None))

    def writes(self) -> list[Write]:
        self._rows[_TASK].sort(key=tuple)  # by key: neighbours in the file are written together
        return super().writes()

    def discard(self) -> None:
        self._tasks, self._releases = {}, {}
        super().discard()


def cost(db: sqlite3.Connection, tenant: str, query: CostQuery) -> CostPage:
    """Sums over the counters of the days asked for, those that cost most first."""
    wanted = {column: getattr(query, column) for column in ("queue", "task", "model", "release")}
    given = {column: value for column, value in wanted.items() if value is not None}
    where = "".join([f" AND {column} = ?" for column in given])
    part = f"SELECT * FROM costs WHERE tenant = ? AND span = ? AND day >= ? AND day < ?{where}"  # noqa: S608 - our words
    spans = _spans(query)
    values = [value for span in spans for value in (tenant, *span, *given.values())]
    by = "".join([f", {each.value}" for each in query.by])
    alone = set(query.by) == set(CostBy)  # then each row is a sum of its own
    numbers = [name if alone else f"sum({name})" for name in _NUMBERS]
    _, read, written, micros, _ = numbers
    sql = (
        f"SELECT tenant{by}, {', '.join(numbers)} FROM ({' UNION ALL '.join([part] * len(spans))}) AS found"  # noqa: S608 - our words
        f"{'' if alone else f' GROUP BY tenant{by}'}"
        f" ORDER BY {micros} DESC, {read} + {written} DESC{by} LIMIT ?"
    )
    found = db.execute(sql, (*values, query.limit + 1)).fetchall()
    named = 1 + len(query.by)
    views = [_sum(dict(zip(query.by, row[1:], strict=False)), row[named:]) for row in found[: query.limit]]
    return CostPage(None, position_of(db), tuple(views), len(found) > query.limit)


def _spans(query: CostQuery) -> list[tuple[int, int, int]]:
    """What is summed up: spans, and from where and up to where those of each count."""
    first = 0 if query.since is None else log_time(query.since) // DAY_US
    end = END if query.until is None else -(-log_time(query.until) // DAY_US)
    whole, over = -(-first // MONTH) * MONTH, end // MONTH * MONTH if query.until is not None else END
    if CostBy.DAY in query.by or whole >= over:
        return [(DAY, first, end)]
    return [(DAY, first, whole), (MONTH, whole, over), (DAY, over, end)]


def _sum(named: dict[CostBy, Any], numbers: Sequence[int]) -> CostSum:
    day = named.get(CostBy.DAY)
    shown = None if day is None else timestamp(day * DAY_US)[:10]
    queue, task, model = named.get(CostBy.QUEUE), named.get(CostBy.TASK), named.get(CostBy.MODEL)
    return CostSum(shown, queue, task, model, named.get(CostBy.RELEASE), *numbers)
