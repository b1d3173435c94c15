"""What the broker refuses to tell for a while is not known: it is neither damage nor the end of who asked."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from writ.broker.clock import SystemClock
from writ.broker.connect import Target, connect
from writ.broker.log import JetStreamLog
from writ.broker.ports import Message, OutcomeUnknown
from writ.broker.reader import check_there, read_stream
from writ.broker.streams import NO_MESSAGE, NO_STREAM, ApiError, newest_seq, oldest_seq
from writ.durable import Durable, doubts
from writ.engines import wire_engine
from writ.schemas.chain import Violation

if TYPE_CHECKING:
    from writ.broker.hardened import HardenedClient
    from writ.schemas.queries import Durability

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
        link.request = self._request  # type: ignore[method-assign, assignment]

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


async def test_a_follower_waits_for_a_broker_that_refuses_and_says_so_once(
    jetstream: JetStreamWire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("writ.broker.reader._HEARTBEAT_S", 0.1)
    link = await three(jetstream)
    refusing = Refusing(link, AWAY, "CONSUMER.CREATE")
    with pytest.raises(OutcomeUnknown, match=str(AWAY)):  # one that does not follow has an end
        await anext(read_stream(link, STREAM, 1, (), follow=False))
    reader = read_stream(link, STREAM, 1, (), follow=True, whole=True)
    reading = asyncio.create_task(anext(reader))
    async with asyncio.timeout(20):
        while refusing.times < 4:  # noqa: ASYNC110 - it is asked again
            await asyncio.sleep(0.01)
        assert [each.getMessage() for each in caplog.records if str(AWAY) in each.getMessage()] == [
            f"stream {STREAM} is read on when the broker allows it: the broker does not tell "
            f"CONSUMER.CREATE.{STREAM}: refused (JetStream error {AWAY})"
        ]
        refusing.ended = True
        assert [message.seq for message in await reading] == [1, 2, 3]
    await reader.aclose()


async def test_a_follower_ends_with_its_connection(
    jetstream: JetStreamWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("writ.broker.reader._HEARTBEAT_S", 0.1)
    monkeypatch.setattr("writ.broker.reader._SILENT_S", 0.3)
    link = await three(jetstream)
    reader = read_stream(link, STREAM, 1, (), follow=True, whole=True)
    await anext(reader)
    await link.close()
    async with asyncio.timeout(20):
        with pytest.raises(OutcomeUnknown, match="closed"):
            await anext(reader)


async def test_a_reading_that_is_pushed_nothing_has_an_end(
    jetstream: JetStreamWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a connection that stands, from consumers that the broker makes and does not serve."""
    monkeypatch.setattr("writ.broker.reader._SILENT_S", 0.1)
    link = await three(jetstream)
    feed = link.feed

    async def elsewhere(inbox: str, take: Any) -> Any:
        return await feed(f"{inbox}.elsewhere", take)

    monkeypatch.setattr(link, "feed", elsewhere)
    async with asyncio.timeout(20):
        with pytest.raises(OutcomeUnknown, match="went silent"):
            await anext(read_stream(link, STREAM, 1, (), follow=False))
    assert link.is_connected


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


async def test_an_engine_outlives_refusals(jetstream: JetStreamWire, tmp_path: Path) -> None:
    """Must hold: what a broker refuses to tell for a while does not end who leads, or stands by."""
    logs = await jetstream.link()
    target = Target(jetstream.broker.url, jetstream.broker.key_path("answer"))
    jetstream.links.append(answers := await connect(target, "test", inbox_prefix="_INBOX"))
    engine = (await wire_engine(tmp_path, logs, answers)).engine
    everything = [Refusing(logs, AWAY, each) for each in ("CONSUMER.CREATE", "STREAM.INFO", "MSG.GET")]
    running = asyncio.create_task(engine.run())
    leads = asyncio.create_task(engine.leading.wait())
    async with asyncio.timeout(30):
        while max(each.times for each in everything) < 3:
            await asyncio.wait([running], timeout=0.05)
            assert not running.done(), running.exception()
        assert not leads.done()
        for each in everything:
            each.ended = True
        await asyncio.wait([running, leads], return_when=asyncio.FIRST_COMPLETED)
        assert not running.done(), running.exception()
        engine.stop()
        await running


async def test_of_a_broker_that_tells_nothing_nothing_is_claimed(
    jetstream: JetStreamWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("writ.broker.servers.WAIT_S", 0.5)
    await jetstream.log()
    target = Target(jetstream.broker.url, jetstream.broker.key_path("system"))
    system, closed = [await connect(target, "test", inbox_prefix="_INBOX") for _ in range(2)]
    jetstream.links.append(system)
    logs, refused = [await jetstream.link() for _ in range(2)]
    Refusing(refused, AWAY, "STREAM.INFO")
    await closed.close()

    async def looked(system: HardenedClient, logs: HardenedClient) -> Durability | None:
        return await Durable(system, logs, 0, SystemClock()).look()

    async with asyncio.timeout(20):
        found = await looked(system, logs)
        assert found is not None
        assert (found.servers, found.replicas, len(found.answering)) == (1, 1, 1)
        assert doubts(found) == []
        assert await looked(closed, logs) is None
        assert await looked(system, refused) is None
        assert await looked(logs, logs) is None  # no server answers that user
        await jetstream.broker.stop()
        assert await looked(system, logs) is None
        await jetstream.start_again()
    assert doubts(None) == [
        "the broker does not tell now on how many servers the log is kept, and when on their disks"
    ]
