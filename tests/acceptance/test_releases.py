"""Releases on a running node: published from a folder, rolled back under a full queue, and stopped."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from writ import Client
from writ.broker.connect import Target, connect
from writ.broker.errors import Refused
from writ.broker.jwt import Signer, signer_in
from writ.broker.log import JetStreamLog
from writ.broker.wire import NatsWire
from writ.cli.fetch import around, explained, job_with_records
from writ.cli.releases import history_of
from writ.node import Node
from writ.orchestrator.replay.history import steps_of_views
from writ.orchestrator.replay.verify import verify
from writ.packages import build, open_package
from writ.packages.manifest import Kind
from writ.packages.project import raised, write_version
from writ.packages.scaffold import new_project
from writ.schemas.canaries import CanaryPolicy, OnWorse
from writ.schemas.codec import decode
from writ.schemas.commands import Acquire, Acquired, Answer, Lease
from writ.schemas.processes import ReleaseRolledBack
from writ.schemas.queries import LogQuery, RecordsPage
from writ.schemas.states import State

QUEUED = 10_000
EFFECT_S = 1.0
"""In how long at most a rollback, a freeze or a revocation takes effect."""


class World:
    """A node, its owner, and two releases of a process that were published from a folder."""

    def __init__(self, node: Node, owner: Client, wire: NatsWire, folder: Path) -> None:
        self.node = node
        self.owner = owner
        self.folder = folder
        self._wire = wire
        self.signer: Signer = signer_in(Path(node.broker.key_path("owner")).read_text().strip())
        self.first = ""
        self.second = ""

    async def publish(self, content: bytes) -> str:
        package = open_package(content)
        await self.owner.keep_package(package.digest, content)
        await self.owner.publish_release(
            package.manifest.name,
            package.manifest.version,
            package.digest,
            size_bytes=len(content),
            key=package.key,
        )
        return package.digest

    def package(self) -> bytes:
        return build(self.folder, self.signer.public, self.signer.sign)

    async def leases(self, count: int = 500, *, wait_s: float = 0.0) -> tuple[Lease, ...]:
        """What a worker gets that holds both releases."""
        command = Acquire("w", count, wait_s, releases=(self.first, self.second))
        body = msgspec.json.encode(command)
        answer = await self._wire.request("writ.lease.default.owner.acquire.q", body, 20 + wait_s)
        acquired = msgspec.json.decode(answer, type=Acquired)
        assert acquired.error is None, acquired.error
        return acquired.leases

    async def report(self, lease: Lease, *, well: bool) -> None:
        """How an attempt went."""
        held = {"id": lease.id, "token": lease.token}
        report = held if well else held | {"class": "application", "type": "Wrong", "text": "no"}
        body = msgspec.json.encode({"worker": "w", "reports": [report]})
        verb = "complete" if well else "fail"
        answer = await self._wire.request(f"writ.lease.default.owner.{verb}.q", body, 20)
        assert msgspec.json.decode(answer, type=Answer).error is None


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    node = await Node.start(tmp_path / "writ")
    target = Target(node.url, node.broker.key_path("owner"))
    new_project(tmp_path / "inv", "inv", Kind.JOB)
    try:
        async with Client(target) as owner:
            wire = await NatsWire.connect(target, "worker", wait_s=20)
            world = World(node, owner, wire, tmp_path / "inv")
            world.first = await world.publish(world.package())
            write_version(world.folder, raised("0.1.0", "patch"))
            world.second = await world.publish(world.package())
            yield world
            await wire.close()
    finally:
        await node.stop()


async def test_a_rollback_takes_effect_for_the_next_lease_with_ten_thousand_jobs_queued(world: World) -> None:
    """Must hold: in under one second; those that named the alias and have not started follow it, those that
    named a digest do not.
    """
    owner = world.owner
    await owner.promote_release("inv", world.first, "it passed")
    await owner.promote_release("inv", world.second, "it passed, too")
    named = ("inv@live", f"inv@{world.second}")
    for begin in range(0, QUEUED, 500):
        jobs = [{"task": "t", "id": f"j{n}", "process": named[n % 2]} for n in range(begin, begin + 500)]
        await owner.submit_many("q", jobs)
    await owner.accepted(await owner.submit("q", "t", id="last", process="inv@live"), timeout_s=60)
    started = await world.leases(100)
    assert {lease.release for lease in started} == {world.second}

    since = time.monotonic()
    await owner.rollback_release("inv", "wrong totals")
    after = await world.leases(2)
    assert time.monotonic() - since < EFFECT_S
    assert {lease.release for lease in after} == {world.first, world.second}

    got = {lease.id: lease.release for lease in after}
    while leases := await world.leases():
        got |= {lease.id: lease.release for lease in leases}
    assert len(got) == QUEUED + 1 - 100
    for id_, release in got.items():
        follows = id_ == "last" or int(id_[1:]) % 2 == 0
        assert release == (world.first if follows else world.second), id_
    page = await owner.ask(LogQuery(kind="process"))
    assert isinstance(page, RecordsPage)
    events = [event for each in page.records for event in decode(bytes(each.record)).events]
    assert len([event for event in events if isinstance(event, ReleaseRolledBack)]) == 1


async def test_no_lease_for_a_frozen_or_revoked_release_within_a_second_and_explain_says_so(
    world: World,
) -> None:
    """Must hold: the orchestrator obeys, also for those who wait for a lease already."""
    owner = world.owner
    await owner.promote_release("inv", world.first, "it passed")
    since = time.monotonic()
    await owner.freeze_release("inv", world.first, "looked at")
    assert time.monotonic() - since < EFFECT_S
    await owner.accepted(await owner.submit("q", "t", id="a", process="inv@live"))
    assert await world.leases() == ()
    view, records = await job_with_records(owner, "a", "q")
    assert view.state is State.PENDING
    assert view.process == "inv@live"
    seen = await around(owner, view)
    told = explained(steps_of_views(records), time.time_ns() // 1_000, seen)
    assert "release 0.1.0 of inv is frozen: looked at" in " ".join(told.answers[-1].sentences)
    assert "No worker" not in " ".join(told.answers[-1].sentences)
    history = await history_of(owner, "inv", world.first)
    assert [each["event"] for each in history] == ["release_published", "release_promoted", "release_frozen"]
    await owner.unfreeze_release("inv", world.first)
    (lease,) = await world.leases(1, wait_s=5)
    assert lease.release == world.first
    page = await owner.jobs(release=world.first)
    assert [job.id for job in page.jobs] == ["a"]
    assert not (await owner.jobs(release=world.second)).jobs


async def test_a_canary_that_fails_is_judged_from_the_log_and_rolled_back_by_itself(world: World) -> None:
    """Of 100 jobs 30 are the canary's, and fail: the orchestrator ends it, and the log proves why."""
    owner = world.owner
    await owner.promote_release("inv", world.first, "it passed")
    policy = CanaryPolicy(on_worse=OnWorse.FREEZE)
    await owner.start_canary("inv", world.second, "a look", keys=["acme"], policy=policy)
    jobs = [{"task": "t", "process": "inv@live", "retry": {"max_attempts": 1}} for _ in range(100)]
    for job in jobs[:30]:
        job["fairness_key"] = "acme"
    handles = await owner.submit_many("q", [*jobs, {"task": "t", "id": "last", "process": "inv@live"}])
    await owner.accepted(handles[-1])
    leases = await world.leases()
    assert len(leases) == len(handles)
    for lease in leases:
        await world.report(lease, well=lease.release == world.first)
    (process,) = await owner.processes("inv")
    assert process.canaries == ()
    assert process.releases[world.second].frozen is not None
    history = await history_of(owner, "inv", world.second)
    judged = history[-3:]
    assert [each["event"] for each in judged] == ["canary_judged", "canary_ended", "release_frozen"]
    assert len({each["seq"] for each in judged}) == 1, "the verdict and what follows are one record"
    assert "worse than live" in judged[0]["says"]
    link = await connect(Target(world.node.url, world.node.broker.key_path("log")), "verify")
    try:
        report = await verify(JetStreamLog(link, 0, 1))
    finally:
        await link.close()
    assert report.ok, "\n".join(report.lines())


