"""Workers behind a leaf node: a real nats-server of theirs, far from the broker, on a link that fails."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import CONFIGURATIONS, Cluster, free_ports
from tests.acceptance.kills import checker, harness
from tests.acceptance.lag import Lag
from writ import Client
from writ.broker.connect import Target
from writ.broker.errors import NoAnswer, NoResponders
from writ.broker.keys import load_or_create
from writ.broker.owned import server_binary
from writ.broker.wire import NatsWire

DELAY_S = 0.1
LOSS = 0.02
AGAIN_S = 0.3
AWAY_S = 3.0
"""How long the link is cut."""
LEASE_S = 10.0
LONG_MS = 12_000
"""Of a job that outlives its lease, if nobody renews that."""
JOBS = 60
FAR = "far"
REFUSED = "Authorization Violation"
"""What a leaf node is told that is not let in."""


class Site:
    """A broker that takes leaf nodes, a node on it, and a site with a leaf node behind a long way."""

    def __init__(self, root: Path) -> None:
        self.place = harness.Stage(root, checker)
        self.hub = Cluster(root / "brokers", self.place.directory, 1, "single-hub.conf")
        self.lag = Lag(self.hub.remotes[0], DELAY_S, LOSS, AGAIN_S, seed=3)
        self.key = root / f"{FAR}.nk"
        self.url = f"nats://127.0.0.1:{free_ports(1)[0]}"

    async def open(self) -> None:
        """All of it runs, and the principal of the site may work and submit."""
        self.hub.secure()
        self.hub.start_all()
        self.place.options = ("--broker-url", self.hub.url)
        await self.place.node()
        await self.lag.open()
        await self.writ("principal", "create", FAR, "--kind", "worker", "--creds-out", str(self.key))
        await self.writ("grant", FAR, "worker")
        await self.writ("grant", FAR, "submitter")
        self.place.run("leaf", str(server_binary()), "-c", str(CONFIGURATIONS / "leaf.conf"), **self._leaf())
        await self.place.until(lambda: "Server is ready" in self.said, "the leaf node listens")

    @property
    def said(self) -> str:
        """The log of the leaf node."""
        return (self.place.root / "leaf.log").read_text()

    def _leaf(self) -> dict[str, str]:
        """What completes the configuration of the leaf node."""
        return {
            "WRIT_BROKER_NAME": "leaf-0",
            "WRIT_BROKER_LISTEN": self.url.removeprefix("nats://"),
            "WRIT_BROKER_CA": self.hub.more["WRIT_BROKER_CA"],
            "WRIT_LEAF_REMOTES": json.dumps([f"tls://127.0.0.1:{self.lag.port}"]),
            "WRIT_LEAF_SEED": self.key.read_text().strip(),
            "WRIT_LEAF_USER": load_or_create(self.key).public,
        }

    async def close(self) -> None:
        await self.lag.close()
        await self.place.clear()
        self.hub.clear()

    async def writ(self, *words: str) -> bytes:
        return await self.place.output(*self.place.writ(*words, "--dir", str(self.place.directory)))

    @property
    def target(self) -> Target:
        """The leaf node, as the principal of the site."""
        return Target(self.url, self.key, principal=FAR)

    def worker(self) -> subprocess.Popen[bytes]:
        """`writ worker` on the leaf node, as one starts it there."""
        tasks = str(harness.HERE / "ledger_tasks.py")
        words = ("worker", tasks, "--queue", harness.QUEUE, "--concurrency", "20", "--name", FAR)
        who = {"NATS_URL": self.url, "NATS_NKEY": str(self.key), "WRIT_PRINCIPAL": FAR}
        return self.place.run("worker", *self.place.writ(*words), **who)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    try:
        await site.open()
        yield site
    finally:
        await site.close()


def job(number: int, ms: int = 100, lease_s: float = 30.0) -> dict[str, Any]:
    return {"id": f"job-{number:05}", "task": "on_the_loop", "input": {"ms": ms}, "lease_s": lease_s}


@pytest.mark.timeout(150)
async def test_workers_behind_a_leaf_node_lose_nothing(site: Site) -> None:
    """Leaf nodes for remote workers with an emulated delay of 100 ms and loss: jobs run there and are
    submitted there, leases are kept, and a link that is cut for seconds, or silent, loses nothing: each job
    runs once, and no lease expires."""
    near = Target(site.place.url, Path(site.place.key_path))
    worker = site.worker()
    async with Client(near) as client, Client(site.target) as behind:
        long = await client.submit(harness.QUEUE, timeout_s=60, **job(99_999, LONG_MS, LEASE_S))
        handles = await client.submit_many(harness.QUEUE, [job(n) for n in range(JOBS)])
        await client.result(handles[0], timeout_s=60)
        site.lag.cut(refusing=True)
        told = asyncio.create_task(behind.submit(harness.QUEUE, timeout_s=60, **job(JOBS)))
        handles += await client.submit_many(harness.QUEUE, [job(n) for n in range(JOBS + 1, 2 * JOBS)])
        await asyncio.sleep(AWAY_S)
        site.lag.mend()
        handles.append(await told)
        await client.result(handles[-1], timeout_s=60)
        handles += await client.submit_many(harness.QUEUE, [job(n) for n in range(2 * JOBS, 3 * JOBS)])
        await client.result(handles[-JOBS], timeout_s=60)
        site.lag.pull()
        await asyncio.sleep(AWAY_S)
        site.lag.plug()
        await asyncio.gather(*[client.result(each, timeout_s=60) for each in (long, *handles)])
    worker.terminate()
    assert await site.place.ended(worker, "the worker") == 0
    key = site.place.directory / "keys" / "log.creds"
    found = checker.fold(await checker.read_log(site.place.url, key, harness.STREAM))
    assert len(found.jobs) == 3 * JOBS + 1
    assert {len(each["ends"]) for each in found.jobs.values()} == {1}
    assert found.events["lease_expired"] == 0
    begun = Counter(each["id"] for each in checker.read_ledger(site.place.ledger) if each["what"] == "start")
    assert set(begun.values()) == {1}, "nothing ran twice"
    assert found.events["leases_renewed"] > 0
    assert site.lag.lost > 0


@pytest.mark.timeout(120)
async def test_a_leaf_node_may_do_what_its_principal_may(site: Site) -> None:
    """Must hold: behind a leaf node nobody does more than its principal, though the leaf node itself lets
    them say anything; and one that is revoked is cut off within seconds, and stays so."""
    wire = await NatsWire.connect(site.target, "test")
    far = f"writ.lease.default.{FAR}.acquire.{harness.QUEUE}"
    try:
        async with asyncio.timeout(60):
            while not await reaches(wire, far):  # noqa: ASYNC110 - a link beyond, of which nobody tells
                await asyncio.sleep(0.1)
        for subject in (
            f"writ.lease.default.owner.acquire.{harness.QUEUE}",
            f"writ.control.default.{FAR}.pause.{harness.QUEUE}",
            "writ.query.default.owner.jobs",
            "writ.shard.1.lease.default.owner.acquire.kills",
            "$JS.API.STREAM.NAMES",
            "$SYS.REQ.SERVER.PING.JSZ",
        ):
            assert not await reaches(wire, subject), subject
        await site.writ("principal", "revoke", FAR, "--reason", "the site is closed")
        async with asyncio.timeout(60):
            with suppress(NoAnswer):  # what was on its way as the link was cut is not answered
                while await reaches(wire, far):  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.1)
    finally:
        await wire.close()
    # The leaf node tries again once a second: its log tells that it is turned away.
    await site.place.until(lambda: site.said.count(REFUSED) >= 2, "it is turned away", 30)


async def reaches(wire: NatsWire, subject: str) -> bool:
    """Whether anybody beyond the link hears a request."""
    try:
        await wire.request(subject, b"{}", 5.0)
    except NoResponders:
        return False
    return True
