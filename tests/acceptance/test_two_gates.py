"""Logins are answered by two processes: where either is gone the other goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from writ import Client
from writ.broker.connect import Target
from writ.broker.errors import NotAdmitted, WireError
from writ.broker.keys import load_or_create
from writ.broker.wire import NatsWire
from writ.node import Node

WAIT_S = 20.0
KILLS = 3


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    found = await Node.start(tmp_path / "writ")
    try:
        await stands(found)
        yield found
    finally:
        await found.stop()


async def stands(node: Node, but: int | None = None) -> int:
    """The second gate's process, as soon as it answers; another one than `but`."""
    async with asyncio.timeout(WAIT_S):
        while node.gate.away is not None or node.gate.pid in (None, but):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
    assert node.gate.pid is not None
    return node.gate.pid


def owner(node: Node) -> Target:
    return Target(node.url, node.broker.key_path("owner"))


async def log_in(node: Node) -> None:
    await (await NatsWire.connect(owner(node), "t", wait_s=WAIT_S)).close()


async def test_logins_go_on_while_the_second_gate_is_killed(node: Node) -> None:
    """Must hold: two instances answer; clients that connect all the while are all let in."""
    done, over = 0, asyncio.Event()

    async def keep_logging_in() -> None:
        nonlocal done
        while not over.is_set():
            await log_in(node)
            done += 1

    clients = [asyncio.create_task(keep_logging_in()) for _ in range(4)]
    second: int | None = None
    for _ in range(KILLS):
        second = await stands(node, second)
        begun = done
        os.kill(second, signal.SIGKILL)
        async with asyncio.timeout(WAIT_S):
            while done < begun + 20:  # noqa: ASYNC110 - counted by others
                await asyncio.sleep(0.01)
    over.set()
    await asyncio.gather(*clients)


async def test_the_second_gate_alone_lets_in_whom_the_log_knows(node: Node, tmp_path: Path) -> None:
    """Must hold: either instance is enough, also for whom the log comes to know or revokes meanwhile."""
    await node.broker.gate_link.close()
    await log_in(node)
    key = load_or_create(tmp_path / "bot.nk")
    bot = Target(node.url, tmp_path / "bot.nk", "default", "bot")
    async with Client(owner(node)) as client:
        with pytest.raises(NotAdmitted):
            await NatsWire.connect(bot, "t")
        await client.create_principal("bot", key=key.public)
        await (await NatsWire.connect(bot, "t", wait_s=WAIT_S)).close()
        await client.revoke_principal("bot", reason="gone")
        async with asyncio.timeout(WAIT_S):
            with suppress(WireError):
                while True:
                    await (await NatsWire.connect(bot, "t")).close()
        await node.gate.stop()  # its keeper starts another one: until then nobody answers
        os.kill(await stands(node), 0)
        await log_in(node)
