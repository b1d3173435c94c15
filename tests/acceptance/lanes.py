"""One queue in lanes over two partitions, with leaders killed while two submitters race for each unique key.

    python -m tests.acceptance.lanes [--jobs 2000] [--kills 5] [--seed 1]

A node of two partitions with who stands by for each, as in `growing`; `writ apply` gives one queue its
lanes. Jobs without a key are spread by their ids, and of each key both submitters send one at the same time.
At the end `writ audit verify` says whether the logs are whole, each decision is made again, and every job is
looked for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple

from tests.acceptance.growing import BEFORE, WAIT_S, Growing
from writ.broker.archive import ArchivedLog
from writ.broker.client import Client
from writ.broker.connect import Target
from writ.broker.errors import WireError
from writ.broker.log import JetStreamLog
from writ.broker.results import JobHandle
from writ.orchestrator.replay.verify import verify
from writ.schemas.codec import decode
from writ.schemas.events import JobCompleted, JobSubmitted, LeaseGranted
from writ.schemas.ids import lane_for, lanes_of, split_job_key
from writ.workers import Worker, task

QUEUE: Final = "orders"
LANES: Final = 4
NAMES: Final = lanes_of(QUEUE, LANES)
PACE_S: Final = 0.01


class Told(NamedTuple):
    """What a run came to. `wrong` is everything that must not be."""

    jobs: int
    by_partition: dict[int, int]
    wrong: list[str]


@task
async def pack(number: int) -> int:
    await asyncio.sleep(PACE_S)
    return number


class Spread(Growing):
    """Two submitters, a worker, and who kills."""

    def __init__(self, root: Path, jobs: int, kills: int, seed: int) -> None:
        super().__init__(root, jobs, kills, 0, seed)
        self.handles: list[JobHandle] = []

    async def spread(self) -> Told:
        """Raises TimeoutError where it does not come to an end."""
        async with AsyncExitStack() as parts:
            await self.open(parts)
            for queue in (QUEUE, *NAMES):  # each partition must have heard of its owner
                async with asyncio.timeout(WAIT_S):
                    while await self._ask("acquire", queue, count=1) is None:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
            policies = self.stage.root / "policies.toml"
            policies.write_text(f"[queues.{QUEUE}]\nlanes = {LANES}\nlimits = {{lease_s = 3}}\n")
            await self._writ("apply", str(policies))
            owner = Target(self.stage.url, Path(self.stage.key_path))
            worker = Worker(QUEUE, [pack], concurrency=16, target=owner, wait_s=1.0)
            working = asyncio.create_task(worker.run())
            clients = [await parts.enter_async_context(Client(owner)) for _ in range(2)]
            for client in clients:
                async with asyncio.timeout(WAIT_S):
                    while await client.lanes(QUEUE) != LANES:  # noqa: ASYNC110 - the view may be behind
                        await asyncio.sleep(0.05)
            submits = [self._submits(number, client) for number, client in enumerate(clients)]
            await asyncio.gather(self._kill_leaders(), *submits)
            ended = [self.client.result(job, timeout_s=4 * WAIT_S) for job in self.handles]
            await asyncio.gather(*ended)
            worker.drain()
            await working
            return await self._found()

    async def _submits(self, number: int, client: Client) -> None:
        """Half without a key and half with one; the other submitter sends the same keys."""
        chance = random.Random(number)
        for each in range(self.jobs // 4):
            for key, sign in ((f"key-{each}", "k"), (None, "f")):
                await self._submit_one(client, each, f"{number}-{each}-{sign}", key)
            await asyncio.sleep(chance.random() * 0.01)

    async def _submit_one(self, client: Client, number: int, id: str, key: str | None) -> None:
        """Said again until the broker has it: an id is one job."""
        while True:
            with suppress(WireError):
                given = {"number": number}
                job = await client.submit(QUEUE, "pack", given, id=id, unique_key=key, timeout_s=WAIT_S)
                self.handles.append(job)
                return

    async def _kill_leaders(self) -> None:
        for kill in range(self.kills):
            await asyncio.sleep(self.random.uniform(0.2, 2.0))
            await self._kill(kill % BEFORE)

    async def _found(self) -> Told:
        checks = json.loads(await self._writ("audit", "verify", "--json"))
        wrong = [] if len(checks) == BEFORE else [f"audit verify tells of {checks}"]
        by_partition = dict.fromkeys(range(BEFORE), 0)
        ends, submitted = Counter[str](), Counter[str]()
        taken: dict[str, list[str]] = {}
        granted: dict[str, dict[str, None]] = {}
        for number in range(BEFORE):
            log = ArchivedLog.beside(self.stage.directory, await JetStreamLog.open(self.logs, number))
            wrong += [f"partition {number}: {fault}" for fault in (await verify(log)).faults]
            live: dict[str, str] = {}
            keys: dict[str, str] = {}
            async for part in log.read():
                for record in (decode(message.body) for message in part):
                    lane = split_job_key(record.key)[0]
                    for event in record.events:
                        if isinstance(event, JobSubmitted):
                            submitted[record.key] += 1
                            by_partition[number] += 1
                            taken.setdefault(lane, []).append(record.key)
                            if event.unique_key is None:
                                continue
                            if lane != lane_for(QUEUE, LANES, event.unique_key):
                                wrong.append(f"{record.key} with key {event.unique_key} is in another lane")
                            if event.unique_key in live:
                                wrong.append(f"{record.key} and {live[event.unique_key]} live together")
                            live[event.unique_key], keys[record.key] = record.key, event.unique_key
                        elif isinstance(event, LeaseGranted):
                            granted.setdefault(lane, {}).setdefault(record.key)
                        elif isinstance(event, JobCompleted):
                            ends[record.key] += 1
                            live.pop(keys.get(record.key, ""), None)
        wrong += [f"{key} was taken in {count} times" for key, count in submitted.items() if count != 1]
        wrong += [f"{key} ended {ends[key]} times" for key in submitted if ends[key] != 1]
        wrong += [
            f"lane {lane} is not first in first out" for lane in taken if taken[lane] != [*granted[lane]]
        ]
        for job in self.handles:
            if f"{job.queue}~{job.id}" not in submitted:
                wrong.append(f"{job.queue}~{job.id} was submitted, and is in no log")
        if set(taken) != set(NAMES):
            wrong.append(f"jobs are in {sorted(taken)}")
        return Told(len(submitted), by_partition, wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=2_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="writ-lanes-") as folder:
        told = asyncio.run(Spread(Path(folder), args.jobs, args.kills, args.seed).spread())
    print(f"{told.jobs:,} jobs in {LANES} lanes, {args.kills} kills; jobs by partition: {told.by_partition}")
    for wrong in told.wrong[:20]:
        print(f"WRONG: {wrong}")
    return 1 if told.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
