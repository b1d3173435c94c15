"""The conformance kit finds this project's worker in order, and one that breaks the protocol at fault."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WORKER = [sys.executable, "-m", "writ", "worker", "--queue", "conformance"]


def kit(*command: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "writ.conformance", *command]
    return subprocess.run(words, capture_output=True, text=True, timeout=110, check=False)


def test_this_projects_worker_keeps_to_the_protocol() -> None:
    done = kit(*WORKER, str(HERE / "tasks.py"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok  ") == 8


@pytest.mark.skipif(shutil.which("node") is None, reason="not run: there is no Node.js")
def test_a_worker_in_another_language_keeps_to_the_protocol() -> None:
    """Must hold: a written worker protocol with a conformance kit for workers in other languages."""
    done = kit("node", str(HERE.parent.parent / "examples" / "node_worker" / "worker.mjs"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok  ") == 8


def test_a_worker_that_breaks_the_protocol_is_found(tmp_path: Path) -> None:
    code = (HERE / "tasks.py").read_text(encoding="utf-8")
    broken = code.replace("return given", 'return {"n": 1} if given else given')
    broken = broken.replace("class Refused(FailJob)", "class Refused(Exception)")
    broken = broken.replace("await asyncio.sleep(seconds)", "__import__('os')._exit(3)")
    (tmp_path / "tasks.py").write_text(broken, encoding="utf-8")
    done = kit(*WORKER, str(tmp_path / "tasks.py"))
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("FAIL  completes a job with its output as JSON: echo of")
    assert lines[1].startswith("ok ")
    assert "ended after attempt 2, not 1" in lines[2]
    assert all("the worker has ended, with exit code 3" in line for line in lines[4:8])


def test_without_a_command_it_says_what_it_takes() -> None:
    done = kit()
    assert (done.returncode, done.stdout.startswith("usage:")) == (2, True)
