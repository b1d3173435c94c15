"""nats-py's client, made to survive what a sender may put into a subject or a header.

nats-server takes any bytes there but space, tab, CR and LF. nats-py 2.16 stops reading for good at a subject
that is not UTF-8 and at some header blocks, and breaks the connection at a subject with a vertical tab or
form feed: one such submit, stored, would end every reader that meets it.
"""
# nats-py leaves these methods untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import (
    ConnectionClosedError,
    ConnectionDrainingError,
    MaxPayloadError,
    OutboundBufferLimitError,
    ProtocolError,
)
from nats.protocol.parser import Parser

_CRLF: Final = b"\r\n"
_HEAD_BYTES: Final = len(b"NATS/1.0\r\n\r\n")
_LINE_MAX_BYTES: Final = 1 << 20

Take = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes a message as the server sent it: subject, reply, body, header block. Must neither block nor raise."""


class _Parser(Parser):
    """The server's protocol by its own rules: fields of a line stand apart by spaces, nothing else does."""

    def __init__(self, owner: Any) -> None:
        super().__init__(owner)
        self._owner = owner
        self.feeds: dict[int, Take] = {}

    def reset(self) -> None:
        super().reset()
        self._message: tuple[int, bytes, bytes, int, int] | None = None

    async def parse(self, data: bytes = b"") -> None:
        buffer = self.buf
        buffer.extend(data)
        while buffer and buffer is self.buf:
            if self._message is None:
                end = buffer.find(_CRLF)
                if end < 0:
                    if len(buffer) > _LINE_MAX_BYTES:
                        raise ProtocolError("nats: a line without an end")
                    return
                line = bytes(buffer[:end])
                del buffer[: end + 2]
                if line.startswith((b"MSG ", b"HMSG ")):
                    self._message = _message_line(line)
                else:
                    await self._other(line)
                continue
            sid, subject, reply, head, total = self._message
            if len(buffer) < total + 2:
                return
            self._message = None
            headers = bytes(buffer[:head])
            body = bytes(buffer[head:total])
            del buffer[: total + 2]
            take = self.feeds.get(sid)
            if take is not None:
                take(subject, reply, body, headers)
            else:
                await self._owner._process_msg(sid, subject, reply, body, headers or None)

    async def _other(self, line: bytes) -> None:
        verb, _, rest = line.partition(b" ")
        match verb:
            case b"PING":
                await self._owner._process_ping()
            case b"PONG":
                await self._owner._process_pong()
            case b"-ERR":
                await self._owner._process_err(rest.strip().decode(errors="backslashreplace").lower())
            case b"INFO":
                await self._owner._process_info(json.loads(rest))
            case b"+OK":
                pass
            case _:
                raise ProtocolError(f"nats: unknown protocol {verb[:20]!r}")


def _message_line(line: bytes) -> tuple[int, bytes, bytes, int, int]:
    """`MSG <subject> <sid> [reply] <total>`, `HMSG <subject> <sid> [reply] <head> <total>`."""
    try:
        verb, subject, sid, *rest = line.split(b" ")
        total = int(rest.pop())
        head = int(rest.pop()) if verb == b"HMSG" else 0
        return int(sid), subject, rest[0] if rest else b"", head, total
    except (ValueError, IndexError) as error:
        raise ProtocolError("nats: malformed MSG") from error


class HardenedClient(Client):
    """Bytes that are no UTF-8 show as `\\xNN` in subjects; header blocks that cannot be read are left out."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = self._parser = _Parser(self)

    async def feed(self, subject: str, take: Take) -> Subscription:
        """Subscribes without what nats-py does for each message: an object, its headers, a queue, a task.

        A reader of a stream spends most of its time there. What comes before this returns is lost.
        """
        sub = await self.subscribe(subject, cb=_drop)
        self._parser.feeds[sub._id] = take  # pyright: ignore[reportPrivateUsage]
        return sub

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._parser.feeds.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> None:
        await super()._process_msg(sid, _plain(subject), _plain(reply), data, headers)

    async def publish_many(self, messages: Sequence[tuple[bytes, bytes, bytes]]) -> None:
        """Publishes messages of subject, header block and body with one write, in their order.

        A header block is what stands between `NATS/1.0` and the empty line, each header ended by CRLF. The
        caller has checked subjects and headers. Raises nats-py's errors, as `publish` does.

        One call of `publish` costs 5 microseconds, one message here 1: most of it is the same for all.
        """
        if self.is_closed:
            raise ConnectionClosedError
        if self.is_draining_pubs:
            raise ConnectionDrainingError
        block = b"".join(
            [
                b"HPUB %b %d %d\r\nNATS/1.0\r\n%b\r\n%b\r\n"
                % (subject, len(head) + _HEAD_BYTES, len(head) + _HEAD_BYTES + len(body), head, body)
                for subject, head, body in messages
            ]
        )
        if not self.is_connected and len(block) + self._pending_data_size > self._max_pending_size:
            raise OutboundBufferLimitError
        sizes = [len(body) for _, _, body in messages]
        if max(sizes) > self._max_payload:
            raise MaxPayloadError
        self.stats["out_msgs"] += len(messages)
        self.stats["out_bytes"] += sum(sizes)
        await self._send_command(block)
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    async def _process_headers(self, headers: Any) -> dict[str, str] | None:
        try:
            return await super()._process_headers(headers)
        except (ValueError, IndexError):
            return None


async def _drop(_: Msg) -> None:
    """What came before the feed was there."""


def readable(subject: bytes) -> str:
    """A subject as text; bytes that are no UTF-8 as `\\xNN`."""
    return subject.decode(errors="backslashreplace")


def _plain(subject: bytes) -> bytes:
    return subject if subject.isascii() else readable(subject).encode()
