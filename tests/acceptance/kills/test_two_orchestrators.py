"""Two orchestrators started on one log by mistake: one is refused at the append and steps back.

Both run in this process, each with connections of its own to a real broker. What stands between an engine and
its log here only delays an append or notes how it ended; every refusal comes from the broker.
"""
# nats-py leaves its options untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import nats.errors
import pytest

from writ.broker.clock import SystemClock
from writ.broker.connect import Target, connect
from writ.broker.embedded import EmbeddedBroker
from writ.broker.hardened import HardenedClient as Client
from writ.broker.log import JetStreamIntake, JetStreamLog
from writ.broker.ports import Message, Shards, Stored, WrongLastSequence
from writ.broker.requests import NatsRequests
from writ.orchestrator import engine as engine_module
from writ.orchestrator.engine import Engine
from writ.orchestrator.state import Partition
from writ.schemas.codec import decode

if TYPE_CHECKING:
    from tests.acceptance.kills.harness import Stage

WAIT_S = 20.0
OWN = "default.owner"


async def until(condition: Callable[[], object]) -> None:
    """Returns when something holds; fails after WAIT_S."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what it watches has no event
            await asyncio.sleep(0.005)


async def soon(work: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(work, WAIT_S)


class Gate:
    """Holds back one append, the first that `wanted` says yes to."""

    def __init__(self, wanted: Callable[[Sequence[Message]], bool]) -> None:
        self.wanted = wanted
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self.messages: Sequence[Message] = ()


class WatchedLog(JetStreamLog):
    """The real log. Appends can be held back on their way out, and how each ended is noted."""

    def __init__(self, nats: Client, partition: int, epoch: int) -> None:
        super().__init__(nats, partition, epoch)
        self.gates: list[Gate] = []
        self.waiting: list[Gate] = []
        self.stored = 0
        self.elections = 0
        self.refusals: list[WrongLastSequence] = []

    def hold(self, wanted: Callable[[Sequence[Message]], bool]) -> Gate:
        gate = Gate(wanted)
        self.waiting.append(gate)
        self.gates.append(gate)
        return gate

    async def append(self, messages: Sequence[Message], after: int, *, whole: bool = False) -> None:
        for gate in self.waiting:
            if gate.wanted(messages):
                self.waiting.remove(gate)
                gate.messages = messages
                gate.reached.set()
                await gate.opened.wait()
                break
        try:
            await super().append(messages, after, whole=whole)
        except WrongLastSequence as refusal:
            self.refusals.append(refusal)
            raise
        self.stored += len(messages)
        self.elections += is_election(messages)


class StubbornIntake(JetStreamIntake):
    """The real intake. Its reader swallows one cancellation, as `asyncio.wait_for` of Python 3.11 may."""

    async def _read(self, start: int) -> AsyncGenerator[list[Stored]]:
        try:
            async for part in super().read(start):
                yield part
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    def read(
        self, start: int, shards: Shards = None, tenant: str | None = None
    ) -> AsyncIterator[list[Stored]]:
        return self._read(start)


class GatedRequests(NatsRequests):
    """The real requests. Beats stop while `awake` is cleared, as those of a paused process do.

    A deaf one hears no other leader, as behind a broken network.
    """

    def __init__(self, answering: Client, beating: Client, *, deaf: bool) -> None:
        super().__init__(answering, beating)
        self.awake = asyncio.Event()
        self.awake.set()
        self._deaf = deaf

    async def who(self, partition: int) -> str | None:
        return None if self._deaf else await super().who(partition)

    async def hear(self, partition: int, heard: Callable[[str], None]) -> None:
        if not self._deaf:
            await super().hear(partition, heard)

    async def beat(self, partition: int, leader: str) -> None:
        await self.awake.wait()
        await super().beat(partition, leader)


class Orchestrator:
    """One engine with its connections."""

    def __init__(self, engine: Engine, log: WatchedLog, requests: GatedRequests) -> None:
        self.engine = engine
        self.log = log
        self.requests = requests
        self.task: asyncio.Task[None] | None = None

    @property
    def leads(self) -> bool:
        return self.engine.leading.is_set()


def is_election(messages: Sequence[Message]) -> bool:
    return any(b'"leader_elected"' in message.body for message in messages)


class Owner:
    """A client and worker in one, over plain NATS; keeps every verdict that it was given."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ids = itertools.count(1)
        self.lease_s = 60
        self.submitted: list[str] = []
        self.leases: dict[int, str] = {}
        self.completed: dict[str, int] = {}

    async def submit(self, queue: str, count: int) -> None:
        """Stores an array of jobs; returns when the broker has it."""
        ids = [f"j{next(self._ids)}" for _ in range(count)]
        jobs = [{"id": i, "task": "t", "lease_s": self.lease_s} for i in ids]
        answer = await self._client.request(
            f"writ.submit.{OWN}.{queue}", json.dumps(jobs).encode(), timeout=WAIT_S
        )
        assert "seq" in json.loads(answer.data)
        self.submitted.extend(f"{queue}~{i}" for i in ids)

    async def ask(
        self, verb: str, queue: str, *, timeout_s: float = WAIT_S, **command: Any
    ) -> dict[str, Any]:
        """One request, sent once."""
        answer = await self._client.request(
            f"writ.lease.{OWN}.{verb}.{queue}",
            json.dumps({"worker": "w"} | command).encode(),
            timeout=timeout_s,
        )
        said: dict[str, Any] = json.loads(answer.data)
        if verb == "acquire":
            self.leases.update({lease["token"]: f"{queue}~{lease['id']}" for lease in said.get("leases", ())})
        if verb == "complete" and "error" not in said:
            refused = {rejection["index"] for rejection in said.get("refused", ())}
            for index, report in enumerate(command["reports"]):
                if index not in refused:
                    self.completed[f"{queue}~{report['id']}"] = report["token"]
        return said

    async def insist(self, verb: str, queue: str, **command: Any) -> dict[str, Any]:
        """A request, repeated until there is a verdict."""
        loop = asyncio.get_running_loop()
        until = loop.time() + WAIT_S
        # By the clock and not by cancelling: `wait_for` of Python 3.11 may swallow a cancellation.
        while loop.time() < until:
            try:
                said = await self.ask(verb, queue, timeout_s=1.0, **command)
            except nats.errors.Error:
                await asyncio.sleep(0.01)
                continue
            if "error" not in said:
                return said
            assert said["error"]["kind"] == "try_later", said
        raise AssertionError(f"no verdict within {WAIT_S:g} s: {verb} of {queue}")

    async def work(self, queue: str, jobs: int) -> None:
        """Completes so many jobs of a queue."""
        done = 0
        while done < jobs:
            got = await self.insist("acquire", queue, count=3, wait_s=0.5)
            reports = [
                {"id": lease["id"], "token": lease["token"], "output": 1} for lease in got.get("leases", ())
            ]
            if reports:
                answer = await self.insist("complete", queue, reports=reports)
                done += len(reports) - len(answer.get("refused", ()))


