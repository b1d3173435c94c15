"""Archive and trim under load: every reader and `replay` give the same answers before and after."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.retention import Proof
from writ import Client
from writ.archiving import Archiving
from writ.broker.clock import SystemClock
from writ.broker.connect import Target
from writ.cli.archive import last_pass
from writ.schemas.policy import QueuePolicy

if TYPE_CHECKING:
    from tests.acceptance.conftest import Live


@pytest.mark.timeout(300)
async def test_what_is_archived_and_trimmed_under_load_and_kills_is_told_as_before(tmp_path: Path) -> None:
    """The same at length: `make retention-proof`."""
    told = await Proof(tmp_path, jobs=200, kills=2, seed=3).run()
    assert told.segments > 1
    assert (told.node_kills, told.passes) == (1, 2)


async def test_a_node_makes_a_pass_when_one_is_due(live: Live) -> None:
    """By itself, once enough has come together in a queue whose history may be moved."""
    node = live.node
    assert node.engine is not None
    async with Client(Target(node.url, node.broker.key_path("owner"))) as client:
        await client.declare_queue("mail", QueuePolicy(archive_after_s=0))
        handles = await client.submit_many("mail", [{"task": "send"}] * 1_000)
    await live.until(lambda record: record.key == f"mail~{handles[-1].id}")
    archiving = asyncio.create_task(Archiving(node.directory, node.engine, SystemClock(), look_s=0.05).keep())
    try:
        async with asyncio.timeout(60):
            while (kept := last_pass(node.directory)) is None:
                assert not archiving.done()
                await asyncio.sleep(0.05)
    finally:
        archiving.cancel()
        await asyncio.gather(archiving, return_exceptions=True)
    assert kept.held_back is not None
    assert "is pending" in kept.held_back.reason
    assert kept.log_last > 1_000
