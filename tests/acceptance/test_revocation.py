"""A principal that is revoked, or has lost a role: what its open connection can still do."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from writ import Client
from writ.broker.connect import Target
from writ.broker.errors import NoAnswer, NotAdmitted, PermissionDenied, WireError
from writ.broker.keys import load_or_create
from writ.broker.wire import NatsWire
from writ.node import Node
from writ.schemas.principals import Role

REVOKED_S = 2.0
"""In how long at most nothing can be done any more."""


class World:
    """A node with its owner, and a bot that submits, watches and works."""

    def __init__(self, node: Node, owner: Client, directory: Path) -> None:
        self.node = node
        self.owner = owner
        self.directory = directory

    def target(self, name: str) -> Target:
        return Target(self.node.url, self.directory / f"{name}.nk", "default", name)

    async def join(self, name: str, *roles: Role, scope: str = "*") -> NatsWire:
        key = load_or_create(self.directory / f"{name}.nk")
        await self.owner.create_principal(name, key=key.public)
        for role in roles:
            await self.owner.grant(name, role, scope)
        wire = await NatsWire.connect(self.target(name), name, wait_s=20)
        return wire

    async def submits(self, wire: NatsWire, name: str) -> int:
        body = json.dumps({"task": "t"}).encode()
        return await wire.publish_submit(f"writ.submit.default.{name}.q", body, os.urandom(8).hex())

    async def until_let(self, wire: NatsWire, name: str) -> int:
        """Submits as soon as the broker lets it: grants take effect within moments."""
        async with asyncio.timeout(20):
            while True:
                try:
                    return await self.submits(wire, name)
                except WireError:
                    await asyncio.sleep(0.05)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    node = await Node.start(tmp_path / "writ")
    try:
        async with Client(Target(node.url, node.broker.key_path("owner"))) as owner:
            yield World(node, owner, tmp_path)
    finally:
        await node.stop()


def hammer(client: Any, revoked: threading.Event) -> tuple[int, float]:
    """Submits until the broker ends the connection: how many after the revocation, and how long it took."""
    body, after, since = json.dumps({"task": "t"}).encode(), 0, 0.0
    while True:
        if revoked.is_set() and not since:
            since = time.monotonic()
        try:
            client.request(b"writ.submit.default.bot.q", body)
        except Exception:  # however it ends
            assert since, "it ended before the principal was revoked"
            return after, time.monotonic() - since
        after += bool(since)


async def test_a_revoked_principals_open_connection_can_do_nothing_within_two_seconds(
    world: World, raw: Any
) -> None:
    """Must hold: it is disconnected, and not let in again until it is restored; others are left alone."""
    wire = await world.join("bot", Role.SUBMITTER)
    other = await world.join("other", Role.SUBMITTER)
    await world.until_let(other, "other")
    await world.until_let(wire, "bot")
    await wire.close()
    stood = other.connections

    def attach() -> Any:
        return raw.Raw(world.node.url, world.directory / "bot.nk", 10.0)

    busy, idle = await asyncio.to_thread(attach), await asyncio.to_thread(attach)
    revoked = threading.Event()
    hammering = asyncio.create_task(asyncio.to_thread(hammer, busy, revoked))
    await asyncio.sleep(0)
    await world.owner.revoke_principal("bot", "left the company")
    revoked.set()
    _, took_s = await hammering
    assert took_s < REVOKED_S
    with pytest.raises((raw.ServerError, ConnectionError)):
        await asyncio.to_thread(idle.next)  # one that does nothing is ended too
    jobs = len((await world.owner.jobs(limit=500)).jobs)
    with pytest.raises(NotAdmitted):
        await NatsWire.connect(world.target("bot"), "again")
    seq = await world.submits(other, "other")
    assert other.connections == stood
    await world.owner.accepted(await world.owner.submit("q", "t", id=f"after-{seq}"))
    assert len((await world.owner.jobs(limit=500)).jobs) == jobs + 2
    await world.owner.restore_principal("bot")
    wire = await NatsWire.connect(world.target("bot"), "back", wait_s=20)
    assert await world.until_let(wire, "bot") > seq
    for each in (busy, idle):
        each.close()
    for link in (wire, other):
        await link.close()


async def test_a_role_that_ends_by_itself_ends_on_the_open_connection(world: World) -> None:
    wire = await world.join("bot")
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=8)
    await world.owner.grant("bot", Role.SUBMITTER, until=until)
    await world.until_let(wire, "bot")

    async def denied() -> PermissionDenied:
        while True:
            try:
                await world.submits(wire, "bot")
            except PermissionDenied as error:
                return error
            except NoAnswer:
                pass  # it was on its way as the connection broke

    async with asyncio.timeout(60):
        error = await denied()
    assert error.subject == "writ.submit.default.bot.q"
    await wire.close()
