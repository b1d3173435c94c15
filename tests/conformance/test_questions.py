"""What the broker refuses to tell for a while is not known: it is neither damage nor the end of who asked."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout

from writ.broker.clock import SystemClock
from writ.broker.connect import Target, connect
from writ.broker.ports import Message, OutcomeUnknown
from writ.broker.reader import _check_there
from writ.broker.streams import ApiError, newest_seq, oldest_seq
from writ.durable import Durable
from writ.schemas.chain import Violation

if TYPE_CHECKING:
    from writ.broker.hardened import HardenedClient

    from .conftest import JetStreamWire

AWAY, NO_STREAM, NO_MESSAGE = 10008, 10059, 10037
STREAM = "WRIT_LOG_0"


class Refusing:
    """A connection whose requests of some subjects are refused: a server that is alone never does so."""

    def __init__(self, link: HardenedClient, code: int, *subjects: str) -> None:
        self._link, self._code, self._subjects = link, code, subjects
        self.trim_first = 0

    async def request(self, subject: str, payload: bytes, timeout: float) -> Msg:
        if not any(each in subject for each in self._subjects):
            return await self._link.request(subject, payload, timeout)
        if self.trim_first:
            asked = msgspec.json.encode({"seq": self.trim_first + 1})
            await self._link.request(f"$JS.API.STREAM.PURGE.{STREAM}", asked, timeout)
        error = {"code": 503, "err_code": self._code, "description": "refused"}
        return Msg(self._link, data=msgspec.json.encode({"error": error}))


async def three(jetstream: JetStreamWire) -> HardenedClient:
    """A connection to a log of three records."""
    log = await jetstream.log()
    for seq in range(3):
        await log.append([Message("writ.log.0.default.job.q~1", b"{}")], seq)
    return await jetstream.link()


@pytest.mark.parametrize("ask", [newest_seq, oldest_seq])
async def test_a_refusal_that_may_pass_is_not_known(jetstream: JetStreamWire, ask: Any) -> None:
    link = await jetstream.link()
    with pytest.raises(OutcomeUnknown, match="10008"):
        await ask(Refusing(link, AWAY, "STREAM.INFO"), STREAM)
    with pytest.raises(ApiError, match=str(NO_STREAM)):
        await ask(link, STREAM)


async def test_only_a_message_that_is_not_there_is_damage(jetstream: JetStreamWire) -> None:
    link = await three(jetstream)
    with pytest.raises(OutcomeUnknown, match="10008"):
        await _check_there(Refusing(link, AWAY, "MSG.GET"), STREAM, 2)  # type: ignore[arg-type]
    with pytest.raises(Violation, match="files are damaged"):
        await _check_there(Refusing(link, NO_MESSAGE, "MSG.GET"), STREAM, 2)  # type: ignore[arg-type]
    trimmed = Refusing(link, NO_MESSAGE, "MSG.GET")
    trimmed.trim_first = 2  # the archive lets go of it between the look at the beginning and the one at it
    await _check_there(trimmed, STREAM, 2)  # type: ignore[arg-type]
    assert await oldest_seq(link, STREAM) == 3


async def test_questions_that_fail_together_leave_nothing_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("writ.broker.streams._AGAIN_S", 0.02)
    monkeypatch.setattr("writ.broker.streams.REQUEST_TIMEOUT_S", 0.1)
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    asked = 0

    class Silent:
        async def request(self, subject: str, payload: bytes, timeout: float) -> Msg:
            nonlocal asked
            asked += 1
            while asked < 3:  # noqa: ASYNC110 - until there are several
                await asyncio.sleep(0)
            raise NatsTimeout

    with pytest.raises(OutcomeUnknown):
        await newest_seq(Silent(), STREAM)  # type: ignore[arg-type]
    gc.collect()
    await asyncio.sleep(0)
    assert asked >= 3
    assert not told


async def test_of_a_broker_that_tells_nothing_nothing_is_claimed(jetstream: JetStreamWire) -> None:
    await jetstream.log()
    broker = jetstream.broker
    target = Target(broker.url, broker.key_path("system"))
    system, closed = [await connect(target, "test", inbox_prefix="_INBOX") for _ in range(2)]
    jetstream.links.append(system)
    logs = await jetstream.link()
    await closed.close()
    found = await Durable(system, logs, 0, SystemClock()).look()
    assert found is not None
    assert (found.servers, found.replicas, len(found.answering)) == (1, 1, 1)
    assert await Durable(closed, logs, 0, SystemClock()).look() is None
    await broker.stop()
    assert await Durable(system, logs, 0, SystemClock()).look() is None
