"""Clients without any code of ours: plain sockets, and what `writ env` prints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Place

FOREIGN = Path(__file__).parent / "foreign"
PROGRAMS = {"python": (sys.executable, "-I", "raw.py"), "node": ("node", "client.mjs")}
TASKS = """
from writ import task

@task
def double(n: int) -> int:
    return 2 * n
"""


@pytest.fixture(scope="module", autouse=True)
def worker(place: Place) -> Iterator[None]:
    (place.root / "doubling.py").write_text(TASKS)
    queues = [f"--queue={language}-{way}" for language in PROGRAMS for way in ("shell", "json")]
    with place.worker("doubling", *queues):
        yield


def run(place: Place, way: str, command: list[str]) -> list[dict[str, Any]]:
    """Runs a program with what `writ env` tells, in the shell's way or as JSON; what it printed."""
    bare = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    if way == "shell":
        bare["PYTHON"] = sys.executable
        command = ["sh", "-c", 'eval "$("$PYTHON" -m writ env)" && exec "$@"', "sh", *command]
    else:
        bare |= place.json("env")
    done = subprocess.run(
        command, cwd=place.root, env=bare, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("way", ["shell", "json"])
@pytest.mark.parametrize("language", PROGRAMS)
def test_a_plain_publish_runs_a_job_and_so_does_an_array(place: Place, language: str, way: str) -> None:
    """Must hold: a client in another language works with no code of ours (`writ env` tells it where): a plain
    NATS publish of `{"task": "...", "input": {...}}` to the submit subject runs the job, and so does an array
    of jobs.
    """
    program, *rest = PROGRAMS[language]
    if shutil.which(program) is None:
        pytest.skip(f"no {program} on this machine: the client in {language} cannot be tried")
    queue = f"{language}-{way}"
    single = json.dumps({"task": "double", "input": {"n": 1}})
    named = json.dumps({"task": "double", "input": {"n": 21}, "id": f"named-{queue}"})
    array = json.dumps([{"task": "double", "input": {"n": n}} for n in range(100, 105)])
    client = [program, *rest[:-1], str(FOREIGN / rest[-1])]
    said = run(place, way, [*client, queue, "7", single, named, array])
    assert len([s for s in said if "stored" in s]) == 2
    outputs = {s["completed"]: s["output"] for s in said if "completed" in s}
    assert sorted(outputs.values()) == [2, 42, 200, 202, 204, 206, 208]
    assert outputs[f"named-{queue}"] == 42
    jobs = place.json("jobs", "--queue", queue)
    assert {job["id"]: job["output"] for job in jobs} == outputs
    assert {(job["state"], job["actor"], job["attempt"]) for job in jobs} == {("completed", "owner", 1)}
    assert place.json("job", f"named-{queue}", "--queue", queue)["output"] == 42
