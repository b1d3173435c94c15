"""Must hold: a tenant's flood, of arrays and over many queues, is kept out, and loses nothing stored.

Also where the leader that keeps it out is killed: the next one takes everybody in.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from nats.errors import NoRespondersError

from writ import Client
from writ.broker.connect import Target, connect
from writ.broker.errors import STREAM_FULL
from writ.broker.log import JetStreamIntake, JetStreamLog
from writ.metrics.of_engine import of_engine
from writ.orchestrator import floods
from writ.schemas import catalog
from writ.schemas.bounds import KEPT_OUT_FROM
from writ.schemas.codec import decode
from writ.schemas.events import JobSubmitted, LeaderElected
from writ.schemas.ids import derived_job_id
from writ.schemas.records import Record

if TYPE_CHECKING:
    from writ.broker.hardened import HardenedClient as Nats
    from writ.schemas.queries import NodeStatus

    from .conftest import Live, Place
else:
    Live = Place = Any

WAIT_S = 90.0
AGAIN_S = 5.0
ARRAY, FEW, QUEUES = 200, 1_000, 20
SENDERS, SOME = 4, 250
MOST = pytest.mark.timeout(300)
OUT = "nobody takes it"
TWO_TENANTS = pytest.mark.parametrize("live", [{"acme.loud": ["submit"]}], indirect=True)

Jobs = set[tuple[str, str]]


async def send(link: Nats, who: str, count: int, queue: str = "mail") -> tuple[Jobs, str]:
    """The jobs of one stored message; none, and why, where it is not stored.

    What comes in the moment in which the stream is changed may be answered by nobody, stored or not: it is
    sent again until it is known, under an id by which it is stored once.
    """
    body = json.dumps([{"task": "t"}] * count).encode()
    tenant = who.partition(".")[0]
    named = {"Nats-Msg-Id": uuid4().hex}
    is_known = True
    while True:
        try:
            answer = await link.request(f"writ.submit.{who}.{queue}", body, AGAIN_S, headers=named)
            break
        except NoRespondersError:
            if is_known:
                return set(), OUT
            await asyncio.sleep(0.05)
        except TimeoutError:
            is_known = False
    told = json.loads(answer.data)
    if "error" in told:
        assert told["error"]["err_code"] == STREAM_FULL, told
        return set(), "shut for a moment"
    return {(tenant, f"{queue}~{derived_job_id(1, told['seq'], index)}") for index in range(count)}, ""


def submitted(records: list[Record]) -> list[tuple[str, str]]:
    return [(r.tenant, r.key) for r in records if isinstance(r.events[0], JobSubmitted)]


class Flood:
    """What one tenant sends as fast as it is taken, over many queues, within `pouring`."""

    def __init__(self, link: Nats, who: str, array: int) -> None:
        self.sent: Jobs = set()
        self.kept_out = asyncio.Event()
        self._link, self._who, self._array = link, who, array
        self._over = asyncio.Event()

    @asynccontextmanager
    async def pouring(self) -> AsyncGenerator[None]:
        senders = [asyncio.create_task(self._pour(number)) for number in range(SENDERS)]
        try:
            yield
        finally:
            self._over.set()
            await asyncio.gather(*senders)

    async def _pour(self, number: int) -> None:
        while not self._over.is_set():
            jobs, error = await send(self._link, self._who, self._array, f"q{number % QUEUES}")
            self.sent |= jobs
            if error:
                if error == OUT:
                    self.kept_out.set()
                await asyncio.sleep(0.01)
            number += 1


async def taken(link: Nats, who: str) -> Jobs:
    """A job of one who is taken in, now or soon."""
    jobs = set[tuple[str, str]]()
    async with asyncio.timeout(WAIT_S):
        while not jobs:
            jobs, _ = await send(link, who, 1)
            await asyncio.sleep(0.05)
    return jobs


@TWO_TENANTS
async def test_a_flood_is_kept_out_and_all_that_was_stored_of_it_is_decided_once(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floods, "KEPT_OUT_FROM", FEW)
    monkeypatch.setattr(floods, "TAKEN_AGAIN_AT", FEW // 2)
    keys = live.node.broker.directory / "keys"
    loud = await connect(Target(live.node.url, keys / "acme.loud.nk", "acme", "loud"), "loud")
    quiet = await connect(Target(live.node.url, live.node.broker.key_path("owner")), "quiet")
    flood = Flood(loud, "acme.loud", ARRAY)
    mine: Jobs = set()
    told: NodeStatus | None = None
    async with Client(Target(live.node.url, live.node.broker.key_path("owner"))) as client:
        async with asyncio.timeout(WAIT_S), flood.pouring():
            # The other one goes on meanwhile, whatever is changed of the intake.
            while not flood.kept_out.is_set() or told is None or not told.kept_out:
                jobs, error = await send(quiet, "default.owner", 1)
                assert error != OUT
                mine |= jobs
                told = await client.status()
                await asyncio.sleep(0.02)
        assert [each.tenant for each in told.kept_out] == ["acme"]
        mine |= await taken(quiet, "default.owner")
        sent = flood.sent | await taken(loud, "acme.loud")
        async with asyncio.timeout(WAIT_S):
            while live.state.jobs.live < len(sent | mine):  # noqa: ASYNC110 - the log tells who asks, not when
                await asyncio.sleep(0.05)
        assert (await client.status()).kept_out == ()
    found = submitted(await live.records())
    assert len(found) == len(set(found))
    assert set(found) == sent | mine
    assert live.node.engine is not None
    counted = {series.labels: series.value for each in of_engine(live.node.engine, live.link)
               for series in each.series if each.name == catalog.FLOODS.name}  # fmt: skip
    assert list(counted) == [("acme", "0")]
    await live.check()
    await loud.close()
    await quiet.close()


# --- whoever keeps it out is killed ---------------------------------------------------------------------


class Led:
    """A node of the command line, and who leads it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.directory = place.root / ".writ"
        env = place.json("env")
        self.url, self._owner = str(env["NATS_URL"]), Path(env["NATS_NKEY"])

    @property
    def node(self) -> int:
        return int(json.loads((self.directory / "node.json").read_bytes())["pid"])

    @asynccontextmanager
    async def tenants(self) -> AsyncGenerator[tuple[Nats, Nats]]:
        """Connections of the owners of `acme`, and of the node."""
        loud = await connect(Target(self.url, self.place.root / "acme.nk", "acme", "owner"), "loud")
        quiet = await connect(Target(self.url, self._owner, "default", "owner"), "quiet")
        yield loud, quiet
        for link in (loud, quiet):
            await link.close()

    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[tuple[JetStreamLog, JetStreamIntake]]:
        """Log and intake, on a connection of Writ's own."""
        link = await connect(
            Target(self.url, self.directory / "keys" / "log.creds"), "t", inbox_prefix="_INBOX"
        )
        yield JetStreamLog(link, 0, 1), JetStreamIntake(link, 1)
        await link.close()


