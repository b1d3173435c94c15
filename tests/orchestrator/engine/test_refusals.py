"""Every rule by which the orchestrator refuses something, in a table that is complete by construction.

The places that make a refusal are read off the source, and each row is traced: a place that no row comes to
fails the suite. The form of messages has a table of its own, `tests/orchestrator/test_refused_forms.py`.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import hashlib
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest

from writ import orchestrator, schemas
from writ.broker.clock import SystemClock
from writ.orchestrator.access_desk import Founder
from writ.orchestrator.decide import schedule as schedule_decisions
from writ.orchestrator.decide import shard as shard_decisions
from writ.orchestrator.decide import tenant as tenant_decisions
from writ.orchestrator.decide.assets import set_asset
from writ.orchestrator.decide.promotion import PROPOSALS_MAX
from writ.orchestrator.desk import Desk
from writ.orchestrator.messages import Asked
from writ.orchestrator.round import Round
from writ.orchestrator.shards import Shards
from writ.orchestrator.state import Partition
from writ.schemas import bounds
from writ.schemas.assets import ASSETS_MAX, VERSIONS_MAX, Asset, AssetVersion, KeptAsset
from writ.schemas.commands import Answer, PauseQueue
from writ.schemas.events import CommandRejected
from writ.schemas.gates import GATES_MAX
from writ.schemas.hosting import CreateTenant
from writ.schemas.ids import lane_for, queue_in, shard_of
from writ.schemas.links import PartitionOpened
from writ.schemas.principals import AccessDenied, Role
from writ.schemas.processes import RELEASES_MAX, SCOPES_MAX
from writ.schemas.rejections import Rejection
from writ.schemas.schedules import Overlap, Schedule, ScheduleSpec
from writ.schemas.sealed import seal
from writ.schemas.shards import Awaited, MoveShard, Offer
from writ.schemas.subjects import Addressed
from writ.schemas.submits import content_fault

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any

MAKERS = frozenset({"Rejection", "malformed", "SpecFault", "refused", "_conflict", "unknown"})
"""Calls of these make a refusal."""

NO_RULES = {
    "engine.py": "nothing was decided: whoever hears it shall ask again, and no rule was broken",
    "inbox.py": "nothing was decided: whoever hears it shall ask again, and no rule was broken",
    "strongroom.py": "what it refuses by a rule has a row; else a value could not be had: ask again",
}
TRACED = tuple(
    path
    for room in (orchestrator, schemas)
    for path in sorted(Path(room.__path__[0]).resolve().rglob("*.py"))
    if path.name not in NO_RULES
)


class Place(NamedTuple):
    """Where a refusal is made."""

    file: Path
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.file.parent.name}/{self.file.name}:{self.first}"


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


@functools.cache
def places() -> tuple[Place, ...]:
    """Every call of a maker within a function, and every text that a `..._fault` function returns."""
    found: list[Place] = []
    for file in TRACED:
        for function in ast.walk(ast.parse(file.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            told = function.returns is not None and ast.unparse(function.returns) == "str | None"
            for node in ast.walk(function):
                made = isinstance(node, ast.Call) and _name(node) in MAKERS
                if told and function.name.endswith("_fault") and isinstance(node, ast.Return):
                    made = not (isinstance(node.value, ast.Constant) and node.value.value is None)
                if made:
                    assert isinstance(node, ast.Call | ast.Return)
                    found.append(Place(file, node.lineno, node.end_lineno or node.lineno))
    return tuple(dict.fromkeys(found))


class Tracer:
    """Which lines of functions that refuse are run between `with` and its end; others only cost time."""

    def __init__(self) -> None:
        self._names = {str(path): path for path in TRACED}
        self._refusing: dict[CodeType, Path | None] = {}
        self.lines: set[tuple[Path, int]] = set()

    def _file(self, code: CodeType) -> Path | None:
        """The file of a function that makes refusals; None for any other."""
        file = self._names.get(str(Path(code.co_filename).resolve()))
        lines = {line for _, _, line in code.co_lines() if line is not None}
        refuses = any(p.file == file and not lines.isdisjoint(range(p.first, p.last + 1)) for p in places())
        return file if refuses else None

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        if code not in self._refusing:
            self._refusing[code] = self._file(code)
        return None if self._refusing[code] is None else self._line

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        file = self._refusing[frame.f_code]
        if event == "line" and file is not None:
            self.lines.add((file, frame.f_lineno))
        return self._line

    def __enter__(self) -> Tracer:
        self._before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def came_to(self) -> set[Place]:
        return {p for p in places() if any((p.file, n) in self.lines for n in range(p.first, p.last + 1))}


# --- the table ------------------------------------------------------------------------------------------


class Scene:
    """What a row may do: bring a job or a schedule about, and have something refused."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        self.leases: dict[str, dict[str, Any]] = {}

    async def submit(self, job_id: str = "a", **fields: Any) -> None:
        await self.twin.submit({"task": "t", "id": job_id, **fields})
        await self.twin.settled()
        assert self.twin.job(job_id)

    async def run(self, job_id: str = "a", **fields: Any) -> int:
        """A running job; its token."""
        await self.submit(job_id, **fields)
        (lease,) = await self.twin.acquire(wait_s=1)
        self.leases[job_id] = lease
        token: int = lease["token"]
        return token

    async def end(self, job_id: str = "a", **fields: Any) -> None:
        """A completed job, or with a `class` one that died of it."""
        await self.run(job_id)
        verb = "fail" if fields else "complete"
        more = {**fields, "type": "Bad"} if fields else {}
        assert "refused" not in await self.twin.report(verb, self.leases[job_id], **more)

    async def do(self, verb: str, **fields: Any) -> None:
        assert "error" not in await self.twin.ask(verb, **fields)

    async def plan(self, **spec: Any) -> None:
        """A schedule `s`, which is due every minute."""
        await self.do("declare_schedule", name="s", spec={"task": "t", "every_s": 60, **spec})

    async def bad(self, job: object, queue: str = "mail") -> str:
        """The reason for which a submit is refused."""
        await self.twin.submit(job, queue=queue)
        await self.twin.settled()
        *_, event = await self.twin.events(CommandRejected)
        assert isinstance(event, CommandRejected)
        return event.refused[-1].reason

    async def job(self, **fields: Any) -> str:
        return await self.bad({"task": "t", **fields})

    async def ask(self, verb: str, /, **fields: Any) -> str:
        """The reason for which a request is refused."""
        return self.reason(await self.twin.ask(verb, **fields))

    async def raw(self, verb: str, body: bytes, queue: str = "mail") -> str:
        return _told((await self.twin.raw(verb, body, queue)).error)

    async def report(self, verb: str, token: int, who: str = "robot", **more: Any) -> str:
        """The reason for which a report on job `a` is refused."""
        held = {"id": "a", "token": token, **more}
        fields: dict[str, Any] = {"reports" if verb in ("complete", "fail") else "leases": [held]}
        return self.reason(await self.twin.ask(verb, who=who, worker="w1", **fields))

    async def note(self, *notes: dict[str, Any], first: int = 1) -> str:
        """The reason for which notes on job `a` are refused."""
        return self.reason(await self.noted(*notes, first=first))

    async def noted(self, *notes: dict[str, Any], first: int = 1) -> dict[str, Any]:
        """The answer to notes on job `a`; the first ones of its lease."""
        held = {"id": "a", "token": self.leases["a"]["token"], "first": first, "notes": notes}
        return await self.twin.ask("note", worker="w1", reports=[held])

    async def undoing(self, *notes: dict[str, Any]) -> None:
        """Job `a` has noted that, failed for good, and runs again to undo it."""
        await self.run()
        assert "refused" not in await self.noted(*notes)
        await self.twin.report("fail", self.leases["a"], **{"class": "policy", "type": "Bad"})
        (self.leases["a"],) = await self.twin.acquire(wait_s=1)

    async def again(self, *notes: dict[str, Any]) -> None:
        """Job `a` has noted that, was given back, and runs again."""
        await self.run()
        assert "refused" not in await self.noted(*notes)
        await self.twin.report("release", self.leases["a"])
        (self.leases["a"],) = await self.twin.acquire(wait_s=1)

    @staticmethod
    def reason(answer: dict[str, Any]) -> str:
        refused: list[dict[str, Any]] = answer.get("refused", []) + answer.get("lost", [])
        reason: str = answer.get("error", *refused[:1])["reason"]
        return reason


def _told(rejection: Rejection | None) -> str:
    assert rejection is not None
    return rejection.reason


Play = Callable[[Scene], Awaitable[str]]


class Row(NamedTuple):
    """A refusal, and what its reason holds: the rule, the limit, and the value."""

    play: Play
    rule: str
    limit: str
    value: str


