"""`writ evaluate` as a user meets it, with a real node, tasks without a release, and a worker that scores."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from .conftest import Shell

PLAN = """
data = "names.jsonl"
task = "hello"
queue = "q"
scoring_queue = "scoring"
repeats = 2

[[dimension]]
name = "greeting"
scorer = { kind = "exact" }
"""


@pytest.fixture(scope="module")
def scored(node: Shell) -> Iterator[Shell]:
    """The node with a plan, its data, and a worker that scores."""
    names = ("Ada", "Kurt", "Emmy", "Alan")
    items = [{"input": {"name": name}, "expected": f"hello {name}"} for name in names]
    (node.directory / "names.jsonl").write_text("\n".join(map(json.dumps, items)))
    (node.directory / "small.toml").write_text(PLAN)
    bounded = PLAN.replace('"greeting"', '"greeting"\nminimum = 0.9')
    (node.directory / "evaluations").mkdir()
    (node.directory / "evaluations" / "bounded.toml").write_text(bounded.replace("names", "../names"))
    worker: subprocess.Popen[str] = node.start("worker", "writ.evaluation.scoring", "--queue", "scoring")
    yield node
    worker.terminate()
    worker.communicate(timeout=30)


def test_gate_tells_pass_fail_and_inconclusive_by_exit_code(scored: Shell) -> None:
    passed = scored("evaluate", "run", "bounded", "--gate")
    assert passed.code == 0, passed.err
    assert passed.out.startswith("pass: hello on bounded")
    assert "8 jobs in queue q: 4 items, 2 repeats, 1 sides" in passed.err
    failed = scored("evaluate", "run", "bounded", "--task", "broken", "--baseline-task", "hello", "--gate")
    assert failed.code == 1, failed.err
    assert "4 items are worse in a dimension" in failed.out
    # Eight tries that all went well do not show that one in ten cannot fail.
    unsure = scored("evaluate", "run", "small.toml", "--task", "hello", "--baseline-task", "hello", "--gate")
    assert unsure.code == 4, unsure.err
    assert "repeats would decide it" in unsure.out
    assert scored("evaluate", "run", "small.toml", "--repeats", "1").code == 0  # no gate was asked for


def test_reports_for_programs_and_people(scored: Shell) -> None:
    reports = ("--junit", "r.xml", "--markdown", "r.md", "--html", "r.html")
    done = scored("evaluate", "run", "bounded", "--repeats", "1", "--json", *reports)
    assert done.code == 0, done.err
    found = done.document
    assert found["position"] is None
    assert found["evaluation"]["verdict"]["outcome"] == "pass"
    suite = ElementTree.fromstring((scored.directory / "r.xml").read_text())
    assert (suite.get("tests"), suite.get("failures")) == ("1", "0")
    assert (scored.directory / "r.md").read_text().startswith("## ✔ pass: hello on bounded")
    assert (scored.directory / "r.html").read_text().endswith("</body></html>\n")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("run", "absent"), "evaluations/absent.toml cannot be read"),
        (("run", "bounded", "--process", "p"), "which release of p?"),
        (("run", "bounded", "--process", "p@live"), "p has no release live for queue q"),
        (("run", "bounded", "--baseline", "p@live"), "--baseline names a release to hold another against"),
        (("run", "bounded", "--repeats", "101"), "101 repeats cannot be"),
        (("show", "p@live"), "there is no process p"),
    ],
)
def test_what_cannot_be_evaluated_says_why(scored: Shell, words: tuple[str, ...], reason: str) -> None:
    done = scored("evaluate", *words)
    assert done.code in (1, 2)
    assert reason in done.err
    assert done.out == ""
