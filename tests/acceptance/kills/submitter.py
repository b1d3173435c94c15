"""A client process: submits jobs and writes every acknowledgement to the ledger, synced to disk.

    python submitter.py QUEUE JOBS HELD_BACK LEASE_S GO_FILE

The last HELD_BACK jobs are held back until GO_FILE exists, but for some that come one at a time meanwhile, so
that submitting is under way whenever something is killed. NATS_URL and NATS_NKEY say where, LEDGER is
the ledger's directory.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from writ import Client

LANES = 16
PAUSE_S = 0.02
ARRAY = 10
TIMEOUT_S = 90.0
TRICKLE_S = 0.05


class Submitter:
    """Sends the jobs of all lanes; lane 0 sends arrays."""

    def __init__(self, client: Client, queue: str, lease_s: float) -> None:
        self.client = client
        self.queue = queue
        self.lease_s = lease_s
        path = Path(os.environ["LEDGER"]) / "client.jsonl"
        self.ledger = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def job(self, number: int) -> dict[str, Any]:
        return {
            "id": f"job-{number:05}",
            "task": "in_a_thread" if number % 2 else "on_the_loop",
            "input": {"ms": 50 + number * 37 % 151},
            "lease_s": self.lease_s,
        }

    def acknowledged(self, ids: Iterable[str]) -> None:
        at_us = time.time_ns() // 1_000
        lines = [
            json.dumps({"what": "ack", "queue": self.queue, "id": i, "at_us": at_us}) + "\n" for i in ids
        ]
        os.write(self.ledger, "".join(lines).encode())
        os.fsync(self.ledger)

    async def send(self, numbers: range) -> None:
        """Submits the jobs of these numbers, in lanes that take turns."""
        left = iter(numbers)
        await asyncio.gather(*(self._lane(left, ARRAY if lane == 0 else 1) for lane in range(LANES)))

    async def _lane(self, left: Iterator[int], count: int) -> None:
        while jobs := [self.job(number) for number in itertools.islice(left, count)]:
            if count > 1:
                handles = await self.client.submit_many(self.queue, jobs, timeout_s=TIMEOUT_S)
                self.acknowledged(handle.id for handle in handles)
            else:
                handle = await self.client.submit(self.queue, timeout_s=TIMEOUT_S, **jobs[0])
                self.acknowledged([handle.id])
            await asyncio.sleep(PAUSE_S)


async def main() -> None:
    queue, jobs, held_back, lease_s, go = sys.argv[1:6]
    last = int(jobs)
    first = last - int(held_back)
    async with Client() as client:
        submitter = Submitter(client, queue, float(lease_s))
        await submitter.send(range(first))
        trickled = iter(range(first, last - int(held_back) // 2))
        while not os.path.exists(go):  # noqa: ASYNC240 - another process makes it
            for number in itertools.islice(trickled, 1):
                await submitter.send(range(number, number + 1))
                first = number + 1
            await asyncio.sleep(TRICKLE_S)
        await submitter.send(range(first, last))


asyncio.run(main())