class Table:
    """A broker with whoever sits at it."""

    def __init__(self, broker: EmbeddedBroker, owner: Owner, stack: AsyncExitStack) -> None:
        self.broker = broker
        self.owner = owner
        self._stack = stack

    async def link(self, user: str) -> Client:
        target = Target(self.broker.url, self.broker.key_path(user))
        client = await connect(target, f"test:{user}", inbox_prefix="_INBOX")
        self._stack.push_async_callback(client.close)
        return client

    async def orchestrator(
        self, name: str, *, deaf: bool = False, intake_type: type[JetStreamIntake] = JetStreamIntake
    ) -> Orchestrator:
        """An engine on connections of its own, not running yet."""
        logs, answers = await self.link("log"), await self.link("answer")
        opened = await JetStreamLog.open(logs)
        log = WatchedLog(logs, opened.partition, opened.epoch)
        requests = GatedRequests(answers, logs, deaf=deaf)
        intake = await intake_type.open(logs)
        engine = Engine(log, intake, requests, SystemClock(), name=name, version="test", entropy=lambda: 0.5)
        return Orchestrator(engine, log, requests)

    async def run(self, *orchestrators: Orchestrator) -> None:
        """Starts engines; they are stopped when the test is over, if not before."""
        for one in orchestrators:
            one.task = asyncio.create_task(one.engine.run(), name=one.engine.name)
            self._stack.push_async_callback(self.stop, one)

    @staticmethod
    async def stop(*orchestrators: Orchestrator) -> None:
        """Returns when they have ended; raises what ended them."""
        for one in orchestrators:
            one.requests.awake.set()
            for gate in one.log.gates:
                gate.opened.set()
            one.engine.stop()
        for one in orchestrators:
            assert one.task is not None
            done, _ = await asyncio.wait([one.task], timeout=WAIT_S)
            one.task.cancel()
            assert done, f"{one.engine.name} did not stop"
            one.task.result()

    async def stored(self) -> list[Stored]:
        log = await JetStreamLog.open(await self.link("log"))
        return [message async for part in log.read() for message in part]


