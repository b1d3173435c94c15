"""The whole story of `make example`, with fewer invoices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.timeout(300)
def test_the_good_goes_live_the_bad_is_blocked_and_the_forbidden_blocked_hard() -> None:
    """Must hold: a good release is promoted, one with a planted regression blocked, a harmless rewrite not,
    and one that calls a forbidden tool is blocked hard, with perfect scores; `writ explain` says why from
    the log. The example exits 1 where any of that is otherwise.
    """
    done = subprocess.run(
        [sys.executable, "-m", "examples.invoices.run", "--items", "20", "--seed", "7"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert done.stdout.rstrip().endswith(
        "1.0.0 promoted, 1.1.0 blocked, 1.2.0 promoted, 1.3.0 blocked: as they must be"
    )
