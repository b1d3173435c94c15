"""What becomes of tasks that do their worst: the table of docs/isolation.md, for the tests and the proof."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from writ.workers.runner.guard import descendants

if TYPE_CHECKING:
    from ..conftest import Place

LATE_S = 5.0
FULL = bool(os.environ.get("WRIT_ISOLATION_FULL"))
"""`make isolation-proof`: besides, a loop blocked for 90 s, and a limit of 10 GB for files."""

FILE_MIB, WRITING_S = (10_240, 300) if FULL else (16, 30)
OPTIONS = ("--concurrency", "20", "--memory-mib", "256", "--file-mib", str(FILE_MIB), "--processes", "64")


@dataclass(frozen=True)
class Case:
    """A task, and its end: class, type and a part of the text; completed with `output` where no class."""

    task: str
    class_: str | None = None
    type: str = ""
    text: str = ""
    input: dict[str, Any] = field(default_factory=dict[str, Any])
    limit_s: float = 30.0
    output: object = "done"


_ALWAYS = (
    Case("steady", output=sum(range(20))),
    Case("blocks", "timeout", "AttemptTimeout", input={"seconds": 90}, limit_s=1),
    Case("spins", "timeout", "AttemptTimeout", limit_s=1),
    Case("is_deaf", "timeout", "AttemptTimeout", limit_s=1),
    Case("eats", "application", "OutOfMemory", "--memory-mib is 256"),
    Case("forks", "application", "TooManyProcesses", "--processes 64", {"count": 200}),
    Case("writes", "application", "FileTooLarge", f"--file-mib {FILE_MIB}", {"mib": 20_000}, WRITING_S),
    Case("fills_the_disk", "system", "DiskFull", "No space left"),
    Case("closes_its_stdout"),
    Case("prints", input={"mib": 100}),
    Case("returns", "application", "OutputTooLarge", "52428802 bytes", {"mib": 50}),
    Case("returns_no_json", "application", "OutputNotSerializable", "cannot be written as JSON"),
    Case("raises", "application", "ValueError", "10485760 characters in all", {"mib": 10}),
    Case("leaves", "application", "SystemExit", "3"),
    Case("imports", "application", "ModuleNotFoundError", "nothing_that_is_there"),
    Case("exits", "poison", "ProcessExited", "ended by itself with status 7", {"code": 7}),
    Case("segfaults", "poison", "SIGSEGV", "killed by SIGSEGV"),
    Case("babbles", "poison", "ProtocolBroken", "no message"),
)
_FULLY = (Case("blocks_long", output=None, input={"seconds": 90}, limit_s=120),)
CASES = (*_ALWAYS, *_FULLY) if FULL else _ALWAYS
LOOKED_AT = tuple([case for case in CASES if case.class_ in (None, "poison")])


def submit(place: Place, queue: str, cases: tuple[Case, ...]) -> None:
    """Each once: a crash is its last, too."""
    jobs = [
        {
            "task": case.task,
            "id": f"{case.task}-{queue}",
            "input": case.input,
            "attempt_timeout_s": case.limit_s,
            "retry": {"max_attempts": 1, "max_lease_losses": 1},
        }
        for case in cases
    ]
    (place.root / "jobs.ndjson").write_text("".join(f"{json.dumps(job)}\n" for job in jobs))
    place.writ("submit", queue, "--file", "jobs.ndjson")


def over(place: Place, queue: str) -> bool:
    states = [job["state"] for job in place.json("jobs", "--queue", queue)]
    return all(state in ("completed", "dead") for state in states)


def judge(case: Case, job: dict[str, Any]) -> None:
    """Whether a job ended as the table says. Raises AssertionError."""
    about = f"{case.task}: {job['state']} with {job['error'] or job['output']}"
    if case.class_ is None:
        assert (job["state"], job["output"]) == ("completed", case.output), about
    else:
        assert job["state"] == "dead", about
        assert (job["error"]["class"], job["error"]["type"]) == (case.class_, case.type), about
        assert case.text in (job["error"].get("text") or ""), about
    began, ended = (datetime.fromisoformat(job[name]) for name in ("submitted_at", "finished_at"))
    assert (ended - began).total_seconds() <= case.limit_s + LATE_S, about


def judge_records(case: Case, records: list[dict[str, Any]], level: str) -> None:
    """Whether the level is in the record, and a crash is recorded as one. Raises AssertionError."""
    told = {event["type"]: event["data"] for record in records for event in record["record"]["events"]}
    assert told["lease_granted"]["isolation"] == level
    if case.class_ is None:
        assert told["job_completed"]["isolation"] == level
        return
    failed = told["attempt_failed"]
    assert (failed["error"]["class"], failed["crashed"]) == ("system", True)
    assert failed["isolation"] == level
    assert told["job_dead_lettered"]["reason"] == "poison"


def left_over(worker: int, level: str) -> list[int]:
    """The processes below a worker that should not be there: more than it has with nothing to do."""
    found = descendants(worker)
    idle = 4 * 4 if level == "bubblewrap" else 1
    return found if len(found) > idle else []
