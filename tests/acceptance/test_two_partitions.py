"""Must hold: two partitions on a real broker. Each decides on its own shards alone; jobs rest on one another.

What is proved here is the broker's part: that its mapping routes submits and requests to the partition that
owns their shard, that what one partition forgets of the intake is not another's, and that a log is followed
by the other's leader across a change of leader.
"""
# nats-py leaves its options untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from nats.errors import NoRespondersError

from writ import ChildFailed, Context, Worker, task
from writ.broker.alarms import raise_alarm
from writ.broker.clock import SystemClock
from writ.broker.connect import Target, connect
from writ.broker.embedded import EmbeddedBroker
from writ.broker.log import JetStreamIntake, JetStreamLog
from writ.broker.requests import NatsRequests
from writ.broker.streams import api
from writ.orchestrator.engine import Engine
from writ.orchestrator.replay.verify import verify
from writ.schemas.codec import decode
from writ.schemas.commands import RaiseAlarm
from writ.schemas.events import AlarmKind, AlarmRaised
from writ.schemas.ids import shard_of
from writ.schemas.lifecycle import TERMINAL, Job, State
from writ.schemas.links import MessageAccepted, MessageSent, partition_of
from writ.schemas.sealed import unseal
from writ.schemas.subjects import SUBMIT_STREAM

PARTITIONS = 2
WAIT_S = 30.0
QUEUES = "bills", "agents", "mail", "work"
OWN = "default.owner"


def home(queue: str) -> int:
    return partition_of(shard_of("default", queue), PARTITIONS)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what it watches has no event
            await asyncio.sleep(0.005)


class Cluster:
    """A broker, and an engine for each partition with connections of its own."""

    def __init__(self, broker: EmbeddedBroker, client: Any, stack: AsyncExitStack) -> None:
        self.broker = broker
        self.client = client
        self.engines: dict[int, Engine] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self._names = itertools.count(1)
        self._stack = stack

    async def link(self, user: str) -> Any:
        target = Target(self.broker.url, self.broker.key_path(user))
        client = await connect(target, f"test:{user}", inbox_prefix="_INBOX")
        self._stack.push_async_callback(client.close)
        return client

    async def lead(self, partition: int) -> None:
        """An engine for the partition; returns when it leads."""
        logs, answers = await self.link("log"), await self.link("answer")
        opened = [await JetStreamLog.open(logs, number) for number in range(PARTITIONS)]
        engine = self.engines[partition] = Engine(
            opened.pop(partition),
            await JetStreamIntake.open(logs),
            NatsRequests(answers, logs),
            SystemClock(),
            name=f"p{partition}-{next(self._names)}",
            version="test",
            entropy=lambda: 0.5,
            others=opened,
        )
        self.tasks[partition] = asyncio.create_task(engine.run())
        await asyncio.wait_for(engine.leading.wait(), WAIT_S)

    async def kill(self, partition: int) -> None:
        """The engine vanishes at whatever it awaits."""
        task = self.tasks.pop(partition)
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.2)

    async def stop(self) -> None:
        for engine in self.engines.values():
            engine.stop()
        await asyncio.gather(*self.tasks.values())

    async def submit(self, queue: str, *jobs: dict[str, Any]) -> None:
        body = json.dumps([{"task": "t"} | job for job in jobs]).encode()
        answer = await self.client.request(f"writ.submit.{OWN}.{queue}", body, timeout=WAIT_S)
        assert "seq" in json.loads(answer.data)

    async def work(self, queue: str, count: int) -> list[Any]:
        """Completes so many jobs of a queue with their ids as output; their inputs."""
        inputs: list[Any] = []
        while len(inputs) < count:
            got = await self._ask("acquire", queue, count=20, wait_s=1.0)
            leases: list[dict[str, Any]] = got.get("leases", [])
            reports = [{"id": x["id"], "token": x["token"], "output": x["id"]} for x in leases]
            if reports:
                assert "refused" not in await self._ask("complete", queue, reports=reports)
            inputs += [lease["input"] for lease in leases]
        return inputs

    async def _ask(self, verb: str, queue: str, **command: Any) -> dict[str, Any]:
        """A leader unsure of an append steps down and stands again: it is asked anew, as clients do."""
        subject = f"writ.lease.{OWN}.{verb}.{queue}"
        body = json.dumps({"worker": "w"} | command).encode()
        async with asyncio.timeout(WAIT_S):
            while True:
                with suppress(NoRespondersError):
                    answer = await self.client.request(subject, body, timeout=WAIT_S)
                    said: dict[str, Any] = json.loads(answer.data)
                    if "error" not in said:
                        return said
                    assert said["error"]["kind"] == "try_later", said
                await asyncio.sleep(0.02)

    def job(self, queue: str, job_id: str) -> Job | None:
        return self.engines[home(queue)].state.job("default", queue, job_id)

    def state(self, queue: str, job_id: str) -> State | None:
        job = self.job(queue, job_id)
        return None if job is None else job.state

    def states(self, queue: str) -> set[State]:
        jobs = self.engines[home(queue)].state.jobs.values()
        return {job.state for job in jobs if job.queue == queue}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(await EmbeddedBroker.start(tmp_path / "node"))
        client = await connect(Target(broker.url, broker.key_path("owner")), "test:owner")
        stack.push_async_callback(client.close)
        cluster = Cluster(broker, client, stack)
        for partition in range(PARTITIONS):
            await cluster.lead(partition)
        yield cluster
        await cluster.stop()


