"""Logins that end while work goes on: nothing is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from writ import Client, Context, Worker, task
from writ.broker.connect import Target
from writ.broker.wire import NatsWire
from writ.node import Node
from writ.schemas.lifecycle import State

JOBS = 60


async def test_workers_and_clients_outlive_their_logins(tmp_path: Path) -> None:
    """Must hold: tokens live an hour at most, here two seconds, and whoever has a live connection renews."""
    ran: Counter[str] = Counter()

    @task(name="count")
    async def count(number: int, ctx: Context) -> int:
        ran[f"{number}"] += 1
        await asyncio.sleep(0.1)
        return number

    node = await Node.start(tmp_path / "writ", login_life_s=2)
    target = Target(node.url, node.broker.key_path("owner"))
    worker = Worker("q", [count], target=target, concurrency=1, wait_s=1.0)
    working = asyncio.create_task(worker.run())
    try:
        wire = await NatsWire.connect(target, "t")
        async with Client(target, wire=wire) as client:
            handles = [await client.submit("q", "count", {"number": n}, lease_s=3) for n in range(JOBS)]
            async with asyncio.timeout(60):
                results = [await client.result(each, timeout_s=60) for each in handles]
            assert results == list(range(JOBS))
            assert ran == Counter({f"{n}": 1 for n in range(JOBS)})
            # A grant that was on its way as the connection broke is a lost lease, and the job's next attempt.
            jobs = [await client.job(each.id, "q") for each in handles]
            assert {job.state for job in jobs} == {State.COMPLETED}
            assert wire.connections > 2
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await node.stop()