TABLE: dict[str, Row] = {}


def row(rule: str, limit: object, value: object) -> Callable[[Play], Play]:
    def add(play: Play) -> Play:
        name = getattr(play, "__name__", "").replace("_", " ")
        assert name not in TABLE
        TABLE[name] = Row(play, rule, str(limit), str(value))
        return play

    return add


def asking(verb: str, /, **fields: Any) -> Play:
    return lambda s: s.ask(verb, **fields)


def reporting(verb: str, /, **more: Any) -> Play:
    return lambda s: s.report(verb, 7, **more)


def simple(name: str, play: Play, rule: str, limit: object, value: object) -> None:
    assert name not in TABLE
    TABLE[name] = Row(play, rule, str(limit), str(value))


LATE = "2200-01-01T00:00:00Z"
DEEP: list[Any] = json.loads("[" * (bounds.NESTING_MAX + 1) + "0" + "]" * (bounds.NESTING_MAX + 1))
BIG = "x" * bounds.INLINE_MAX_BYTES
INLINE = f"at most {bounds.INLINE_MAX_BYTES} are carried inline"
BIG_BYTES = f"{bounds.INLINE_MAX_BYTES + 2} bytes"
TYPES = ["x" * 16_385]
TOO_LONG = b'[{"task":"%b"}]' % (b"x" * bounds.BATCH_MAX_BYTES)

# Submits: their form, what they name, and what the queue allows.
simple("bytes", lambda s: s.bad(b'{"task":"\xff"}'), "UTF-8", "byte 9", "0xff")
simple("no json", lambda s: s.bad(b"{]"), "JSON", "malformed", "byte 1")
simple("no json array", lambda s: s.bad(b"[{]"), "JSON", "malformed", "byte 2")
simple("no json element", lambda s: s.bad(b'{"task":"\\ud800"}'), "JSON", "not JSON", "truncated")
simple("no jobs", lambda s: s.bad(b"[]"), "array", f"1 to {bounds.SUBMIT_ARRAY_MAX_JOBS}", "no job")
simple("many jobs", lambda s: s.bad([{"task": "t"}] * 501), "array", "at most 500", "501 jobs")
simple(
    "large submit", lambda s: s.bad(TOO_LONG), "message", f"at most {bounds.MESSAGE_MAX_BYTES}", len(TOO_LONG)
)
simple("wrong type", lambda s: s.job(priority=9), "priority", "<= 5", "9")
simple("unreadable input", lambda s: s.bad(b'{"task":"t","input":1e999}'), "input", "read", "out of range")
simple("large input", lambda s: s.job(input=BIG), "input", INLINE, BIG_BYTES)
simple("deep input", lambda s: s.job(input=DEEP), "input", "at most 100", "101 deep")
simple(
    "types of a retry", lambda s: s.job(retry={"non_retryable_types": TYPES}), "retry.non_retryable_types",
    "at most 16384", "16385 bytes",
)  # fmt: skip
simple("derived id", lambda s: s.job(id="1-2-3"), "id", "three numbers", "1-2-3")
simple(
    "both times", lambda s: s.job(not_before="2030-01-01T00:00:00Z", delay_s=5), "not_before 2030",
    "give one", "delay_s 5",
)  # fmt: skip
simple("far time", lambda s: s.job(not_before=LATE), "not_before", "1970 to 2100", "2200-01-01")
simple("odd queue", lambda s: s.bad({"task": "t"}, "a b"), "queue", "letters, digits", "'a b'")
simple("long queue", lambda s: s.bad({"task": "t"}, "q" * 257), "queue", "at most 256", "257 bytes")
simple("long key", lambda s: s.job(id="i" * 255), "queue and id", "at most 256", "260 bytes")
simple(
    "many records", lambda s: s.bad([{"task": "t", "unique_key": f"{n}"} for n in range(500)]), "array",
    "at most 990", "1003 records",
)  # fmt: skip
simple(
    "filled by another", lambda s: s.job(input_from={"f": "mail~x"}), "input_from.f", "not in after", "mail~x"
)
simple(
    "filled many",
    lambda s: s.job(after=["mail~x"], input_from={f"f{n}": "mail~x" for n in range(101)}),
    "input_from", "at most 100", "101 fields",
)  # fmt: skip
simple(
    "filled at length", lambda s: s.job(after=["mail~x"], input_from={"f" * 8_193: "mail~x"}), "input_from",
    "at most 8192", "8193 bytes",
)  # fmt: skip
simple(
    "filled no object", lambda s: s.job(input=[1], after=["mail~x"], input_from={"f": "mail~x"}),
    "input_from", "an object", "an array",
)  # fmt: skip
simple("tags", lambda s: s.job(tags={f"n{n}": "" for n in range(21)}), "tags", "at most 20", "21 names")
simple("tag name", lambda s: s.job(tags={"a b": "x"}), "tags", "1 to 64 letters", "'a b'")
simple("tag value", lambda s: s.job(tags={"a": "x" * 257}), "tags.a", "at most 256", "257 characters")
simple("after nobody", lambda s: s.job(after=["mail~x"]), "after", "there is no such job", "mail~x")
simple("child of nobody", lambda s: s.job(parent="mail~x"), "parent", "there is no such job", "mail~x")


@row("draining", "when it is resumed", "moving out")
async def draining(s: Scene) -> str:
    await s.do("drain_queue", reason="moving out")
    return await s.job()


@row("pending_max", "is 1", "2 pending")
async def pending_max(s: Scene) -> str:
    await s.submit("a")
    await s.submit("b")
    await s.do("declare", policy={"pending_max": 1})
    return await s.job()


@row("--live-max", "at most 2", "2 jobs that have not ended")
async def live_max(s: Scene) -> str:
    await s.submit("a")
    await s.submit("b")
    s.twin.live_max = 2
    await s.twin.stop()
    await s.twin.start()
    return await s.job()


simple(
    "large request",
    lambda s: s.raw("acquire", TOO_LONG),
    "message",
    f"at most {bounds.MESSAGE_MAX_BYTES}",
    len(TOO_LONG),
)


@row("job a", "task t", "of u")
async def another_task(s: Scene) -> str:
    await s.submit()
    return await s.bad({"task": "u", "id": "a"})


@row("job a", hashlib.sha256(b"1").hexdigest(), hashlib.sha256(b"2").hexdigest())
async def another_input(s: Scene) -> str:
    await s.submit(input=1)
    return await s.job(id="a", input=2)


@row("--disk-reserve", "keeps 4.0 MB", "has 1.0 MB left")
async def no_room(s: Scene) -> str:
    assert s.twin.engine is not None
    s.twin.engine.refuse_submits("the disk has 1.0 MB left, and keeps 4.0 MB (writ up --disk-reserve)")
    return await s.job()


@row("unique_key u", "on_clash is reject", "mail~a")
async def unique_key(s: Scene) -> str:
    await s.do("declare", policy={"on_clash": "reject"})
    await s.submit(unique_key="u")
    return await s.job(unique_key="u")


@row("queue's policy", "wants isolation landlock", "offers plain")
async def too_open(s: Scene) -> str:
    await s.do("declare", policy={"isolation": "landlock"})
    await s.submit()
    return await s.ask("acquire", worker="w1", isolation="plain")


# Reports: who may speak, and what a report may carry.
REPORTS = ("renew", "start", "complete", "release", "fail")
FAILURE = {"class": "system", "type": "Bad"}
for _verb in REPORTS:
    _more = FAILURE if _verb == "fail" else {}
    simple(
        f"{_verb} of nobody",
        reporting(_verb, **_more),
        "no job", "token 7", "job a",
    )  # fmt: skip
_REPORTED: dict[str, dict[str, Any]] = {
    "snooze": {"delay_s": 1},
    "suspend": {"reason": "approval"},
    "progress": {"progress": 1},
}
for _verb, _fields in _REPORTED.items():
    simple(
        f"{_verb} of nobody",
        asking(_verb, worker="w1", id="a", token=7, **_fields),
        "no job", "token 7", "job a",
    )  # fmt: skip


@row("token 7 is void", "its last lease had token", "completed")
async def report_after_the_end(s: Scene) -> str:
    await s.end()
    return await s.report("complete", 7)


@row("token 7 is void", "never leased", "pending")
async def report_before_the_lease(s: Scene) -> str:
    await s.submit()
    return await s.report("complete", 7)


@row("token 7 is void", "held by w1", "the live lease has token")
async def report_with_another_token(s: Scene) -> str:
    await s.run()
    return await s.report("complete", 7)


@row("principal", "granted to principal robot", "not to mallory")
async def report_of_another_principal(s: Scene) -> str:
    return await s.report("complete", await s.run(), who="mallory")


