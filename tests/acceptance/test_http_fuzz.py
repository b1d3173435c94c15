"""schemathesis finds no failure against the OpenAPI document with all its checks on, stateful phases too.

A small run; `make http-fuzz` is the long one, with the coverage phase and more cases.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from writ.http.routes import ROUTES

ROOT = Path(__file__).resolve().parents[2]


def test_schemathesis_finds_no_failure_with_all_its_checks() -> None:
    few = ("--max-examples", "2", "--phases", "fuzzing,stateful", "--seed", "1")
    done = subprocess.run(
        [sys.executable, "-m", "tests.http.fuzz", *few],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    operations = len(ROUTES) + 2  # and the two of its health
    assert f"Selected: {operations}/{operations}" in done.stdout
    assert "✅ Fuzzing" in done.stdout
    assert "✅ Stateful" in done.stdout
