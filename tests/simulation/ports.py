"""What the shipped engine, worker and client are given in place of NATS: a host's ends of the wire."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from writ.broker.errors import NoAnswer, NoResponders, SubmitNotStored
from writ.broker.ports import (
    Message,
    NotStored,
    OutcomeUnknown,
    Serve,
    Shards,
    Stored,
    WrongLastSequence,
)
from writ.broker.wire import OnMessage, Unsubscribe
from writ.schemas.ids import shard_of
from writ.schemas.upgrading import Member

from .loop import SECOND_US, Host
from .net import INTAKE_EPOCH, LOG_EPOCH, Broker
from .plan import APPEND_FAULTS, PARTITIONS, Plan

if TYPE_CHECKING:
    from writ.orchestrator.engine import Engine

    from .watch import Watch

TIMEOUT_S: Final = 5.0
PLAIN_MAX: Final = 3
_WHO_S: Final = 0.5
_SILENT_S: Final = 3.0
_FULL_CODE: Final = 10077


def _settle(answered: asyncio.Future[Any], value: Any) -> None:
    if not answered.done():
        answered.set_result(value)


class End:
    """One host's end of the wire: questions to the broker with a time limit."""

    def __init__(self, host: Host, broker: Broker) -> None:
        self.host = host
        self.broker = broker
        self.net = broker.net

    async def ask(self, timeout_s: float, call: Callable[..., None], *args: Any) -> Any:
        """What the broker answers to a call there; None where no answer comes in time."""
        host, net = self.host, self.net
        answered = host.loop.create_future()

        def reply(*said: Any) -> None:
            net.send(None, host, _settle, answered, said)

        net.send(host, None, call, *args, reply)
        timer = host.loop.call_later(timeout_s, _settle, answered, None)
        try:
            return await answered
        finally:
            timer.cancel()


class SimLog(End):
    """A partition's log, seen from one host. Its appends have faults of their own."""

    def __init__(
        self, host: Host, broker: Broker, partition: int, plan: Plan, entropy: random.Random, watch: Watch
    ) -> None:
        super().__init__(host, broker)
        self.partition = partition
        self.epoch = LOG_EPOCH
        self.engine: Engine | None = None
        self.busy = False
        """Whether the engine's memory may be ahead of the log: an append is under way, or nobody knows."""
        self._draw = entropy.random
        self._watch = watch
        self._rate = 0.012 * plan.storm
        self._off = plan.off

    async def last_seq(self) -> int:
        answer = await self.ask(TIMEOUT_S, self.broker.last_seq, self.broker.logs[self.partition])
        if answer is None:
            raise OutcomeUnknown("no answer")
        return int(answer[1])

    def read(
        self, start: int = 1, subjects: Sequence[str] = (), *, follow: bool = False
    ) -> AsyncIterator[list[Stored]]:
        if follow:
            return _Following(self, start, self.broker.follow, subjects[0] if subjects else self.partition)
        assert not subjects
        return self._read(start)

    async def _read(self, start: int) -> AsyncIterator[list[Stored]]:
        answer = await self.ask(TIMEOUT_S, self.broker.fetch, self.partition, start)
        if answer is None:
            raise OutcomeUnknown("no answer")
        if answer[1]:
            yield answer[1]

    async def append(self, messages: Sequence[Message], after: int, *, whole: bool = False) -> None:
        """As JetStream does it: a few one by one, so that a part may be stored, more as one batch."""
        begun = self._watch.append_begins(self, messages, after)
        self.busy = True
        try:
            if len(messages) > PLAIN_MAX or (whole and len(messages) > 1):
                await self._publish(list(messages), after, 0)
            else:
                await self._append_plain(messages, after)
        except NotStored:
            self.busy = False
            raise
        finally:
            self._watch.append_ends(self, begun)
        self.busy = False
        self._watch.append_answered(self, after + len(messages))

    async def _append_plain(self, messages: Sequence[Message], after: int) -> None:
        for index, message in enumerate(messages):
            try:
                await self._publish([message], after + index, index)
            except (WrongLastSequence, NotStored, OutcomeUnknown) as failed:
                if index == 0:
                    raise
                self.host.world.fault("append_partial")
                raise OutcomeUnknown(f"{index} of {len(messages)} records were stored") from failed

    def _fate(self, index: int) -> str | None:
        """What goes wrong with this publish, if anything does."""
        chance = self._draw()
        rate = self._rate if index == 0 else 4 * self._rate
        if chance >= 3 * rate or self.net.quiet():
            return None
        kind = APPEND_FAULTS[int(chance / rate)]
        return None if kind in self._off else kind

    async def _publish(self, messages: list[Message], after: int, index: int) -> None:
        host, broker, net = self.host, self.broker, self.net
        answered = host.loop.create_future()
        fate = self._fate(index)

        def reply(word: str, seq: int) -> None:
            if fate != "append_ack_lost":
                net.send(None, host, _settle, answered, (word, seq))

        if fate is not None:
            host.world.fault(fate)
        timeout_s = TIMEOUT_S
        if fate == "append_late":
            late_us = round(self._draw() * 8 * SECOND_US)
            host.world.post(late_us, None, broker.append, self.partition, messages, after, reply)
        elif fate != "append_lost":
            net.send(host, None, broker.append, self.partition, messages, after, reply)
        if fate is not None and self._draw() < 0.6:
            timeout_s = 0.05  # the connection breaks: it shows at once
        timer = host.loop.call_later(timeout_s, _settle, answered, None)
        try:
            answer = await answered
        finally:
            timer.cancel()
        if answer is None:
            raise OutcomeUnknown("no answer to an append")
        if answer[0] == "wrong_last":
            raise WrongLastSequence(f"wrong last sequence: {answer[1]}")
        if answer[0] == "full":
            raise NotStored("maximum bytes exceeded")
        if answer[1] != after + len(messages):
            raise OutcomeUnknown(f"stored at {answer[1]}")


