"""An engine on the in-memory twin, in virtual time: an hour passes as soon as nothing else is to do."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec
import pytest

from writ.broker.memory import MemoryIntake, MemoryLog, RequestHub
from writ.broker.objects import MemoryObjects
from writ.broker.ports import Log, Message, NotStored, OutcomeUnknown, Stored
from writ.orchestrator.access_desk import Founder
from writ.orchestrator.engine import Engine
from writ.orchestrator.kept import state_digest
from writ.orchestrator.replay.verify import verify
from writ.orchestrator.snapshots import Snapshots, recover
from writ.orchestrator.state import Partition
from writ.schemas.bounds import LIVE_MAX
from writ.schemas.codec import decode
from writ.schemas.commands import CONTROL_VERBS, Answer
from writ.schemas.events import Fact, type_names
from writ.schemas.lifecycle import Job
from writ.schemas.principals import Role
from writ.schemas.records import Record
from writ.schemas.sealed import Keys
from writ.schemas.upgrading import RECORDS
from writ.testing import VirtualLoop

START_US = 1_767_225_600_000_000


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test of this folder runs on the virtual loop."""
    return {"virtual": VirtualLoop}


class LoopClock:
    """The loop's time, on a wall that stands on 2026-01-01 at its start, and so much off."""

    start_us = START_US

    def __init__(self, off_us: int = 0) -> None:
        self.off_us = off_us

    def mono_us(self) -> int:
        return round(asyncio.get_running_loop().time() * 1_000_000)

    def wall_us(self) -> int:
        return self.start_us + self.mono_us() - 1_000_000_000 + self.off_us


Step = Callable[[MemoryLog, Sequence[Message], int, bool], Awaitable[None]]


class ScriptedLog:
    """A log whose next appends may go wrong as a script says. `appends` counts the records of each."""

    def __init__(self, log: MemoryLog) -> None:
        self.inner = log
        self.script: deque[Step] = deque()
        self.appends: list[int] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.silent = False
        """Whether nobody answers where the log ends."""

    @property
    def partition(self) -> int:
        return self.inner.partition

    @property
    def epoch(self) -> int:
        return self.inner.epoch

    async def last_seq(self) -> int:
        if self.silent:
            await asyncio.get_running_loop().create_future()
        return await self.inner.last_seq()

    def read(
        self, start: int = 1, subjects: Sequence[str] = (), *, follow: bool = False
    ) -> AsyncIterator[list[Stored]]:
        return self.inner.read(start, subjects, follow=follow)

    async def append(self, messages: Sequence[Message], after: int, *, whole: bool = False) -> None:
        await self.hold.wait()
        if self.script:
            await self.script.popleft()(self.inner, messages, after, whole)
        else:
            await self.inner.append(messages, after, whole=whole)
        self.appends.append(len(messages))


def full(times: int = 1) -> list[Step]:
    """The broker takes nothing."""

    async def step(log: MemoryLog, messages: Sequence[Message], after: int, whole: bool) -> None:
        raise NotStored("the stream is full")

    return [step] * times


def unknown(stored: int | None, after_s: float = 0.0) -> Step:
    """No answer comes, and so many of the records are stored; None for all. A whole append is never cut."""

    async def step(log: MemoryLog, messages: Sequence[Message], after: int, whole: bool) -> None:
        part = messages if stored is None else messages[:stored]
        if whole and len(part) < len(messages):
            part = ()
        if part:
            await log.append(part, after)
        await asyncio.sleep(after_s)
        raise OutcomeUnknown("no answer")

    return step


