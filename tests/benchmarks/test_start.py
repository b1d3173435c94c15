"""The benchmarks of starts, take-overs and backlogs, made small: they run, and look at what they do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert "held" in done.stdout or "MISSED" in done.stdout, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_start_reads_live_jobs_and_leaves_the_others_where_they_rest() -> None:
    """Start-up to ready with finished jobs and live ones: `make bench-start` has a million and 100,000."""
    said = run("benchmarks.start", "--ended", "8000", "--live", "700", "--starts", "1")
    assert "700 live jobs, 8,000 that rest, 700 in memory" in said


def test_another_leads_after_a_kill_and_after_a_stop() -> None:
    """Take-over after a kill, submits as well as leases, and the hand-over on SIGTERM."""
    said = run("benchmarks.takeover", "--kills", "1", "--stops", "1")
    assert said.count("elected") == 2


def test_a_backlog_is_filled_and_drained() -> None:
    """Submit and drain rates beside a backlog: `make bench-backlog` has a million jobs."""
    said = run("benchmarks.backlog", "--jobs", "3000", "--beside", "1000")
    assert said.count("bytes a live job") == 4
    assert "of the rates at 1,000" in said