@row("output", INLINE, BIG_BYTES)
async def large_output(s: Scene) -> str:
    return await s.report("complete", await s.run(), output=BIG)


@row("output", "at most 100", "101 deep")
async def deep_output(s: Scene) -> str:
    return await s.report("complete", await s.run(), output=DEEP)


@row("progress", INLINE, BIG_BYTES)
async def large_progress(s: Scene) -> str:
    return await s.ask("progress", worker="w1", id="a", token=await s.run(), progress=BIG)


@row("signal", "on", "missing")
async def signal_without_a_name(s: Scene) -> str:
    return await s.ask("suspend", worker="w1", id="a", token=await s.run(), reason="signal")


@row("children", "names them", "empty")
async def children_without_a_name(s: Scene) -> str:
    return await s.ask("suspend", worker="w1", id="a", token=await s.run(), reason="child")


@row("there is no job", "to wait for", "mail~x")
async def a_child_that_is_not_there(s: Scene) -> str:
    held = {"worker": "w1", "id": "a", "token": await s.run()}
    return await s.ask("suspend", **held, reason="child", children=["mail~x"])


@row("asks", "wait for approval", "signal")
async def asking_without_a_wait_for_approval(s: Scene) -> str:
    held = {"worker": "w1", "id": "a", "token": await s.run()}
    return await s.ask("suspend", **held, reason="signal", on="go", asks="may I?")


# Requests: their form, and too many that are refused.
simple("verb", lambda s: s.raw("explode", b"{}"), "verb", "there are acquire", "'explode'")
simple("queue of a request", lambda s: s.raw("acquire", b"{}", "a b"), "queue", "letters, digits", "'a b'")
simple("request without json", lambda s: s.raw("acquire", b"{]"), "JSON", "malformed", "byte 1")
simple("request of a wrong type", lambda s: s.ask("acquire", worker="w", count=0), "count", ">= 1", "0")


@row("too many refusals", bounds.REFUSALS_BURST, f"{bounds.REFUSALS_PER_S:g} a second")
async def too_many_refused_commands(s: Scene) -> str:
    for _ in range(bounds.REFUSALS_BURST):
        await s.ask("drop", id="a")
    return await s.ask("drop", id="a")


@row("too many refusals", bounds.REFUSALS_BURST, f"{bounds.REFUSALS_PER_S:g} a second")
async def too_many_refused_reports(s: Scene) -> str:
    for _ in range(bounds.REFUSALS_BURST):
        await s.report("complete", 7)
    return await s.report("complete", 7)


# Commands about a job.
OF_A_JOB: dict[str, dict[str, Any]] = {
    verb: {}
    for verb in ("cancel", "terminate", "redrive", "rerun", "drop", "pause", "resume", "approve", "reject")
} | {"signal": {"name": "n"}, "edit": {"priority": 1}}
for _verb, _fields in OF_A_JOB.items():
    simple(
        f"{_verb} nobody", asking(_verb, id="x", **_fields),
        "there is no job", "in this queue", "x",
    )  # fmt: skip

LIVE = "scheduled, pending, suspended, running, retrying"
for _verb, _rule, _limit in (
    ("cancel", "already_finished", LIVE),
    ("terminate", "already_finished", LIVE),
    ("redrive", "not_dead", "allowed are dead"),
    ("drop", "not_dead", "allowed are dead"),
    ("pause", "already_finished", "scheduled, pending"),
    ("resume", "already_finished", "allowed are suspended"),
    ("approve", "already_finished", "allowed are suspended"),
    ("reject", "already_finished", "allowed are suspended"),
    ("signal", "already_finished", LIVE),
    ("edit", "already_finished", "scheduled, pending, suspended"),
):

    async def _on_one_that_completed(s: Scene, verb: str) -> str:
        await s.end()
        return await s.ask(verb, id="a", **OF_A_JOB[verb])

    simple(
        f"{_verb} one that completed", functools.partial(_on_one_that_completed, verb=_verb),
        _rule, _limit, "a is completed",
    )  # fmt: skip


@row("not_finished", "completed, cancelled, dead", "a is pending")
async def rerun_of_one_that_waits(s: Scene) -> str:
    await s.submit()
    return await s.ask("rerun", id="a")


@row("already dropped", "for good", "a was settled")
async def drop_twice(s: Scene) -> str:
    await s.end(**{"class": "policy"})
    await s.do("drop", id="a", reason="known")
    return await s.ask("drop", id="a")


@row("unique_key u", "one at a time", "mail~b")
async def redrive_of_a_key_that_is_live(s: Scene) -> str:
    await s.run(unique_key="u")
    await s.twin.report("fail", s.leases["a"], **{"class": "policy", "type": "Bad"})
    await s.submit("b", unique_key="u")
    return await s.ask("redrive", id="a")


@row("the command answers", "the newest end of the job is", "record 1")
async def redrive_of_another_end(s: Scene) -> str:
    await s.end()
    return await s.ask("redrive", id="a", answers=1)


@row("step", "recorded steps: none", "'charge'")
async def rerun_from_a_step(s: Scene) -> str:
    await s.end()
    return await s.ask("rerun", id="a", from_step="charge")


@row("not_suspendable", "only its task", "a is running")
async def pause_of_one_that_runs(s: Scene) -> str:
    await s.run()
    return await s.ask("pause", id="a")


@row("already suspended", "allowed are those that do not", "a waits for approval")
async def pause_of_one_that_waits(s: Scene) -> str:
    await s.submit(approval={})
    return await s.ask("pause", id="a")


@row("not_resumable", "paused, exhausted, dependency", "a waits for approval")
async def resume_of_one_for_approval(s: Scene) -> str:
    await s.submit(approval={})
    return await s.ask("resume", id="a")


@row("approval", "not for approval", "a waits for paused")
async def approve_of_one_that_is_paused(s: Scene) -> str:
    await s.submit()
    await s.do("pause", id="a")
    return await s.ask("approve", id="a")


@row("already_started", "has not started", "attempt 1")
async def edit_of_one_that_was_tried(s: Scene) -> str:
    await s.run()
    await s.twin.report("release", s.leases["a"])
    return await s.ask("edit", id="a", priority=1)


@row("input", INLINE, BIG_BYTES)
async def large_edit(s: Scene) -> str:
    await s.submit()
    return await s.ask("edit", id="a", input=BIG)


@row("data", INLINE, BIG_BYTES)
async def large_signal(s: Scene) -> str:
    await s.submit()
    return await s.ask("signal", id="a", name="n", data=BIG)


@row("data", INLINE, BIG_BYTES)
async def large_approval(s: Scene) -> str:
    await s.submit(approval={})
    return await s.ask("approve", id="a", data=BIG)


SIGNALS = f"at most {bounds.SIGNALS_MAX_BYTES} are held"


@row("data n of 200002 bytes", SIGNALS, "hold 400206 bytes")
async def signals_in_bulk(s: Scene) -> str:
    await s.submit()
    await s.do("signal", id="a", name="n", data="x" * 200_000)
    return await s.ask("signal", id="a", name="n", data="x" * 200_000)


@row("data approval of 200002 bytes", SIGNALS, "hold 400213 bytes")
async def approval_behind_signals_in_bulk(s: Scene) -> str:
    await s.submit(approval={})
    await s.do("signal", id="a", name="n", data="x" * 200_000)
    return await s.ask("approve", id="a", data="x" * 200_000)


@row("input_from", "an object", "an array")
async def edit_of_one_that_is_filled(s: Scene) -> str:
    await s.submit("b")
    await s.submit(after=["mail~b"], input_from={"x": "mail~b"})
    return await s.ask("edit", id="a", input=[1])


# Commands about a queue, a batch, or many jobs.
simple(
    "types of a policy", lambda s: s.ask("declare", policy={"retry": {"non_retryable_types": TYPES}}),
    "policy.retry.non_retryable_types", "at most 16384", "16385 bytes",
)  # fmt: skip
simple(
    "policy of another version", lambda s: s.ask("declare", policy={"concurrency": 2}, version=3),
    "version is 3", "of version 0", "look again",
)  # fmt: skip
simple(
    "large filter", lambda s: s.ask("plan", verb="cancel", filter={"ids": [BIG]}), "filter", INLINE, "bytes"
)


@row("sealed", "size 2", "given 3")
async def batch_sealed_twice(s: Scene) -> str:
    await s.do("seal_batch", batch="b", size=2)
    return await s.ask("seal_batch", batch="b", size=3)


@row("batch b", "size 1 is too small", "2 jobs")
async def batch_of_more(s: Scene) -> str:
    await s.submit("a", batch="b")
    await s.submit("c", batch="b")
    return await s.ask("seal_batch", batch="b", size=1)


