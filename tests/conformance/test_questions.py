"""What the broker refuses to tell for a while is not known: it is neither damage nor the end of who asked."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from writ.broker.log import JetStreamLog
from writ.broker.ports import Message, OutcomeUnknown
from writ.broker.reader import check_there
from writ.broker.streams import NO_MESSAGE, NO_STREAM, ApiError, newest_seq, oldest_seq
from writ.schemas.chain import Violation

if TYPE_CHECKING:
    from writ.broker.hardened import HardenedClient

    from .conftest import JetStreamWire

AWAY = 10008
STREAM = "WRIT_LOG_0"


class Refusing:
    """Has the requests of a connection that tell of `subject` refused: a server that is alone never does so.

    `first` is done before each is. `times` is how many were.
    """

    def __init__(self, link: HardenedClient, code: int, subject: str) -> None:
        self.times = 0
        self.first: Callable[[], Awaitable[Any]] | None = None
        self.ended = False
        self._asks = link.request
        self._link, self._code, self._subject = link, code, subject
        link.request = self._request  # type: ignore[method-assign]

    async def _request(self, subject: str, payload: bytes = b"", timeout: float = 0.5) -> Msg:
        if self.ended or self._subject not in subject:
            return await self._asks(subject, payload, timeout)
        self.times += 1
        if self.first is not None:
            await self.first()
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
    with pytest.raises(ApiError, match=str(NO_STREAM)):
        await ask(link, STREAM)
    Refusing(link, AWAY, "STREAM.INFO")
    with pytest.raises(OutcomeUnknown, match=str(AWAY)):
        await ask(link, STREAM)
    with pytest.raises(OutcomeUnknown, match=str(AWAY)):
        await JetStreamLog.open(link)


async def test_only_a_message_that_is_not_there_is_damage(jetstream: JetStreamWire) -> None:
    Refusing(away := await three(jetstream), AWAY, "MSG.GET")
    with pytest.raises(OutcomeUnknown, match=str(AWAY)):
        await check_there(away, STREAM, 2)
    Refusing(damaged := await jetstream.link(), NO_MESSAGE, "MSG.GET")
    with pytest.raises(Violation, match="files are damaged"):
        await check_there(damaged, STREAM, 2)
    Refusing(gone := await jetstream.link(), NO_STREAM, "MSG.GET")
    with pytest.raises(ApiError, match=str(NO_STREAM)):
        await check_there(gone, STREAM, 2)


async def test_what_is_let_go_of_while_it_is_looked_for_is_not_damage(jetstream: JetStreamWire) -> None:
    link = await three(jetstream)
    log = JetStreamLog(await jetstream.link(), 0, 1)
    refusing = Refusing(link, NO_MESSAGE, "MSG.GET")
    refusing.first = lambda: log.trim(2)  # between the look at the beginning and the one at the message
    await check_there(link, STREAM, 2)
    assert refusing.times == 1
    assert await oldest_seq(link, STREAM) == 3


async def test_what_becomes_of_questions_that_are_needed_no_more_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("writ.broker.streams._AGAIN_S", 0.02)
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    asked: list[asyncio.Event] = []

    class Failing:
        async def request(self, subject: str, payload: bytes, timeout: float) -> Msg:
            asked.append(ended := asyncio.Event())
            if len(asked) == 3:
                raise NatsTimeout
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                ended.set()
                raise NoRespondersError from None  # which had come in the same moment
            raise AssertionError

    with pytest.raises(OutcomeUnknown):
        await newest_seq(Failing(), STREAM)  # type: ignore[arg-type]
    for each in asked[:2]:
        await each.wait()
    await asyncio.sleep(0)
    gc.collect()
    assert not told