class SimIntake(End):
    """The submits of one partition's queues, seen from one host."""

    epoch = INTAKE_EPOCH

    def __init__(self, host: Host, broker: Broker, partition: int) -> None:
        super().__init__(host, broker)
        self.partition = partition

    async def last_seq(self) -> int:
        answer = await self.ask(TIMEOUT_S, self.broker.last_seq, self.broker.intakes[self.partition])
        if answer is None:
            raise OutcomeUnknown("no answer")
        return int(answer[1])

    def read(
        self, start: int, shards: Shards = None, tenant: str | None = None
    ) -> AsyncIterator[list[Stored]]:
        return _Following(self, start, self.broker.pull, self.partition)

    async def first_seq(self) -> int:
        raise NotImplementedError("nothing is sealed in a simulated history")

    async def erase(self, seq: int) -> None:
        raise NotImplementedError("nothing is sealed in a simulated history")

    async def waiting(self, tenant: str) -> int:
        raise NotImplementedError("of several partitions none keeps a tenant out")

    async def take_of(
        self, tenants: Collection[str] | None, kept_out: Mapping[str, int] | None = None
    ) -> None:
        if tenants is not None:
            raise NotImplementedError("of several partitions none keeps a tenant out")

    async def kept_out(self) -> Mapping[str, int]:
        raise NotImplementedError("of several partitions none keeps a tenant out")

    async def mark(self, shard: int, tenant: str, body: bytes) -> None:
        raise NotImplementedError("no shard moves in a simulated history")

    async def purge(self, up_to: int, shards: Shards = None, tenant: str | None = None) -> None:
        if await self.ask(TIMEOUT_S, self.broker.purge, self.partition, up_to) is None:
            raise OutcomeUnknown("no answer")


class _Following:
    """Messages in order from a position on; asks again where the broker is silent."""

    def __init__(self, end: End, start: int, call: Callable[..., None], what: int | str) -> None:
        self._end = end
        self._position = start
        self._call = call
        self._what = what

    def __aiter__(self) -> _Following:
        return self

    async def aclose(self) -> None:
        """As a generator has it."""

    async def __anext__(self) -> list[Stored]:
        while True:
            answer = await self._end.ask(_SILENT_S, self._call, self._what, self._position, self)
            if answer is None:
                continue
            found: list[Stored] = [stored for stored in answer[0] if stored.seq >= self._position]
            if found:
                self._position = found[-1].seq + 1
                return found


