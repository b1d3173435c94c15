"""Must hold: with lanes over two partitions no job is lost or doubled while leaders are killed, each lane
keeps its order, a unique_key is live once in the queue, and the logs verify.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.lanes import Spread


@pytest.mark.timeout(400)
async def test_one_queue_is_worked_on_in_two_partitions_while_leaders_are_killed(tmp_path: Path) -> None:
    told = await Spread(tmp_path, jobs=400, kills=3, seed=1).spread()
    assert not told.wrong
    assert told.jobs >= 300
    assert min(told.by_partition.values()) > 0, "both partitions have work of the one queue"
