"""Must hold: a tenant's flood, of arrays and over many queues, is kept out, and loses nothing stored."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from nats.errors import NoRespondersError

from writ.broker.connect import Target, connect
from writ.broker.errors import STREAM_FULL
from writ.orchestrator import floods
from writ.schemas.events import JobSubmitted
from writ.schemas.ids import derived_job_id

if TYPE_CHECKING:
    from writ.broker.hardened import HardenedClient as Nats

    from .conftest import Live
else:
    Live = Any

WAIT_S = 90.0
AGAIN_S = 5.0
ARRAY, FEW, QUEUES = 200, 1_000, 20
OUT = "nobody takes it"
TWO_TENANTS = pytest.mark.parametrize("live", [{"acme.loud": ["submit"]}], indirect=True)

Jobs = set[tuple[str, str]]


async def send(link: Nats, who: str, count: int, queue: str = "mail") -> tuple[Jobs, str]:
    """The jobs of one stored message; none, and why, where it is not stored.

    What comes in the moment in which the stream is changed may be answered by nobody: it is sent again, as
    clients do, under an id by which it is stored once.
    """
    body = json.dumps([{"task": "t"}] * count).encode()
    tenant = who.partition(".")[0]
    named = {"Nats-Msg-Id": uuid4().hex}
    while True:
        try:
            answer = await link.request(f"writ.submit.{who}.{queue}", body, AGAIN_S, headers=named)
            break
        except NoRespondersError:
            return set(), OUT
        except TimeoutError:
            pass
    told = json.loads(answer.data)
    if "error" in told:
        assert told["error"]["err_code"] == STREAM_FULL, told
        return set(), "shut for a moment"
    return {(tenant, f"{queue}~{derived_job_id(1, told['seq'], index)}") for index in range(count)}, ""


async def submitted(live: Live) -> list[tuple[str, str]]:
    return [(r.tenant, r.key) for r in await live.records() if isinstance(r.events[0], JobSubmitted)]


@TWO_TENANTS
async def test_a_flood_is_kept_out_and_all_that_was_stored_of_it_is_decided_once(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floods, "KEPT_OUT_FROM", FEW)
    monkeypatch.setattr(floods, "TAKEN_AGAIN_AT", FEW // 2)
    keys = live.node.broker.directory / "keys"
    loud = await connect(Target(live.node.url, keys / "acme.loud.nk", "acme", "loud"), "loud")
    quiet = await connect(Target(live.node.url, live.node.broker.key_path("owner")), "quiet")
    sent: Jobs = set()
    out = asyncio.Event()
    over = asyncio.Event()

    async def flood(name: int) -> None:
        nonlocal sent
        number = name
        while not over.is_set():
            jobs, error = await send(loud, "acme.loud", ARRAY, f"q{number % QUEUES}")
            sent |= jobs
            if error:
                if error == OUT:
                    out.set()
                await asyncio.sleep(0.01)
            number += 1

    senders = [asyncio.create_task(flood(name)) for name in range(8)]
    mine: Jobs = set()
    try:
        async with asyncio.timeout(WAIT_S):
            while not out.is_set():  # the other one goes on meanwhile, whatever is changed of the intake
                jobs, error = await send(quiet, "default.owner", 1)
                assert error != OUT
                mine |= jobs
                await asyncio.sleep(0.02)
        jobs = set[tuple[str, str]]()
        while not jobs:
            jobs, error = await send(quiet, "default.owner", 1)
            assert error != OUT
        mine |= jobs
    finally:
        over.set()
        await asyncio.gather(*senders)
    async with asyncio.timeout(WAIT_S):
        jobs = set[tuple[str, str]]()
        while not jobs:
            await asyncio.sleep(0.05)
            jobs, _ = await send(loud, "acme.loud", 1)
        sent |= jobs
        while live.state.jobs.live < len(sent | mine):  # noqa: ASYNC110 - the log tells who asks, not when
            await asyncio.sleep(0.05)
    found = await submitted(live)
    assert len(found) == len(set(found))
    assert set(found) == sent | mine
    await live.check()
    await loud.close()
    await quiet.close()
