"""Must hold: partitions 2 -> 4 under load: logs verify, no job is lost or doubled, queues keep their order.

What moves are shards that hold nothing. `make grow-proof` is the same at length.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.growing import Growing


@pytest.mark.timeout(400)
async def test_partitions_become_more_under_load_while_leaders_are_killed(tmp_path: Path) -> None:
    told = await Growing(tmp_path, jobs=800, kills=3, moves=12, seed=1).run()
    assert not told.wrong
    assert told.jobs >= 700
    assert told.moved > 0
    assert told.at_cuts > 0, "submits were on their way to a shard that was given away"
    assert told.refused > 0
    assert told.by_partition[2] + told.by_partition[3] > 0, "the new ones have work"
