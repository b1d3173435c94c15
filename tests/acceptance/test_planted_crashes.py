"""Crashes planted at every await that matters: no submit becomes two jobs, is lost, or is refused twice.

The engine runs in this process on a real nats-server; its log, intake and requests are wrapped so that it
dies at exactly one point: it does nothing more, and what it has sent stays sent. A new engine then stands on
the same streams, as often as asked.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from writ.broker.clock import SystemClock
from writ.broker.connect import Target, connect
from writ.broker.embedded import EmbeddedBroker
from writ.broker.log import PLAIN_MAX, JetStreamIntake, JetStreamLog
from writ.broker.ports import Answer, Message, Serve, Shards, Stored
from writ.broker.requests import NatsRequests
from writ.orchestrator.engine import Engine
from writ.orchestrator.state import Partition
from writ.schemas.codec import decode
from writ.schemas.events import CommandRejected, JobCompleted, JobSubmitted, RejectionsFolded
from writ.schemas.records import Record

if TYPE_CHECKING:
    from writ.broker.hardened import HardenedClient as Nats

WAIT_S = 30.0
TIMES = int(os.environ.get("WRIT_CRASHES", "40"))
"""At each point; `make crash-proof`: 200."""

QUEUE = "mail"
SUBMIT = f"writ.submit.default.owner.{QUEUE}"
PURGE, REPLY, APPENDED, PART, APPENDING = "purge", "reply", "appended", "part", "appending"


class Planted(Exception):
    """The crash."""


class Fuse:
    """Burns at the `left`-th time that the engine comes to its point; from then on nothing goes out."""

    def __init__(self, point: str, left: int = 1, part: int = 1) -> None:
        self.point = point
        self.part = part
        self.burnt = asyncio.Event()
        self._left = left

    def at(self, point: str) -> None:
        """The engine has come to a point."""
        if self.burnt.is_set():
            raise Planted(point)
        if point == self.point:
            self._left -= 1
            if self._left <= 0:
                self.burnt.set()
                raise Planted(point)


class FusedLog(JetStreamLog):
    """Dies before an append, within one of several plain records, or right behind it."""

    fuse: Fuse

    async def append(self, messages: Sequence[Message], after: int, *, whole: bool = False) -> None:
        self.fuse.at(APPENDING)
        plain = not whole and 2 <= len(messages) <= PLAIN_MAX
        if self.fuse.point == PART and plain and _has_submits(messages):
            part = min(self.fuse.part, len(messages) - 1)
            await super().append(messages[:part], after)
            self.fuse.at(PART)
            messages, after = messages[part:], after + part
        await super().append(messages, after, whole=whole)
        if _has_submits(messages):
            self.fuse.at(APPENDED)


def _has_submits(messages: Sequence[Message]) -> bool:
    return any(b'"source":' in m.body for m in messages)


class FusedIntake(JetStreamIntake):
    """Dies between the append and the purge."""

    fuse: Fuse

    async def purge(self, up_to: int, shards: Shards = None, tenant: str | None = None) -> None:
        self.fuse.at(PURGE)
        await super().purge(up_to, shards, tenant)

    async def read(
        self, start: int, shards: Shards = None, tenant: str | None = None
    ) -> AsyncIterator[list[Stored]]:
        async for messages in super().read(start, shards, tenant):
            self.fuse.at("read")
            yield messages


class FusedRequests(NatsRequests):
    """Dies between the append and the answer."""

    fuse: Fuse

    async def serve(self, handler: Serve, shards: Shards = None) -> None:
        def dying(subject: str, body: bytes, send: Answer) -> None:
            def answer(reply: bytes) -> None:
                if not self.fuse.burnt.is_set():
                    self.fuse.at(REPLY)
                    send(reply)

            if not self.fuse.burnt.is_set():
                handler(subject, body, answer)

        await super().serve(dying, shards)


async def end(task: asyncio.Task[None]) -> BaseException | None:
    """Ends a task, however often it has to be told: `wait_for` of Python 3.11 may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.2)
    return asyncio.CancelledError() if task.cancelled() else task.exception()


