"""What the API refuses is in the audit, also where nobody records it at that moment."""
# nats-py leaves its keyword options untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import nats
from nats.aio.msg import Msg

from writ.broker.connect import Target, login
from writ.broker.doors import DEFAULT_TENANT
from writ.broker.embedded import EmbeddedBroker
from writ.broker.refusals import LOGIN_RULE, NOBODY, Refusal
from writ.broker.wire import NatsWire
from writ.http.audited import Audited
from writ.http.bearers import COMPONENT
from writ.http.problems import Fault
from writ.schemas.granting import NoteDenial
from writ.schemas.ids import SYSTEM_TENANT


async def test_what_is_refused_while_nobody_records_is_told_when_somebody_does(tmp_path: Path) -> None:
    async with await EmbeddedBroker.start(tmp_path) as broker, asyncio.timeout(60):
        target = Target(broker.url, broker.key_path("http"), SYSTEM_TENANT, COMPONENT)
        wire = await NatsWire.connect(target, "http")
        audited = Audited(wire, DEFAULT_TENANT)
        keeping = asyncio.create_task(audited.keep())
        told: list[NoteDenial] = []

        def refuse(kind: str) -> None:
            refusal = Refusal(NOBODY, kind, "", LOGIN_RULE)
            audited.note(Fault(401, "no token came with it", audit=refusal))

        async def record(message: Msg) -> None:
            told.append(msgspec.json.decode(message.data, type=NoteDenial))
            await message.respond(b"{}")

        refuse("first")
        refuse("second")
        while not audited.is_behind:  # noqa: ASYNC110 - another task's state
            await asyncio.sleep(0.01)
        for _ in range(3):
            refuse("third")
        recorder = await nats.connect(broker.url, **login(broker.key_path("answer")))
        await recorder.subscribe("writ.shard.*.control.>", cb=record)
        while len({each.operation for each in told}) < 3:  # noqa: ASYNC110 - another task's state
            await asyncio.sleep(0.01)
        counts = {each.operation: each.count for each in told}
        assert counts == {"first": 1, "second": 1, "third": 3}
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await recorder.close()
        await wire.close()