async def test_jobs_of_two_partitions_rest_on_one_another(cluster: Cluster) -> None:
    assert {home(queue) for queue in QUEUES} == {0, 1}
    number = range(30)
    await cluster.submit(QUEUES[0], *({"id": str(n)} for n in number))
    for before, queue in itertools.pairwise(QUEUES):
        after = [
            {"id": str(n), "after": [f"{before}~{n}"], "input": {}, "input_from": {"x": f"{before}~{n}"}}
            for n in number
        ]
        await cluster.submit(queue, *after)
    for queue in QUEUES:
        # A leader of either side goes away in the middle of it, with whatever it was about to say.
        inputs = await cluster.work(queue, len(number))
        if queue != QUEUES[0]:
            assert sorted(given["x"] for given in inputs) == sorted(str(n) for n in number)
        await cluster.kill(home(queue))
        await cluster.lead(home(queue))
    assert [cluster.states(queue) for queue in QUEUES] == [{State.COMPLETED}] * len(QUEUES)
    logs = await cluster.link("log")
    told: list[list[Any]] = []
    for partition in range(PARTITIONS):
        log = await JetStreamLog.open(logs, partition)
        assert not (await verify(log)).faults
        records = [decode(m.body) async for part in log.read() for m in part]
        assert {home(r.key.partition("~")[0]) for r in records if r.kind == "job"} == {partition}
        sent = [
            ((r.epoch, r.seq, index), event.content)
            for r in records
            for index, event in enumerate(r.events)
            if isinstance(event, MessageSent)
        ]
        accepted = [
            ((e.message.epoch, e.message.seq, e.message.index), e.content)
            for r in records
            for e in r.events
            if isinstance(e, MessageAccepted)
        ]
        told += [sent, accepted]
    assert told[0] == told[3]
    assert told[2] == told[1]
    assert all(told)


@task
async def fetch(n: int) -> int:
    if n < 0:
        raise ValueError(n)
    return 2 * n


@task
async def gather(ctx: Context) -> list[int]:
    """Children in queues of both partitions; one of them fails for good."""
    once = {"max_attempts": 1}
    calls = [{"task": fetch, "queue": queue, "input": {"n": n}} for n, queue in enumerate(QUEUES)]
    found: list[int] = await ctx.run_all(calls)
    for queue in QUEUES:
        try:
            await ctx.run(fetch, {"n": -1}, queue=queue, retry=once)
        except ChildFailed:
            found.append(-1)
    return found


async def test_a_task_runs_children_in_queues_of_both_partitions(cluster: Cluster) -> None:
    """Must hold: a parent waits for its children wherever they live, and has what they return."""
    target = Target(cluster.broker.url, cluster.broker.key_path("owner"))
    worker = Worker(QUEUES, [fetch, gather], target=target, wait_s=0.5)
    working = asyncio.create_task(worker.run())
    try:
        for queue in QUEUES:
            await cluster.submit(
                queue, {"id": f"parent-{queue}", "task": "gather", "retry": {"max_attempts": 1}}
            )
        await until(lambda: {cluster.state(queue, f"parent-{queue}") for queue in QUEUES} <= TERMINAL)
    finally:
        worker.drain()
        await working
    for queue in QUEUES:
        job = cluster.job(queue, f"parent-{queue}")
        assert job is not None
        assert job.state is State.COMPLETED, job
        assert job.output is not None
        assert json.loads(unseal(job.output)) == [0, 2, 4, 6, -1, -1, -1, -1]


async def test_an_alarm_is_found_recorded_in_whichever_log_it_is(cluster: Cluster) -> None:
    """Must hold: whoever raises one in a node of several partitions does so once."""
    logs = await cluster.link("log")
    for about in ("one", "two"):
        alarm = RaiseAlarm(tenant="default", alarm=AlarmKind.BREAK_GLASS, about=about, reason="a drill")
        await raise_alarm(logs, "engine", alarm)
    raised = [
        event
        for number in range(PARTITIONS)
        async for part in (await JetStreamLog.open(logs, number)).read()
        for message in part
        for event in decode(message.body).events
        if isinstance(event, AlarmRaised)
    ]
    assert len(raised) == 2


async def test_what_one_partition_forgets_of_the_intake_is_not_anothers(cluster: Cluster) -> None:
    here, there = QUEUES[0], next(queue for queue in QUEUES if home(queue) != home(QUEUES[0]))
    await cluster.kill(home(there))
    await cluster.submit(there, {"id": "kept"})
    await cluster.submit(here, {"id": "done"})
    await cluster.work(here, 1)
    logs = await cluster.link("log")

    async def kept() -> set[str]:
        asked = {"subjects_filter": ">"}
        state = (await api(logs, f"STREAM.INFO.{SUBMIT_STREAM}", asked))["state"]
        subjects: dict[str, int] = state.get("subjects") or {}
        return {subject.rpartition(".")[2] for subject in subjects}

    async with asyncio.timeout(WAIT_S):
        while here in await kept():  # noqa: ASYNC110 - the broker tells it to nobody
            await asyncio.sleep(0.05)
    assert await kept() == {there}
    await cluster.lead(home(there))
    await cluster.work(there, 1)
    assert cluster.states(there) == {State.COMPLETED}
