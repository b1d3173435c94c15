"""The wire's in-memory twin: a log, an intake and requests in one process, for simulation and users' tests.

Held to the same conformance suite as the real ones. What crosses a network there is a plain call here.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

from writ.schemas import bounds
from writ.schemas.ids import shard_of
from writ.schemas.subjects import feed_subject, mark_subject, parse_log, submit_subject, submits_of
from writ.schemas.upgrading import Member

from .clock import Clock, SystemClock
from .errors import STREAM_FULL, NoAnswer, NoResponders, SubmitNotStored
from .ports import Log, Message, NotStored, Serve, Shards, Stored, WrongLastSequence
from .wire import OnMessage, Unsubscribe


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
        self.last = 0
        self._kept: list[Stored] = []
        self._more = asyncio.Condition()

    @property
    def first(self) -> int:
        """The sequence of the oldest message; one after the last where there is none."""
        return self._kept[0].seq if self._kept else self.last + 1

    async def add(self, messages: Sequence[Message]) -> None:
        now = self._clock.wall_us()
        for message in messages:
            self.last += 1
            self._kept.append(Stored(self.last, message.subject, message.body, now))
        async with self._more:
            self._more.notify_all()

    def count(self, subject: str) -> int:
        """How many messages have that subject."""
        return sum([message.subject == subject for message in self._kept])

    def falling_under(self, subjects: Sequence[str]) -> int:
        """How many messages fall under any of these subjects."""
        return sum([_wanted(message, subjects) for message in self._kept])

    def drop(self, up_to: int, subjects: Sequence[str]) -> None:
        end = self._place(up_to + 1)
        self._kept[:end] = [m for m in self._kept[:end] if not _wanted(m, subjects)]
        if not subjects:
            self.last = max(self.last, up_to)

    def forget(self, seq: int) -> None:
        """Drops one message."""
        self._kept[:] = [message for message in self._kept if message.seq != seq]

    def _place(self, seq: int) -> int:
        """Where the first message stands that has at least that sequence."""
        return bisect_left(self._kept, seq, key=lambda message: message.seq)

    async def read(self, start: int, subjects: Sequence[str], *, follow: bool) -> AsyncIterator[list[Stored]]:
        end = self.last
        while True:
            part = self._kept[self._place(start) : None if follow else self._place(end + 1)]
            if part:
                start = part[-1].seq + 1
                wanted = [message for message in part if _wanted(message, subjects)]
                if wanted:
                    yield wanted
                continue
            if not follow:
                return
            start = max(start, self.last + 1)
            async with self._more:
                while self.last < start:
                    await self._more.wait()


def _wanted(message: Stored, subjects: Sequence[str]) -> bool:
    """Whether a message falls under any of the subjects; all do where there are none."""
    return not subjects or any(matches(subject, message.subject) for subject in subjects)


class MemoryLog:
    """A `Log` in memory. It outlives the engines that use it, as a broker does."""

    def __init__(self, partition: int = 0, epoch: int = 1, clock: Clock | None = None) -> None:
        self.partition = partition
        self.epoch = epoch
        self._stream = _Stream(clock or SystemClock())

    async def last_seq(self) -> int:
        return self._stream.last

    async def append(self, messages: Sequence[Message], after: int, *, whole: bool = False) -> None:
        # As on the wire, where what is too large is not even sent.
        if len(messages) > bounds.BATCH_MAX_RECORDS:
            raise NotStored(f"{len(messages)} messages are more than one batch holds")
        for message in messages:
            address = parse_log(message.subject)
            if address.partition != self.partition:
                raise NotStored(f"subject {message.subject} is not of partition {self.partition}")
            if len(message.body) > bounds.RECORD_MAX_BYTES:
                raise NotStored(f"a record of {len(message.body)} bytes is too large")
        if after != self._stream.last:
            raise WrongLastSequence(f"wrong last sequence: {self._stream.last}")
        await self._stream.add(messages)

    async def first_seq(self) -> int:
        """See `LiveLog`."""
        return self._stream.first

    async def trim(self, up_to: int) -> None:
        """See `LiveLog`."""
        self._stream.drop(up_to, ())

    def read(
        self, start: int = 1, subjects: Sequence[str] = (), *, follow: bool = False
    ) -> AsyncIterator[list[Stored]]:
        return self._stream.read(start, subjects, follow=follow)


class MemoryIntake:
    """An `Intake` in memory, with the submitting side beside it."""

    def __init__(self, epoch: int = 1, clock: Clock | None = None) -> None:
        self.epoch = epoch
        self._taken: frozenset[str] | None = None
        self._kept_out: dict[str, int] = {}
        self._stream = _Stream(clock or SystemClock())

    async def submit(self, tenant: str, principal: str, queue: str, body: bytes) -> int:
        """What a publish on `writ.submit...` does; the sequence that its acknowledgement names.

        Raises SubmitNotStored where as much of that principal and queue waits as may, NoResponders where
        nothing of the tenant is taken.
        """
        subject = f"writ.shard.{shard_of(tenant, queue)}.submit.{tenant}.{principal}.{queue}"
        if self._taken is not None and tenant not in self._taken:
            raise NoResponders(submit_subject(tenant, principal, queue))
        if self._stream.count(subject) >= bounds.SUBMITS_WAITING_MAX:
            raise SubmitNotStored("maximum messages per subject exceeded", STREAM_FULL)
        await self._stream.add([Message(subject, body)])
        return self._stream.last

    async def last_seq(self) -> int:
        return self._stream.last

    def read(
        self, start: int, shards: Shards = None, tenant: str | None = None
    ) -> AsyncIterator[list[Stored]]:
        return self._stream.read(start, submits_of(shards, tenant), follow=True)

    async def mark(self, shard: int, tenant: str, body: bytes) -> None:
        await self._stream.add([Message(mark_subject(shard, tenant), body)])

    async def purge(self, up_to: int, shards: Shards = None, tenant: str | None = None) -> None:
        if shards is not None and not shards:
            return
        self._stream.drop(up_to, submits_of(shards, tenant))

    async def first_seq(self) -> int:
        return self._stream.first

    async def waiting(self, tenant: str) -> int:
        return self._stream.falling_under(submits_of(None, tenant))

    async def take_of(
        self, tenants: Collection[str] | None, kept_out: Mapping[str, int] | None = None
    ) -> None:
        self._taken = None if tenants is None else frozenset(tenants)
        self._kept_out = dict(kept_out or {})

    async def kept_out(self) -> Mapping[str, int]:
        return self._kept_out

    async def erase(self, seq: int) -> None:
        self._stream.forget(seq)


class MemoryRequests:
    """`Requests` in memory, with the asking side beside it. One stands for one host's connections."""

    def __init__(self, hub: RequestHub) -> None:
        self._hub = hub
        self._leading: dict[int, str] = {}
        self._attending: dict[int, Member] = {}
        self._shards: Shards = None

    async def serve(self, handler: Serve, shards: Shards = None) -> None:
        self._hub.servers[self] = handler
        self._shards = shards

    def serves(self, shard: int) -> bool:
        """Whether requests of a shard reach this host."""
        return self._shards is None or shard in self._shards

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

    async def announce(self, partition: int) -> None:
        pass  # whoever asks in memory is told by the engine that it asked

    async def resign(self, partition: int) -> None:
        for heard in self._hub.ears.get(partition, []):
            heard("")

    async def attend(self, partition: int, member: Member, written: Callable[[], int]) -> None:
        self._attending[partition] = member
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._attending.pop(partition))  # as a connection ends

    async def roll(self, partition: int) -> tuple[Member, ...]:
        here = [host._attending[partition] for host in self._hub.hosts if partition in host._attending]
        return tuple(sorted(here))

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
        shard = shard_of(tenant, queue)
        handlers = [handler for host, handler in self.servers.items() if host.serves(shard)]
        if not handlers:
            raise ConnectionError("nobody serves requests")
        subject = f"writ.shard.{shard}.{kind}.{tenant}.{principal}.{verb}.{queue}"
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def answer(body: bytes) -> None:
            if not answered.done():
                answered.set_result(body)

        for handler in handlers:
            handler(subject, body, answer)
        return await answered


