"""The tools view: calls of governed tools, those that were denied, and how long they took."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from writ.schemas.bounds import SECOND_US
from writ.schemas.ids import split_job_key
from writ.schemas.lists import (
    ToolCallsPage,
    ToolCallsQuery,
    ToolCallView,
    ToolsPage,
    ToolsQuery,
    ToolView,
)
from writ.schemas.records import Record
from writ.schemas.schedules import log_time
from writ.schemas.steps import StepBy, ToolCalled, ToolOutcome

from .collecting import Collecting
from .file import position_of
from .paging import SUMMED_ROWS, Listing, page
from .scale import quantiles, step_of
from .shown import Seen, fit, timestamp

_DAY_US: Final = 86_400 * SECOND_US
_MS: Final = SECOND_US // 1_000
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS calls (
    place INTEGER PRIMARY KEY, -- sequence of the record, and which of its events: seq * 65536 + nth
    at INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    tool TEXT NOT NULL,
    schema TEXT NOT NULL,
    queue TEXT NOT NULL,
    job TEXT NOT NULL, -- the id
    attempt INTEGER NOT NULL,
    actor TEXT NOT NULL,
    outcome TEXT NOT NULL,
    policy INTEGER NOT NULL,
    rule TEXT,
    error_type TEXT,
    run_ms INTEGER,
    known TEXT NOT NULL -- how the outcome came to be known
);
CREATE INDEX IF NOT EXISTS calls_by_tenant ON calls (tenant);
CREATE INDEX IF NOT EXISTS calls_by_job ON calls (tenant, job);
CREATE INDEX IF NOT EXISTS calls_by_outcome ON calls (tenant, outcome);
CREATE INDEX IF NOT EXISTS calls_by_tool ON calls (tenant, tool);
CREATE INDEX IF NOT EXISTS calls_by_queue ON calls (tenant, queue);
CREATE TABLE IF NOT EXISTS tools (
    tenant TEXT NOT NULL, tool TEXT NOT NULL, PRIMARY KEY (tenant, tool)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS days (
    tenant TEXT NOT NULL,
    tool TEXT NOT NULL,
    day INTEGER NOT NULL, -- of log time, since 1970
    done INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    denied INTEGER NOT NULL,
    recorded INTEGER NOT NULL, -- answered from the record of another run
    PRIMARY KEY (tenant, tool, day)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS times ( -- how many calls took about so long
    tenant TEXT NOT NULL,
    tool TEXT NOT NULL,
    day INTEGER NOT NULL,
    step INTEGER NOT NULL, -- see `scale`
    n INTEGER NOT NULL,
    PRIMARY KEY (tenant, tool, day, step)
) WITHOUT ROWID;
"""
_INSERT: Final = "INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_TOOL: Final = "INSERT OR IGNORE INTO tools VALUES (?, ?)"
_ADD: Final = (
    "INSERT INTO days VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET done = done + excluded.done,"
    " failed = failed + excluded.failed, denied = denied + excluded.denied,"
    " recorded = recorded + excluded.recorded"
)
_TOOK: Final = "INSERT INTO times VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
_SUMS: Final = (
    "coalesce(sum(done), 0), coalesce(sum(failed), 0), coalesce(sum(denied), 0), coalesce(sum(recorded), 0)"
)
_SEQ_SHIFT: Final = 16
LISTING: Final = Listing(
    "calls",
    "place",
    "at",
    "at, tenant, tool, schema, queue, job, attempt, actor, outcome, policy, rule, error_type, run_ms, known",
    ("job", "outcome", "tool", "queue"),
)


class ToolsView(Collecting):
    """The fold."""

    name = "tools"
    version = 2
    schema = _SCHEMA
    statements = (_INSERT, _TOOL, _ADD, _TOOK)

    def fold(self, records: Sequence[Record]) -> None:
        for record in records:
            for event in record.events:
                if type(event) is ToolCalled:
                    self._fold_calls(record)
                    break

    def _fold_calls(self, record: Record) -> None:
        for nth, event in enumerate(record.events):
            if isinstance(event, ToolCalled):
                self._fold_call(record, nth, event)

    def _fold_call(self, record: Record, nth: int, call: ToolCalled) -> None:
        self._put(
            _INSERT,
            *((record.seq << _SEQ_SHIFT) + nth, record.at, record.tenant, call.tool, call.schema),
            *(*split_job_key(record.key), call.attempt, record.actor, call.outcome.value, call.policy),
            *(call.rule, None if call.error is None else call.error.type, call.run_ms, call.by.value),
        )
        tool = (record.tenant, call.tool)
        day = record.at // _DAY_US
        self._count(_TOOL, tool)
        recorded = call.by is StepBy.RECORDED
        ended = [int(not recorded and call.outcome is each) for each in ToolOutcome]
        self._count(_ADD, (*tool, day), *ended, int(recorded))
        if call.run_ms is not None and not recorded:
            self._count(_TOOK, (*tool, day, step_of(call.run_ms * _MS)), 1)


def tools(db: sqlite3.Connection, tenant: str, query: ToolsQuery) -> ToolsPage:
    """Tools by name, with what became of their calls on the days from `since` on."""
    sql, parts = "SELECT tool FROM tools WHERE tenant = ? AND tool > ?", [tenant, query.cursor or ""]
    if query.tool is not None:
        sql, parts = "SELECT tool FROM tools WHERE tenant = ? AND tool = ?", [tenant, query.tool]
    names = (str(name) for (name,) in db.execute(f"{sql} ORDER BY tool", parts))
    since = 0 if query.since is None else log_time(query.since) // _DAY_US
    shown, after = fit((_tool(db, tenant, name, since) for name in names), query.limit)
    return ToolsPage(None, position_of(db), shown, after)


def _tool(db: sqlite3.Connection, tenant: str, tool: str, since: int) -> Seen:
    where, parts = "WHERE tenant = ? AND tool = ? AND day >= ?", (tenant, tool, since)
    sums = db.execute(f"SELECT {_SUMS} FROM days {where}", parts).fetchone()  # noqa: S608 - words of ours
    steps = db.execute(f"SELECT step, n FROM times {where}", parts).fetchall()  # noqa: S608 - words of ours
    return Seen(tool, ToolView(tool, tenant, quantiles(steps), *sums), 1 + len(steps) // SUMMED_ROWS)


def tool_calls(db: sqlite3.Connection, tenant: str, query: ToolCallsQuery) -> ToolCallsPage:
    """Calls, newest first."""
    equal = {"job": query.job, "outcome": query.outcome, "tool": query.tool, "queue": query.queue}
    found, after = page(db, LISTING, tenant, equal, query)
    shown, cut = fit((Seen(str(row[0]), _call(*row)) for row in found), query.limit)
    return ToolCallsPage(None, position_of(db), shown, cut or after)


def _call(place: int, at: int, *rest: Any) -> ToolCallView:
    return ToolCallView(place >> _SEQ_SHIFT, timestamp(at), *rest)
