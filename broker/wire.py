"""What clients and workers need of the wire, as a protocol, and NATS behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from .connect import Target, Watch, connect
from .errors import NoAnswer, NoResponders, PermissionDenied, SubmitNotStored, Unreachable, WireError

if TYPE_CHECKING:
    from nats.aio.client import Client as Nats
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

OnMessage = Callable[[str, bytes], None]
"""Takes a subject and a body; called on the loop of the wire and never blocks."""

Unsubscribe = Callable[[], Awaitable[None]]

SUBMIT_TIMEOUT_S: Final = 5.0
"""How long one publish of a submit waits for the broker's word that it is stored."""

_NO_RESPONDERS: Final = "503"


class Wire(Protocol):
    """Requests, durable submits and subscriptions. All errors are WireErrors."""

    async def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        """The answer to a request. Within `timeout_s` it waits for a broken connection before it sends.

        Raises NoResponders (surely not carried out), NoAnswer (unknown), PermissionDenied, Unreachable.
        """
        ...

    async def publish_submit(self, subject: str, body: bytes, msg_id: str) -> int:
        """The stream sequence under which the broker has stored it, on disk.

        Calls with one `msg_id` within two minutes store one message. Raises SubmitNotStored, or as `request`.
        """
        ...

    async def subscribe(self, subject: str, callback: OnMessage) -> Unsubscribe:
        """Returns when the broker has the subscription. Raises PermissionDenied, Unreachable."""
        ...

    async def close(self) -> None: ...


class _PubAck(msgspec.Struct):
    seq: int = 0
    error: dict[str, Any] | None = None


class NatsWire:
    """The wire over one NATS connection.

    Nothing is sent while the connection is broken: an acquire that went out long after its caller gave up
    would have leases granted to nobody.
    """

    def __init__(self, connection: Nats, watch: Watch, url: str) -> None:
        self._nats = connection
        self._watch = watch
        self._url = url
        self._inbox = connection.new_inbox() + "."
        self._count = 0
        self._asked: dict[str, tuple[str, asyncio.Future[Msg]]] = {}
        self._denied_subscriptions: dict[str, PermissionDenied] = {}
        watch.on_denied = self._on_denied
        watch.on_ended = self._on_ended

    @classmethod
    async def connect(cls, target: Target, name: str, *, wait_s: float = 0.0) -> NatsWire:
        """Connects as the target's principal. Raises Unreachable after `wait_s` seconds of trying."""
        watch = Watch()
        connection = await connect(target, name, watch=watch, wait_s=wait_s)
        wire = cls(connection, watch, target.url)
        await wire.listen()
        return wire

    async def listen(self) -> None:
        """Opens the inbox: once, before the first request."""
        await _subscribe(self._nats, self._inbox + "*", self._on_answer)

    async def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        return (await self._exchange(subject, body, None, timeout_s)).data

    async def publish_submit(self, subject: str, body: bytes, msg_id: str) -> int:
        message = await self._exchange(subject, body, {"Nats-Msg-Id": msg_id}, SUBMIT_TIMEOUT_S)
        try:
            ack = msgspec.json.decode(message.data, type=_PubAck)
        except msgspec.MsgspecError as error:
            raise WireError(f"{subject} answered something else than a stream does: {error}") from error
        if ack.error is not None:
            raise SubmitNotStored(
                str(ack.error.get("description", "no reason given")), ack.error.get("err_code", 0)
            )
        return ack.seq

    async def subscribe(self, subject: str, callback: OnMessage) -> Unsubscribe:
        async def arrived(message: Msg) -> None:
            callback(message.subject, message.data)

        self._check()
        self._denied_subscriptions.pop(subject.lower(), None)
        subscription = await _subscribe(self._nats, subject, arrived)
        # The refusal of a subscription comes before the answer to a ping sent after it. nats-py 2.16 writes a
        # ping ahead of what waits to be sent; when that one is answered, the next comes behind it.
        try:
            await self._nats.flush(timeout=5)
            await self._nats.flush(timeout=5)
        except Exception as error:
            raise NoAnswer(subject, 5) from error
        denied = self._denied_subscriptions.pop(subject.lower(), None)
        if denied is not None:
            await subscription.unsubscribe()
            raise PermissionDenied(subject, "subscribe")

        async def unsubscribe() -> None:
            if not self._nats.is_closed:
                await subscription.unsubscribe()

        return unsubscribe

    async def close(self) -> None:
        self._watch.on_ended = None
        await self._nats.close()
        for subject, future in self._asked.values():
            if not future.done():
                future.set_exception(NoAnswer(subject, 0))

    def _check(self) -> None:
        if self._nats.is_closed:
            raise Unreachable(self._url, self._nats.last_error or "the connection is closed")

    async def _exchange(
        self, subject: str, body: bytes, headers: dict[str, str] | None, timeout_s: float
    ) -> Msg:
        self._check()
        self._count += 1
        token = f"{self._count:x}"
        try:
            async with asyncio.timeout(timeout_s):
                if not self._nats.is_connected:
                    await self._watch.connected.wait()
                future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
                self._asked[token] = (subject, future)
                await self._nats.publish(subject, body, reply=self._inbox + token, headers=headers)
                message = await future
        except TimeoutError as error:
            raise NoAnswer(subject, timeout_s) from error
        except WireError:
            raise
        except Exception as error:
            self._check()
            raise WireError(f"cannot send to {subject}: {error}") from error
        finally:
            self._asked.pop(token, None)
        if not message.data and message.headers and message.headers.get("Status") == _NO_RESPONDERS:
            raise NoResponders(subject)
        return message

    async def _on_answer(self, message: Msg) -> None:
        asked = self._asked.get(message.subject.rpartition(".")[2])
        if asked is not None and not asked[1].done():
            asked[1].set_result(message)

    def _on_denied(self, denied: PermissionDenied) -> None:
        where = denied.subject.lower()
        if denied.verb == "subscribe":
            self._denied_subscriptions[where] = denied
            return
        for subject, future in self._asked.values():
            if subject.lower() == where and not future.done():
                future.set_exception(PermissionDenied(subject))

    def _on_ended(self) -> None:
        ended = Unreachable(self._url, self._nats.last_error or "the broker ended the connection")
        for _, future in self._asked.values():
            if not future.done():
                future.set_exception(ended)


async def _subscribe(
    connection: Nats, subject: str, callback: Callable[[Msg], Awaitable[None]]
) -> Subscription:
    client: Any = connection  # nats-py leaves a part of the method untyped
    subscription: Subscription = await client.subscribe(subject, cb=callback)
    return subscription
