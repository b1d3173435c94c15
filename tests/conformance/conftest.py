"""The wires that the conformance suites run on: the in-memory twin, and JetStream on a real nats-server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from nats.errors import NoRespondersError
from nats.js import JetStreamContext

from writ.broker.connect import Target, connect
from writ.broker.embedded import EmbeddedBroker
from writ.broker.errors import STREAM_FULL, NoResponders, SubmitNotStored
from writ.broker.hardened import HardenedClient as Nats
from writ.broker.log import JetStreamIntake, JetStreamLog
from writ.broker.memory import MemoryIntake, MemoryLog
from writ.broker.ports import Intake, Log
from writ.schemas.ids import shard_of


class Wire:
    """One log and one intake, each with as many handles as a test asks for."""

    async def log(self) -> Log:
        """A writer and reader of its own on the same log."""
        raise NotImplementedError

    async def intake(self) -> Intake:
        raise NotImplementedError

    async def submit(self, body: bytes, queue: str = "mail", tenant: str = "default") -> bool:
        """What a client's publish leaves in the intake; whether it is stored there."""
        raise NotImplementedError


class MemoryWire(Wire):
    def __init__(self) -> None:
        self._log = MemoryLog()
        self._intake = MemoryIntake()

    async def log(self) -> Log:
        return self._log

    async def intake(self) -> Intake:
        return self._intake

    async def submit(self, body: bytes, queue: str = "mail", tenant: str = "default") -> bool:
        try:
            await self._intake.submit(tenant, "owner", queue, body)
        except NoResponders:
            return False
        except SubmitNotStored as full:
            if full.code != STREAM_FULL:
                raise
            return False
        return True


class JetStreamWire(Wire):
    """On a broker that can be killed, frozen and started again on the same data and port."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.broker = broker
        self.links: list[Nats] = []

    async def link(self, url: str | None = None) -> Nats:
        link = await connect(
            Target(url or self.broker.url, self.broker.key_path("log")), "test", inbox_prefix="_INBOX"
        )
        self.links.append(link)
        return link

    async def context(self) -> JetStreamContext:
        """The JetStream API as nats-py has it."""
        link = await self.link()
        return link.jetstream()  # pyright: ignore[reportUnknownMemberType] - untyped in a part

    async def log(self) -> JetStreamLog:
        return await JetStreamLog.open(await self.link())

    async def intake(self) -> JetStreamIntake:
        return await JetStreamIntake.open(await self.link())

    async def submit(self, body: bytes, queue: str = "mail", tenant: str = "default") -> bool:
        if not self.links:
            await self.link()
        subject = f"writ.shard.{shard_of(tenant, queue)}.submit.{tenant}.owner.{queue}"
        try:
            answer = await self.links[0].request(subject, body, timeout=10)
        except NoRespondersError:
            return False
        error: dict[str, Any] | None = json.loads(answer.data).get("error")
        assert error is None or error["err_code"] == STREAM_FULL
        return error is None

    async def crash(self) -> None:
        """`kill -9`, and a new server on the same data and port."""
        await self.broker.kill()
        await self.start_again()

    async def start_again(self) -> None:
        """A new server in the place of one that has ended."""
        self.broker = await EmbeddedBroker.start(self.broker.directory, self.broker.port)

    async def close(self) -> None:
        for link in self.links:
            with suppress(Exception):
                await link.close()
        await self.broker.stop()


@pytest.fixture(scope="session")
def jetstream_wire() -> type[JetStreamWire]:
    """The class, for those who keep a broker for longer than a test."""
    return JetStreamWire


@pytest.fixture
async def jetstream(tmp_path: Path) -> AsyncIterator[JetStreamWire]:
    wire = JetStreamWire(await EmbeddedBroker.start(tmp_path / "writ"))
    try:
        yield wire
    finally:
        await wire.close()


@pytest.fixture(params=["memory", "jetstream"])
async def wire(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Wire]:
    if request.param == "memory":
        yield MemoryWire()
        return
    real = JetStreamWire(await EmbeddedBroker.start(tmp_path / "writ"))
    try:
        yield real
    finally:
        await real.close()


class Line:
    """A cable to the broker that can be cut, or lose what the broker says (mute) or is told (deaf)."""

    def __init__(self, port: int) -> None:
        self.mute = self.deaf = False
        self._to = port
        self._server: asyncio.Server | None = None
        self._ends: list[asyncio.StreamWriter] = []
        self._pumps: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        """The URL of this end."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._ends += [writer, back]
        for task in (self._pump(reader, back, False), self._pump(there, writer, True)):
            pump = asyncio.create_task(task)
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if not (self.mute if answers else self.deaf):
                    writer.write(data)
                    await writer.drain()
        writer.close()

    def cut(self) -> None:
        """Both sides lose the connection; a new one can be made at once."""
        ends, self._ends = self._ends, []
        for end in ends:
            end.transport.abort()

    async def close(self) -> None:
        self.cut()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        if self._server is not None:
            self._server.close()


@pytest.fixture
async def line(jetstream: JetStreamWire) -> AsyncIterator[Line]:
    line = Line(jetstream.broker.port)
    try:
        yield line
    finally:
        await line.close()
