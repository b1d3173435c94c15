"""The wire's in-memory twin: a log, an intake and requests in one process, for simulation and users' tests.

Held to the same conformance suite as the real ones. What crosses a network there is a plain call here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from writ.schemas import bounds
from writ.schemas.ids import shard_of
from writ.schemas.subjects import parse_log

from .clock import Clock, SystemClock
from .ports import Message, NotStored, Serve, Stored, WrongLastSequence


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject falls under a NATS pattern with `*` and `>`."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))


class _Stream:
    """Messages in order with room for readers that follow."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._first = 1
        self._kept: list[Stored] = []
        self._more = asyncio.Condition()

    @property
    def last(self) -> int:
        return self._first + len(self._kept) - 1

    async def add(self, messages: Sequence[Message]) -> None:
        now = self._clock.wall_us()
        for message in messages:
            self._kept.append(Stored(self.last + 1, message.subject, message.body, now))
        async with self._more:
            self._more.notify_all()

    def drop(self, up_to: int) -> None:
        gone = min(max(up_to - self._first + 1, 0), len(self._kept))
        del self._kept[:gone]
        self._first = max(self._first, up_to + 1)

    async def read(self, start: int, subjects: Sequence[str], *, follow: bool) -> AsyncIterator[list[Stored]]:
        end = self.last
        position = max(start, self._first)
        while follow or position <= end:
            part = self._kept[position - self._first : None if follow else end - self._first + 1]
            if part:
                position = part[-1].seq + 1
                wanted = [m for m in part if not subjects or any(matches(s, m.subject) for s in subjects)]
                if wanted:
                    yield wanted
                position = max(position, self._first)
                continue
            async with self._more:
                while self.last < position:
                    await self._more.wait()
            position = max(position, self._first)


class MemoryLog:
    """A `Log` in memory. It outlives the engines that use it, as a broker does."""

    def __init__(self, partition: int = 0, epoch: int = 1, clock: Clock | None = None) -> None:
        self.partition = partition
        self.epoch = epoch
        self._stream = _Stream(clock or SystemClock())

    async def last_seq(self) -> int:
        return self._stream.last

    async def append(self, messages: Sequence[Message], after: int, *, whole: bool = False) -> None:
        if after != self._stream.last:
            raise WrongLastSequence(f"wrong last sequence: {self._stream.last}")
        if len(messages) > bounds.BATCH_MAX_RECORDS:
            raise NotStored(f"{len(messages)} messages are more than one batch holds")
        for message in messages:
            address = parse_log(message.subject)
            if address.partition != self.partition:
                raise NotStored(f"subject {message.subject} is not of partition {self.partition}")
            if len(message.body) > bounds.RECORD_MAX_BYTES:
                raise NotStored(f"a record of {len(message.body)} bytes is too large")
        await self._stream.add(messages)

    def read(
        self, start: int = 1, subjects: Sequence[str] = (), *, follow: bool = False
    ) -> AsyncIterator[list[Stored]]:
        return self._stream.read(start, subjects, follow=follow)


class MemoryIntake:
    """An `Intake` in memory, with the submitting side beside it."""

    def __init__(self, epoch: int = 1, clock: Clock | None = None) -> None:
        self.epoch = epoch
        self._stream = _Stream(clock or SystemClock())

    async def submit(self, tenant: str, principal: str, queue: str, body: bytes) -> int:
        """What a publish on `writ.submit...` does; the sequence that its acknowledgement names."""
        subject = f"writ.shard.{shard_of(tenant, queue)}.submit.{tenant}.{principal}.{queue}"
        await self._stream.add([Message(subject, body)])
        return self._stream.last

    async def last_seq(self) -> int:
        return self._stream.last

    def read(self, start: int) -> AsyncIterator[list[Stored]]:
        return self._stream.read(start, (), follow=True)

    async def purge(self, up_to: int) -> None:
        self._stream.drop(up_to)


class MemoryRequests:
    """`Requests` in memory, with the asking side beside it. One stands for one host's connections."""

    def __init__(self, hub: RequestHub) -> None:
        self._hub = hub
        self._leading: dict[int, str] = {}

    async def serve(self, handler: Serve) -> None:
        self._hub.servers[self] = handler

    async def stop(self) -> None:
        self._hub.servers.pop(self, None)
        self._leading.clear()

    async def who(self, partition: int) -> str | None:
        for other in self._hub.hosts:
            if partition in other._leading:
                return other._leading[partition]
        return None

    async def beat(self, partition: int, leader: str) -> None:
        self._leading[partition] = leader
        for heard in self._hub.ears.get(partition, []):
            heard(leader)

    async def hear(self, partition: int, heard: Callable[[str], None]) -> None:
        self._hub.ears.setdefault(partition, []).append(heard)


class RequestHub:
    """Where the in-memory requests of all hosts meet."""

    def __init__(self) -> None:
        self.servers: dict[MemoryRequests, Serve] = {}
        self.hosts: list[MemoryRequests] = []
        self.ears: dict[int, list[Callable[[str], None]]] = {}

    def host(self) -> MemoryRequests:
        """A host's view of the hub."""
        host = MemoryRequests(self)
        self.hosts.append(host)
        return host

    async def request(
        self, tenant: str, principal: str, verb: str, queue: str, body: bytes, kind: str = "lease"
    ) -> bytes:
        """Asks as a worker (`lease`) or operator (`control`) would.

        Raises ConnectionError where nobody serves.
        """
        if not self.servers:
            raise ConnectionError("nobody serves requests")
        subject = f"writ.shard.{shard_of(tenant, queue)}.{kind}.{tenant}.{principal}.{verb}.{queue}"
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def answer(body: bytes) -> None:
            if not answered.done():
                answered.set_result(body)

        for handler in list(self.servers.values()):
            handler(subject, body, answer)
        return await answered
