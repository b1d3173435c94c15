"""Archive and trim under load: every reader and `replay` give the same answers before and after."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.acceptance.retention import Proof
from writ import Client, Filter, OperationVerb, Plan
from writ.archiving import RESTS, Archiving
from writ.broker.clock import SystemClock
from writ.broker.connect import Target
from writ.cli import main
from writ.cli.archive import last_pass
from writ.schemas.events import OperationEnded
from writ.schemas.policy import QueuePolicy
from writ.schemas.queries import ViewStatus
from writ.testing import VirtualLoop

if TYPE_CHECKING:
    from tests.acceptance.conftest import Live


@pytest.mark.timeout(300)
async def test_what_is_archived_and_trimmed_under_load_and_kills_is_told_as_before(tmp_path: Path) -> None:
    """The same at length: `make retention-proof`."""
    told = await Proof(tmp_path, jobs=200, kills=2, seed=3).run()
    assert told.segments > 1
    assert (told.node_kills, told.passes) == (1, 2)


async def test_a_node_makes_a_pass_when_one_is_due(live: Live) -> None:
    """By itself, once enough may be moved of a queue's history; also where it stands by."""
    node = live.node
    assert node.engine is not None
    async with Client(Target(node.url, node.broker.key_path("owner"))) as client:
        await client.declare_queue("mail", QueuePolicy(archive_after_s=0))
        handles = await client.submit_many("mail", [{"task": "send"}] * 1_000)
    await live.until(lambda record: record.key == f"mail~{handles[-1].id}")
    stands_by: Any = SimpleNamespace(state=node.engine.state, leading=asyncio.Event())
    made: Any = Archiving(node.directory, stands_by, SystemClock(), look_s=0.05)
    its_own, done = made._run, asyncio.Event()

    async def noted() -> None:
        await its_own()
        done.set()

    made._run = noted  # the node makes passes as well
    archiving = asyncio.create_task(made.keep())
    try:
        async with asyncio.timeout(60):
            await done.wait()
        kept = last_pass(node.directory)
        assert kept is not None
    finally:
        archiving.cancel()
        await asyncio.gather(archiving, return_exceptions=True)
    assert kept.held_back is not None
    assert "is pending" in kept.held_back.reason
    assert kept.log_last > 1_000


async def test_no_pass_is_made_that_would_only_read(live: Live) -> None:
    """It costs a flood's neighbours time: what has grown since the last one is no reason by itself."""
    node = live.node
    assert node.engine is not None
    archiving = Archiving(node.directory, node.engine, SystemClock(), snapshot_every=1_000)
    async with Client(Target(node.url, node.broker.key_path("owner"))) as client:
        handles = await client.submit_many("mail", [{"task": "send"}] * 800)
        await live.until(lambda record: record.key == f"mail~{handles[-1].id}")
        assert not archiving.due()
        handles = await client.submit_many("mail", [{"task": "send"}] * 300)
        await live.until(lambda record: record.key == f"mail~{handles[-1].id}")
        assert archiving.due()


def test_long_passes_are_followed_by_longer_rests() -> None:
    """One over a million live jobs takes a minute, and what it takes is missing elsewhere."""
    with closing(VirtualLoop()) as loop:
        archiving: Any = Archiving(Path(), cast("Any", None), SystemClock(), look_s=30)
        begun: list[float] = []

        async def run() -> None:
            begun.append(loop.time())
            await asyncio.sleep(10 if len(begun) % 2 else 1)

        async def some() -> None:
            keeping = asyncio.create_task(archiving.keep())
            await asyncio.sleep(1_000)
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

        archiving.due, archiving._run = lambda: True, run
        loop.run_until_complete(some())
    gaps = [round(after - before) for before, after in pairwise(begun)]
    assert gaps[:4] == [10 + RESTS * 10, 1 + 30, 10 + RESTS * 10, 1 + 30]


async def test_the_slowest_view_holds_back_neither_retention_nor_another_view(live: Live) -> None:
    """Its file is held by another program while its records leave the log; the archive has them for it."""
    directory, jobs = live.node.directory, 300
    async with Client(Target(live.node.url, live.node.broker.key_path("owner"))) as client:

        async def view(name: str) -> ViewStatus:
            return next(each for each in (await client.status()).views if each.name == name)

        await client.declare_queue("mail", QueuePolicy(archive_after_s=0))
        await client.audit(timeout_s=30)  # which tells of all that was done so far
        with closing(sqlite3.connect(directory / "views" / "audit.db", isolation_level=None)) as held:
            held.execute("BEGIN IMMEDIATE")
            stands = (await view("audit")).position
            await client.submit_many("mail", [{"task": "send", "id": f"n{n}"} for n in range(jobs)])
            await live.job(f"mail~n{jobs - 1}")  # an operation acts on what the engine has, not on the intake
            ended = await client.plan("mail", Plan(OperationVerb.CANCEL, Filter(), "over"))
            assert ended.operation is not None
            await live.until(lambda record: any(type(e) is OperationEnded for e in record.events))
            sizes = ("--segment-min", "50", "--snapshot-every", "50")
            words = ("archive", "run", "--dir", str(directory), *sizes, "--json")
            assert await asyncio.to_thread(main, words) == 0
            kept = last_pass(directory)
            assert kept is not None
            assert kept.log_first > stands + jobs, "what the view has not read has left the log"
            assert (
                await client.jobs(states=["cancelled"], limit=1, timeout_s=30)
            ).position >= kept.archive_last
            assert (await view("audit")).position == stands
        acts = await client.audit(verb="submit", limit=500, timeout_s=30)
        assert len({act.job for act in acts.acts}) == jobs
        assert (await view("audit")).halted is None
