"""A worker and a client far from the broker: 100 ms each way, with loss, and a connection that breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.kills import checker, harness
from tests.acceptance.lag import Lag
from writ import Client
from writ.broker.connect import Target

JOBS = 120
DELAY_S = 0.1
LOSS = 0.02
AGAIN_S = 0.3
LEASE_S = 30.0


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[harness.Stage]:
    stage = harness.Stage(tmp_path, checker)
    try:
        yield stage
    finally:
        await stage.clear()


@pytest.mark.timeout(120)
async def test_far_workers_lose_nothing(stage: harness.Stage) -> None:
    """Remote workers with an emulated delay of 100 ms and loss: every job ends once, no lease expires, though
    the connection breaks in the middle."""
    await stage.node()
    lag = Lag(int(stage.url.rpartition(":")[2]), DELAY_S, LOSS, AGAIN_S, seed=3)
    await lag.open()
    try:
        key = Path(stage.key_path)
        near = stage.url
        stage.url = f"nats://127.0.0.1:{lag.port}"
        worker = stage.worker("far", 20)
        async with Client(Target(stage.url, key)) as client:
            jobs: list[dict[str, Any]] = [
                {"id": f"job-{n:05}", "task": "on_the_loop", "input": {"ms": 100}, "lease_s": LEASE_S}
                for n in range(JOBS)
            ]
            handles = await client.submit_many(harness.QUEUE, jobs[: JOBS // 2])
            await client.result(handles[JOBS // 4], timeout_s=60)
            lag.cut()
            handles += await client.submit_many(harness.QUEUE, jobs[JOBS // 2 :])
            await asyncio.gather(*[client.result(handle, timeout_s=60) for handle in handles])
        stage.url = near
        worker.terminate()
        assert await stage.ended(worker, "the worker") == 0
        found = checker.fold(
            await checker.read_log(near, stage.directory / "keys" / "log.creds", harness.STREAM)
        )
        assert {len(job["ends"]) for job in found.jobs.values()} == {1}
        assert len(found.jobs) == JOBS
        assert found.events["lease_expired"] == 0
        assert lag.lost > 0
    finally:
        await lag.close()
