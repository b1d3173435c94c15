"""A rolling upgrade over two versions of records, with real processes; `make upgrade` is the longer one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.upgrade import OLD, Rolling
from writ.schemas.upgrading import RECORDS


@pytest.mark.timeout(240)
async def test_a_rolling_upgrade_over_two_versions_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Must hold: a rolling upgrade over two record versions ends with `audit verify` 0, no lost or doubled
    job, first in first out kept per queue. On the way: a newer leader writes the older version, an older one
    takes over from it again, the log is not raised while that takes part, and one that starts later ends.
    """
    told = await Rolling(tmp_path).run()
    assert told.elections[OLD] >= 4
    assert told.elections[RECORDS] >= 1
    assert told.summary["leaders"] == sum(told.elections.values())
