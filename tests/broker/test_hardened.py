"""The protocol parser of the hardened client: whatever the server sends, in whatever pieces it comes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from nats.errors import ProtocolError

from writ.broker.connect import Target, connect
from writ.broker.embedded import EmbeddedBroker
from writ.broker.hardened import HardenedClient


class Listener:
    """Stands for the client: notes what the parser hands it."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    async def _process_msg(self, *message: Any) -> None:
        self.said.append(message)

    async def _process_ping(self) -> None:
        self.said.append(("ping",))

    async def _process_pong(self) -> None:
        self.said.append(("pong",))

    async def _process_err(self, text: str) -> None:
        self.said.append(("err", text))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.said.append(("info", info["version"]))


def parser(listener: Listener) -> Any:
    client: Any = HardenedClient()
    made = client._ps
    made._owner = listener
    return made


STREAM = (
    b'INFO {"version":"2.15.1"} \r\n'
    b"MSG a.b 1 5\r\nhello\r\n"
    b"PING\r\n"
    b"MSG a.\xff\x0b\x0c 2 _INBOX.x 0\r\n\r\n"
    b"+OK\r\n"
    b"HMSG a.b 3 12 16\r\nNATS/1.0\r\n\r\n\r\nMS\r\n"
    b"HMSG a.b 3 reply.to 12 12\r\nNATS/1.0\r\n\r\n\r\n"
    b"-ERR 'Permissions Violation for Publish to \"x\xff\"'\r\n"
    b"MSG a 4 9\r\nPING\r\nPON\r\n"
    b"PONG\r\n"
)
SAID = [
    ("info", "2.15.1"),
    (1, b"a.b", b"", b"hello", None),
    ("ping",),
    (2, b"a.\xff\x0b\x0c", b"_INBOX.x", b"", None),
    (3, b"a.b", b"", b"\r\nMS", b"NATS/1.0\r\n\r\n"),
    (3, b"a.b", b"reply.to", b"", b"NATS/1.0\r\n\r\n"),
    ("err", "'permissions violation for publish to \"x\\xff\"'"),
    (4, b"a", b"", b"PING\r\nPON", None),
    ("pong",),
]


@pytest.mark.parametrize("seed", range(50))
async def test_pieces_make_the_same_messages(seed: int) -> None:
    draw = random.Random(seed)
    listener = Listener()
    made = parser(listener)
    at = 0
    while at < len(STREAM):
        size = 1 if seed == 0 else draw.randint(1, 40)
        await made.parse(STREAM[at : at + size])
        at += size
    assert listener.said == SAID


@pytest.mark.parametrize("line", [b"HELLO\r\n", b"MSG a\r\n", b"MSG a b c\r\n", b"HMSG a 1 2\r\n", b"\r\n"])
async def test_what_is_no_protocol_ends_the_connection(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        await parser(Listener()).parse(line)


@pytest.mark.parametrize("size", [1, 7, 50, 1_000])
async def test_a_feed_gets_its_messages_at_once_and_as_they_are(size: int) -> None:
    listener = Listener()
    made = parser(listener)
    fed: list[tuple[bytes, ...]] = []

    def take(*message: bytes) -> None:
        fed.append(message)

    made.feeds.update({3: take, 4: take})
    for at in range(0, len(STREAM), size):
        await made.parse(STREAM[at : at + size])
    assert fed == [
        (b"a.b", b"", b"\r\nMS", b"NATS/1.0\r\n\r\n"),
        (b"a.b", b"reply.to", b"", b"NATS/1.0\r\n\r\n"),
        (b"a", b"", b"PING\r\nPON", b""),
    ]
    assert listener.said == [each for each in SAID if each[0] not in (3, 4)]


async def test_a_feed_ends_with_its_subscription(tmp_path: Path) -> None:
    async with await EmbeddedBroker.start(tmp_path) as broker:
        client = await connect(Target(broker.url, broker.key_path("log")), "test", inbox_prefix="_INBOX")
        fed: list[bytes] = []
        assert isinstance(client, HardenedClient)
        sub = await client.feed("to.me", lambda subject, reply, body, headers: fed.append(body))
        await client.publish("to.me", b"1")
        await client.flush()
        assert fed == [b"1"]
        await sub.unsubscribe()
        await client.publish("to.me", b"2")
        await client.flush()
        assert fed == [b"1"]
        parser: Any = client._ps  # pyright: ignore[reportPrivateUsage]
        assert parser.feeds == {}
        await client.close()


async def test_a_reset_forgets_the_half_of_a_message() -> None:
    listener = Listener()
    made = parser(listener)
    await made.parse(b"MSG a 1 5\r\nhel")
    made.reset()
    await made.parse(b"PING\r\n")
    assert listener.said == [("ping",)]


async def test_a_callback_that_resets_the_parser_ends_the_old_bytes() -> None:
    """As nats-py does when a connection is lost while its messages are being handed out."""
    listener = Listener()
    made = parser(listener)

    async def lost() -> None:
        listener.said.append(("lost",))
        made.reset()

    listener._process_ping = lost  # type: ignore[method-assign]
    await made.parse(b"PING\r\nMSG a 1 1\r\nx\r\n")
    await made.parse(b"PONG\r\n")
    assert listener.said == [("lost",), ("pong",)]


async def test_a_connection_that_is_gone_is_closed_like_any(tmp_path: Path) -> None:
    async with await EmbeddedBroker.start(tmp_path) as broker:
        client: Any = await connect(Target(broker.url, broker.key_path("log")), "test", inbox_prefix="_INBOX")
        await client.subscribe("to.me", cb=_nothing)
        client.put(b"to.me", b"1")
        client._transport._io_writer.transport.abort()
        await client.close()
        assert client.is_closed
        assert client._subs == {}


async def _nothing(_: Any) -> None:
    pass
