"""Reading a stream in order, without acknowledgements, through an ephemeral push consumer.

The server pushes as far as its flow control allows; a gap in the consumer's own count, a silent server or a
reconnect makes a new consumer from the message after the last one taken.
"""
# nats-py, and the JSON of its API, are typed in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, Final

from nats.aio.client import Client as Nats
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from writ.schemas.chain import Violation

from .hardened import HardenedClient, readable
from .ports import OutcomeUnknown, Stored
from .streams import NO_MESSAGE, ApiError, api, look, newest_seq, oldest_seq

log = logging.getLogger("writ.broker")

_HEARTBEAT_S: Final = 2.0
_SILENT_S: Final = 3 * _HEARTBEAT_S
_LOOK_EVERY: Final = 10
"""Of so many signs of life one makes a follower look whether there is something that it did not get."""

_GAPS_MAX: Final = 3
"""So many consumers, one after the other, may bring nothing before a reading that has an end gives up."""


class _Gap(Exception):
    """The consumer lost its place or its server: make another."""


_make = tuple.__new__


class _Consumer:
    """One ephemeral consumer: collects what it is pushed until its reader takes it."""

    def __init__(self, nats: Nats, stream: str) -> None:
        self._nats = nats
        self._stream = stream
        self._got: list[Stored] = []
        self._flow: list[str] = []
        self._waiting: asyncio.Future[None] | None = None
        self._count = 0
        self._lost = False
        self._idle = False
        self._name = ""
        self._inbox = b""
        self._sub: Subscription | None = None
        self.pending = 0

    async def open(self, start: int, subjects: Sequence[str]) -> None:
        assert isinstance(self._nats, HardenedClient), "connections are made by connect()"
        inbox = self._nats.new_inbox()
        self._inbox = inbox.encode()
        self._sub = await self._nats.feed(inbox, self._take)
        config: dict[str, Any] = {
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(start, 1),
            "ack_policy": "none",
            "max_deliver": 1,
            "flow_control": True,
            "idle_heartbeat": int(_HEARTBEAT_S * 1e9),
            "inactive_threshold": int(30e9),
            "mem_storage": True,
            "num_replicas": 1,
        }
        if subjects:
            config["filter_subjects"] = list(subjects)
        body = {"stream_name": self._stream, "config": config}
        made = await look(self._nats, f"CONSUMER.CREATE.{self._stream}", body)
        self._name = made["name"]
        delivered = made.get("delivered") or {}
        self.pending = int(made.get("num_pending", 0)) + int(delivered.get("consumer_seq", 0))

    async def left(self) -> int:
        """How many messages are to come, and have come but were not taken. Raises _Gap, OutcomeUnknown."""
        told = await look(self._nats, f"CONSUMER.INFO.{self._stream}.{self._name}")
        if self._lost:
            raise _Gap  # what came since is counted and not kept
        sent = int(told["delivered"]["consumer_seq"])
        return int(told["num_pending"]) + sent - self._count + len(self._got)

    async def close(self) -> None:
        with suppress(NatsError, OSError):
            if self._sub is not None:
                await self._sub.unsubscribe()
        with suppress(OutcomeUnknown, ApiError):
            if self._name and self._nats.is_connected:
                await api(self._nats, f"CONSUMER.DELETE.{self._stream}.{self._name}")

    def _take(self, subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        try:
            # Not by the status header: whoever publishes to the stream can send that too.
            if subject == self._inbox:
                self._obey(reply, _fields(headers))
            else:
                # $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<seq>.<count>.<time>.<pending>,
                # and one more behind a domain
                parts = reply.split(b".")
                place = 5 if len(parts) == 9 else 7
                self._count += 1
                if int(parts[place + 1]) != self._count:
                    self._lost = True
                if not self._lost:
                    text = subject.decode() if subject.isascii() else readable(subject)
                    stored_us = int(parts[place + 2]) // 1_000
                    # As `Stored(...)`, in half the time: there is one of these for each message.
                    self._got.append(_make(Stored, (int(parts[place]), text, body, stored_us)))
        except (ValueError, IndexError):
            self._lost = True  # no server that we know speaks so: ask it again
        if self._waiting is not None:
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _fall_silent(self) -> None:
        self._lost = True
        self._wake()

    def _obey(self, reply: bytes, fields: dict[bytes, bytes]) -> None:
        """The server's own word: a request for an answer before it goes on, or a sign of life."""
        if reply:
            self._flow.append(reply.decode())
            return
        last = fields.get(b"Nats-Last-Consumer")
        self._lost = self._lost or (last is not None and int(last) != self._count)
        self._idle = True
        stalled = fields.get(b"Nats-Consumer-Stalled")
        if stalled:
            self._flow.append(stalled.decode())

    async def next(self) -> list[Stored]:
        """What has come since the last call; nothing where the server says that it lives, and has no more.

        Raises _Gap.
        """
        while True:
            got, self._got = self._got, []
            idle, self._idle = self._idle, False
            flow, self._flow = self._flow, []
            for reply in flow:
                await self._nats.publish(reply)
            if got:
                return got
            if self._lost:
                raise _Gap
            if idle:
                return []
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            silence = loop.call_later(_SILENT_S, self._fall_silent)
            try:
                await self._waiting
            finally:
                silence.cancel()


def _fields(headers: bytes) -> dict[bytes, bytes]:
    """The fields of a header block, without the line of the status."""
    lines = [line.partition(b":") for line in headers.split(b"\r\n")[1:]]
    return {name: value.strip() for name, colon, value in lines if colon}


async def check_there(nats: Nats, stream: str, seq: int, upto: int = 0) -> None:
    """Raises Violation where a stream without gaps goes on behind a message that its server cannot give.

    `upto` is how far it went before. Raises OutcomeUnknown where the broker does not tell now.
    """
    if await oldest_seq(nats, stream) > seq:
        return  # let go of meanwhile
    last = await newest_seq(nats, stream)
    if seq > max(last, upto):
        return
    try:
        await look(nats, f"STREAM.MSG.GET.{stream}", {"seq": seq})
    except ApiError as refused:
        if refused.code != NO_MESSAGE:
            raise
        if await oldest_seq(nats, stream) > seq:
            return  # let go of between the two questions
        reason = f"the broker cannot read it, and its stream {stream} went on to record {max(last, upto)}"
        raise Violation(seq, f"{reason}: {refused}; its files are damaged, restore a backup") from refused


class _Patience:
    """What a reading that gets nothing puts up with: one that follows, all but a closed connection."""

    def __init__(self, nats: Nats, stream: str, follow: bool) -> None:
        self._nats = nats
        self._stream = stream
        self._follow = follow
        self._gaps = 0
        self._said = ""

    def renew(self) -> None:
        """Something came."""
        self._gaps = 0
        self._said = ""

    def try_again(self) -> None:
        """After a consumer that was lost. Raises OutcomeUnknown."""
        self._gaps += 1
        if not self._follow and (self._gaps >= _GAPS_MAX or not self._nats.is_connected):
            raise OutcomeUnknown(f"the broker went silent while stream {self._stream} was read")

    async def wait(self, silent: Exception) -> None:
        """After a failure, which is told once. Raises OutcomeUnknown."""
        reason = str(silent) or type(silent).__name__
        if not self._follow or self._nats.is_closed:
            raise OutcomeUnknown(f"stream {self._stream} cannot be read: {reason}") from silent
        if reason != self._said:
            log.warning("stream %s is read on when the broker allows it: %s", self._stream, reason)
            self._said = reason
        await asyncio.sleep(_HEARTBEAT_S / 4)


async def read_stream(
    nats: Nats, stream: str, start: int, subjects: Sequence[str], *, follow: bool, whole: bool = False
) -> AsyncGenerator[list[Stored]]:
    """Messages of a stream in order from sequence `start`, as lists.

    Without `follow` it ends with the last message there was at the beginning, and raises OutcomeUnknown
    where the broker goes silent; with it, it waits for the broker until the connection is closed, and says in
    the log for what. Of a stream that is `whole` no message may be missing behind `start`: where the broker
    cannot give one, Violation is raised. ApiError is raised where there is no such stream.
    """
    left: int | None = None
    last = 0
    connected: int | None = None
    patience = _Patience(nats, stream, follow)
    while True:
        consumer = _Consumer(nats, stream)
        idle = 0
        try:
            if whole and not follow and connected != (now := nats.stats["reconnects"]):
                # A broker that could not write may have told of messages that it has not when it is back.
                newest = await newest_seq(nats, stream)
                last, connected = newest if connected is None else min(last, newest), now
            await consumer.open(start, subjects)
            if not follow:
                left = consumer.pending if left is None else min(left, consumer.pending)
            while left is None or left > 0:
                got = await consumer.next()
                if not got:
                    idle += 1
                    if whole and (not follow or idle % _LOOK_EVERY == 0):
                        await check_there(nats, stream, start, last)
                    if not follow and not await consumer.left():
                        if await oldest_seq(nats, stream) <= start:
                            raise OutcomeUnknown(
                                f"stream {stream} has {left} more from {start} on, and the broker gives none"
                            )
                        break  # let go of meanwhile
                    continue
                if whole and got[-1].seq - start + 1 != len(got):
                    # What is damaged is passed over without a word, as is what was let go meanwhile.
                    at = next(n for n, message in enumerate(got) if message.seq != start + n)
                    if at:
                        yield got[:at]
                    await check_there(nats, stream, start + at, last)
                    got = got[at:]
                if left is not None:
                    got = got[:left]
                    left -= len(got)
                start = got[-1].seq + 1
                idle = 0
                patience.renew()
                yield got
                if whole and not follow and start > last:
                    return
            if start <= last:
                await check_there(nats, stream, start, last)
            return
        except _Gap:
            patience.try_again()
        except (OutcomeUnknown, NatsError, OSError) as silent:
            await patience.wait(silent)
        finally:
            await consumer.close()