class World:
    """A broker, the streams, and one engine after the other."""

    def __init__(self, broker: EmbeddedBroker, links: Sequence[Nats]) -> None:
        self.broker = broker
        self.logs, self.answers, self.clients = links
        self.draw = random.Random(4)
        self.engines = 0
        self.engine: Engine | None = None
        self._task: asyncio.Task[None] | None = None
        self._requests: FusedRequests | None = None
        self.submitted: list[tuple[int, int, dict[str, Any] | None]] = []
        """Stream sequence, index and content of every element; None for one that must be refused."""

    async def stand(self, fuse: Fuse) -> None:
        """A new engine; returns when it leads, or has died on the way."""
        self.engines += 1
        log = FusedLog(self.logs, 0, 1)
        intake = FusedIntake(self.logs, 1)
        requests = self._requests = FusedRequests(self.answers, self.logs)
        log.fuse = intake.fuse = requests.fuse = fuse
        engine = self.engine = Engine(
            log,
            intake,
            requests,
            SystemClock(),
            name=f"engine-{self.engines}",
            version="test",
            entropy=self.draw.random,
        )
        self._task = asyncio.create_task(engine.run())
        leading = asyncio.create_task(engine.leading.wait())
        await asyncio.wait({leading, self._task}, return_when=asyncio.FIRST_COMPLETED)
        leading.cancel()
        await self.answers.flush()  # its subscriptions stand

    def sound(self) -> None:
        """Raises what ended the engine, if it ended."""
        if self._task is not None and self._task.done():
            self._task.result()
            raise AssertionError("the engine ended by itself")

    async def died(self, fuse: Fuse) -> None:
        """Returns when the planted crash has happened and the engine is gone."""
        task, requests = self._task, self._requests
        assert task is not None
        assert requests is not None
        burnt = asyncio.create_task(fuse.burnt.wait())
        async with asyncio.timeout(WAIT_S):
            await asyncio.wait({burnt, task}, return_when=asyncio.FIRST_COMPLETED)
        burnt.cancel()
        if fuse.point != PURGE:  # which is no part of the loop itself, and ends nothing else
            await asyncio.wait({task}, timeout=WAIT_S)
        ended = await end(task)
        assert fuse.burnt.is_set(), f"the engine ended by itself: {ended!r}"
        assert isinstance(ended, Planted | asyncio.CancelledError), ended
        await requests.stop()
        await self.answers.flush()  # it takes no more requests
        self._task = None

    async def submit(self, *elements: dict[str, Any] | None, array: bool = True) -> None:
        """One message of elements, None for one without a task; acknowledged by the broker."""
        parts = [{"nonsense": 1} if e is None else e for e in elements]
        body = json.dumps(parts if array else parts[0]).encode()
        answer = await self.clients.request(SUBMIT, body, timeout=WAIT_S)
        seq = json.loads(answer.data)["seq"]
        self.submitted += [(seq, index, element) for index, element in enumerate(elements)]

    async def something(self, number: int) -> None:
        """A message of one of the kinds that there are."""
        plain = {"task": "t"}
        match number % 8:
            case 0:
                await self.submit(plain, array=False)
            case 1:
                await self.submit({"task": "t", "id": f"n{number}"}, array=False)
            case 2:
                await self.submit(plain, plain)
            case 3:
                await self.submit(plain, {"task": "t", "id": f"n{number}"}, plain)
            case 4:
                await self.submit(*[plain] * 6)
            case 5:
                await self.submit(None, plain, None)
            case 6:
                await self.submit(None, array=False)
            case _:
                # An id seen before, beside a new one.
                await self.submit({"task": "t", "id": f"n{number - 6}"}, plain)

    async def ask(self, verb: str, **fields: Any) -> dict[str, Any]:
        """A worker's request."""
        body = json.dumps({"worker": "w", **fields}).encode()
        subject = f"writ.lease.default.owner.{verb}.{QUEUE}"
        answer = await self.clients.request(subject, body, timeout=WAIT_S)
        found: dict[str, Any] = json.loads(answer.data)
        return found

    async def records(self) -> list[Record]:
        log = JetStreamLog(self.logs, 0, 1)
        return [decode(m.body) async for part in log.read() for m in part]

    async def settle(self) -> list[Record]:
        """A sound engine deals with what is left; the log as it is then, checked against its memory."""
        await self.stand(Fuse("never"))
        assert self.engine is not None
        last = max(seq for seq, _, _ in self.submitted)
        async with asyncio.timeout(WAIT_S):
            while True:
                answer = await self.logs.request("$JS.API.STREAM.INFO.WRIT_SUBMIT", timeout=WAIT_S)
                left = json.loads(answer.data)["state"]["messages"]
                if self.engine.state.source.seq >= last and left == 0:
                    break
                await asyncio.sleep(0.05)
        told = Partition(0, 1)
        log = JetStreamLog(self.logs, 0, 1)
        records: list[Record] = []
        async for part in log.read():
            for message in part:
                records.append(decode(message.body))
                told.apply(records[-1], message.body)
        assert told.jobs == self.engine.state.jobs
        assert (told.seq, told.prev, told.source) == (
            self.engine.state.seq,
            self.engine.state.prev,
            self.engine.state.source,
        )
        self.judge(records)
        return records

    def judge(self, records: Sequence[Record]) -> None:
        """Every element is one job, or refused once, or the repetition of an id."""
        born = [r for r in records if any(isinstance(e, JobSubmitted) for e in r.events)]
        keys = [r.key for r in born]
        assert len(set(keys)) == len(keys), "a job was born twice"
        sources = [(r.source.seq, r.source.index) for r in born if r.source is not None]
        assert len(sources) == len(born)
        assert len(set(sources)) == len(sources), "a submit became two jobs"
        seen: set[str] = set()
        wanted: set[tuple[int, int]] = set()
        for seq, index, element in self.submitted:
            if element is None or element.get("id") in seen:
                continue
            wanted.add((seq, index))
            if "id" in element:
                seen.add(element["id"])
        assert set(sources) == wanted, f"lost: {wanted - set(sources)}; more: {set(sources) - wanted}"
        refused = sum(
            e.count for r in records for e in r.events if isinstance(e, CommandRejected | RejectionsFolded)
        )
        assert refused == sum(element is None for _, _, element in self.submitted), "refusals"

    async def close(self) -> None:
        if self._task is not None:
            await end(self._task)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("writ.orchestrator.engine.BEAT_S", 0.05)
    async with await EmbeddedBroker.start(tmp_path / "writ") as broker:
        links = [
            await connect(Target(broker.url, broker.key_path(user)), "test", inbox_prefix="_INBOX")
            for user in ("log", "answer", "owner")
        ]
        await JetStreamLog.open(links[0])
        await JetStreamIntake.open(links[0])
        world = World(broker, links)
        try:
            yield world
        finally:
            await world.close()
            for link in links:
                await link.close()