# Erasure and holds.
simple("erase nothing", asking("erase"), "id", "give one", "neither id")
simple("erase both", asking("erase", id="a", data_subject="Jane"), "id", "give one", "both")
simple("erase unknown", asking("erase", id="gone"), "job", "there is no job", "mail~gone")
simple("lift unknown", asking("lift_hold", name="gone"), "hold", "queue mail has no", "gone")
simple(
    "large hold", lambda s: s.ask("place_hold", name="h", filter={"ids": [BIG]}), "filter", INLINE, "bytes"
)


@row("content", "is not sealed", "job a")
async def erase_plain(s: Scene) -> str:
    await s.end()
    return await s.ask("erase", id="a")


@row("erased", "have ended", "is running")
async def erase_live(s: Scene) -> str:
    await s.run(data_subject="Jane")
    return await s.ask("erase", data_subject="Jane")


@row("held", "by h", "court")
async def erase_held(s: Scene) -> str:
    await s.submit(data_subject="Jane")
    await s.do("terminate", id="a")
    await s.do("place_hold", name="h", filter={}, reason="court")
    return await s.ask("erase", id="a")


@row("erased", "by record", "job a")
async def rerun_erased(s: Scene) -> str:
    await s.submit(data_subject="Jane")
    await s.do("terminate", id="a")
    await s.do("erase", id="a")
    return await s.ask("rerun", id="a")


# Schedules.
def _spec(**spec: Any) -> Play:
    return lambda s: s.ask("declare_schedule", name="s", spec={"task": "t", **spec})


DAY = "2026-01-02T00:00:00Z"
_SPECS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "cron and interval": ({"cron": "0 * * * *", "every_s": 60}, "every_s 60", "give one", "cron '0 * * * *'"),
    "neither": ({}, "cron", "give one", "neither"),
    "cron shorthand": ({"cron": "@daily"}, "cron", "0 0 * * *", "@daily"),
    "cron fields": ({"cron": "* *"}, "cron", "takes 5", "has 2 fields"),
    "cron term": ({"cron": "61 * * * *"}, "minute", "0 to 59", "'61'"),
    "cron never": ({"cron": "0 0 31 2 *"}, "cron", "ever comes", "0 0 31 2 *"),
    "zone": ({"cron": "0 * * * *", "tz": "Europe/Berln"}, "tz", "Europe/Berlin", "Europe/Berln"),
    "anchor of cron": ({"cron": "0 * * * *", "anchor": DAY}, "anchor", "for every_s", "2026-01-02"),
    "interval": ({"every_s": 0.5}, "every_s", "1 to", "0.5"),
    "zone of an interval": ({"every_s": 60, "tz": "Europe/Berlin"}, "tz", "no zone", "Europe/Berlin"),
    "starts late": (
        {"every_s": 60, "starts_at": LATE},
        "starts_at",
        "1970 to 2099",
        "2200",
    ),
    "ends first": (
        {"every_s": 60, "starts_at": DAY, "ends_at": DAY},
        "ends_at",
        "must be later",
        "2026-01-02",
    ),
    "catch up": ({"every_s": 60, "catch_up_max": 101}, "catch_up_max", "0 to 100", "101"),
    "types of a spec": (
        {"every_s": 60, "retry": {"non_retryable_types": TYPES}},
        *("spec.retry.non_retryable_types", "at most 16384", "16385 bytes"),
    ),
}
for _name_, (_given, _rule, _limit, _value) in _SPECS.items():
    simple(f"schedule {_name_}", _spec(**_given), _rule, _limit, _value)

simple(
    "schedule with a long name",
    lambda s: s.ask("declare_schedule", name="n" * 230, spec={"task": "t", "every_s": 60}),
    "name", "at most 256", "268 bytes",
)  # fmt: skip
simple(
    "schedule with a large input",
    lambda s: s.ask("declare_schedule", name="s", spec={"task": "t", "every_s": 60}, input=BIG),
    "input", INLINE, BIG_BYTES,
)  # fmt: skip
WINDOW = {"from": "2025-12-31T00:00:00Z", "to": "2025-12-31T00:10:00Z"}
_SCHEDULES: dict[str, dict[str, Any]] = {
    "pause_schedule": {}, "resume_schedule": {}, "delete_schedule": {}, "trigger_schedule": {},
    "backfill_schedule": WINDOW,
}  # fmt: skip
for _verb, _fields in _SCHEDULES.items():
    simple(
        f"{_verb} nobody", asking(_verb, name="x", **_fields),
        "there is no schedule", "in this queue", "x",
    )  # fmt: skip


@row("already paused", "for night", "schedule s")
async def pause_schedule_twice(s: Scene) -> str:
    await s.plan()
    await s.do("pause_schedule", name="s", reason="night")
    return await s.ask("pause_schedule", name="s")


@row("not paused", "paused", "schedule s")
async def resume_schedule_that_is_not_paused(s: Scene) -> str:
    await s.plan()
    return await s.ask("resume_schedule", name="s")


@row("overlap skip", "another overlap", "s-2026")
async def trigger_beside_a_live_job(s: Scene) -> str:
    await s.plan()
    await s.do("trigger_schedule", name="s")
    return await s.ask("trigger_schedule", name="s")


@row("draining", "when it is resumed", "moving out")
async def trigger_in_a_queue_that_drains(s: Scene) -> str:
    await s.plan()
    await s.do("drain_queue", reason="moving out")
    return await s.ask("trigger_schedule", name="s")


def _backfill(spec: dict[str, Any] | None = None, /, **more: Any) -> Play:
    async def play(s: Scene) -> str:
        await s.plan(**(spec or {}))
        return await s.ask("backfill_schedule", name="s", **{**WINDOW, **more})

    return play


for _name_, (_play, _rule, _limit, _value) in {
    "by skipping": (_backfill(overlap="skip"), "overlap", "queue or allow", "skip"),
    "backwards": (_backfill(to="2025-12-30T00:00:00Z"), "to 20251230", "later than", "20251231"),
    "ahead": (_backfill(to="2026-02-01T00:00:00Z"), "to 20260201", "later than now", "20260101"),
    "nothing": (_backfill({"starts_at": DAY}), "no due time", "20251231T000000Z", "20251231T001000Z"),
    "too much": (_backfill(limit=3), "limit", "more than 3", "20251231T001000Z"),
    "too long a line": (
        _backfill(to="2025-12-31T02:00:00Z"),
        *("overlap queue", f"at most {schedule_decisions.QUEUED_MAX}", "121 due times"),
    ),
}.items():
    simple(f"backfill {_name_}", _play, _rule, _limit, _value)


# Steps: their order, their answers, and what is undone.
HEX = "ab" * 32
HUGE = "x" * 230_000


def _begins(step: int, name: str = "pay", **more: Any) -> dict[str, Any]:
    return {"note": "step_intended", "step": step, "name": name, "params": HEX, **more}


def _done(step: int, **more: Any) -> dict[str, Any]:
    return {"note": "step_done", "step": step, **more}


def _undone(step: int) -> dict[str, Any]:
    return {"note": "step_compensated", "step": step}


def _tool(**more: Any) -> dict[str, Any]:
    return {
        "note": "tool_called", "tool": "t", "schema": "1", "params": {}, "digest": HEX, "outcome": "done",
        **more,
    }  # fmt: skip


def _noting(*notes: dict[str, Any], first: int = 1, before: tuple[dict[str, Any], ...] = ()) -> Play:
    """Notes of a running job, refused after others that were not."""

    async def play(s: Scene) -> str:
        await s.run()
        if before:
            assert "refused" not in await s.noted(*before)
        return await s.note(*notes, first=first + len(before))

    return play


def _again(*notes: dict[str, Any], before: tuple[dict[str, Any], ...] = (_begins(1),)) -> Play:
    """Notes of a second attempt, after those of the first."""

    async def play(s: Scene) -> str:
        await s.again(*before)
        return await s.note(*notes)

    return play


def _ending(*notes: dict[str, Any]) -> Play:
    """Notes of an attempt that undoes two steps."""

    async def play(s: Scene) -> str:
        both = (_begins(1, compensable=True), _done(1), _begins(2, "ship", compensable=True), _done(2))
        await s.undoing(*both)
        return await s.note(*notes)

    return play