async def records(log: JetStreamLog) -> list[Record]:
    return [decode(message.body) async for part in log.read() for message in part]


async def decided(log: JetStreamLog, count: int) -> list[tuple[str, str]]:
    """All jobs in the log, as soon as there are so many."""
    found: list[tuple[str, str]] = []
    reader = log.read(follow=True)
    async for part in reader:
        found += submitted([decode(message.body) for message in part])
        if len(found) >= count:
            break
    await reader.aclose()  # type: ignore[attr-defined]
    return found


async def until(wanted: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not wanted():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.05)


@pytest.fixture
def led(own_place: Place) -> Led:
    own_place.writ("tenant", "create", "acme", "--creds-out", "acme.nk")
    return Led(own_place)


async def leader_beside(led: Led, log: JetStreamLog) -> int:
    """Has another process lead, which is told, while the node stands by. Returns that process."""
    first = [r for r in await records(log) if isinstance(r.events[0], LeaderElected)]
    beside = led.place.start("orchestrator")
    said = led.place.root / "orchestrator.log"
    await until(lambda: "stands by" in said.read_text())
    os.kill(led.node, signal.SIGSTOP)  # it is silent, as far as others know
    await until(lambda: "leads from record" in said.read_text())
    os.kill(led.node, signal.SIGCONT)
    node_said = led.place.root / "up.log"
    await until(lambda: "steps back" in node_said.read_text())
    elected = [r for r in await records(log) if isinstance(r.events[0], LeaderElected)]
    assert len(elected) == len(first) + 1
    return beside.pid


async def halt_with_one_kept_out(leader: int, loud: Nats, quiet: Nats, intake: JetStreamIntake) -> Jobs:
    """Floods until the leader is halted while it keeps the tenant out; what was stored.

    So little waits by then that the next leader finds no flood of its own to take the tenant in after.
    """
    sent: Jobs = set()
    while True:
        flood = Flood(loud, "acme.owner", SOME)
        async with asyncio.timeout(WAIT_S):
            async with flood.pouring():
                await flood.kept_out.wait()
            while await intake.waiting("acme") * SOME >= KEPT_OUT_FROM:  # noqa: ASYNC110 - a broker
                await asyncio.sleep(0.01)
            os.kill(leader, signal.SIGSTOP)
        sent |= flood.sent
        if await intake.kept_out():
            break
        os.kill(leader, signal.SIGCONT)  # it had just taken it in again
    assert set(await intake.kept_out()) == {"acme"}
    assert not (await send(loud, "acme.owner", 1))[0]
    mine, error = await send(quiet, "default.owner", 1)
    assert error != OUT  # but it may be shut, where it was halted in the midst of a change
    return sent | mine


@MOST
@pytest.mark.parametrize("killed", ["the node", "a leader beside it"])
async def test_the_next_leader_takes_in_whom_one_that_is_killed_kept_out(led: Led, killed: str) -> None:
    """Must hold: no acknowledged submit is lost, and each is decided on once."""
    async with led.broker() as (log, intake), led.tenants() as (loud, quiet):
        leader, standby = led.node, None
        if killed != "the node":
            leader, standby = await leader_beside(led, log), led.node
            os.kill(standby, signal.SIGSTOP)  # so that nobody else changes the intake meanwhile
        sent = await halt_with_one_kept_out(leader, loud, quiet, intake)
        os.kill(leader, signal.SIGKILL)
    if standby is not None:
        os.kill(standby, signal.SIGCONT)
    else:
        led.place.up()
    async with led.broker() as (log, intake), led.tenants() as (loud, _):
        sent |= await taken(loud, "acme.owner")
        async with asyncio.timeout(WAIT_S):
            found = await decided(log, len(sent))
        assert len(found) == len(set(found))
        assert set(found) == sent
        assert await intake.kept_out() == {}
