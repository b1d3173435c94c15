"""Damage to the broker's files: found by one reading of the log, and named."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.blocks import harm, sizes
from writ import Client, Target
from writ.broker.connect import connect
from writ.broker.embedded import EmbeddedBroker
from writ.broker.log import JetStreamLog
from writ.broker.notary import checkpoints_folder
from writ.broker.note_places import NoteFolder
from writ.broker.owned import BrokerStartError
from writ.node import Node
from writ.orchestrator.replay.checked import check_log, signed_in
from writ.schemas.bounds import REASON_MAX_CHARS
from writ.schemas.chain import Violation
from writ.schemas.events import AlarmKind, AlarmRaised
from writ.scrubbing import Scrubbing

if TYPE_CHECKING:
    from .conftest import Live

PLACES = 24


async def fill(node: Node) -> int:
    """Jobs in the log, all of them signed for; how many records there are."""
    assert node.engine is not None
    async with Client(Target(node.url, node.broker.key_path("owner"))) as client:
        await client.submit_many("mail", [{"task": "send", "input": {"n": n}} for n in range(400)])
        async with asyncio.timeout(30):
            while node.engine.state.jobs.live < 400:  # noqa: ASYNC110 - the engine tells nobody
                await asyncio.sleep(0.01)
        newest = await client.checkpoint()
        await client.checkpoint(max(newest.size, newest.position, node.engine.state.seq))
    return node.engine.state.seq


@pytest.mark.timeout(180)
async def test_a_flipped_bit_or_a_cut_file_is_found_and_named_wherever_it_is(tmp_path: Path) -> None:
    """Must hold: a flipped bit or a cut file in a single-node broker is noticed at start or within one scrub
    and named. Each alone, in files of a broker that is stopped and of one that runs.
    """
    base, random = tmp_path / "base", Random(11)
    node = await Node.start(base)
    records = await fill(node)
    await node.stop()
    shutil.rmtree(base / "views")
    for n in range(PLACES):
        directory = tmp_path / f"n{n}"
        shutil.copytree(base, directory)
        if n % 2:  # of one that runs; what it has in memory, as it has just read it, hides that until it ends
            async with await EmbeddedBroker.start(directory) as broker:
                where = harm(sizes(directory), random, cut=n % 4 > 1)
                await broker.kill()
        else:
            where = harm(sizes(directory), random, cut=n % 4 > 1)
        try:
            broker = await EmbeddedBroker.start(directory, ready_timeout_s=5)
        except BrokerStartError:
            continue  # noticed at start; the end of the server's log is in the error
        async with broker:
            link = await connect(Target(broker.url, broker.key_path("log")), "test", inbox_prefix="_INBOX")
            try:
                log = await JetStreamLog.open(link)
                async with asyncio.timeout(30):
                    found = await check_log(log, [signed_in(NoteFolder(checkpoints_folder(directory)), 0)])
            finally:
                await link.close()
        assert found.faults, f"{where} was not found"
        assert 1 <= found.faults[0].seq <= records + 1
        assert "record" in found.faults[0].reason
        shutil.rmtree(directory)


async def test_the_node_finds_damage_by_itself_and_leads_no_log_that_was_cut(live: Live) -> None:
    """Must hold: nothing derived from it is served as truth. Here the broker, which died, drops the end of
    the log when it finds the flipped bit at its start: the views halt, and the node ends with the reason.
    """
    node = live.node
    records = await fill(node)
    said = "record 7 is another".ljust(REASON_MAX_CHARS, ".")
    await node.tell_damage(f"{said} and more")  # than an alarm may have
    record = await live.until(lambda r: isinstance(r.events[0], AlarmRaised), records)
    assert record.events == (AlarmRaised(AlarmKind.LOG_DIFFERS, said),)
    found = asyncio.get_running_loop().create_future()

    async def tell(reason: str) -> None:
        found.set_result(reason)
        await node.tell_damage(reason)  # as the node does: the append shows its leader that the log was cut

    scrubbing = Scrubbing(node.directory, 0.2, tell)
    assert await scrubbing.scrub() == ""
    assert await Scrubbing(node.directory / "none", 60, tell).scrub() is None, "nothing could be read"
    path = sorted(node.directory.rglob("WRIT_LOG_0/msgs/*.blk"))[0]
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0] ^ 4
        file.seek(-1, 1)
        file.write(bytes([byte]))
    assert isinstance(node.broker, EmbeddedBroker)
    node.broker.give_up()  # what it has in its memory is right still
    keeping = asyncio.create_task(scrubbing.keep())
    try:
        async with asyncio.timeout(30):
            assert "record 2" in await found
        with pytest.raises(Violation, match="it was cut"):
            async with asyncio.timeout(30):
                await node.wait()
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
