"""What clients and workers need of the wire, as a protocol, and NATS behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from writ.schemas.subjects import led_subject

from .connect import Target, Watch, connect
from .errors import (
    NoAnswer,
    NoResponders,
    NotAdmitted,
    PermissionDenied,
    SubmitNotStored,
    TooLarge,
    Unreachable,
    WireError,
)

if TYPE_CHECKING:
    from .hardened import HardenedClient

OnMessage = Callable[[str, bytes], None]
"""Takes a subject and a body; called on the loop of the wire and never blocks."""

Unsubscribe = Callable[[], Awaitable[None]]

_OF_LEADERS: Final = ("writ.lease.", "writ.control.")
"""Requests that a partition's leader answers."""

SUBMIT_TIMEOUT_S: Final = 5.0
"""How long one publish of a submit waits for the broker's word that it is stored."""


class Wire(Protocol):
    """Requests, durable submits and subscriptions. All errors are WireErrors."""

    async def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        """The answer to a request. Within `timeout_s` it waits for a broken connection before it sends.

        Raises NoResponders and TooLarge (surely not carried out), NoAnswer (unknown), PermissionDenied,
        Unreachable.
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


_LOOK_S: Final = 0.01

_decode_ack = msgspec.json.Decoder(_PubAck).decode


class NatsWire:
    """The wire over one NATS connection.

    Nothing is sent while the connection is broken: an acquire that went out long after its caller gave up
    would have leases granted to nobody.
    """

    def __init__(self, connection: HardenedClient, watch: Watch, target: Target) -> None:
        self._nats = connection
        self._watch = watch
        self._target = target
        self._url = target.url
        self._denied_subscriptions: dict[str, PermissionDenied] = {}
        watch.on_denied = self._on_denied
        watch.on_ended = self._on_ended
        tell, watch.on_broken = watch.on_broken, self._on_broken
        self._tell_broken = tell

    @classmethod
    async def connect(
        cls,
        target: Target,
        name: str,
        *,
        wait_s: float = 0.0,
        on_broken: Callable[[bool], None] | None = None,
    ) -> NatsWire:
        """Connects as the target's principal. Raises Unreachable after `wait_s` seconds of trying.

        `on_broken` is called when the connection breaks, with True, and when it stands again.
        """
        watch = Watch()
        watch.on_broken = on_broken
        connection = await connect(target, name, watch=watch, wait_s=wait_s)
        wire = cls(connection, watch, target)
        await connection.feed(led_subject(), wire._on_led)
        return wire

    @property
    def connections(self) -> int:
        """How often it has connected: what was published between two of them, no subscription has seen."""
        return 1 + self._nats.stats["reconnects"]

    async def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        return await self._exchange(subject, body, b"", timeout_s)

    async def publish_submit(self, subject: str, body: bytes, msg_id: str) -> int:
        head = b"Nats-Msg-Id:%b\r\n" % msg_id.encode()
        answer = await self._exchange(subject, body, head, SUBMIT_TIMEOUT_S)
        try:
            ack = _decode_ack(answer)
        except msgspec.MsgspecError as error:
            raise WireError(f"{subject} answered something else than a stream does: {error}") from error
        if ack.error is not None:
            raise SubmitNotStored(
                str(ack.error.get("description", "no reason given")), ack.error.get("err_code", 0)
            )
        return ack.seq

    async def subscribe(self, subject: str, callback: OnMessage, *, stream: str | None = None) -> Unsubscribe:
        """As `Wire` has it. With `stream` only what that one has stored: the feed is of the logs of all
        partitions.
        """
        from .hardened import readable  # noqa: PLC0415 - loaded by now, and not before there is need

        stored = b"" if stream is None else b"\r\nNats-Stream: %b\r\n" % stream.encode()

        def arrived(subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
            if stored in headers:
                callback(readable(subject), body)

        self._check()
        self._denied_subscriptions.pop(subject.lower(), None)
        subscription = await self._nats.feed(subject, arrived)
        # The refusal of a subscription comes before the answer to a ping sent after it.
        try:
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
        self._nats.fail_asked(lambda subject: NoAnswer(subject, 0))

    def _check(self) -> None:
        if self._nats.is_closed:
            raise Unreachable(self._url, self._nats.last_error or "the connection is closed")

    async def _stands_again(self) -> None:
        """Waits for a broken connection; it breaks before we are told so."""
        while not self._nats.is_connected:
            await self._watch.connected.wait()
            await asyncio.sleep(_LOOK_S)
            self._check()

    async def _exchange(self, subject: str, body: bytes, head: bytes, timeout_s: float) -> bytes:
        from nats.errors import (  # noqa: PLC0415 - loaded by now, and not before there is need
            MaxPayloadError,
            NoRespondersError,
        )

        self._check()
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        try:
            if not self._nats.is_connected:
                async with asyncio.timeout(timeout_s):
                    await self._stands_again()
            return await self._nats.ask(subject.encode(), body, until - loop.time(), head)
        except WireError:
            raise
        except NoRespondersError as error:
            raise NoResponders(subject) from error
        except MaxPayloadError as error:
            raise TooLarge(subject, len(body)) from error
        except TimeoutError as error:
            if self._watch.not_admitted:
                raise NotAdmitted(self._url, self._target.shown) from error
            raise NoAnswer(subject, timeout_s) from error
        except Exception as error:
            self._check()
            raise WireError(f"cannot send to {subject}: {error}") from error

    def _on_denied(self, denied: PermissionDenied) -> None:
        if denied.verb == "subscribe":
            self._denied_subscriptions[denied.subject.lower()] = denied
        else:
            self._nats.fail_asked(PermissionDenied, denied.subject)

    def _on_led(self, subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        """Another leads, and owes no answer to what the one before was asked."""
        self._nats.fail_asked(lambda asked: NoAnswer(asked, 0, "its leader is gone"), below=_OF_LEADERS)

    def _on_broken(self, broken: bool) -> None:
        """The way back of every answer goes with the connection."""
        if broken:
            self._nats.fail_asked(lambda asked: NoAnswer(asked, 0, "the connection broke"))
        if self._tell_broken is not None:
            self._tell_broken(broken)

    def _on_ended(self) -> None:
        ended = Unreachable(self._url, self._nats.last_error or "the broker ended the connection")
        self._nats.fail_asked(lambda _: ended)
