"""Kills around steps, against a counting service outside: `make step-proof`.

No effect that was not declared idempotent happens twice. A step whose outcome is unknown is probed, undone,
or shown to a person: here one who looks at the service and says the truth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from writ.broker.client import Client
from writ.broker.connect import Target, connect
from writ.broker.errors import Refused
from writ.broker.log import JetStreamLog
from writ.node import Node
from writ.orchestrator.replay.verify import verify
from writ.schemas.codec import decode
from writ.schemas.events import type_names
from writ.schemas.policy import Retry

HERE = Path(__file__).parent
QUEUE = "proof"
KINDS = (["ask", "repeat", "probe"], ["probe", "compensate"], ["compensate", "ask"], ["ask", "probe"])
PATIENT = Retry(max_lease_losses=1_000_000, initial_interval_s=0.1)


class Service:
    """Outside: counts effects by key, takes them back, and hears who is about to die."""

    def __init__(self) -> None:
        self.effects: Counter[str] = Counter()
        self.undone: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()

    async def serve(self) -> asyncio.Server:
        return await asyncio.start_server(self._answer, "127.0.0.1", 0)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        said = json.loads(line) if line else {"do": "nothing"}  # it died before it had said it
        answer: object = True
        match said["do"]:
            case "effect":
                self.effects[said["key"]] += 1
            case "undo":
                # What was never done, or undone before, has nothing to undo.
                self.undone[said["key"]] = self.effects[said["key"]]
            case "look":
                answer = self.effects[said["key"]] > 0
            case "killed":
                self.kills[said["moment"]] += 1
            case _:
                pass
        writer.write(json.dumps(answer).encode() + b"\n")
        writer.close()


class Proof(NamedTuple):
    """What came of it. `twice` names effects that stand more than once and were not declared idempotent."""

    jobs: int
    completed: int
    kills: Counter[str]
    twice: list[str]
    missing: list[str]
    repeated: int
    asked: int
    events: Counter[str]
    faults: list[str]

    def line(self, took_s: float) -> str:
        moments = ", ".join(f"{count} {name}" for name, count in sorted(self.kills.items()))
        return (
            f"{self.kills.total()} kills ({moments}) around {self.events['step_intended']} begun steps of "
            f"{self.completed} of {self.jobs} jobs in {took_s:.0f} s: {len(self.twice)} effects twice, "
            f"{len(self.missing)} missing, {self.asked} asked about, "
            f"{self.events['step_compensated']} undone, "
            f"{self.repeated} repeated as declared idempotent; {len(self.faults)} faults in the log"
        )


async def prove(kills: int, workers: int, directory: Path) -> Proof:
    """Jobs with steps while at least so many of their processes are killed around one."""
    service = Service()
    server = await service.serve()
    node = await Node.start(directory)
    target = Target(node.url, node.broker.key_path("owner"))
    environment = {
        **os.environ,
        "COUNTING_PORT": str(server.sockets[0].getsockname()[1]),
        "NATS_URL": node.url,
        "NATS_NKEY": str(node.broker.key_path("owner")),
    }
    command = [sys.executable, str(HERE / "breeder.py"), str(HERE / "tasks.py"), str(workers), QUEUE]
    breeder = await asyncio.create_subprocess_exec(
        *command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        async with Client(target) as client:
            jobs, asked = await _run(client, service, kills)
            counts = (await client.status()).jobs
        link = await connect(Target(node.url, node.broker.key_path("log")), "proof", inbox_prefix="_INBOX")
        try:
            log = JetStreamLog(link, 0, 1)
            faults = [str(fault) for fault in (await verify(log)).faults]
            records = [decode(m.body) async for part in log.read() for m in part]
        finally:
            await link.close()
    finally:
        await breeder.communicate(b"\n")  # anything ends it
        await node.stop()
        server.close()
    stands = {key: service.effects[key] - service.undone[key] for key in service.effects}
    firm = {key: count for key, count in stands.items() if not key.endswith("/repeat")}
    wanted = [f"p{n}/{step}/{kind}" for n in range(jobs) for step, kind in enumerate(KINDS[n % len(KINDS)])]
    return Proof(
        jobs,
        counts.get("completed", 0),
        service.kills,
        [key for key, count in firm.items() if count > 1],
        [key for key in wanted if stands.get(key, 0) < 1],
        sum(count - 1 for key, count in stands.items() if key.endswith("/repeat")),
        asked,
        Counter(type_names[type(event)] for record in records for event in record.events),
        faults,
    )


async def _run(client: Client, service: Service, kills: int) -> tuple[int, int]:
    """Submits as long as there were too few kills, and answers what is asked, until all jobs have ended."""
    jobs = asked = 0
    while True:
        counts = (await client.status()).jobs
        live = sum([counts.get(state, 0) for state in ("pending", "running", "retrying", "scheduled")])
        at_once = min(12, kills)
        if service.kills.total() < kills and live < 2 * at_once:
            for _ in range(at_once):
                kinds, task = KINDS[jobs % len(KINDS)], ("steps.proof", "steps.plainly")[jobs % 2]
                await client.submit(QUEUE, task, {"kinds": kinds}, id=f"p{jobs}", lease_s=1, retry=PATIENT)
                jobs += 1
        waiting = (await client.jobs(states=["suspended"], queue=QUEUE, limit=100)).jobs
        for job in waiting:
            asked += await _answer(client, service, job.id, job.wait.on[0] if job.wait else "")
        if service.kills.total() >= kills and not live and not waiting:
            return jobs, asked
        await asyncio.sleep(0.05)


async def _answer(client: Client, service: Service, job_id: str, on: str) -> bool:
    """Says of a step what the service knows of it."""
    if not on:
        return False
    step = int(on.removeprefix("step ")) - 1
    kind = KINDS[int(job_id[1:]) % len(KINDS)][step]
    done = service.effects[f"{job_id}/{step}/{kind}"] > 0
    said = {"done": True, "result": step * 10} if done else {"done": False}
    try:
        await client.approve(job_id, QUEUE, "looked at the service", data=said)
    except Refused:
        return False  # answered already: the view was behind
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=6)
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        proof = asyncio.run(prove(given.kills, given.workers, Path(directory) / "writ"))
    print(proof.line(time.monotonic() - began))
    for what in (*proof.twice, *proof.missing, *proof.faults):
        print(f"  {what}")
    return 1 if proof.twice or proof.missing or proof.faults or proof.completed < proof.jobs else 0


if __name__ == "__main__":
    sys.exit(main())