async def test_a_reproduction_is_of_the_release_of_the_first_run(world: World) -> None:
    owner = world.owner
    await owner.promote_release("inv", world.first, "it passed")
    await owner.accepted(await owner.submit("q", "t", id="a", process="inv@live"))
    (lease,) = await world.leases(1, wait_s=5)
    await world.report(lease, well=True)
    await owner.promote_release("inv", world.second, "it passed, too")
    await owner.job("a", "q")
    again = await owner.reproduce("a", "q")
    assert (await owner.accepted(again)).process == f"inv@{world.first}"
    (lease,) = await world.leases(1, wait_s=5)
    assert (lease.id, lease.release) == (again.id, world.first)


async def test_publishing_twice_is_one_release_and_a_tampered_package_is_not_kept(world: World) -> None:
    """Must hold: the same sources give the same digest; a tampered package is refused."""
    content = world.package()
    assert await world.publish(content) == world.second
    process = await world.owner.process("inv")
    assert len(process.releases) == 2
    assert await world.owner.package(world.second) == content
    source = world.folder / "inv.py"
    source.write_text(source.read_text() + "# more\n")
    changed = world.package()
    with pytest.raises(Refused, match="the next version"):
        await world.publish(changed)
    tampered = changed.replace(b"# more", b"# evil")
    with pytest.raises(Refused, match="the package is refused"):
        await world.owner.keep_package("e" * 64, tampered)
    with pytest.raises(Refused, match="and not"):
        await world.owner.keep_package("e" * 64, changed)
