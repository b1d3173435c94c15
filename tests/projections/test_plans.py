"""No question makes SQLite read a whole table or sort more than a page, whatever is asked for."""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from writ.broker.memory import MemoryIntake
from writ.projections.queries import Queries
from writ.projections.registry import VIEWS
from writ.schemas.commands import Answer

if TYPE_CHECKING:
    from tests.histories.builder import Histories
    from tests.projections.conftest import Running

DAY: Final = "2026-01-01T00:00:00Z"
SPAN: Final[dict[str, list[Any]]] = {"since": [DAY], "until": [DAY], "cursor": ["7"]}
ERRORS: Final[dict[str, list[Any]]] = {"error_class": ["system"]}
VERBS: Final[dict[str, list[Any]]] = {"verb": ["cancel"], "refused": [True]}
KEYED: Final[dict[str, list[Any]]] = {"cursor": ["mail~a"]}
ASKED: Final[dict[str, dict[str, list[Any]]]] = {
    "jobs": {
        "states": [["dead"], ["pending", "running"]],
        "queue": ["mail"],
        "task": ["mail.send"],
        "error_class": ["system"],
        "actor": ["owner"],
        "cause": ["c"],
        "waits_for": ["approval"],
        "tags": [{"a": "b"}, {"a": "b", "c": "d"}],
        "parent": ["mail~a"],
        "batch": ["b"],
        "operation": ["o"],
        **SPAN,
    },
    "job": {"queue": ["mail"]},
    "records": {"context": [True]},
    "dead": {"queue": ["mail"], "task": ["mail.send"], "cause": ["c"], "largest": [True], **KEYED},
    "queues": {"queue": ["mail"], "history": [True], "cursor": ["a"]},
    "schedules": {"queue": ["mail"], "name": ["s"], "history": [True], **KEYED},
    "operations": {"queue": ["mail"], "id": ["o"], **KEYED},
    "batches": {"queue": ["mail"], "batch": ["b"], "history": [True], **KEYED},
    "holds": {"queue": ["mail"], "name": ["case-7"], "lifted": [True], **KEYED},
    "attempts": {"job": ["a"], "queue": ["mail"], "worker": ["w1"], "outcome": ["live"], **ERRORS, **SPAN},
    "workers": {"worker": ["w1"], "since": [DAY], "cursor": ["w0"]},
    "traffic": {"queue": ["mail"], "since": [DAY], "cursor": ["a"]},
    "cost": {
        **{"by": [[]], "queue": ["mail"], "task": ["t"], "model": ["m"], "release": ["d"]},
        **{"since": [DAY], "until": [DAY]},
    },
    "tools": {"tool": ["pay"], "since": [DAY], "cursor": ["a"]},
    "tool_calls": {"tool": ["pay"], "queue": ["mail"], "job": ["a"], "outcome": ["denied"], **SPAN},
    "audit": {"actor": ["owner"], "queue": ["mail"], "job": ["a"], **VERBS, **SPAN},
    "log": {"kind": ["job"], "queue": ["mail"], "after": [3]},
    "stretch": {"after": [3]},
    "principals": {"name": ["owner"], "waiting": [True], "cursor": ["a"]},
    "whoami": {},
    "can": {"queue": ["mail"], "principal": ["bob"]},
    "status": {},
}  # fmt: skip
NEEDED: Final = {"job": {"id": "a"}, "records": {"id": "a", "queue": "mail"}, "can": {"operation": "jobs"}}

SMALL: Final = {
    *("wanted", "json_each", "position", "leader", "found", "(subquery-1)"),
    *("names", "numbers", "histograms"),
}
"""What may be read as a whole: the names of a page, tables of one row, what one walk has found, and the
series of metrics, which are bounded."""


SUMS: Final = "SELECT * FROM costs"
"""Counters by the day, which are summed up and told in the order of the sums."""


def questions(verb: str) -> Iterator[dict[str, Any]]:
    """Every filter of a query alone, and every two of them together."""
    filters = [(name, value) for name, values in ASKED[verb].items() for value in values]
    for number in (0, 1, 2):
        for some in itertools.combinations(filters, number):
            yield NEEDED.get(verb, {}) | dict(some)


def faults(db: sqlite3.Connection, sql: str) -> list[str]:
    """Steps of a statement's plan that grow with the table."""
    found: list[str] = []
    for *_, step in db.execute(f"EXPLAIN QUERY PLAN {sql}"):
        scanned = re.match(r"SCAN (\S+)", step)
        if scanned and scanned.group(1) not in SMALL and step != "SCAN CONSTANT ROW":
            found.append(step)
        if "TEMP B-TREE" in step and "json_each" not in sql and "RIGHT PART" not in step and SUMS not in sql:
            found.append(step)
    return found


async def test_no_statement_reads_a_whole_table_or_sorts_one(
    history: Histories, running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = history.wander(6, 150)
    log = told.log()
    said: dict[str, set[str]] = {}
    connect = sqlite3.connect

    def listening(path: Any, *args: Any, **named: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(path, *args, **named)
        name = re.sub(r"^file://|\?.*$", "", str(path))
        db.set_trace_callback(said.setdefault(name, set()).add)
        return db

    monkeypatch.setattr(sqlite3, "connect", listening)
    async with AsyncExitStack() as parts:
        runners = [
            await parts.enter_async_context(running(log, f"{make().name}.db", make=make)) for make in VIEWS
        ]
        queries = Queries(runners, log, MemoryIntake(), "0.1.0")
        parts.push_async_callback(queries.close)
        asked = 0
        for verb in ASKED:
            for question in questions(verb):
                answer = await queries.answer(
                    f"writ.query.default.owner.{verb}", msgspec.json.encode(question)
                )
                assert msgspec.json.decode(answer, type=Answer).error is None, (verb, question, answer)
                asked += 1
        reason = msgspec.json.decode(
            await queries.answer("writ.query.default.owner.x", b""), type=Answer
        ).error
    assert reason is not None
    verbs = reason.reason.partition("there are ")[2].split(", ")
    assert sorted(verbs) == sorted(ASKED), "every verb is asked"
    monkeypatch.undo()
    found: list[tuple[str, str, str]] = []
    statements = 0
    for name, texts in said.items():
        with closing(sqlite3.connect(name)) as db:
            for sql in texts:
                if sql.startswith("SELECT"):
                    statements += 1
                    found += [(Path(name).name, fault, sql) for fault in faults(db, sql)]
    assert asked > 300
    assert statements > 300
    assert not found, "\n".join([f"{name}: {fault}\n    {sql}" for name, fault, sql in found[:9]])
