"""A broker that dies while its node starts it again."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from writ import Client, Target
from writ.broker.embedded import EmbeddedBroker

if TYPE_CHECKING:
    from .conftest import Live


async def test_a_broker_that_is_killed_as_it_starts_is_started_again(live: Live) -> None:
    """`kill -9` of any process at any moment: here the node ended, with a flush that timed out."""
    node = live.node
    assert isinstance(node.broker, EmbeddedBroker)
    before, file = node.broker.pid, node.directory / "broker.pid"
    async with Client(Target(node.url, node.broker.key_path("owner"))) as client:
        await client.accepted(await client.submit("mail", "send", {}))
        os.kill(before, signal.SIGKILL)
        async with asyncio.timeout(30):
            while not file.exists() or int(file.read_text() or 0) in (0, before):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        os.kill(int(file.read_text()), signal.SIGKILL)
        job = await client.submit("mail", "send", {}, timeout_s=60)
        await client.accepted(job, timeout_s=60)
    assert not any(task.done() for task in node._tasks)  # pyright: ignore[reportPrivateUsage]