_BOTH = (_begins(1), _done(1))
for _name_, (_play, _rule, _limit, _value) in {
    "a note before another": (_noting(_begins(1), first=3), "first is 3", "note 1", "has not come"),
    "too much noted": (
        _noting(_tool(result=HUGE), _tool(result=HUGE)),
        *("at most", str(bounds.NOTES_MAX_BYTES), "bytes"),
    ),
    "a large result": (_noting(_begins(1), _done(1, result=BIG)), "result", INLINE, BIG_BYTES),
    "large parameters": (_noting(_tool(params=BIG)), "params", INLINE, BIG_BYTES),
    "a large answer": (_noting(_tool(result=BIG)), "result", INLINE, BIG_BYTES),
    "a step out of turn": (_noting(_begins(3)), "step is 3", "0 recorded", "steps"),
    "an answer out of turn": (_noting(_done(1)), "step is 1", "0 recorded", "steps"),
    "a step undone out of turn": (_noting(_undone(1)), "step is 1", "0 recorded", "steps"),
    "another name": (_again(_begins(1, "charge")), "'pay'", "keep their order", "'charge'"),
    "a step that is done": (_again(_begins(1), before=_BOTH), "'pay'", "does not run again", "its answer"),
    "a step that runs": (_noting(_begins(1), before=(_begins(1),)), "'pay'", "in this attempt", "step 1"),
    "again by nothing": (_again(_begins(1)), "'pay'", "again must be ask", "left out"),
    "again without a word": (_again(_begins(1, again="ask")), "'pay'", "nobody has said", "unknown"),
    "two answers": (_noting(_done(1), before=_BOTH), "step 1, 'pay'", "already", "done"),
    "an answer of another": (_again(_done(1)), "step 1, 'pay'", "attempt 1 began it", "cannot be ran"),
    "undone while it goes on": (_noting(_undone(1), before=_BOTH), "'pay'", "the job goes on", "step 1"),
    "undone too early": (_ending(_undone(1)), "step 1", "the last one comes first", "step 2, 'ship'"),
    "undone twice": (_ending(_undone(2), _undone(1), _undone(1)), "step 1", "comes first", "none is left"),
    "a step at the end": (_ending(_begins(3)), "ending", "no further step", "undoes"),
}.items():
    simple(_name_, _play, _rule, _limit, _value)


@row("1000 steps", bounds.STEPS_MAX, "at most")
async def many_steps(s: Scene) -> str:
    await s.run()
    for first in range(1, bounds.STEPS_MAX + 1, 100):
        assert "refused" not in await s.noted(*[_begins(first + n) for n in range(100)], first=first)
    return await s.note(_begins(bounds.STEPS_MAX + 1), first=bounds.STEPS_MAX + 1)


@row("results of the steps", bounds.STEPS_MAX_BYTES, "1150010 bytes")
async def large_steps(s: Scene) -> str:
    await s.run()
    for step in range(1, 6):
        both = _begins(step), _done(step, result=HUGE)
        assert "refused" not in await s.noted(*both, first=2 * step - 1)
    return await s.note(_begins(6), first=11)


@row("not undone yet", "1 (pay)", "2 (ship)")
async def said_to_be_undone(s: Scene) -> str:
    both = (_begins(1, compensable=True), _done(1), _begins(2, "ship", compensable=True), _done(2))
    await s.undoing(*both)
    return s.reason(await s.twin.report("complete", s.leases["a"]))


@row("already_ending", "terminate", "undoes what its steps did")
async def cancel_what_ends(s: Scene) -> str:
    await s.undoing(_begins(1, compensable=True), _done(1))
    return await s.ask("cancel", id="a")


@row("step 2", "there is none such", "approval")
async def ask_about_no_step(s: Scene) -> str:
    token = await s.run()
    return await s.ask("suspend", worker="w1", id="a", token=token, reason="approval", step=2)


@row('{"done": false}', "say", "word of a step")
async def say_nothing_of_a_step(s: Scene) -> str:
    await s.again(_begins(1))
    token = s.leases["a"]["token"]
    asked: dict[str, Any] = {"worker": "w1", "id": "a", "token": token, "reason": "approval", "step": 1}
    assert "refused" not in await s.twin.ask("suspend", **asked)
    return await s.ask("approve", id="a")


simple("recall of nobody", asking("recall", worker="w1", id="a", token=7), "no job", "token 7", "job a")
simple(
    "note of nobody",
    asking("note", worker="w1", reports=[{"id": "a", "token": 7, "first": 1, "notes": [_begins(1)]}]),
    "no job", "token 7", "job a",
)  # fmt: skip


# Lanes.
_LANED: dict[str, Any] = {"lanes": 4}


@row("is no lane that was declared", "submit it to mail", "mail#1")
async def a_lane_of_none(s: Scene) -> str:
    return await s.bad({"task": "t"}, "mail#1")


@row("unique_key k picks", "the 4 lanes of mail", lane_for("mail", 4, "k"))
async def a_key_of_a_lane(s: Scene) -> str:
    await s.do("declare", policy=_LANED)
    return await s.job(unique_key="k")


@row("a batch is of one queue", "submit the jobs of batch b to mail", "mail#0 is a lane")
async def a_batch_in_a_lane(s: Scene) -> str:
    await s.do("declare", queue="mail#0", policy=_LANED)
    return await s.bad({"task": "t", "batch": "b"}, "mail#0")


@row("lanes is 2", "has 4 for good", "may have 2")
async def other_lanes(s: Scene) -> str:
    await s.do("declare", policy=_LANED)
    return await s.ask("declare", policy={"lanes": 2})


@row("lanes is 4", "no live job of the queue has one", "mail~a has the unique_key k")
async def lanes_of_a_live_key(s: Scene) -> str:
    await s.submit(unique_key="k")
    return await s.ask("declare", policy=_LANED)


simple(
    "lane beyond the last", lambda s: s.ask("declare", queue="mail#9", policy=_LANED),
    "mail#9 is no lane", "lanes = 4", "declare the queue, mail",
)  # fmt: skip
simple(
    "lanes without names", lambda s: s.ask("declare", queue="q" * 255, policy=_LANED),
    "lanes is 4", "257 bytes", "256 are allowed",
)  # fmt: skip
simple("sign of a lane", lambda s: s.bad({"task": "t"}, "mail#Z"), "names no lane", "0 to 9", "'mail#Z'")
simple(
    "length of a lane", lambda s: s.bad({"task": "t"}, f"{'q' * bounds.TOKEN_MAX_BYTES}#0"),
    "queue has", f"at most {bounds.TOKEN_MAX_BYTES}", bounds.TOKEN_MAX_BYTES + 2,
)  # fmt: skip


# Reproductions, and prices.
simple(
    "reproduces nobody", lambda s: s.job(reproduces={"job": "mail~x", "end": 9}), "reproduces",
    "no such job", "mail~x",
)  # fmt: skip


def _reproducing(**fields: Any) -> Play:
    async def play(s: Scene) -> str:
        await s.end()
        given = {"job": "mail~a", "end": s.twin.job("a").ended_by, **fields.pop("reproduces", {})}
        return await s.job(reproduces=given, **fields)

    return play


simple(
    "reproduces another end", _reproducing(reproduces={"end": 1}), "newest end", "not record 1", "completed"
)
simple("reproduces another task", _reproducing(task="u"), "mail~a", "of task t", "this one of u")
simple("reproduces another input", _reproducing(input=5), "mail~a", "to be reproduced", "another input")


@row("quota.jobs", 1, "it has 1 jobs")
async def quota_of_jobs(s: Scene) -> str:
    await _allowing(name="acme", quotas={})(s)
    answer = await s.twin.ask("set_quotas", queue="-", name="default", quotas={"jobs": 1})
    assert "error" not in answer
    await s.twin.submit({"task": "t"}, who="robot")
    await s.twin.submit({"task": "t"}, who="robot")
    await s.twin.settled()
    *_, event = await s.twin.events(CommandRejected)
    assert isinstance(event, CommandRejected)
    return event.refused[-1].reason


@row("prices", bounds.PRICES_MAX, "at most")
async def many_prices(s: Scene) -> str:
    cost = {"input_microusd": 1, "output_microusd": 1}
    for first in range(0, bounds.PRICES_MAX, 100):
        models = [f"m{number}" for number in range(first, first + 100)]
        await asyncio.gather(*[s.do("set_price", model=model, **cost) for model in models])
    return await s.ask("set_price", model="one more", input_microusd=1, output_microusd=1)


# Releases.
DIGESTS = ["a" * 64, "b" * 64]


def _of_release(verb: str, *before: tuple[str, dict[str, Any]], **fields: Any) -> Play:
    """The reason for which something is refused of a process with two releases, after more was done."""

    async def play(s: Scene) -> str:
        for number, digest in enumerate(DIGESTS, 1):
            more = {"version": f"{number}.0.0", "digest": digest, "size_bytes": 9, "key": _key(1)}
            await s.do("publish_release", process="p", **more)
        for earlier, given in before:
            await s.do(earlier, **({} if "name" in given else {"process": "p"}) | given)
        return await s.ask(verb, **({} if "name" in fields else {"process": "p"}), **fields)

    return play


def _live(number: int) -> tuple[str, dict[str, Any]]:
    return "promote_release", {"release": f"{number}.0.0"}


