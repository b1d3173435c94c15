"""Gates and canaries judge rightly as often as promised: `make bench-gates` at a tenth of its size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_gates_block_drops_and_let_the_harmless_through() -> None:
    small = ["--trials", "200", "--streams", "200", "--seed", "3"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gates", *small],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("0 bars missed")
