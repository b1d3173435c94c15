"""Power lost under a broker on the shipped configuration, in the middle of appends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance import disk
from tests.acceptance.cluster import Cluster
from writ.broker.connect import Target, connect
from writ.broker.hardened import HardenedClient
from writ.broker.log import JetStreamLog
from writ.broker.ports import AppendFailed, Message, OutcomeUnknown
from writ.broker.streams import ApiError, api

LOSSES = int(os.environ.get("WRIT_POWER_LOSSES", "3"))
APPENDS = 60
"""Acknowledged, at least, before each cut: singly, and as batches."""

BATCH = 10
READY_S = 20.0

pytestmark = pytest.mark.skipif(disk.missing() is not None, reason=f"no such disk here: {disk.missing()}")


@pytest.fixture
def platter(tmp_path: Path) -> Iterator[disk.Disk]:
    made = disk.Disk(tmp_path, size_mib=96)
    yield made
    made.unmount()


async def test_nothing_acknowledged_is_lost(platter: disk.Disk, tmp_path: Path) -> None:
    """Simulated power losses with `sync_interval: always`: nothing acknowledged is lost."""
    lost = await lose_power(platter, tmp_path, "always", LOSSES)
    assert lost == [0] * LOSSES


async def test_the_same_cut_does_lose_with_the_server_s_own_default(
    platter: disk.Disk, tmp_path: Path
) -> None:
    """With the broker's default sync the same method does lose, as a control."""
    (lost,) = await lose_power(platter, tmp_path, "2m", 1)
    assert lost > 0


async def lose_power(platter: disk.Disk, root: Path, sync: str, losses: int) -> list[int]:
    """How many acknowledged records were gone after each cut."""
    cluster = Cluster(root / "brokers", root / "node", 1, "single.conf", data=platter.path, sync=sync)
    cluster.prepare()
    cluster.start(0)
    lost: list[int] = []
    acknowledged = 0
    try:
        for _ in range(losses):
            link, log = await _opened(cluster)
            acknowledged = max(acknowledged, await log.last_seq())
            appending = asyncio.create_task(_append(log, acknowledged))
            seen = acknowledged
            while seen < acknowledged + APPENDS:
                seen = await log.last_seq()
            platter.cut()  # in the middle of what is being appended
            cluster.end(0)
            appending.cancel()
            await link.close()
            acknowledged = max(acknowledged, (await asyncio.gather(appending))[0])
            await asyncio.to_thread(platter.unmount)
            platter.mount()
            cluster.start(0)
            link, log = await _opened(cluster)
            lost.append(max(0, acknowledged - await log.last_seq()))
            await link.close()
    finally:
        cluster.clear()
    return lost


async def _append(log: JetStreamLog, after: int) -> int:
    """Appends until it cannot; the last sequence that was acknowledged."""
    body = b"x" * 350
    count = 1
    with suppress(AppendFailed, ConnectionError, asyncio.CancelledError):
        while True:
            messages = [Message("writ.log.0.tenant.job.key", body)] * count
            await log.append(messages, after)
            after += count
            count = BATCH + 1 - count
    return after


async def _opened(cluster: Cluster) -> tuple[HardenedClient, JetStreamLog]:
    """A connection that appends, as soon as the broker takes it."""
    target = Target(cluster.url, cluster.keys / "keys" / "log.creds")
    link = await connect(target, "power", inbox_prefix="_INBOX", wait_s=READY_S)
    loop = asyncio.get_running_loop()
    until = loop.time() + READY_S
    while True:
        try:
            await api(link, "INFO")
            return link, await JetStreamLog.open(link)
        except (ApiError, OutcomeUnknown):
            assert loop.time() < until, cluster.said()
            await asyncio.sleep(0.05)
