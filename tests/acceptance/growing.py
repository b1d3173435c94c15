"""Partitions 2 -> 4 under load by the command line alone, with leaders killed meanwhile.

    python -m tests.acceptance.growing [--jobs 20000] [--kills 20] [--seed 1] [--moves 100]

A broker of its own, `writ up --partitions 2`, and a `writ orchestrator` that stands by for each of the two.
While jobs are submitted and worked on, `writ partitions grow 4` makes two more; shards that hold nothing are
moved to them, queues in those shards get their first jobs, and whoever leads is killed. Submits are on their
way to a shard as it is cut: before that such as are refused, so that it holds nothing and still has a
position, and at the mark and as it is given away the first that are taken in. At the end `writ audit verify`
says whether the logs are whole, each decision is made again, and every job that was submitted is looked for
in all logs, as is every submit that was refused.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from nats.errors import Error as NatsError

from tests.acceptance.cluster import Cluster
from tests.acceptance.kills import checker, harness
from writ.broker.archive import ArchivedLog
from writ.broker.client import Client
from writ.broker.connect import Target, connect
from writ.broker.errors import Refused, WireError
from writ.broker.log import JetStreamLog
from writ.broker.requests import NatsRequests
from writ.orchestrator.replay.verify import verify
from writ.schemas.bounds import SHARDS
from writ.schemas.codec import decode
from writ.schemas.events import (
    CommandRejected,
    JobCompleted,
    JobSubmitted,
    LeaseGranted,
    RejectionsFolded,
)
from writ.schemas.ids import queue_in, shard_of
from writ.schemas.links import MessageSent
from writ.schemas.shards import ShardAwaited, ShardKept, ShardMoved

BEFORE: Final = 2
AFTER: Final = 4
LEASE_S: Final = 3
WAIT_S: Final = 60.0
BATCH: Final = 25
SOME_TIME_S: Final = 6.0
"""Within so long after the first shard is on its way, each queue that is new has its first job."""

WRONG: Final = 9
"""A priority that there is not."""

OWN: Final = "default.owner"


class Told(NamedTuple):
    """What a run came to. `wrong` is everything that must not be."""

    jobs: int
    kills: int
    moved: int
    kept: int
    refused: int
    """Submits to shards on their way that could not be accepted."""

    at_cuts: int
    """Queues whose first jobs came while their shard was given away."""

    by_partition: dict[int, int]
    wrong: list[str]


# --- the system -----------------------------------------------------------------------------------------


class Growing:
    """A node on a broker of its own, who stands by, submitters, workers, and who moves shards and kills."""

    def __init__(self, root: Path, jobs: int, kills: int, moves: int, seed: int) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.stage = harness.Stage(root, checker)
        self.cluster = Cluster(root / "brokers", self.stage.directory, 1, "single.conf")
        self.random = random.Random(seed)
        self.jobs = jobs
        self.kills = kills
        self.standbys: dict[int, subprocess.Popen[bytes]] = {}
        self.submitted: dict[str, list[str]] = {}
        self.completed: set[str] = set()
        self.refused = 0
        self.marks = {shard: asyncio.Event() for shard in range(SHARDS)}
        """Set as the intake gets the mark at which a shard is cut."""

        self.cuts = {shard: asyncio.Event() for shard in range(SHARDS)}
        """Set as the record that gives a shard away is on its way to the log."""

        self.awaited: set[int] = set()
        """Shards for which a receiver stands still."""

        self.node: subprocess.Popen[bytes]
        self.link: Any
        self.logs: Any
        self.client: Client
        # Half of what there is goes to the new ones, and half of that is used for the first time meanwhile.
        self.shards = [shard for shard in range(256) if shard % AFTER >= BEFORE][:moves]
        self.used = [queue_in("default", shard) for shard in (0, 1, 4, 5)]
        self.fresh = [queue_in("default", shard) for shard in self.shards if shard % 8 >= AFTER]

    async def open(self, parts: AsyncExitStack) -> None:
        parts.push_async_callback(self._close)
        self.cluster.start_all()
        await self._start_node()
        for number in range(BEFORE):
            self._stand_by(number)
        owner = Target(self.stage.url, Path(self.stage.key_path))
        self.link = await connect(owner, "grow:owner")
        parts.push_async_callback(self.link.close)
        self.client = await parts.enter_async_context(Client(owner))
        log = Target(self.stage.url, self.stage.directory / "keys" / "log.creds")
        self.logs = await connect(log, "grow:look", inbox_prefix="_INBOX")
        parts.push_async_callback(self.logs.close)

        await self.logs.feed("writ.shard.*.submit.*.mark", self._marked)
        await self.logs.feed("writ.log.*.*.link.*", self._said)

    def _marked(self, subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        self.marks[int(subject.split(b".")[2])].set()

    def _said(self, subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        """Takes what partitions say to each other of shards, on its way to their logs."""
        for event in decode(body).events:
            match event.content if isinstance(event, MessageSent) else None:
                case ShardAwaited(shard=shard):
                    self.awaited.add(shard)
                case ShardMoved(shard=shard):
                    self.cuts[shard].set()
                    self.awaited.discard(shard)
                case ShardKept(shard=shard):
                    self.awaited.discard(shard)
                case _:
                    pass

    async def _close(self) -> None:
        await self.stage.clear()
        self.cluster.clear()

    def _words(self, verb: str, *words: str) -> tuple[str, ...]:
        where = ("--dir", str(self.stage.directory), "--broker-url", self.cluster.url)
        return self.stage.writ(verb, *where, *words)

    async def _start_node(self) -> None:
        self.node = self.stage.run("node", *self._words("up", "--partitions", str(BEFORE)))
        await self.stage.serves(self.node)

    def _stand_by(self, number: int) -> None:
        words = self._words("orchestrator", "--partition", str(number))
        self.standbys[number] = self.stage.run(f"orchestrator-{number}", *words)

    async def _writ(self, *words: str) -> bytes:
        """A command of this Writ that must succeed; what it printed."""
        return await self.stage.output(*self.stage.writ(*words, "--dir", str(self.stage.directory)))

    async def _kill(self, number: int) -> None:
        """kill -9 of whoever leads a partition: the node itself, a process of it, or who stood by."""
        async with asyncio.timeout(WAIT_S):
            while (leader := await NatsRequests(self.logs, self.logs).who(number)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        pid = int(leader.rsplit("-", 2)[1])
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        standby = self.standbys.get(number)
        if pid == self.node.pid:
            self.node.wait()
            await self._start_node()
        elif standby is not None and pid == standby.pid:
            standby.wait()
            self._stand_by(number)

    async def run(self) -> Told:
        """Raises TimeoutError where it does not come to an end."""
        async with AsyncExitStack() as parts:
            await self.open(parts)
            for queue in self.used:  # each partition must have heard of its owner
                async with asyncio.timeout(WAIT_S):
                    while await self._ask("acquire", queue, count=1) is None:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
            submits = asyncio.create_task(self._submit(self.used, self.jobs // 2))
            works = [asyncio.create_task(self._work(queue)) for queue in self.used + self.fresh]
            try:
                async with asyncio.timeout(WAIT_S):
                    while len(self.completed) < min(200, self.jobs // 8):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                await self._writ("partitions", "grow", str(AFTER))
                killing = asyncio.create_task(self._kill_some())
                moving = asyncio.create_task(self._move_all())
                works.append(refusing := asyncio.create_task(self._submit_what_is_refused(moving)))
                await self._on_its_way()
                each = (self.jobs - self.jobs // 2) // len(self.fresh)
                await asyncio.gather(*[self._submit_some_time(queue, each) for queue in self.fresh])
                await asyncio.gather(submits, moving, killing, refusing)
                async with asyncio.timeout(4 * WAIT_S):
                    while len(self.completed) < self.total:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
                    await self._settled()
            finally:
                for work in works:
                    work.cancel()
                await asyncio.gather(*works, return_exceptions=True)
            return await self._look()

    @property
    def total(self) -> int:
        """Jobs that were submitted."""
        return sum(len(ids) for ids in self.submitted.values())

    # --- what goes on -------------------------------------------------------------------------------------

    async def _submit(self, queues: list[str], count: int) -> None:
        """So many jobs over the queues, each queue's in the order of their ids, some at a time."""
        ids: Iterator[int] = itertools.count()
        for begin in range(0, count, BATCH):
            queue = queues[begin // BATCH % len(queues)]
            names = [f"{next(ids):06}" for _ in range(min(BATCH, count - begin))]
            work = [{"task": "t", "id": name, "lease_s": LEASE_S} for name in names]
            await self._publish(queue, work, f"{queue}-{names[0]}")
            self.submitted.setdefault(queue, []).extend(names)
            await asyncio.sleep(self.random.random() * 0.02)

    async def _publish(self, queue: str, work: Any, name: str) -> None:
        """One message, once by its name, until the intake has it."""
        body = json.dumps(work).encode()
        while True:
            with suppress(NatsError, TimeoutError):
                stored = await self.link.request(
                    f"writ.submit.{OWN}.{queue}", body, timeout=5, headers={"Nats-Msg-Id": name}
                )
                if "seq" in json.loads(stored.data):
                    return
            await asyncio.sleep(0.05)

    async def _submit_some_time(self, queue: str, count: int) -> None:
        """The first jobs of a queue: at the cut of its shard, at the mark before that, or some time."""
        shard = shard_of("default", queue)
        async with asyncio.timeout(2 * WAIT_S):
            match self._begins(queue):
                case 0:
                    await self.cuts[shard].wait()
                case 1:
                    await self.marks[shard].wait()
                case _:
                    await asyncio.sleep(self.random.uniform(0, SOME_TIME_S))
        await self._submit([queue], count)

    def _begins(self, queue: str) -> int:
        """When a queue has its first jobs: 0 for the cut of its shard, 1 for the mark, 2 for whenever."""
        return self.fresh.index(queue) // BEFORE % 3

    async def _submit_what_is_refused(self, moving: asyncio.Task[None]) -> None:
        """Submits that record nothing in their shards while these move: to those for which somebody waits."""
        home = {shard_of("default", queue): queue for queue in self.fresh}
        while not moving.done():
            shards = sorted(self.awaited & home.keys()) or list(home)
            queue = home[self.random.choice(shards)]
            await self._publish(queue, {"task": "t", "priority": WRONG}, f"refused-{self.refused}")
            self.refused += 1
            await asyncio.sleep(self.random.random() * 0.01)

    async def _is_there(self, shard: int) -> bool:
        with suppress(WireError):
            return (await self.client.shards()).shards[shard] == shard % AFTER
        return False

    async def _work(self, queue: str) -> None:
        again = False
        while True:
            more: dict[str, Any] = {"again": True, "known": []} if again else {"wait_s": 2.0}
            got = await self._ask("acquire", queue, count=50, **more)
            again = got is None
            leases = (got or {}).get("leases", [])
            reports = [{"id": each["id"], "token": each["token"]} for each in leases]
            while reports and await self._ask("complete", queue, reports=reports) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # said again: what was heard once changes nothing
            self.completed.update(f"{queue}~{each['id']}" for each in reports)

    async def _ask(self, verb: str, queue: str, **command: Any) -> dict[str, Any] | None:
        """None where no answer came; who asks again is told the same."""
        body = json.dumps({"worker": "w"} | command).encode()
        try:
            answer = await self.link.request(f"writ.lease.{OWN}.{verb}.{queue}", body, timeout=5)
        except (NatsError, TimeoutError):
            await asyncio.sleep(0.1)
            return None
        said: dict[str, Any] = json.loads(answer.data)
        if "error" in said:
            await asyncio.sleep(0.1)
            return None
        return said

    async def _move(self, shard: int) -> None:
        """Asks until it is on its way, or refused for good."""
        queue = queue_in("default", shard)
        async with asyncio.timeout(2 * WAIT_S):
            while True:
                try:
                    await self.client.move_shard(queue, shard % AFTER, timeout_s=5)
                    return
                except Refused as refused:
                    reason = str(refused)
                    if "already" in reason or "on its way" in reason or "in use" in reason:
                        return
                    await asyncio.sleep(0.2)  # its leader does not know of four partitions yet
                except WireError:
                    await asyncio.sleep(0.2)

    async def _move_all(self) -> None:
        await asyncio.gather(*[self._move(shard) for shard in self.shards])

    async def _on_its_way(self) -> None:
        """Until the first shard is: what is submitted from then on may come before or after it is there."""
        async with asyncio.timeout(WAIT_S):
            while True:
                with suppress(WireError):
                    told = await self.client.shards()
                    if told.moving or any(told.shards[shard] != shard % BEFORE for shard in self.shards):
                        return
                await asyncio.sleep(0.02)

    async def _kill_some(self) -> None:
        for _ in range(self.kills):
            await asyncio.sleep(self.random.uniform(0.2, 2.5))
            await self._kill(self.random.randrange(AFTER))

    async def _settled(self) -> None:
        """Until no shard is on its way."""
        for shard in self.shards:
            while True:
                with suppress(WireError):
                    if shard not in (await self.client.shards()).moving:
                        break
                await asyncio.sleep(0.2)

    # --- what it came to ----------------------------------------------------------------------------------

    async def _look(self) -> Told:
        wrong: list[str] = []
        checks = json.loads(await self._writ("audit", "verify", "--json"))
        if [each["partition"] for each in checks] != list(range(AFTER)):
            wrong.append(f"audit verify tells of {checks}")
        taken: dict[str, list[tuple[int, str]]] = {}
        granted: dict[str, list[str]] = {}
        ends = Counter[str]()
        moved = kept = refused = 0
        by_partition = dict.fromkeys(range(AFTER), 0)
        for number in range(AFTER):
            log = ArchivedLog.beside(self.stage.directory, await JetStreamLog.open(self.logs, number))
            verified = await verify(log)
            wrong += [f"partition {number}: {fault}" for fault in verified.faults]
            first = set[str]()
            async for part in log.read():
                for record in (decode(message.body) for message in part):
                    for event in record.events:
                        queue, _, id_ = record.key.partition("~")
                        if isinstance(event, JobSubmitted):
                            taken.setdefault(queue, []).append((number, id_))
                            by_partition[number] += 1
                        elif isinstance(event, LeaseGranted) and record.key not in first:
                            first.add(record.key)
                            granted.setdefault(queue, []).append(id_)
                        elif isinstance(event, CommandRejected | RejectionsFolded):
                            refused += event.count if _of_submit(event) else 0
                        elif isinstance(event, JobCompleted):
                            ends[record.key] += 1
                        elif isinstance(event, MessageSent):
                            moved += isinstance(event.content, ShardMoved)
                            kept += isinstance(event.content, ShardKept)
        for queue, ids in self.submitted.items():
            found = taken.get(queue, [])
            if [id_ for _, id_ in found] != ids:
                wrong.append(f"queue {queue}: {len(ids)} were submitted, and taken in: {found[:5]}...")
            if len({number for number, _ in found}) > 1:
                wrong.append(f"queue {queue} is in partitions {sorted({n for n, _ in found})}")
            if granted.get(queue, []) != ids:
                wrong.append(f"queue {queue} (shard {shard_of('default', queue)}) is not first in first out")
            wrong += [
                f"{queue}~{i} ended {ends[f'{queue}~{i}']} times" for i in ids if ends[f"{queue}~{i}"] != 1
            ]
        if refused != self.refused:
            wrong.append(f"{self.refused} submits could not be accepted, and {refused} refusals are recorded")
        at_cuts = sum([self._begins(queue) == 0 and bool(taken.get(queue)) for queue in self.fresh])
        if sum(by_partition.values()) != self.total:
            wrong.append(f"{self.total} jobs were submitted, and {by_partition} are in the logs")
        return Told(self.total, self.kills, moved, kept, refused, at_cuts, by_partition, wrong)


def _of_submit(event: CommandRejected | RejectionsFolded) -> bool:
    """Whether it tells of a submit that could not be accepted, and not of a shard that could not move."""
    return isinstance(event, RejectionsFolded) or event.verb == "submit"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="writ-grow-") as folder:
        growing = Growing(Path(folder), args.jobs, args.kills, args.moves, args.seed)
        told = asyncio.run(growing.run())
    print(
        f"{told.jobs:,} jobs, {told.kills} kills; {told.moved} shards moved and {told.kept} stayed, "
        f"as they came into use on their way; {told.at_cuts} queues had their first jobs as their shard was "
        f"given away, and {told.refused:,} submits were refused once each; "
        f"jobs by partition: {told.by_partition}"
    )
    for wrong in told.wrong[:20]:
        print(f"WRONG: {wrong}")
    return 1 if told.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