_THIRD = {"digest": "c" * 64, "size_bytes": 9, "key": "U" + "A" * 55}
_GATED = ("declare_gate", {"name": "g", "gate": {"drills": ["d"]}})
_ASKED = ("promote_release", {"release": "1.0.0", "override": True})


def _gate(**spec: Any) -> Play:
    return _of_release("declare_gate", name="g", gate=spec)


def _naming(ref: str, *before: tuple[str, dict[str, Any]]) -> Play:
    """The reason for which a submit is refused that names a release."""

    async def play(s: Scene) -> str:
        await _of_release("promote_release", *before, release="9.0.0")(s)
        return await s.job(process=ref)

    return play


REVOKED = ("revoke_release", {"release": "1.0.0", "reason": "a leak"})
simple("job of no process", _naming("x@live"), "process names x", "not known", "publish")
simple("job of no release", _naming("p@9.0.0"), "process names p@9.0.0", "no such release", "p has")
simple("job of what is revoked", _naming("p@1.0.0", REVOKED), "p@1.0.0", "revoked", "a leak")
simple(
    "version of another release",
    _of_release("publish_release", version="1.0.0", **_THIRD),
    "p 1.0.0 is release",
    DIGESTS[0],
    "the next version",
)
simple("no such release", _of_release("promote_release", release="9.0.0"), "p", "has no release", "9.0.0")
simple("none of that name", _of_release("revoke_release", release="9.0.0"), "p", "has no release", "9.0.0")
simple(
    "promotion in no scope",
    _of_release("promote_release", release="1.0.0", scope="a b"),
    "scope",
    "letters, digits",
    "' '",
)
simple("nothing is live", _of_release("rollback_release"), "live of p", "points at nothing", "*")
simple(
    "back to what never was live",
    _of_release("rollback_release", _live(1), release="2.0.0"),
    "release 2.0.0",
    "never live",
    "*",
)
simple(
    "back to what is revoked",
    _of_release("rollback_release", _live(1), _live(2), REVOKED),
    "release 1.0.0 of p",
    "revoked",
    "a leak",
)
simple(
    "canary of nothing", _of_release("start_canary", _live(1), release="2.0.0"), "give", "percentage", "keys"
)
simple(
    "canary that cannot be judged",
    _of_release(
        "start_canary", _live(1), release="2.0.0", percent=5, policy={"tolerate": 0.3, "detect": 0.2}
    ),
    "no canary can be judged so",
    "tolerate=0.3",
    "detect=0.2",
)
simple(
    "canary of a folder that freezes",
    _of_release(
        "start_canary", _live(1), release="2.0.0", percent=5, scope="q", policy={"on_worse": "freeze"}
    ),
    "a freeze holds for the whole tenant",
    "canary for q",
    "let it end",
)
simple(
    "canary beside nothing",
    _of_release("start_canary", release="2.0.0", percent=5),
    "live of p",
    "points at nothing",
    "promote first",
)
simple("no such promotion", _of_release("approve_promotion", number=7), "p", "waits as number", 7)
simple(
    "promotion of one's own",
    _of_release("approve_promotion", _GATED, _ASKED, number=1),
    "robot",
    "proposed this",
    "another person",
)
simple(
    "one dimension scored twice",
    _of_release(
        "record_evaluation", release="1.0.0", data="golden", data_version="d" * 64,
        measured=[{"dimension": {"name": "exact"}, "candidate": [[1.0]]}] * 2,
    ),
    "measured cannot be judged", "may be scored once", "['exact', 'exact']",
)  # fmt: skip
simple("no such gate", _of_release("remove_gate", name="g"), "there is no gate", "gate", "g")
simple("scope of a gate", _gate(scope="a b"), "scope", "letters, digits", "' '")
simple("days of a gate", _gate(freeze_windows=[{"days": ["someday"]}]), "'someday'", "is no day", "mon, tue")
simple(
    "hours of a gate",
    _gate(freeze_windows=[{"start": "20:00", "end": "08:00"}]),
    "ends at 08:00",
    "start at 20:00",
    "two",
)
simple(
    "what the gates say", _of_release("promote_release", _GATED, release="1.0.0"), "g", "drill d", "never run"
)


@row("promotions wait", PROPOSALS_MAX, "approve some")
async def many_promotions(s: Scene) -> str:
    await _of_release("promote_release", _GATED, *[_ASKED] * PROPOSALS_MAX, release="9.0.0")(s)
    return await s.ask("promote_release", process="p", release="1.0.0", override=True)


@row("has aliases in", SCOPES_MAX, "at most")
async def many_scopes(s: Scene) -> str:
    scoped = [("promote_release", {"release": "1.0.0", "scope": f"q{n}"}) for n in range(SCOPES_MAX - 1)]
    return await _of_release("promote_release", *scoped, release="1.0.0", scope="more")(s)


@row("the tenant has", GATES_MAX, "at most")
async def many_gates(s: Scene) -> str:
    for number in range(GATES_MAX):
        await s.do("declare_gate", name=f"g{number}", gate={})
    return await s.ask("declare_gate", name="more", gate={})


@row("p has", RELEASES_MAX, "another name")
async def many_releases(s: Scene) -> str:
    more = {"process": "p", "size_bytes": 9, "key": _key(1)}
    for number in range(RELEASES_MAX):
        await s.do("publish_release", version=f"1.0.{number}", digest=f"{number:064}", **more)
    return await s.ask("publish_release", version="2.0.0", digest="c" * 64, **more)


async def _with_gate(s: Scene) -> None:
    """A governed tenant, with a release that its owner proposed against a gate."""
    await _governed(s)
    more: dict[str, Any] = {"version": "1.0.0", "digest": "a" * 64, "size_bytes": 9, "key": _key(1)}
    declared = {"name": "g", "gate": {"drills": ["d"]}}
    for verb, fields in (
        ("publish_release", {"process": "p", **more}),
        ("declare_gate", declared),
        ("promote_release", {"process": "p", "release": "1.0.0", "override": True}),
        ("create_principal", {"name": "ci", "kind": "service"}),
        ("grant", {"name": "ci", "role": "releaser"}),
    ):
        answer = await s.twin.ask(verb, who="owner", **fields)
        assert "error" not in answer, answer


@row("signed by", "is no key of", "owner")
async def anothers_signature(s: Scene) -> str:
    await _governed(s)
    more: dict[str, Any] = {"version": "1.0.0", "digest": "a" * 64, "size_bytes": 9, "key": _key(2)}
    return s.reason(await s.twin.ask("publish_release", who="owner", process="p", **more))


@row("ci", "is no person", "approves")
async def no_person_approves_a_promotion(s: Scene) -> str:
    await _with_gate(s)
    return s.reason(await s.twin.ask("approve_promotion", who="ci", process="p", number=1))


@row("gate g", "owner in *", "ci is not")
async def nobody_who_may_override(s: Scene) -> str:
    await _with_gate(s)
    asked: dict[str, Any] = {"process": "p", "release": "1.0.0", "override": True}
    return s.reason(await s.twin.ask("promote_release", who="ci", **asked))


@row("drained", bounds.DRAINED_MAX, "at most")
async def many_drained(s: Scene) -> str:
    for number in range(bounds.DRAINED_MAX):
        await s.do("drain_worker", worker=f"w{number}")
    return await s.ask("drain_worker", worker="one-more")


# Principals. A log without tenants governs nobody: there whoever asks may give anything.
PAST = "2020-01-01T00:00:00Z"


def _key(number: int) -> str:
    return "U" + f"{number:0>55}".translate(str.maketrans("0189", "ABCD"))


def _of_bob(verb: str, *before: tuple[str, dict[str, Any]], **fields: Any) -> Play:
    """The reason for which something is refused of a principal bob, after what was done to him."""

    async def play(s: Scene) -> str:
        await s.do("create_principal", name="bob", key=_key(1))
        for earlier, given in before:
            await s.do(earlier, name="bob", **given)
        return await s.ask(verb, name="bob", **fields)

    return play


