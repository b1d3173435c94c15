"""Restoring a backup to a cluster of three servers."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.cluster import Cluster
from writ import Client, Target

from .conftest import Place
from .test_backup import TASKS, check, records_of, unfinished, writ

if TYPE_CHECKING:
    from types import ModuleType

    from .conftest import Live

STREAMS = ("WRIT_LOG_0", "WRIT_SUBMIT", "OBJ_writ-files-default")


@pytest.mark.timeout(180)
async def test_a_backup_is_restored_to_a_cluster_that_outlives_a_server(
    live: Live, tmp_path: Path, raw: ModuleType
) -> None:
    """Must hold: a backup of one server, restored to three, has every stream on all three; it verifies, all
    that was acknowledged ends once, and the loss of a server right after loses nothing. Of the old machine
    nothing is left but the backup."""
    kept = tmp_path / "kept"
    async with Client(Target(live.node.url, live.node.broker.key_path("owner"))) as client:
        handles = await client.submit_many("mail", [{"task": "send", "input": {"n": n}} for n in range(200)])
        file = await client.put_file(b"scan" * 100_000)
        await client.audit(timeout_s=30)
        await client.checkpoint(covering=(await client.jobs()).position)
        words = ("--segment-min", "20", "--segment-max", "40")
        assert await writ("archive", "run", "--dir", str(live.node.directory), *words) == 0
        assert await writ("backup", str(kept), "--dir", str(live.node.directory), "--keys") == 0

    at = tmp_path / "new" / ".writ"
    cluster = Cluster(tmp_path / "brokers", at, backup=kept)
    root = tmp_path / "new"
    root.mkdir()
    new = Place(root, raw)
    (root / "tasks.py").write_text(TASKS)
    try:
        cluster.prepare()
        for number in range(cluster.size - 1):
            cluster.start(number)
        asked = ("restore", str(kept), "--broker-url", cluster.url, "--json")
        restoring = asyncio.create_task(asyncio.to_thread(new.writ, *asked))
        while not (new.root / ".writ" / "restoring").exists():  # noqa: ASYNC110 - another's file
            await asyncio.sleep(0.05)
        cluster.start(cluster.size - 1)  # the last one comes late, as where machines start
        restored = await restoring
        assert [each["epoch"] for each in json.loads(restored.stdout)["logs"]] == [2]
        for stream in STREAMS:
            found = await cluster.stream(stream)
            assert found["config"]["num_replicas"] == 3, stream
            await cluster.whole(stream)
        leader = await cluster.leader("WRIT_LOG_0")
        assert leader is not None
        cluster.end(leader)
        await asyncio.to_thread(new.up, "--broker-url", cluster.url)
        env = await asyncio.to_thread(new.json, "env")
        async with Client(Target(env["NATS_URL"], Path(env["NATS_NKEY"]))) as client:
            assert await client.get_file(file) == b"scan" * 100_000
            more = await client.submit("mail", "send", {"n": 1})
            with new.worker("tasks.py", "--queue", "mail"):
                async with asyncio.timeout(90):
                    await client.result(more)
                    while unfinished(records := await records_of(env["NATS_URL"], root / ".writ")):  # noqa: ASYNC110 - a log
                        await asyncio.sleep(0.3)
        verified = await asyncio.to_thread(partial(new.writ, check=False), "audit", "verify")
        assert verified.returncode == 0, verified.stderr
        cluster.start(leader)
        for stream in STREAMS:
            await cluster.whole(stream)
        status = await asyncio.to_thread(new.json, "status")
        assert (status["durability"]["replicas"], status["durability"]["current"]) == (3, 3)
        await asyncio.to_thread(new.writ, "backup", str(kept))
    finally:
        new.down()
        cluster.clear()
    check(records, {more.id, *(each.id for each in handles)})
