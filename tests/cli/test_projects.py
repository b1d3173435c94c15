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


def test_a_release_from_a_folder_to_production_and_why(node: Shell) -> None:
    """Published, promoted through a gate or not, explained from the log, and fetched byte for byte."""
    node("init", "desk")
    assert node("publish", "--folder", "desk").code == 0
    assert node("release", "promote", "desk@0.1.0", "--reason", "first").code == 0
    assert node("publish", "--folder", "desk", "--patch").code == 0
    (node.directory / "gates.toml").write_text('[gates.g]\nprocess = "desk"\ndrills = ["restore"]\n')
    assert node("gate", "apply", "gates.toml").code == 0
    blocked = node("release", "promote", "desk@0.1.1", "--reason", "second")
    assert blocked.code == 1
    assert "drill restore" in blocked.err
    told = node("explain", "desk@0.1.1")
    assert told.code == 0, told.err
    assert "promotion_blocked" in told.out
    assert "it was never run with this release" in told.out
    node(
        "release", "drill", "desk@0.1.1", "--drill", "restore", "--outcome", "pass", "--reason", "took 3 min"
    )
    assert node("release", "promote", "desk@0.1.1", "--reason", "second").code == 0
    assert node("release", "rollback", "desk", "--reason", "wrong totals").code == 0
    (listed,) = node("release", "list", "desk", "--json").document
    live = next(each for each in listed["pointers"] if each["alias"] == "live")
    assert listed["releases"][live["digest"]]["version"] == "0.1.0"
    canary = ("release", "canary", "desk@0.1.1", "--percent", "10", "--reason", "a look")
    judged = node(*canary, "--judge", "jobs", "--detect", "0.2", "--on-worse", "freeze")
    assert "judged by their jobs" in judged.out
    wrong = node(*canary, "--judge", "jobs", "--tolerate", "0.3")
    assert (wrong.code, "tolerate=0.3 detect=0.1" in wrong.err) == (1, True)
    assert "canary of desk in *: no verdict yet" in node("release", "list", "desk").out
    (listed,) = node("release", "list", "desk", "--json").document
    assert [each["watched"]["pairs"] for each in listed["found"]] == [0]
    assert "a drop of 0.2): freeze where worse" in node("release", "show", "desk@0.1.1").out
    assert node("release", "fetch", "desk@live", "--to", "fetched").code == 0
    assert (node.directory / "fetched/desk.py").read_text() == (node.directory / "desk/desk.py").read_text()


def test_a_version_is_not_raised_for_what_cannot_be_packaged(node: Shell) -> None:
    node("init", "till")
    source = node.directory / "till" / "process.toml"
    source.write_text(source.read_text().replace("dependencies = []", 'dependencies = ["cronsim>=2"]'))
    before = source.read_text()
    refused = node("publish", "--folder", "till", "--patch")
    assert refused.code == 1
    assert "run: writ lock" in refused.err
    assert source.read_text() == before
