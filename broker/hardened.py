"""nats-py's client, made to survive what a sender may put into a subject or a header.

nats-server takes any bytes there but space, tab, CR and LF. nats-py 2.16 stops reading for good at a subject
that is not UTF-8 and at some header blocks, and breaks the connection at a subject with a vertical tab or
form feed: one such submit, stored, would end every reader that meets it.
"""
# nats-py leaves these methods untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.errors import (
    AuthorizationError,
    BadSubjectError,
    ConnectionClosedError,
    ConnectionDrainingError,
    ConnectionReconnectingError,
    MaxPayloadError,
    NoRespondersError,
    OutboundBufferLimitError,
    ProtocolError,
)
from nats.errors import TimeoutError as NatsTimeout
from nats.protocol.parser import Parser

_CRLF: Final = b"\r\n"
_HEAD_BYTES: Final = len(b"NATS/1.0\r\n\r\n")
_LINE_MAX_BYTES: Final = 1 << 20
_NOT_IN_SUBJECTS: Final = re.compile(rb"[\x00-\x20\x7f]")
_NO_RESPONDERS: Final = b"NATS/1.0 503"
_LOGIN_OVER: Final = (
    "user authentication expired",
    "user authentication revoked",
    "account authentication expired",
    "authorization violation",
    "maximum account active connections exceeded",
)
"""What the server says when a connection that stood may stand no longer."""

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
                if self.feeds:
                    del buffer[: self._take_whole(bytes(buffer))]
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

    def _take_whole(self, data: bytes) -> int:
        """Hands on the messages of feeds that `data` begins with, as far as they are whole; their length.

        The short way for what comes by the ten thousand. What is anything else is for `parse`.
        """
        feeds, at = self.feeds, 0
        while (end := data.find(_CRLF, at)) >= 0:
            fields = data[at:end].split(b" ")
            try:
                take = feeds[int(fields[2])]
                begin = split = end + 2
                stop = begin + int(fields[-1])
                if fields[0] == b"MSG":
                    reply = fields[3] if len(fields) == 5 else b""
                elif fields[0] == b"HMSG":
                    split += int(fields[-2])
                    reply = fields[3] if len(fields) == 6 else b""
                else:
                    break
            except (ValueError, IndexError, KeyError):
                break
            if not end < split <= stop <= len(data) - 2:
                break
            take(fields[1], reply, data[split:stop], data[begin:split])
            at = stop + 2
        return at

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


class _Tcp(TcpTransport):
    """What nobody else does for a connection that is upgraded to TLS.

    asyncio's end of it is told that it was; else asyncio warns of each such connection as it ends. One whose
    handshake failed is let go of: nobody would tell its end, and nats-py waits for that before it tries the
    next server.
    """

    def __bool__(self) -> bool:
        return True  # nats-py makes one of its own in the place of one that is not connected yet

    async def connect_tls(self, *args: Any, **options: Any) -> None:
        assert self._io_writer is not None
        try:
            await super().connect_tls(*args, **options)
        except BaseException:
            self._io_writer.transport.abort()
            self._io_reader = self._io_writer = self._bare_io_reader = self._bare_io_writer = None
            raise
        protocol: Any = self._io_writer.transport.get_protocol()
        protocol._over_ssl = True


def _unless_cancelled(error: BaseException) -> None:
    """Raises a cancellation that is meant for this task.

    Two tasks that close a connection wait for one future: where one is cancelled, the other's wait is, too.
    """
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error