Plan = Callable[[random.Random], Fuse]


async def crash_again_and_again(world: World, plan: Plan) -> None:
    for number in range(TIMES):
        fuse = plan(world.draw)
        if world.draw.random() < 0.5:
            await world.stand(fuse)
            await world.something(number)
        else:
            await world.something(number)
            await world.stand(fuse)
        extra = number
        while not fuse.burnt.is_set():
            world.sound()
            # A refused or repeated submit alone leads to no append at once: others come behind it.
            extra += TIMES + 1
            await world.something(extra - extra % 8 + world.draw.choice((2, 3)))
            with suppress(TimeoutError):
                await asyncio.wait_for(fuse.burnt.wait(), 0.03)
        await world.died(fuse)


async def test_a_crash_between_append_and_purge(world: World) -> None:
    """Must hold: a crash planted between append and purge, 200 times (`make crash-proof`): no submit becomes
    two jobs."""
    await crash_again_and_again(world, lambda draw: Fuse(PURGE))
    records = await world.settle()
    assert len([r for r in records if r.cause == "election"]) >= TIMES


async def test_a_crash_behind_the_append_before_anything_else(world: World) -> None:
    """Must hold: the same where the engine does not even learn that the append succeeded."""
    await crash_again_and_again(world, lambda draw: Fuse(APPENDED))
    await world.settle()


async def test_a_crash_within_an_append_of_two_or_three_records(world: World) -> None:
    """An array half in the log is taken up where it was left, and purged no earlier."""

    def plan(draw: random.Random) -> Fuse:
        return Fuse(PART, part=draw.choice((1, 2)))

    await crash_again_and_again(world, plan)
    await world.settle()


async def test_a_crash_between_append_and_reply(world: World) -> None:
    """Must hold: a crash planted between append and reply, 200 times (`make crash-proof`): no submit becomes
    two jobs.

    Workers ask, their answers are lost, they ask again: no job is leased twice at once or completed twice.
    """
    leases: dict[str, dict[str, Any]] = {}
    done: set[str] = set()
    for number in range(TIMES):
        fuse = Fuse(REPLY)
        await world.stand(fuse)
        await world.something(number)
        reports = [{"id": i, "token": lease["token"], "output": 1} for i, lease in leases.items()]
        if reports and number % 2:
            asking = asyncio.create_task(world.ask("complete", reports=reports))
        else:
            asking = asyncio.create_task(world.ask("acquire", wait_s=0.2))
        await world.died(fuse)
        await world.clients.flush()
        assert not asking.done(), "an answer left the dead engine"
        asking.cancel()
        if number % 4 == 3:
            await world.stand(Fuse("never"))
            if reports:
                said = await world.ask("complete", reports=reports)
                assert "refused" not in said, "what was stored before the crash is not known again"
                done |= set(leases)
            said = await world.ask("acquire", count=100)
            leases = {lease["id"]: lease for lease in said.get("leases", [])}
            await world.close()
    records = await world.settle()
    completed = [r.key for r in records if any(isinstance(e, JobCompleted) for e in r.events)]
    assert len(completed) == len(set(completed)) == len(done) > TIMES // 2


async def test_crashes_anywhere(world: World) -> None:
    """All points by chance, several times to the same submits."""

    def plan(draw: random.Random) -> Fuse:
        point = draw.choice((PURGE, APPENDED, PART, APPENDING))
        return Fuse(point, left=draw.choice((1, 1, 2, 3)), part=draw.choice((1, 2)))

    await crash_again_and_again(world, plan)
    await world.settle()