class Twin:
    """One partition's worth of memory, with engines that come and go. Another one's shares the broker."""

    def __init__(
        self, snapshot: Callable[[Partition], dict[str, Any]], partition: int = 0, beside: Twin | None = None
    ) -> None:
        self._snapshot = snapshot
        self.log = ScriptedLog(MemoryLog(partition, clock=LoopClock()))
        self.intake: MemoryIntake = MemoryIntake(clock=LoopClock()) if beside is None else beside.intake
        self.hub: RequestHub = RequestHub() if beside is None else beside.hub
        self.others: list[Log] = []
        self.looks = False
        """Whether its engines look for other logs, and are not given them."""

        self.snapshots: Snapshots | None = None
        self.keys: Keys | None = None
        self.founders: tuple[Founder, ...] = ()
        self.live_max = LIVE_MAX
        self.clocks: dict[str, LoopClock] = {}
        self.engine: Engine | None = None
        self.running: list[tuple[Engine, asyncio.Task[None]]] = []
        self._random = random.Random(7)

    async def start(self, name: str | None = None) -> Engine:
        """Another engine; returns when it leads."""
        engine = self.stand(name)
        await engine.leading.wait()
        return engine

    def stand(self, name: str | None = None, off_us: int = 0, reads: int = RECORDS) -> Engine:
        """Another engine, that may have to wait for its turn; its clock may be so much off."""
        clock = self.clocks[name or ""] = LoopClock(off_us)
        self.engine = Engine(
            self.log,
            self.intake,
            self.hub.host(),
            clock,
            name=name or f"engine-{len(self.running)}",
            version="test",
            entropy=self._random.random,
            others=self.beside if self.looks else self.others,
            snapshots=self.snapshots,
            keys=self.keys,
            founders=self.founders,
            live_max=self.live_max,
            reads=reads,
        )
        self.running.append((self.engine, asyncio.create_task(self.engine.run())))
        return self.engine

    async def beside(self) -> Sequence[Log]:
        """What an engine that looks for other logs finds."""
        return tuple(self.others)

    async def stop(self) -> None:
        for engine, task in self.running:
            engine.stop()
            self.log.hold.set()
            await task
        self.running.clear()

    async def crash(self) -> None:
        """All engines vanish at whatever they await."""
        for _, task in self.running:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.running.clear()

    async def submit(self, job: object = None, queue: str = "mail", who: str = "owner") -> int:
        """The intake sequence. A dict or list is sent as JSON, bytes as they are."""
        body = job if isinstance(job, bytes) else msgspec.json.encode(job or {"task": "send"})
        return await self.intake.submit("default", who, queue, body)

    async def ask(
        self, verb: str, /, queue: str = "mail", who: str = "robot", **fields: Any
    ) -> dict[str, Any]:
        """The answer to a request as JSON."""
        kind = "control" if verb in CONTROL_VERBS else "lease"
        body = msgspec.json.encode(fields)
        answer = await self.hub.request("default", who, verb, queue, body, kind)
        decoded: dict[str, Any] = msgspec.json.decode(answer)
        return decoded

    async def raw(self, verb: str, body: bytes, queue: str = "mail", kind: str = "lease") -> Answer:
        return msgspec.json.decode(
            await self.hub.request("default", "robot", verb, queue, body, kind), type=Answer
        )

    async def acquire(
        self, count: int = 1, wait_s: float = 0.0, worker: str = "w1", **more: Any
    ) -> list[dict[str, Any]]:
        answer = await self.ask("acquire", worker=worker, count=count, wait_s=wait_s, **more)
        assert "error" not in answer
        leases: list[dict[str, Any]] = answer.get("leases", [])
        return leases

    async def report(
        self, verb: str, *leases: dict[str, Any], worker: str = "w1", **more: Any
    ) -> dict[str, Any]:
        """What a worker says of leases that it was granted; `more` goes into each report."""
        held = [{"id": one["id"], "token": one["token"], **more} for one in leases]
        name = "reports" if verb in ("complete", "fail") else "leases"
        fields: dict[str, Any] = {"worker": worker, name: held}
        return await self.ask(verb, **fields)

    async def settled(self) -> None:
        """Until the log holds whatever can be decided without time passing."""
        for _ in range(200):
            await asyncio.sleep(0)

    def job(self, job_id: str, queue: str = "mail") -> Job:
        assert self.engine is not None
        job = self.engine.state.job("default", queue, job_id)
        assert job is not None
        return job

    async def records(self) -> list[Record]:
        return [decode(m.body) async for part in self.log.read() for m in part]

    async def events(self, *kinds: type[Fact]) -> list[Fact]:
        return [e for r in await self.records() for e in r.events if not kinds or isinstance(e, kinds)]

    async def story(self, job_id: str, queue: str = "mail") -> list[str]:
        """The names of a job's events, a record's joined by a plus."""
        return [
            "+".join(type_names[type(e)] for e in r.events)
            for r in await self.records()
            if r.key == f"{queue}~{job_id}"
        ]

    async def folded(self) -> Partition:
        """The state that the log alone tells."""
        state = Partition(self.log.partition, self.log.epoch)
        async for part in self.log.read():
            for message in part:
                state.apply(decode(message.body), message.body)
        return state

    async def check(self) -> None:
        """What the engine remembers is what the log tells, and a snapshot too; all is decided again alike."""
        assert self.engine is not None
        state = self.engine.state
        told = self._snapshot(state)
        assert told == self._snapshot(await self.folded())
        await self._check_snapshot(told)
        report = await verify(self.log)
        assert report.ok, "decided again, the log comes out otherwise:\n" + "\n".join(report.lines())

    async def _check_snapshot(self, told: dict[str, Any]) -> None:
        """One of halfway, and the log from there, tell the same as the log from its start; twice over."""
        snapshots = Snapshots(MemoryObjects(), self.log.partition)
        last = await self.log.last_seq()
        whole = state_digest(await self.folded())
        for up_to in (last // 2, last * 3 // 4, last):
            state, at = await recover(self.log, snapshots, up_to)
            await snapshots.put(state, at.epoch)
            assert state.jobs.live + len(state.jobs.ended()) == len(state.jobs.here)
        found = await snapshots.newest(self.log)
        assert found is not None
        assert told == self._snapshot(found[0])
        assert whole == state_digest(found[0])


class FullObjects(MemoryObjects):
    """`room` is how many more objects may be put."""

    def __init__(self) -> None:
        super().__init__()
        self.room = 1 << 30

    async def put(self, name: str, parts: Iterable[bytes]) -> None:
        if not self.room:
            raise OSError(28, "No space left on device")
        self.room -= 1
        await super().put(name, parts)


class Tools:
    """What the tests of this folder share, without importing each other."""

    full = staticmethod(full)
    unknown = staticmethod(unknown)
    objects = FullObjects


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools()


@pytest.fixture
async def twin(
    snapshot: Callable[[Partition], dict[str, Any]],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Twin]:
    """A twin with one engine that leads; a parameter says how many seconds later than others it starts."""
    monkeypatch.setattr(LoopClock, "start_us", START_US + getattr(request, "param", 0) * 1_000_000)
    twin = Twin(snapshot)
    await twin.start()
    try:
        yield twin
    finally:
        await twin.crash()


@pytest.fixture(scope="session")
def owners() -> dict[str, str]:
    """The keys of the owners of two tenants, by tenant."""
    return {"default": "U" + "A" * 55, "acme": "U" + "B" * 55}


@pytest.fixture
async def shared(twin: Twin, owners: dict[str, str]) -> Twin:
    """A twin with two tenants, each with an owner."""
    await twin.stop()
    twin.founders = tuple([Founder(tenant, "owner", key, (Role.OWNER,)) for tenant, key in owners.items()])
    await twin.start()
    return twin