class HardenedClient(Client):
    """Bytes that are no UTF-8 show as `\\xNN` in subjects; header blocks that cannot be read are left out.

    `put`, `ask` and `feed` are what a hot path needs, past what nats-py does for each message: an object, its
    headers, a queue, and two tasks to wake.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ps = self._parser = _Parser(self)
        self._flushing = False
        self._inbox = b""
        self._asked: dict[bytes, tuple[bytes, asyncio.Future[bytes]]] = {}
        self._tokens = itertools.count(1)

    async def feed(self, subject: str, take: Take, group: str = "") -> Subscription:
        """Subscribes, of a group one; what comes before this returns is lost."""
        sub = await self.subscribe(subject, group, cb=_drop)
        self._parser.feeds[sub._id] = take  # pyright: ignore[reportPrivateUsage]
        return sub

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._parser.feeds.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _connect_to_server(self, s: Any) -> None:
        if self._transport is None and s.uri.scheme not in ("ws", "wss"):
            self._transport = _Tcp()  # type: ignore[no-untyped-call]  # of nats-py
        await super()._connect_to_server(s)

    async def _process_connect_init(self) -> None:
        await super()._process_connect_init()
        if not self.is_connected:  # nats-py takes a server that hangs up for one that let us in
            raise AuthorizationError

    async def _process_err(self, err_msg: str) -> None:
        # nats-py closes for good here. A login ends within the hour, or when roles change: whoever is still a
        # principal is let in again with what it may do now, and who is not may be again.
        if any(words in err_msg for words in _LOGIN_OVER):
            await self._process_op_err(AuthorizationError())
        else:
            await super()._process_err(err_msg)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> None:
        await super()._process_msg(sid, _plain(subject), _plain(reply), data, headers)

    def put(self, subject: bytes, body: bytes, reply: bytes = b"", head: bytes = b"") -> None:
        """Publishes without waiting; what is put in one turn of the loop goes out in one write.

        `head` is as in `publish_many`. Raises nats-py's errors, as `publish` does.
        """
        self._may_publish(len(body))
        if not subject or _NOT_IN_SUBJECTS.search(subject):
            raise BadSubjectError
        if head:
            size = len(head) + _HEAD_BYTES
            line = b"HPUB %b %b %d %d\r\nNATS/1.0\r\n%b\r\n" % (subject, reply, size, size + len(body), head)
        else:
            line = b"PUB %b %b %d\r\n" % (subject, reply, len(body))
        command = b"%b%b\r\n" % (line, body)
        if self._pending_data_size + len(command) > self._max_pending_size:
            raise OutboundBufferLimitError
        self._pending.append(command)
        self._pending_data_size += len(command)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(body)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        if self._pending_data_size and self.is_connected and self._transport is not None:
            pending, self._pending, self._pending_data_size = self._pending, [], 0
            self._transport.writelines(pending)

    async def flush(self, timeout: int = 10) -> None:
        """Returns when the server has taken all that was sent before. Raises nats-py's errors."""
        self._flush_now()  # nats-py writes its ping ahead of what waits to be sent
        await super().flush(timeout)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        try:
            await super()._close(status, do_cbs)
        except (OSError, RuntimeError, asyncio.CancelledError) as error:
            _unless_cancelled(error)
            # It wrote what was left to a connection that was gone, and stopped half-way: again, without that.
            self._pending, self._pending_data_size = [], 0
            self._status = Client.DISCONNECTED
            try:
                await super()._close(status, do_cbs)
            except (OSError, RuntimeError, asyncio.CancelledError) as again:
                _unless_cancelled(again)  # the same once more: what mattered is done by then
            self._status = status

    def _may_publish(self, size_bytes: int) -> None:
        if self.is_closed:
            raise ConnectionClosedError
        if self.is_draining_pubs:
            raise ConnectionDrainingError
        if size_bytes > self._max_payload:
            raise MaxPayloadError

    async def ask(self, subject: bytes, body: bytes, timeout_s: float, head: bytes = b"") -> bytes:
        """The body of the answer to a request. Nothing is sent while the connection is broken.

        Raises nats-py's errors, as `request` does, ConnectionReconnectingError, and those of `fail_asked`.
        """
        if not self.is_connected:
            raise ConnectionReconnectingError
        if not self._inbox:
            inbox = self.new_inbox()
            self._inbox = inbox.encode() + b"."
            await self.feed(inbox + ".*", self._answered)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        reply = b"%b%x" % (self._inbox, next(self._tokens))
        self._asked[reply] = subject, future
        timer = loop.call_later(timeout_s, _fail, future, NatsTimeout())
        try:
            self.put(subject, body, reply, head)
            return await future
        finally:
            timer.cancel()
            del self._asked[reply]

    def fail_asked(
        self, error: Callable[[str], Exception], subject: str | None = None, *, below: tuple[str, ...] = ("",)
    ) -> None:
        """Ends the requests under way with the error for each: all, those to one subject in whatever case, or
        those whose subject begins with one of `below`.
        """
        for asked_of, future in self._asked.values():
            name = readable(asked_of)
            if name.startswith(below) and (subject is None or name.lower() == subject.lower()):
                _fail(future, error(name))

    def _answered(self, subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        asked = self._asked.get(subject)
        if asked is None:
            return
        future = asked[1]
        if not body and headers.startswith(_NO_RESPONDERS):
            _fail(future, NoRespondersError())
        elif not future.done():
            future.set_result(body)

    async def publish_many(self, messages: Sequence[tuple[bytes, bytes, bytes]]) -> None:
        """Publishes messages of subject, header block and body with one write, in their order.

        A header block is what stands between `NATS/1.0` and the empty line, each header ended by CRLF. The
        caller has checked subjects and headers. Raises nats-py's errors, as `publish` does.

        One call of `publish` costs 5 microseconds, one message here 1: most of it is the same for all.
        """
        sizes = [len(body) for _, _, body in messages]
        self._may_publish(max(sizes))
        block = b"".join(
            [
                b"HPUB %b %d %d\r\nNATS/1.0\r\n%b\r\n%b\r\n"
                % (subject, len(head) + _HEAD_BYTES, len(head) + _HEAD_BYTES + len(body), head, body)
                for subject, head, body in messages
            ]
        )
        if not self.is_connected and len(block) + self._pending_data_size > self._max_pending_size:
            raise OutboundBufferLimitError
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


def _fail(future: asyncio.Future[bytes], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


async def _drop(_: Msg) -> None:
    """What came before the feed was there."""


def readable(subject: bytes) -> str:
    """A subject as text; bytes that are no UTF-8 as `\\xNN`."""
    return subject.decode(errors="backslashreplace")


def _plain(subject: bytes) -> bytes:
    return subject if subject.isascii() else readable(subject).encode()