class MemoryWire:
    """The `Wire` of workers and clients in memory. `query` answers what is asked of the views,
    and `store` what is asked of files and memory.

    `feed` is to run beside it, and hands on what the log stores to those who subscribed.
    """

    def __init__(
        self,
        intake: MemoryIntake,
        hub: RequestHub,
        query: Callable[[str, bytes], Awaitable[bytes]],
        store: Callable[[str, bytes], Awaitable[bytes]] | None = None,
    ) -> None:
        self._intake = intake
        self._hub = hub
        self._query = query
        self._store = store
        self._submitted: dict[str, int] = {}
        self._hearers: dict[str, list[OnMessage]] = {}

    async def feed(self, log: Log) -> None:
        """Hands on the records of a log as they are stored, until cancelled."""
        async for part in log.read(await log.last_seq() + 1, follow=True):
            for stored in part:
                address = parse_log(stored.subject)
                subject = feed_subject(address.tenant, address.kind, address.key)
                for hearer in list(self._hearers.get(subject, ())):
                    hearer(subject, stored.body)

    async def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        _, kind, tenant, principal, verb, *queue = subject.split(".")
        try:
            async with asyncio.timeout(timeout_s):
                if kind == "query":
                    return await self._query(subject, body)
                if kind == "store":
                    if self._store is None:
                        raise ConnectionError("nobody keeps files and memory")
                    return await self._store(subject, body)
                return await self._hub.request(tenant, principal, verb, queue[0], body, kind)
        except ConnectionError as error:
            raise NoResponders(subject) from error
        except TimeoutError as error:
            raise NoAnswer(subject, timeout_s) from error

    async def publish_submit(self, subject: str, body: bytes, msg_id: str) -> int:
        if msg_id not in self._submitted:
            _, _, tenant, principal, queue = subject.split(".")
            self._submitted[msg_id] = await self._intake.submit(tenant, principal, queue, body)
        return self._submitted[msg_id]

    async def subscribe(self, subject: str, callback: OnMessage) -> Unsubscribe:
        self._hearers.setdefault(subject, []).append(callback)

        async def unsubscribe() -> None:
            self._hearers[subject].remove(callback)

        return unsubscribe

    async def close(self) -> None:
        """Another one may use it."""