def _times(number: int, verb: str, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    """So many of one kind, each with its number for `{}`."""
    return [
        (verb, {name: value(n) if callable(value) else value for name, value in fields.items()})
        for n in range(2, number + 2)
    ]


def _hosting(known: set[str], **fields: Any) -> Play:
    """The reason for which a tenant is not made, where those are known."""

    async def play(s: Scene) -> str:
        outcome = tenant_decisions.create(known, None, CreateTenant(key=_key(1), **fields), ())
        assert isinstance(outcome, Rejection)
        return outcome.reason

    return play


def _allowing(**fields: Any) -> Play:
    """The reason for which quotas are not set, of a tenant that was made a moment ago."""

    async def play(s: Scene) -> str:
        await s.twin.stop()
        s.twin.founders = (Founder("default", "robot", _key(1), (Role.OWNER,)),)
        await s.twin.start()
        return await s.ask("set_quotas", **fields)

    return play


def _moving(
    to: int = 1,
    used: int | None = None,
    offered: int | None = None,
    awaits: int | None = None,
    tenants: tuple[str, ...] = (),
) -> Play:
    """The reason for which shard 8 of partition 0, of two, is not handed over."""

    async def play(s: Scene) -> str:
        shards = Shards(0)
        shards.partitions = shards.dealt = 2
        shards.used = {} if used is None else {8: used}
        shards.offers = {} if offered is None else {8: Offer(offered, 1)}
        shards.awaited = {} if awaits is None else {9: Awaited(awaits, 1, told=True)}
        outcome = shard_decisions.move(shards, 8, MoveShard(to=to), tenants)
        assert isinstance(outcome, Rejection)
        return outcome.reason

    return play


async def _moved_away(s: Scene) -> str:
    """The answer to a request that came while its queue's shard moved."""
    state = Partition(0, 1)
    state.links.open(PartitionOpened(2))
    answers: list[bytes] = []
    queue = queue_in("default", 1)
    asked = Asked(Addressed("default", "robot", "pause_queue", queue), PauseQueue(), answers.append, 0)
    round_ = Round(state, 1)
    Desk(state, SystemClock(), lambda: 0.5).request(round_, asked)
    refused = msgspec.json.decode(round_.answers[0][1], type=Answer).error
    assert refused is not None
    return refused.reason


_HOME = next(f"t{n}" for n in range(9_999) if shard_of(f"t{n}", "-") == 8)
simple("a partition that is not", _moving(to=2), "no partition", "there are 2", "partition 2")
simple("a shard that is there", _moving(to=0), "already", "shard 8", "partition 0")
simple("a shard on its way", _moving(offered=1), "on its way", "shard 8", "partition 1")
simple("a holder that waits for a shard", _moving(awaits=1), "waits for a shard", "ask again", "partition 0")
simple("the home of a tenant", _moving(tenants=(_HOME,)), "does not move", "shard 8", _HOME)
simple("a shard in use", _moving(used=17), "holds nothing moves", "shard 8", "record 17")
simple("a queue that has moved", _moved_away, "ask again", "partition 1", "shard-1-")

simple("tenant of Writ itself", _hosting(set(), name="_writ"), "Writ's own", "another name", "_writ")
simple("tenant that is known", _hosting({"acme"}, name="acme"), "there is a tenant", "another name", "acme")
_MANY = {f"t{number}" for number in range(bounds.TENANTS_MAX)}
simple("many tenants", _hosting(_MANY, name="acme"), "at most", bounds.TENANTS_MAX, bounds.TENANTS_MAX)
simple("quotas of nobody", _allowing(name="acme", quotas={"jobs": 1}), "there is no tenant", "tenant", "acme")
simple(
    "quotas of another version",
    _allowing(name="default", quotas={"jobs": 1}, version=3),
    "the quotas are of version",
    0,
    "version is 3",
)
simple(
    "a reserve above its budget",
    _allowing(name="default", quotas={"budget": {"limit_microusd": 10, "reserve_microusd": 20}}),
    "nothing could ever start",
    "$0.00001",
    "$0.00002",
)
DIGEST = "ab" * 32
simple("nobody to revoke", asking("revoke_principal", name="bob"), "no principal", "there is", "bob")
simple("known otherwise", _of_bob("create_principal", kind="service"), "person", "another name", "bob")
simple(
    "key of another",
    lambda s: _two(s, "create_principal", name="ann", key=_key(1)),
    "its own",
    "bob",
    _key(1),
)
simple(
    "many keys",
    _of_bob("add_key", *_times(19, "add_key", key=_key), key=_key(99)),
    "keys",
    "at most 20",
    "20",
)
simple("no such key", _of_bob("remove_key", key=_key(7)), "no key", "bob", _key(7))
simple(
    "token twice",
    _of_bob("issue_token", ("issue_token", {"token": "t", "digest": DIGEST}), token="t", digest="cd" * 32),
    "another name", "bob", "token t",
)  # fmt: skip
simple(
    "many tokens",
    _of_bob("issue_token", *_times(50, "issue_token", token=str, digest=DIGEST), token="x", digest=DIGEST),
    "tokens", "at most 50", "has 50",
)  # fmt: skip
simple("no such token", _of_bob("revoke_token", token="t"), "no token", "bob", "t")
simple(
    "token of the past",
    _of_bob("issue_token", token="t", digest=DIGEST, until=PAST),
    "until",
    "later",
    "past",
)
_SESSION = {"session": "s", "digest": DIGEST, "until": "2100-01-01T00:00:00Z", "by": "a token"}
simple(
    "session twice",
    _of_bob("start_session", ("start_session", _SESSION), **_SESSION | {"digest": "cd" * 32}),
    "another name", "bob", "session s",
)  # fmt: skip
simple("session by no token", _of_bob("start_session", **_SESSION, token="t"), "no token", "bob", "t")
simple(
    "session of the past",
    _of_bob("start_session", **_SESSION | {"until": PAST}),
    "until",
    "later",
    "past",
)
simple("no such session", _of_bob("end_session", session="s"), "no session", "bob", "s")
simple("no such grant", _of_bob("ungrant", role="viewer"), "was not granted", "bob", "viewer in *")
simple("no scope", _of_bob("grant", role="viewer", scope="a b"), "scope", "billing/*", "'a b'")
simple(
    "many grants",
    _of_bob("grant", *_times(200, "grant", role="viewer", scope=str), role="viewer"),
    "grants", "at most 200", "200",
)  # fmt: skip
simple("no such proposal", _of_bob("approve_access", number=7), "nothing is proposed", "bob", "7")


async def _two(s: Scene, verb: str, /, **fields: Any) -> str:
    await s.do("create_principal", name="bob", key=_key(1))
    return await s.ask(verb, **fields)


async def _as_bob(s: Scene, times: int) -> str:
    """The last of so many elevations that bob asks for, each for another time."""
    await s.do("create_principal", name="bob")
    for number in range(times - 1):
        await s.do("elevate", who="bob", role="viewer", for_s=60 + number, reason="r")
    return await s.ask("elevate", who="bob", role="viewer", for_s=60 + times, reason="r")


@row("proposed already", "as number 1", "another person approves")
async def proposed_twice(s: Scene) -> str:
    await s.do("create_principal", name="bob")
    await s.do("elevate", who="bob", role="viewer", reason="r")
    return await s.ask("elevate", who="bob", role="viewer", reason="r")


simple("many proposals", lambda s: _as_bob(s, 21), "proposals wait", "decide on some first", "20")


async def _governed(s: Scene) -> None:
    s.twin.founders = (Founder("default", "owner", _key(1), (Role.OWNER,)),)
    await s.twin.crash()
    await s.twin.start()


@row("last owner", "make another one first", "owner is")
async def last_owner(s: Scene) -> str:
    await _governed(s)
    return await s.ask("revoke_principal", who="owner", name="owner")


@row("only key of owner", "add another one", "last owner")
async def last_owners_key(s: Scene) -> str:
    await _governed(s)
    return await s.ask("remove_key", who="owner", name="owner", key=_key(1), reason="r")


@row("bob is viewer in mail already", "for longer", "viewer")
async def shorter_grant(s: Scene) -> str:
    await s.do("create_principal", name="bob")
    await s.do("grant", name="bob", role="viewer", scope="mail", reason="r")
    until = "2026-01-02T00:00:00Z"
    return await s.ask("grant", name="bob", role="viewer", scope="mail", reason="r", until=until)


@row("is that of another principal's", "secret of your own", "another")
async def stolen_digest(s: Scene) -> str:
    await s.do("create_principal", name="bob", key=_key(1))
    await s.do("create_principal", name="eve", key=_key(2))
    await s.do("issue_token", name="bob", token="t", digest=DIGEST)
    return await s.ask("issue_token", name="eve", token="t", digest=DIGEST)


simple(
    "name of Writ's own", lambda s: s.ask("create_principal", name="writ:orchestrator", key=_key(1)),
    "names of Writ's own", "choose another", "writ:orchestrator",
)  # fmt: skip


simple(
    "owner named as Writ's own",
    lambda s: s.ask("create_tenant", name="acme", owner="writ:orchestrator", key=_key(1)),
    "names of Writ's own", "choose another", "writ:orchestrator",
)  # fmt: skip


@row("mallory may not cancel", "deny.unknown", "on mail")
async def denied(s: Scene) -> str:
    await _governed(s)
    return await s.ask("cancel", who="mallory", id="a")


@row("cannot give itself", "deny.self", "owner")
async def denied_to_give(s: Scene) -> str:
    await _governed(s)
    return await s.ask("grant", who="owner", name="owner", role="admin")


@row("a reader's word", "deny.default", "bob")
async def denied_by_a_reader(s: Scene) -> str:
    """Recorded, and not answered: whoever asked was answered by the reader."""
    why = "a reader's word [deny.default]"
    about = {"operation": "jobs", "resource": "*", "rule": "deny.default", "why": why}
    body = json.dumps({"tenant": "default", "principal": "bob", **about}).encode()
    await s.twin.hub.request("_writ", "views", "note_denial", "-", body, "control")
    (event,) = await s.twin.events(AccessDenied)
    assert isinstance(event, AccessDenied)
    return f"{event.why.reason}, to {(await s.twin.records())[-1].key}"


# What no message can bring about, as an earlier check stands before it; asked of the decisions themselves.
def _direct(name: str, make: Callable[[], Rejection | None], rule: str, limit: object, value: object) -> None:
    async def play(s: Scene) -> str:
        return _told(make())

    simple(name, play, rule, limit, value)


def _declare(name: str) -> Rejection | None:
    outcome = schedule_decisions.declare(None, "q", name, ScheduleSpec("t", every_s=60.0), b"1", "r")
    return outcome if isinstance(outcome, Rejection) else None


def _backfill_of(limit: int) -> Rejection | None:
    schedule = Schedule("q~s", 1, ScheduleSpec("t", every_s=60.0), seal(b"1"), 0, 0, 0)
    outcome = schedule_decisions.backfill(schedule, [], 9, 0, 9, "r", limit=limit, overlap=Overlap.ALLOW)
    return outcome if isinstance(outcome, Rejection) else None


_direct("no name", lambda: _declare(""), "name", "1 to 256", "empty")
_direct("a name of blanks", lambda: _declare("a b"), "name", "letters, digits", "'a b'")
_direct("backfill of very much", lambda: _backfill_of(501), "limit", "1 to 500", "501")
_direct("content of anything", lambda: content_fault("output", b"{]"), "output", "JSON", "byte 1")


# Assets.
def _put(**fields: Any) -> dict[str, Any]:
    return {"name": "key", "value": "bG9uZyBlbm91Z2g=", **fields}


async def _reads(s: Scene, **fields: Any) -> str:
    """The reason for which a running job, whose task is granted `key`, is refused an asset."""
    await s.do("declare", policy={"assets": {"key": ["t"]}})
    held = {"worker": "w1", "id": "a", "token": await s.run()}
    return await s.ask("read_asset", **{**held, "name": "key", "secret": True, **fields})


def _many_versions() -> Rejection | None:
    several = tuple([AssetVersion(n, f"{n}-ab", "ab", 9, 0, "owner") for n in range(1, VERSIONS_MAX + 1)])
    return _refused(set_asset(Asset(False, several), KeptAsset("key", "x-ab", "ab", 9), 1, ()))


def _refused(outcome: object) -> Rejection | None:
    return outcome if isinstance(outcome, Rejection) else None


simple(
    "a short secret",
    asking("set_asset", **_put(secret=True, value="YWI=")),
    "a secret",
    "6 or more",
    "2 bytes",
)
simple("rotate nobody", asking("set_asset", **_put(rotate=True)), "no asset", "key", "key")
simple("remove nobody", asking("remove_asset", name="key"), "no asset", "key", "key")
simple("get nobody", asking("get_asset", name="key"), "no asset", "key", "key")
_direct("versions", _many_versions, "versions", VERSIONS_MAX, "key")
_direct(
    "assets",
    lambda: _refused(set_asset(None, KeptAsset("key", "x-ab", "ab", 9), ASSETS_MAX, ())),
    "assets", f"at most {ASSETS_MAX}", f"has {ASSETS_MAX}",
)  # fmt: skip


@row("an asset is given", "remove it first", "key is a secret")
async def another_flavour(s: Scene) -> str:
    await s.do("set_asset", **_put(secret=True))
    return await s.ask("set_asset", **_put())


@row("given to jobs alone", "secret", "key")
async def a_secret_shown(s: Scene) -> str:
    await s.do("set_asset", **_put(secret=True))
    return await s.ask("get_asset", name="key")


@row("no version 7", "newest is 1", "key")
async def another_version(s: Scene) -> str:
    await s.do("set_asset", **_put())
    return await s.ask("get_asset", name="key", version=7)


@row("was erased", "version 1", "key")
async def an_erased_version(s: Scene) -> str:
    await s.do("set_asset", **_put())
    await s.do("set_asset", **_put(rotate=True, forget=True))
    return await s.ask("get_asset", name="key", version=1)


@row("does not grant", "assets", "other")
async def not_granted(s: Scene) -> str:
    return await _reads(s, name="other")


@row("only a reproduction", "newest", "version 1")
async def a_version_for_a_job(s: Scene) -> str:
    await s.do("set_asset", **_put(secret=True))
    return await _reads(s, version=1)


@row("ctx.secret", "a secret", "key")
async def read_as_another_flavour(s: Scene) -> str:
    await s.do("set_asset", **_put(secret=True))
    return await _reads(s, secret=False)


# Versions of records.
simple("an older version", asking("raise_records", version=1), "not gone back to", "version 1", "version 2")
simple(
    "a version nobody reads", asking("raise_records", version=99), "not every orchestrator", "99", "up to 2"
)


@row("who takes part", "ask again", "nothing was decided")
async def a_roll_that_is_not_heard(s: Scene) -> str:
    async def lost(partition: int) -> Any:
        raise ConnectionError("the broker is away")

    for host in s.twin.hub.hosts:
        host.roll = lost  # type: ignore[method-assign]
    return await s.ask("raise_records", version=2)


# --- the tests ------------------------------------------------------------------------------------------

_came_to: set[Place] = set()
_rows: set[str] = set()


@pytest.mark.parametrize("name", TABLE)
async def test_every_refusal_names_the_rule_the_limit_and_the_value(twin: Twin, name: str) -> None:
    """Must hold: each rule's refusal names the rule, the limit and the value."""
    told = TABLE[name]
    with Tracer() as tracer:
        reason = await told.play(Scene(twin))
    _came_to.update(tracer.came_to())
    _rows.add(name)
    for words in (told.rule, told.limit, told.value):
        assert words in reason
    await twin.check()


async def test_every_place_that_makes_a_refusal_has_its_row(
    twin: Twin, snapshot: Callable[[Partition], dict[str, Any]]
) -> None:
    """Must hold: each rule's refusal names the rule, the limit and the value: one that is new, and has no row
    here, fails.
    """
    for name, told in TABLE.items():
        if name not in _rows:  # where this test runs alone, or the others in another process
            another = type(twin)(snapshot)
            await another.start()
            with Tracer() as tracer:
                await told.play(Scene(another))
            _came_to.update(tracer.came_to())
            await another.crash()
    missing = [str(place) for place in places() if place not in _came_to]
    assert not missing, "\n".join(missing)


def test_refusals_are_made_in_functions() -> None:
    """Where they can be traced; of the ones made once and for all, each is in the table by its words."""
    found: list[str] = []
    for file in TRACED:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
                found += [file.name for call in calls if _name(call) in MAKERS]
    assert found == ["office.py"]


async def test_the_largest_submit_that_is_not_refused_fits_a_record(twin: Twin) -> None:
    """Every bound at its utmost, and what costs most to write: else it would hold up all behind it."""
    scene, longest = Scene(twin), "k" * 251
    before = [f"{n:0>251}" for n in range(bounds.AFTER_MAX)]
    for job_id in before:
        await scene.submit(job_id)
    keys = [f"mail~{job_id}" for job_id in before]
    costly = "\x01" * (8_192 // bounds.AFTER_MAX - 2)
    largest = {
        "task": "🐘" * bounds.TASK_MAX_BYTES,
        "input": {"x": "x" * (bounds.INLINE_MAX_BYTES - 8)},
        "id": longest,
        "retry": {"non_retryable_types": ["\x01" * 16_384]},
        **dict.fromkeys(
            ("fairness_key", "concurrency_key", "unique_key", "batch"), "k" * bounds.TOKEN_MAX_BYTES
        ),
        "after": keys,
        "input_from": {f"{costly}{n:02}": key for n, key in enumerate(keys)},
        "parent": keys[0],
        "tags": {f"{n:0>64}": "\x01" * 256 for n in range(bounds.TAGS_MAX)},
    }
    await twin.submit(largest)
    await scene.submit("behind")
    assert twin.job(longest).after == tuple(keys)
    (size,) = [len(m.body) async for part in twin.log.read() for m in part if longest in m.subject]
    assert size > bounds.RECORD_MAX_BYTES * 3 // 4
