"""Processes as folders: `writ init`, `writ run`, and the tests that come with a project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Shell


@pytest.mark.parametrize(
    ("kind", "output"),
    [("job", {"one": 2, "two": 1}), ("agent", {"total": 119.0}), ("rpa", ["entered 7", "entered 8"])],
)
def test_a_new_process_runs_and_its_tests_pass(writ: Shell, kind: str, output: object) -> None:
    made = writ("init", "order-desk", "--type", kind)
    assert made.code == 0, made.err
    folder = writ.directory / "order-desk"
    ran = writ("run", "--folder", "order-desk", "--input", f"@{folder}/input.json", "--json")
    assert ran.code == 0, ran.err
    assert ran.document == {"state": "completed", "output": output, "error": None}
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout
    again = writ("init", "order-desk", "--type", kind)
    assert again.code == 1
    assert "holds a process already" in again.err


def test_a_run_tells_what_happens_and_how_it_ends(writ: Shell) -> None:
    writ("init", "orders")
    source = writ.directory / "orders" / "orders.py"
    source.write_text(
        source.read_text().replace("return {word", 'raise KeyError("no list")\n    return {word')
    )
    told = writ("run", "--folder", "orders", "--input", '{"words": ["a"]}')
    assert told.code == 1
    for word in ("step_intended", "step_failed", "job_dead_lettered", "KeyError"):
        assert word in told.out
    nothing = writ("run", "--folder", "orders", "--entry", "mian")
    assert nothing.code == 1
    assert "no entry point 'mian'; it has main" in nothing.err


def test_what_is_no_name_of_a_process_is_refused(writ: Shell) -> None:
    refused = writ("init", "../evil")
    assert refused.code == 2
    assert not Path(writ.directory.parent / "evil").exists()
