"""A node on a cluster of three real nats-servers, which it did not start."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.acceptance.chaos import LIVE, Chaos, killing
from tests.acceptance.cluster import Cluster
from tests.acceptance.kills import checker, harness
from writ import Client
from writ.broker.connect import Target

from .conftest import Place

LEASE_S = 20.0
GAP_S = 30.0


@pytest.mark.timeout(240)
async def test_the_loss_of_the_broker_s_leader_costs_its_gap_and_no_lease(tmp_path: Path) -> None:
    """R3 broker leader loss costs no more than the broker's own gap and no expired lease: no acknowledged job
    lost, no second terminal event in one round, with enough leases live at the kill."""
    run = Chaos(tmp_path, killing(["broker leader"], 1), seed=5, servers=3, lease_s=LEASE_S)
    told = await run.run()
    assert told.faults == {"kill broker leader": 1}
    assert told.live_at_least >= LIVE / 2
    assert told.summary["leaders"] == 1, "the orchestrator lived on"
    assert told.summary["events"].get("lease_expired", 0) == 0
    assert max(told.gaps["broker leader"]) < GAP_S
    assert set(told.summary["states"]) == {"completed"}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[tuple[harness.Stage, Cluster]]:
    stage = harness.Stage(tmp_path, checker)
    cluster = Cluster(tmp_path / "brokers", stage.directory)
    try:
        cluster.start_all()
        stage.options = ("--broker-url", cluster.url, "--audit-mirror")
        yield stage, cluster
    finally:
        await stage.clear()
        cluster.clear()


@pytest.mark.timeout(120)
async def test_streams_buckets_and_the_mirror_have_three_replicas(
    stage: tuple[harness.Stage, Cluster],
) -> None:
    """R3 streams, buckets, object stores and the mirror for audit; with tags they are placed by them, and
    what is there is moved; `writ status` tells how it is kept."""
    place, cluster = stage
    node = await place.node()
    async with Client(Target(place.url, Path(place.key_path))) as client:
        await client.put_file(b"an invoice", name="invoice.txt")
    streams = ("WRIT_LOG_0", "WRIT_SUBMIT", "WRIT_LOG_0_MIRROR", "OBJ_writ-files-default")
    for stream in streams:
        found = await cluster.stream(stream)
        assert found["config"]["num_replicas"] == 3, stream
        assert len(found["cluster"]["replicas"]) == 2, stream
    told = await _status(place)
    assert told["durability"]["servers"] == told["durability"]["replicas"] == 3
    assert told["durability"]["sync"] == "always"
    node.terminate()
    assert await place.ended(node, "the node") == 0

    place.options = ("--broker-url", cluster.url, "--replicas", "1", "--placement", "zone:2")
    await place.node()
    await cluster.until(
        "WRIT_LOG_0",
        lambda found: (
            bool(found)  # nobody answers while the log moves
            and found["config"]["num_replicas"] == 1
            and found["cluster"].get("leader") == "broker-2"
        ),
        "the log is on the server with the tag alone",
    )
    assert "keeps the log once" in " ".join((await _status(place))["warnings"])


@pytest.mark.timeout(120)
def test_a_node_starts_while_no_server_leads_its_log(tmp_path: Path, raw: ModuleType) -> None:
    """Who starts a node right after a server was lost has one: the log is waited for."""
    place = Place(tmp_path, raw)
    cluster = Cluster(tmp_path / "brokers", tmp_path / ".writ")
    try:
        cluster.start_all()
        joining = ("--broker-url", cluster.url, "--replicas", "1", "--placement", "zone:2")
        place.up(*joining)
        place.writ("submit", "mail", "send", "{}")
        place.down()
        cluster.end(2)
        started = place.start("up", *joining)
        said = tmp_path / "up.log"
        place.until(lambda: "asking again" in said.read_text() or started.poll() is not None)
        cluster.start(2)
        place.writ("status", "--wait", "60")
        assert [each["state"] for each in place.json("jobs")] == ["pending"]
        place.writ("down")
        assert started.wait(30) == 0, said.read_text()
    finally:
        place.writ("down", check=False)
        cluster.clear()


async def _status(place: harness.Stage) -> dict[str, Any]:
    said = await place.output(*place.writ("status", "--wait", "20", "--json", "--dir", str(place.directory)))
    told: dict[str, Any] = json.loads(said)
    return told
