"""A small round of `make chaos`: at length it kills each part a hundred times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.chaos import LIVE, Chaos


@pytest.mark.timeout(240)
async def test_no_kill_loses_or_doubles_anything(tmp_path: Path) -> None:
    """No acknowledged job lost, no second terminal event in one round, with enough leases live at each kill;
    every decision comes out the same again, and every view is a fold of the log."""
    parts = ("leader", "worker", "views")
    told = await Chaos(tmp_path, kills=1, stops=0, seed=5, parts=parts).run()
    assert told.faults == {f"kill {part}": 1 for part in parts}
    assert told.live_at_least >= LIVE / 2
    assert told.summary["leaders"] >= 2
    assert told.summary["executions repeated"] >= 0
    assert set(told.summary["states"]) == {"completed"}
