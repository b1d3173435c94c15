"""A task that takes its process down with it, in real worker processes that a supervisor starts again."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Place

CAP = 3
LEASE_S = 3
"""Longer than a busy machine takes from a grant to the task's first line: each lease is lost by a death."""

EXIT_CODE = 17
TASKS = f"""
import os
import signal
from pathlib import Path

from writ import Context, task


def note(context: Context) -> None:
    with open(f"ran-{{context.queue}}", "a") as ran:
        ran.write(f"{{context.attempt}}\\n")


@task
def exits(context: Context) -> None:
    note(context)
    os._exit({EXIT_CODE})


@task
def is_killed(context: Context) -> None:
    note(context)
    os.kill(os.getpid(), signal.SIGKILL)


@task
def fine() -> str:
    return "done"
"""
WAYS = {"exits": EXIT_CODE, "is_killed": -signal.SIGKILL}


class Supervisor:
    """Keeps one worker process running: when it ends, another is started. `ends` are the exit codes."""

    def __init__(self, place: Place, queue: str) -> None:
        self.ends: list[int] = []
        self._place = place
        self._queue = queue
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return self._place.start("worker", "deadly", "--queue", self._queue, "--concurrency", "1")

    def look(self) -> None:
        code = self._process.poll()
        if code is not None:
            self.ends.append(code)
            self._process = self._start()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def supervisors(own_place: Place) -> Iterator[dict[str, Supervisor]]:
    (own_place.root / "deadly.py").write_text(TASKS)
    kept = {queue: Supervisor(own_place, queue) for queue in WAYS}
    try:
        yield kept
    finally:
        for each in kept.values():
            each.end()


def test_a_task_that_dies_with_its_process_every_time_is_poison(
    own_place: Place, supervisors: dict[str, Supervisor]
) -> None:
    """Must hold: a task that dies with its process every time ends as a dead letter with class `poison` after
    the lease-loss cap: not before, not later, however many attempts its policy would allow. The worker then
    lives on, and the queue goes on behind it.
    """
    place = own_place
    policy = {"max_lease_losses": CAP, "max_attempts": 1}
    for queue in WAYS:
        tasks = {queue: queue, f"behind-{queue}": "fine"}
        jobs = [{"task": task, "id": id_, "lease_s": LEASE_S, "retry": policy} for id_, task in tasks.items()]
        (place.root / "jobs.ndjson").write_text("".join(f"{json.dumps(job)}\n" for job in jobs))
        place.writ("submit", queue, "--file", "jobs.ndjson")

    def over() -> bool:
        for each in supervisors.values():
            each.look()
        states = {job["id"]: job["state"] for job in place.json("jobs")}
        assert all(states[queue] != "completed" for queue in WAYS)
        return all(state in ("completed", "dead") for state in states.values())

    place.until(over)
    dead = {job["id"]: job for job in place.json("dlq")}
    assert set(dead) == set(WAYS)
    for queue, code in WAYS.items():
        assert supervisors[queue].ends == [code] * CAP, "as many processes died as leases were lost"
        assert (place.root / f"ran-{queue}").read_text().split() == [str(n + 1) for n in range(CAP)]
        assert place.json("job", f"behind-{queue}")["output"] == "done"
        judge(place.json("job", queue))


def judge(job: dict[str, Any]) -> None:
    """What the log says of a job that was poison."""
    assert (job["state"], job["error"]["class"]) == ("dead", "poison")
    records = [one["record"]["events"] for one in job["records"]]
    events = [event for record in records for event in record]
    lost = [event["data"] for event in events if event["type"] == "lease_expired"]
    assert [(each["attempt"], each["losses"]) for each in lost] == [(n, n) for n in range(1, CAP + 1)]
    assert {each["max_lease_losses"] for each in lost} == {CAP}
    assert len({each["token"] for each in lost}) == CAP, "each attempt had a lease of its own"
    assert not [event for event in events if event["type"] == "attempt_failed"]
    last = records[-1]
    assert [event["type"] for event in last] == ["lease_expired", "job_dead_lettered"], "one record"
    assert last[-1]["data"]["reason"] == "poison"
    assert last[-1]["data"]["rule"] == f"lost its lease {CAP} times; max_lease_losses is {CAP}"
