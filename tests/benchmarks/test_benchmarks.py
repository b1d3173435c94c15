"""The benchmark in small: a run through all of it, and what it would do with a history that is not whole."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from writ.schemas.policy import Isolation

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def _from_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a run with 200 no-op jobs and a second of idleness."""
    out = tmp_path_factory.mktemp("bench") / "report.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks",
            "--only",
            "bulk,retries,idle",
            "--scale",
            "0.01",
            "--out",
            str(out),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: a bar of a machine this busy is missed
    assert done.stdout.splitlines()[-1].startswith("bench quick, commit "), done.stdout
    found: dict[str, Any] = json.loads(out.read_bytes())
    return found


def test_a_report_says_what_was_measured_where(report: dict[str, Any]) -> None:
    assert report["mode"] == "quick"
    assert {"cpu", "cores", "memory", "system", "filesystem"} <= set(report["machine"])
    assert {"python", "commit", "nats-server", "writ-orchestrator", "nats-py"} <= set(report["versions"])
    assert [result["workload"] for result in report["results"]] == ["bulk", "retries", "idle"]
    bulk, retries, idle = report["results"]
    assert bulk["settings"]["sync_interval"] == "always"
    for result in (bulk, retries):
        assert result["jobs_per_s"] > 0
        assert result["records_per_s"] > result["jobs_per_s"]
        assert set(result["cpu_us_per_job"]) == {"broker", "client", "node", "views", "worker"}
        assert result["stored_bytes_per_job"] > 0
        assert result["limit"]["records_per_s"] == max(result["limit"]["tries_records_per_s"])
        assert result["start"]["count"] == result["completion"]["count"] == result["jobs"]
        for spread in (result["start"], result["completion"]):
            assert 0 < spread["p50_ms"] <= spread["p99_ms"] <= spread["p999_ms"] <= spread["max_ms"]
    assert set(idle["cpu_cores"]) == {"broker", "client", "node", "views"}


def test_its_jobs_are_told_whole_by_the_log(report: dict[str, Any]) -> None:
    bulk, retries, _ = (result["evidence"] for result in report["results"])
    assert bulk == {
        "records_verified": bulk["records_verified"],
        "jobs": 200,
        "attempts": 200,
        "ends": {"JobCompleted": 200},
        "faults": [],
    }
    assert bulk["records_verified"] > 2 * 200
    assert (retries["jobs"], retries["attempts"], retries["faults"]) == (100, 110, [])
    whole = {verdict["bar"]: verdict for verdict in report["verdicts"]}["each history is whole"]
    assert whole["kept"] is True


def test_a_bar_is_judged_only_by_what_was_measured(report: dict[str, Any]) -> None:
    judged = {verdict["bar"]: verdict["kept"] for verdict in report["verdicts"]}
    assert judged["bulk: ahead of PgQueuer"] is None
    assert judged["50 submitters: jobs/s"] is None
    assert judged["bulk: share of the limit"] in (True, False)


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("submits", 2, "2 submits"),
        ("ends", ["JobDeadLettered"], "ends ['JobDeadLettered']"),
        ("ends", [], "ends []"),
        ("after_end", 1, "1 events after"),
        ("grants", 2, "2 grants, but its body was run 1 times"),
    ],
)
def test_a_history_that_is_not_whole_is_named(field: str, value: Any, fault: str) -> None:
    evidence = importlib.import_module("benchmarks.evidence")
    whole = {"submits": 1, "grants": 1, "ends": ["JobCompleted"]}
    assert evidence.faults_of({0: evidence.History(0, 3, **whole)}, 1, {0: 1}) == []
    (found,) = evidence.faults_of({0: evidence.History(0, 3, **whole | {field: value})}, 1, {0: 1})
    assert fault in found
    assert evidence.faults_of({}, 1, {}) == ["1 of 1 jobs are not in the log, as job 0"]


def test_a_recorded_run_is_drawn(report: dict[str, Any], tmp_path: Path) -> None:
    history = importlib.import_module("benchmarks.history")
    figures = importlib.import_module("benchmarks.figures")
    import msgspec

    whole = msgspec.convert(report, figures.Report)
    lines, plot = tmp_path / "history.jsonl", tmp_path / "history.svg"
    history.record(whole, lines, plot)
    history.record(whole, lines, plot)
    first, second = history.read(lines)
    assert first == second
    assert first.figures["bulk_per_s"] == report["results"][0]["jobs_per_s"]
    assert plot.read_text().count("<circle") == 2 * len(first.figures)


def test_a_spread_is_by_nearest_rank() -> None:
    spread = importlib.import_module("benchmarks.figures").Spread.of(n * 1_000 for n in range(1, 101))
    assert (spread.p50_ms, spread.p99_ms, spread.p999_ms, spread.max_ms) == (50, 99, 100, 100)


def test_a_line_goes_through_its_steps() -> None:
    line = importlib.import_module("benchmarks.figures").Line.through(
        "x", [(0, 5.0), (1_000, 7.0), (2_000, 9.0)]
    )
    assert (line.at_none, line.per_thousand, line.straight) == (5, 2, 1)


def test_the_views_are_measured(tmp_path: Path) -> None:
    """Whether the bars hold is for a machine that does nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.views", "--jobs", "600", "--seconds", "1.5"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=100,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout, done.stderr
    *_, rebuilt, flat, lag, steady, summary = done.stdout.splitlines()
    assert summary.startswith("views: "), done.stderr
    assert done.returncode == (" 4 of 4 bars held" not in summary)
    assert "records/s of" in rebuilt
    assert "memory flat" in flat
    assert "jobs/s under 1 s" in lag
    assert "memory flat under load" in steady


def test_an_isolated_attempt_is_measured(tmp_path: Path) -> None:
    module = tmp_path / "spawned.py"
    spawn = importlib.import_module("benchmarks.spawn")
    module.write_text(spawn.TASKS)
    took = asyncio.run(spawn.isolated(Isolation.PLAIN, str(module), 2, 0.0))
    assert len(took) == 2
    assert all(each > 0 for each in took)
