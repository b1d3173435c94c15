"""Archive and trim under load: every reader and `replay` give the same answers before and after."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.retention import Proof


async def test_what_is_archived_and_trimmed_under_load_and_kills_is_told_as_before(tmp_path: Path) -> None:
    """The same at length: `make retention-proof`."""
    told = await Proof(tmp_path, jobs=400, kills=4, seed=3).run()
    assert told.segments > 2
    assert told.node_kills == 2