class SimRequests(End):
    """Requests to one partition, and beats, at one host."""

    def __init__(self, host: Host, broker: Broker, partition: int, watch: Watch) -> None:
        super().__init__(host, broker)
        self._partition = partition
        self._watch = watch
        self._handler: Serve | None = None
        self._heard: Callable[[str], None] | None = None
        self._leader: str | None = None

    async def serve(self, handler: Serve, shards: Shards = None) -> None:
        self._handler = handler
        self.broker.servers[self._partition].append(self)

    async def stop(self) -> None:
        self._handler = self._leader = None
        servers = self.broker.servers[self._partition]
        if self in servers:
            servers.remove(self)

    async def who(self, partition: int) -> str | None:
        answered = self.host.loop.create_future()
        for other in self.broker.hearers[partition]:
            if other is not self:
                self.net.send(self.host, other.host, other.tell, self, answered)
        timer = self.host.loop.call_later(_WHO_S, _settle, answered, None)
        try:
            leader: str | None = await answered
            return leader
        finally:
            timer.cancel()

    def tell(self, asker: SimRequests, answered: asyncio.Future[str | None]) -> None:
        if self._leader is not None:
            self.net.send(self.host, asker.host, _settle, answered, self._leader)

    async def beat(self, partition: int, leader: str) -> None:
        self._leader = leader
        if not self.net.up:
            raise ConnectionError("the broker is away")
        for other in self.broker.hearers[partition]:
            if other is not self and other.host.alive:
                self.net.send(self.host, other.host, other.hears, leader)

    async def announce(self, partition: int) -> None:
        """Nobody hears of it here: who waits for an answer waits in vain, for its whole time."""

    async def resign(self, partition: int) -> None:
        await self.beat(partition, "")
        self._leader = None

    async def attend(self, partition: int, member: Member, written: Callable[[], int]) -> None:
        """Nobody asks here who takes part: no simulated log is raised."""

    async def roll(self, partition: int) -> tuple[Member, ...]:
        return ()

    async def hear(self, partition: int, heard: Callable[[str], None]) -> None:
        self._heard = heard
        self.broker.hearers[partition].append(self)

    def hears(self, leader: str) -> None:
        if self._heard is not None:
            self._heard(leader)

    def take(self, subject: str, body: bytes, reply: Callable[[bytes], None]) -> None:
        """A request as it arrives at this host."""
        handler = self._handler
        if handler is None:
            return
        asked = self._watch.asked(self.host, self._partition, subject, body)

        def answer(said: bytes) -> None:
            self._watch.answered(asked, said)
            if self.host.alive:
                reply(said)

        handler(subject, body, answer)


class SimWire(End):
    """The wire of a worker or client. All it raises are WireErrors."""

    def __init__(
        self, host: Host, broker: Broker, watch: Watch, query: Callable[[str, bytes], bytes]
    ) -> None:
        super().__init__(host, broker)
        self._watch = watch
        self._query = query
        self._feeds: list[tuple[str, tuple[Host, OnMessage]]] = []

    async def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        host = self.host
        parts = subject.split(".")
        answered = host.loop.create_future()
        number = self._watch.request_sent(host, subject)
        if parts[1] == "query":
            self._ask_view(subject, body, answered)
        else:
            self._ask_leaders(parts, subject, body, answered)
        timer = host.loop.call_later(timeout_s, _settle, answered, None)
        try:
            answer: bytes | None = await answered
        finally:
            timer.cancel()
        self._watch.request_over(number, answer)
        if answer is None:
            raise NoAnswer(subject, timeout_s)
        if not answer:
            raise NoResponders(subject)
        return answer

    def _ask_leaders(
        self, parts: list[str], subject: str, body: bytes, answered: asyncio.Future[bytes | None]
    ) -> None:
        host, net = self.host, self.net
        shard = shard_of(parts[2], parts[5])
        servers = self.broker.servers[shard % PARTITIONS]
        mapped = f"writ.shard.{shard}{subject[4:]}"
        if not servers:
            net.send(host, host, _settle, answered, b"")
        for server in servers:

            def reply(said: bytes, server: SimRequests = server) -> None:
                net.send(server.host, host, _settle, answered, said)

            net.send(host, server.host, server.take, mapped, body, reply)

    def _ask_view(self, subject: str, body: bytes, answered: asyncio.Future[bytes | None]) -> None:
        def arrived() -> None:
            self.net.send(None, self.host, _settle, answered, self._query(subject, body))

        self.net.send(self.host, None, arrived)

    async def publish_submit(self, subject: str, body: bytes, msg_id: str) -> int:
        _, _, tenant, _, queue = subject.split(".")
        shard = shard_of(tenant, queue)
        mapped = f"writ.shard.{shard}{subject[4:]}"
        answer = await self.ask(TIMEOUT_S, self.broker.submit, shard % PARTITIONS, mapped, body, msg_id)
        if answer is None:
            raise NoAnswer(subject, TIMEOUT_S)
        if answer[0] == "full":
            raise SubmitNotStored("maximum bytes exceeded", _FULL_CODE)
        return int(answer[1])

    async def subscribe(self, subject: str, callback: OnMessage) -> Unsubscribe:
        entry = self.host, callback
        self.broker.feeds.setdefault(subject, []).append(entry)

        async def unsubscribe() -> None:
            self.broker.feeds[subject].remove(entry)

        return unsubscribe

    async def close(self) -> None:
        return