@pytest.fixture
async def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Table]:
    monkeypatch.setattr(engine_module, "SILENCE_S", 0.6)
    monkeypatch.setattr(engine_module, "BEAT_S", 0.1)
    monkeypatch.setattr(engine_module, "REST_S", 1.0)
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(await EmbeddedBroker.start(tmp_path / "node"))
        client = await connect(Target(broker.url, broker.key_path("owner")), "test:owner")
        stack.push_async_callback(client.close)
        yield Table(broker, Owner(client), stack)


@asynccontextmanager
async def flowing(owner: Owner, queue: str, jobs: int) -> AsyncGenerator[list[asyncio.Task[None]]]:
    """Jobs are submitted and worked on while the block runs; returns when all of them have completed."""
    working = [asyncio.create_task(owner.work(queue, jobs))]

    async def submit() -> None:
        for _ in range(jobs // 4):
            await owner.submit(queue, 4)

    working.append(asyncio.create_task(submit()))
    try:
        yield working
        await soon(asyncio.gather(*working))
    finally:
        for task in working:
            task.cancel()


async def assert_whole(table: Table, checker: ModuleType, leader: Orchestrator) -> Any:
    """Chain, counts, answers and the leader's memory all agree; the checker's fold."""
    stored = await table.stored()
    history = checker.fold([checker.Message(*message) for message in stored])
    owner = table.owner
    assert sorted(history.jobs) == sorted(owner.submitted), "every submit is one job"
    for key, token in owner.completed.items():
        assert history.jobs[key]["state"] == "completed"
        assert history.jobs[key]["completed"][0] == token, f"{key} was answered, and is not so in the log"
    for token, key in owner.leases.items():
        assert history.grants[token]["key"] == key, f"a lease of {key} was given out and never stored"
    folded = Partition(0, leader.engine.state.epoch)
    for message in stored:
        folded.apply(decode(message.body), message.body)
    memory = leader.engine.state
    assert (folded.seq, folded.prev) == (memory.seq, memory.prev)
    assert folded.jobs == memory.jobs
    return history


async def test_of_two_elected_at_the_same_moment_one_is_refused(table: Table, checker: ModuleType) -> None:
    """Two orchestrators started on one log by mistake: one is refused at the append and steps back; no record
    is lost or doubled. Here both hold their election ready before either is sent, five times over."""
    for turn in range(1, 6):
        await race(table, checker, turn)
    assert len(table.owner.submitted) == 200


async def race(table: Table, checker: ModuleType, turn: int) -> None:
    """Two new engines hold their election ready; both are let go, and both are stopped in the end."""
    both = [await table.orchestrator(f"one-{turn}"), await table.orchestrator(f"two-{turn}")]
    gates = [one.log.hold(is_election) for one in both]
    await table.run(*both)
    await soon(asyncio.gather(*(gate.reached.wait() for gate in gates)))
    async with flowing(table.owner, "race", 40):
        for gate in gates:
            gate.opened.set()
        await until(lambda: any(one.leads for one in both))
        await until(lambda: any(one.log.refusals for one in both))
    loser, winner = sorted(both, key=lambda one: one.leads)
    assert winner.leads
    assert not loser.leads
    assert [type(refusal) for refusal in loser.log.refusals] == [WrongLastSequence]
    assert "wrong last sequence" in str(loser.log.refusals[0])
    assert (loser.log.stored, winner.log.refusals) == (0, [])
    history = await assert_whole(table, checker, winner)
    assert history.leaders[-1] == winner.engine.name
    assert len(history.leaders) == turn
    assert history.events["job_completed"] == len(table.owner.submitted) == 40 * turn
    await table.stop(*both)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
async def test_a_paused_leader_is_refused_when_it_wakes(
    count: int, table: Table, checker: ModuleType
) -> None:
    """Two orchestrators started on one log by mistake: one is refused at the append and steps back; no record
    is lost or doubled. Here a leader is paused with `count` records on their way out; another takes over."""
    owner = table.owner
    old, new = await table.orchestrator("old"), await table.orchestrator("new")
    await table.run(old)
    await until(lambda: old.leads)
    async with asyncio.timeout(WAIT_S):
        while await new.requests.who(0) != "old":  # noqa: ASYNC110 - it answers from its first beat on
            await asyncio.sleep(0.005)
    await table.run(new)
    async with flowing(owner, "work", 40):
        pass
    await owner.submit("held", count)
    leases = (await owner.ask("acquire", "held", count=count, wait_s=10))["leases"]
    assert len(leases) == count

    # Three who wait for the old leader: parked, in its round, and behind that in its inbox.
    parked = asyncio.create_task(owner.ask("acquire", "idle", count=1, wait_s=60))
    await asyncio.sleep(0)
    assert "leases" not in await owner.ask("acquire", "idle", count=1, wait_s=0)
    held = old.log.hold(lambda messages: True)
    reports = [{"id": lease["id"], "token": lease["token"], "output": 1} for lease in leases]
    reported = asyncio.create_task(owner.ask("complete", "held", reports=reports))
    await soon(held.reached.wait())
    assert len(held.messages) == count
    behind = asyncio.create_task(owner.ask("acquire", "work", count=1, wait_s=60))
    await owner.submit("late", 2)

    old.requests.awake.clear()
    elected = new.log.hold(is_election)
    await soon(elected.reached.wait())
    waiting = new.log.hold(lambda messages: True)
    elected.opened.set()
    await soon(waiting.reached.wait())
    assert new.leads
    assert old.leads, "it does not know yet"
    assert not any(asked.done() for asked in (parked, reported, behind))

    old_stored = old.log.stored
    held.opened.set()
    await until(lambda: old.log.refusals)
    for told in (parked, reported, behind):
        answer = await soon(told)
        assert answer["error"]["kind"] == "try_later", answer
    await until(lambda: not old.leads)
    assert old.log.stored == old_stored
    assert "wrong last sequence" in str(old.log.refusals[0])
    waiting.opened.set()
    old.requests.awake.set()

    async with flowing(owner, "work", 40):
        answer = await owner.insist("complete", "held", reports=reports)
        assert "refused" not in answer
        await owner.work("late", 2)
    assert (new.log.refusals, len(old.log.refusals)) == ([], 1)
    history = await assert_whole(table, checker, new)
    assert history.leaders == ["old", "new"]
    assert history.events["job_completed"] == len(owner.submitted) == 82 + count

    await table.stop(new)  # the one that stepped back stands by, and is good for a new start
    await until(lambda: old.leads)
    async with flowing(owner, "work", 4):
        pass
    history = await assert_whole(table, checker, old)
    assert history.leaders == ["old", "new", "old"]


async def test_two_that_never_hear_of_each_other_lose_and_double_nothing(
    table: Table, checker: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two orchestrators started on one log by mistake: one is refused at the append and steps back; no record
    is lost or doubled. Here neither rests nor hears the other: they depose each other all the time."""
    monkeypatch.setattr(engine_module, "REST_S", 0.0)
    table.owner.lease_s = 1  # a lease may be stored by a leader that is deposed before it can say so
    both = [await table.orchestrator("one", deaf=True), await table.orchestrator("two", deaf=True)]
    await table.run(*both)

    def elections() -> int:
        return sum(one.log.elections for one in both)

    def enough() -> bool:
        return elections() >= 12

    while not enough():
        async with flowing(table.owner, "fight", 40) as working:
            await until(lambda: enough() or all(task.done() for task in working))
            if enough():
                # Peace: each election gives time back to all live leases, also to those nobody was told of.
                monkeypatch.setattr(engine_module, "REST_S", 5.0)
    await table.stop(*both)
    last = max(both, key=lambda one: one.engine.state.seq)
    history = await assert_whole(table, checker, last)
    assert len(history.leaders) == sum(one.log.elections for one in both)
    assert set(history.leaders) == {"one", "two"}
    assert all(one.log.refusals for one in both)
    assert history.events["job_completed"] == len(table.owner.submitted)


async def test_a_deposed_leader_steps_back_though_a_cancellation_is_lost(table: Table) -> None:
    """Two orchestrators started on one log by mistake: one is refused at the append and steps back. It does
    so also where the reader of the intake does not end at once when it is told to."""
    table.owner.lease_s = 1  # while both serve, the answer with a lease may come second and be missed
    old = await table.orchestrator("old", intake_type=StubbornIntake)
    await table.run(old)
    await until(lambda: old.leads)
    new = await table.orchestrator("new", deaf=True)
    await table.run(new)
    await until(lambda: new.leads)
    async with flowing(table.owner, "work", 8):
        await until(lambda: old.log.refusals)
    await until(lambda: not old.leads)
    await table.stop(new)
    await until(lambda: old.leads)


async def test_a_second_node_on_one_directory_is_refused(stage: Stage) -> None:
    """Two orchestrators started on one log by mistake: one is refused. Here it is `writ up` typed twice:
    the second ends with the reason, and the first goes on."""
    first = await stage.node()
    broker = stage.broker_pid()
    second = stage.run("second", *stage.writ("up", "--dir", str(stage.directory)))
    assert await stage.ended(second, "the second node") == 1, stage.said()
    assert f"already running on {stage.directory} (pid {first.pid})" in stage.said()
    assert first.poll() is None
    assert stage.broker_pid() == broker
    assert stage.lives(broker)
    watch = stage.watch()
    await watch.until(lambda log: log.leaders, "a leader is in the log", WAIT_S)
    assert len(watch.history.leaders) == 1
