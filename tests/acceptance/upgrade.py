"""A rolling upgrade under load: each node ends and starts again as the newer Writ, and the log is raised.

    python -m tests.acceptance.upgrade [--old "PATH/TO/OLDER/writ"] [--rounds 1]

A broker of its own, a node, a standby, workers and a client that never stops. Without `--old` the older Writ
is this one held back (`--records`). At the end the log is compared with a ledger outside, every decision is
made again, and each queue's jobs were first leased in the order in which they came.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.acceptance.cluster import Cluster
from tests.acceptance.kills import checker, harness
from writ import Client
from writ.broker.connect import Target
from writ.broker.errors import WireError
from writ.schemas.upgrading import RECORDS, not_yet, written

OLD: Final = RECORDS - 1
QUEUES: Final = (harness.QUEUE, "beside")
WORKERS: Final = 2
SLOTS: Final = 8
ARRAY: Final = 10
STEP_JOBS: Final = 30
"""So many jobs end between a node's start and what is done next."""

AHEAD: Final = 150
PATIENCE_S: Final = 60.0
LEASE_S: Final = 3.0
STREAM: Final = "WRIT_LOG_0"
_TASKS: Final = str(harness.HERE / "ledger_tasks.py")


class Upgraded(NamedTuple):
    """What was seen."""

    jobs: int
    elections: dict[int, int]
    """By version of records, the leaders that were elected in it."""

    summary: dict[str, Any]


