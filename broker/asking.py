"""Requests of one principal: sent, asked again where that is safe, and answered with types."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import Final, Self, TypeVar

import msgspec

from writ.schemas.commands import Answer, Command
from writ.schemas.faults import NULL, number_fault
from writ.schemas.queries import Query, RecordsPage
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.subjects import control_subject, query_subject

from .clock import Clock, SystemClock
from .coding import Coder, PayloadCodec
from .connect import Target
from .errors import ClientClosed, NoAnswer, NoResponders, PermissionDenied, Refused, WireError
from .wire import NatsWire, Wire

TRY_S: Final = 6.0
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0

A = TypeVar("A", bound=Answer)
encode = msgspec.json.Encoder().encode


class Asking:
    """The connection of a client, and the one way in which it asks."""

    def __init__(
        self,
        target: Target | str | None = None,
        *,
        wire: Wire | None = None,
        name: str = "writ-client",
        clock: Clock | None = None,
        entropy: Callable[[int], bytes] = os.urandom,  # noqa: TID251 - this is the shell; ids are drawn here
        codecs: Iterable[PayloadCodec] = (),
    ) -> None:
        self.target = Target(target) if isinstance(target, str) else target or Target.from_env()
        self._wire = wire
        self._closed = False
        self._name = name
        self._clock = clock or SystemClock()
        self._entropy = entropy
        self.coder = Coder(codecs)
        self._connecting = asyncio.Lock()
        self.partition: int | None = None
        """Reads are of this partition alone; None for all, as far as a read goes through all."""

        self.min_position: int | None = None
        """Reads are of views at least as new as this log sequence; None means the newest at the time."""

        self._lanes: dict[str, int] = {}
        """How many lanes a queue has, of those that are known to have some: it is for good."""

    async def __aenter__(self) -> Self:
        self._closed = False
        await self._connected()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection. Calls that wait raise ClientClosed, and so do further ones until it is entered
        again.
        """
        self._closed = True
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()

    async def _control(
        self,
        verb: str,
        queue: str,
        command: Command,
        answer: type[A],
        timeout_s: float,
        *,
        once: bool = False,
    ) -> A:
        subject = control_subject(self.target.tenant, self.target.principal, verb, queue)
        return await self._ask(subject, command, answer, timeout_s, once=once)

    async def _query(
        self, verb: str, query: Query, answer: type[A], timeout_s: float, partition: int | None = None
    ) -> A:
        of = self.partition if partition is None else partition
        subject = query_subject(self.target.tenant, self.target.principal, verb, of)
        if query.min_position is None and self.min_position is not None:
            query = msgspec.structs.replace(query, min_position=self.min_position)
        return await self._ask(subject, query, answer, timeout_s)

    async def _ask(
        self, subject: str, command: Command, answer_type: type[A], timeout_s: float, *, once: bool = False
    ) -> A:
        """The answer, asked for again while nobody serves, nobody answers or the verdict is `try_later`.

        `once` is for what would be done twice if it were asked twice: silence ends it.
        """
        body = _body(command)
        trying = Trying(timeout_s, self._entropy)
        unanswered = False
        said: Refused | None = None  # says more than the silence after it
        while True:
            wire = await self._connected()
            try:
                data = await wire.request(subject, body, max(trying.left_s if once else trying.try_s, 0.001))
            except (NoAnswer, NoResponders) as error:
                if once and isinstance(error, NoAnswer):
                    error.add_note("it may have been done all the same")
                    raise
                unanswered = unanswered or isinstance(error, NoAnswer)
                await trying.again(said or error)
                continue
            if not issubclass(answer_type, RecordsPage):  # records are told as they are stored
                data = self.coder.opened(data)
            try:
                answer = msgspec.json.decode(data, type=answer_type)
            except msgspec.MsgspecError as error:
                raise WireError(f"the answer from {subject} cannot be read: {error}") from error
            if answer.error is None:
                return answer
            if answer.error.kind is RejectionKind.DENIED:
                raise PermissionDenied(subject, rejection=answer.error)
            refused = Refused(answer.error)
            if refused.kind is not RejectionKind.TRY_LATER:
                if unanswered and refused.kind is RejectionKind.CONFLICT:
                    refused.add_note("an earlier try went unanswered and may have done it")
                raise refused
            said = refused
            await trying.again(refused)

    async def _connected(self) -> Wire:
        """The connection, made if there is none. Raises Unreachable, ClientClosed among them."""
        if self._wire is None:
            async with self._connecting:
                if self._wire is None and not self._closed:
                    self._connects()
                    made = await NatsWire.connect(self.target, self._name)
                    if self._closed:  # meanwhile: nobody else would end it
                        await made.close()
                    else:
                        self._wire = made
        if self._wire is None:
            raise ClientClosed(self.target.url)
        return self._wire

    def _connects(self) -> None:
        """A new connection is about to be made: what belonged to the last one is void."""


def _body(command: Command) -> bytes:
    """A message as it is sent. Raises Refused where it holds a number that JSON has not."""
    body = encode(command)
    fault = number_fault(command) if NULL in body else None
    if fault is not None:
        field, reason = fault
        raise Refused(Rejection(RejectionKind.MALFORMED, reason, field))
    return body


class Trying:
    """Pauses between tries, growing, until the time is up: then it raises the last reason."""

    def __init__(self, timeout_s: float, entropy: Callable[[int], bytes]) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + timeout_s
        self._pause_s = _FIRST_PAUSE_S
        self._entropy = entropy

    @property
    def left_s(self) -> float:
        return self._until - self._loop.time()

    @property
    def try_s(self) -> float:
        """How long one try may take."""
        return min(TRY_S, self.left_s)

    async def again(self, reason: Exception) -> None:
        pause_s = self._pause_s * (0.5 + self._entropy(1)[0] / 256)
        if self.left_s <= pause_s:
            raise reason
        await asyncio.sleep(pause_s)
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
