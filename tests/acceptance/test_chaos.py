"""Small rounds of `make chaos`: at length it kills each part a hundred times."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance import clocks
from tests.acceptance.chaos import LIVE, Chaos, Fault, killing


@pytest.mark.timeout(240)
async def test_no_kill_loses_or_doubles_anything(tmp_path: Path) -> None:
    """No acknowledged job lost, no second terminal event in one round, with enough leases live at each kill;
    every decision comes out the same again, and every view is a fold of the log."""
    parts = ("leader", "worker", "views")
    told = await Chaos(tmp_path, killing(parts, 1), seed=5).run()
    assert told.faults == {f"kill {part}": 1 for part in parts}
    assert told.live_at_least >= LIVE / 2
    assert told.summary["leaders"] >= 2
    assert told.summary["executions repeated"] >= 0
    assert set(told.summary["states"]) == {"completed"}


@pytest.mark.skipif(clocks.missing() is not None, reason=f"no clock to set here: {clocks.missing()}")
@pytest.mark.timeout(240)
async def test_a_clock_that_jumps_costs_no_lease_and_damage_is_noticed(tmp_path: Path) -> None:
    """The clocks of all processes jump, the broker's too, and nothing expires. A flipped bit in a single-node
    broker is noticed at start or within one scrub and named; on the blocks as they were, all goes on.
    """
    plan = [Fault("shift the clock of", "machine"), Fault("flip", "block")]
    told = await Chaos(tmp_path, plan, seed=5, lease_s=20.0, keeps_leases=True).run()
    assert told.faults == {str(fault): 1 for fault in plan}
    assert told.summary["executions repeated"] == 0
    assert set(told.summary["states"]) == {"completed"}


@pytest.mark.skipif(clocks.missing() is not None, reason=f"no clock to set here: {clocks.missing()}")
def test_a_process_is_told_another_time_than_the_machine() -> None:
    program = "import time\nwhile input(): print(time.time(), time.monotonic(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for by_s in (0, 3_600, -86_400, 0):
            clocks.jump(process.pid, by_s)
            before = time.time()
            print("what is it?", file=process.stdin, flush=True)
            wall, monotonic = map(float, process.stdout.readline().split())
            assert before <= wall - by_s <= time.time()
            assert monotonic <= time.monotonic()
        print(file=process.stdin, flush=True)