class Rolling:
    """One run in a directory of its own. `old` is the older Writ's command; () for this one, held back."""

    def __init__(self, root: Path, old: tuple[str, ...] = ()) -> None:
        self.stage = harness.Stage(root, checker)
        self.cluster = Cluster(root / "brokers", self.stage.directory, 1, "single.conf")
        self._old = old
        self._started = 0
        self._enough = False
        self._submitted = 0
        self._watch = self.stage.watch()
        self._workers: list[subprocess.Popen[bytes]] = []

    async def run(self, rounds: int = 1) -> Upgraded:
        """Upgrades node by node, raises the log, and checks. Raises AssertionError or Broken."""
        stage = self.stage
        try:
            self.cluster.start_all()
            node = await self._node(old=True)
            standby = self._stand_by(old=True)
            for number in range(WORKERS):
                name = f"worker-{number}"
                words = ("worker", _TASKS, *[w for q in QUEUES for w in ("--queue", q)], "--name", name)
                command = stage.writ(*words, "--concurrency", str(SLOTS))
                self._workers.append(stage.run(name, *command, **stage.credentials()))
            submitting = asyncio.create_task(self._submit())
            await self._go_on()
            for _ in range(rounds):
                standby = await self._replace(standby, old=False)
                await self._refused()
                # The newer one leads, and writes what the older reads: that one takes over again.
                node = await self._replace_node(node, old=True)
                await self._refused()
                standby = await self._replace(standby, old=True)
            standby = await self._replace(standby, old=False)
            node = await self._replace_node(node, old=False)
            await self._all_read_by_the_older()
            await self._raise()
            await self._left_out()
            node = await self._replace_node(node, old=False)
            await self._replace(standby, old=False)
            self._enough = True
            await submitting
            return await self._check()
        finally:
            await stage.clear()
            self.cluster.clear()

    # --- nodes ------------------------------------------------------------------------------------------

    def _words(self, *words: str, old: bool) -> tuple[str, ...]:
        if not old:
            return self.stage.writ(*words)
        return (*self._old, *words) if self._old else self.stage.writ(*words, "--records", str(OLD))

    async def _node(self, *, old: bool) -> subprocess.Popen[bytes]:
        """`writ up`; returns when it serves."""
        stage = self.stage
        where = ("--dir", str(stage.directory), "--broker-url", self.cluster.url)
        self._started += 1
        process = stage.run(f"node-{self._started}", *self._words("up", *where, old=old))
        await stage.serves(process)
        return process

    def _stand_by(self, *, old: bool) -> subprocess.Popen[bytes]:
        self._started += 1
        where = ("orchestrator", "--dir", str(self.stage.directory), "--broker-url", self.cluster.url)
        return self.stage.run(f"orchestrator-{self._started}", *self._words(*where, old=old))

    async def _replace(self, standby: subprocess.Popen[bytes], *, old: bool) -> subprocess.Popen[bytes]:
        """The standby is killed, and another stands by in its place."""
        standby.kill()
        standby.wait(PATIENCE_S)
        another = self._stand_by(old=old)
        await self._stands(another)
        await self._go_on()
        return another

    async def _replace_node(self, node: subprocess.Popen[bytes], *, old: bool) -> subprocess.Popen[bytes]:
        """The node hands over to who stands by, and starts again."""
        node.send_signal(signal.SIGTERM)
        await self.stage.ended(node, "the node", PATIENCE_S)
        await self._go_on()
        another = await self._node(old=old)
        await self._go_on()
        return another

    async def _stands(self, standby: subprocess.Popen[bytes]) -> None:
        log = self.stage.root / f"orchestrator-{self._started}.log"
        await self.stage.until(
            lambda: standby.poll() is not None or log.read_bytes().count(b" leads") > 0,
            "it stands by, or leads where its like was killed as the leader",
            PATIENCE_S,
        )
        assert standby.poll() is None, self.stage.said()

    async def _refused(self) -> None:
        """An older orchestrator takes part: nothing is raised, and it is named."""
        code, said = await self._upgrade()
        assert code == 1, said
        reasons = f"not every orchestrator reads records of version {RECORDS}", "the leader is of an older"
        assert any(words in said for words in reasons), said

    async def _raise(self) -> None:
        told = json.loads(await self._asked("status", "--json"))
        assert set(told["durability"]["reads"].values()) == {RECORDS}, told
        assert told["durability"]["written"] == OLD, told
        code, said = await self._upgrade()
        assert code == 0, said

    async def _left_out(self) -> None:
        """An older one that starts now says why it does not, and has appended nothing."""
        older = self._stand_by(old=True)
        assert await self.stage.ended(older, "the older orchestrator", PATIENCE_S) == 1
        said = (self.stage.root / f"orchestrator-{self._started}.log").read_text()
        assert "of a newer Writ" in said or f"reads up to {OLD}" in said, said

    async def _asked(self, *words: str) -> bytes:
        return await self.stage.output(*self.stage.writ(*words, "--dir", str(self.stage.directory)))

    async def _upgrade(self) -> tuple[int, str]:
        words = ("upgrade", "--dir", str(self.stage.directory), "--reason", "all are new")
        process = await asyncio.create_subprocess_exec(
            *self.stage.writ(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said, _ = await process.communicate()
        return process.returncode or 0, said.decode()

    # --- the load ---------------------------------------------------------------------------------------

    async def _submit(self) -> None:
        """Submits to both queues until there is enough; each acknowledgement goes to the ledger."""
        stage = self.stage
        ledger = os.open(stage.ledger / "client.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        async with Client(Target(stage.url, Path(stage.key_path))) as client:
            while not self._enough:
                ended = sum(1 for job in self._watch.history.jobs.values() if job["ends"])
                if self._submitted - ended > AHEAD:
                    await asyncio.sleep(0.05)
                    continue
                queue = QUEUES[self._submitted // ARRAY % len(QUEUES)]
                numbers = range(self._submitted, self._submitted + ARRAY)
                some: list[dict[str, Any]] = [
                    {"id": f"job-{n:06}", "task": "on_the_loop", "input": {"ms": 5}, "lease_s": LEASE_S}
                    for n in numbers
                ]
                while True:
                    with suppress(WireError, TimeoutError):  # sent again, with the same ids
                        await client.submit_many(queue, some, timeout_s=PATIENCE_S)
                        break
                at_us = time.time_ns() // 1_000
                acks = [{"what": "ack", "queue": queue, "id": job["id"], "at_us": at_us} for job in some]
                os.write(ledger, "".join([json.dumps(ack) + "\n" for ack in acks]).encode())
                os.fsync(ledger)
                self._submitted += ARRAY
        os.close(ledger)

    async def _go_on(self) -> None:
        """Returns when more jobs have ended: whoever leads now does."""
        jobs = self._watch.history.jobs
        wanted = STEP_JOBS + sum(1 for job in jobs.values() if job["ends"])
        await self._watch.until(
            lambda log: sum(1 for job in log.jobs.values() if job["ends"]) >= wanted,
            f"{wanted} jobs have ended",
            PATIENCE_S,
        )

    # --- checks -----------------------------------------------------------------------------------------

    async def _bodies(self) -> list[dict[str, Any]]:
        key = self.stage.directory / "keys" / "log.creds"
        return [json.loads(each.body) for each in await checker.read_log(self.stage.url, key, STREAM)]

    async def _all_read_by_the_older(self) -> None:
        """Nothing in the log is of a version that the older Writ does not know, whoever led."""
        for body in await self._bodies():
            for event in body["events"]:
                name, version = event["type"], event["v"]
                assert name not in not_yet(OLD), body
                assert version <= written(OLD).get(name, 1), body

    async def _elections(self) -> dict[int, int]:
        """Leaders by the version of records in which they were elected."""
        found: dict[int, int] = defaultdict(int)
        for body in await self._bodies():
            for event in body["events"]:
                if event["type"] == "leader_elected":
                    found[event["data"].get("records", 1)] += 1
        return dict(found)

    async def _check(self) -> Upgraded:
        stage = self.stage
        await self._watch.until(
            lambda log: len(log.jobs) == self._submitted and all(job["ends"] for job in log.jobs.values()),
            f"all {self._submitted} jobs have ended",
            PATIENCE_S,
        )
        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)
        for worker in self._workers:
            await stage.ended(worker, "a worker", PATIENCE_S)
        summary = await stage.verdict()
        assert summary["jobs"] == summary["acknowledged"] == self._submitted
        assert set(summary["states"]) == {"completed"}
        await self._asked("audit", "verify")
        await self._asked("replay", "--verify")
        in_their_order(await self._bodies())
        return Upgraded(self._submitted, await self._elections(), summary)


def in_their_order(bodies: list[dict[str, Any]]) -> None:
    """Each queue's jobs are first leased in the order in which they were submitted."""
    came: dict[str, list[str]] = defaultdict(list)
    leased: dict[str, dict[str, None]] = defaultdict(dict)
    for body in bodies:
        queue = body["key"].partition("~")[0]
        for event in body["events"]:
            if event["type"] == "job_submitted":
                came[queue].append(body["key"])
            elif event["type"] == "lease_granted":
                leased[queue].setdefault(body["key"])
    assert set(came) == set(QUEUES)
    for queue, jobs in came.items():
        assert list(leased[queue]) == jobs, f"queue {queue} was not first in first out"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make upgrade", description=__doc__)
    parser.add_argument("--old", default="", help="the command of an older Writ [this one, held back]")
    parser.add_argument("--rounds", type=int, default=3, help="forth and back before the log is raised [3]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="writ-upgrade-") as root:
        told = asyncio.run(Rolling(Path(root), tuple(shlex.split(args.old))).run(args.rounds))
    elected = ", ".join(f"{count} in version {version}" for version, count in sorted(told.elections.items()))
    print(
        f"upgrade: {told.jobs:,} jobs, none lost or doubled, each queue in its order; audit verify 0; "
        f"leaders elected: {elected}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
