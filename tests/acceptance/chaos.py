"""Kills and stops every part of a running system under load, and then checks all of its history.

A node, two orchestrators that stand by, workers in threads and with isolated attempts, and a client are
processes or tasks of their own. Each part is picked in turn, and gets `kill -9`, or SIGSTOP for longer
than a lease lives, while enough leases are live. Every acknowledgement and every execution stands in a
ledger outside. At the end the log is compared with the ledger and with what is listed, every decision is
made again, and every view is built anew beside the one there. Executions that came twice are counted: a
worker that dies after its work has done it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.acceptance.apart import Apart
from tests.acceptance.cluster import Cluster
from tests.acceptance.disk import Disk
from tests.acceptance.kills import checker, harness
from tests.acceptance.retention import Proof
from writ import Client
from writ.broker.archive import ArchivedLog
from writ.broker.connect import Target, connect
from writ.broker.errors import WireError
from writ.broker.log import JetStreamLog

PARTS: Final = ("leader", "standby", "worker", "isolated child", "views", "broker")
CLUSTERED: Final = (*PARTS[:-1], "broker leader", "broker follower")
"""Where the broker is a cluster."""

STOPS_ALL: Final = ("leader", "broker", "broker leader")
"""Until each of these is replaced, the log stands still."""

CUT_S: Final = 8.0
STREAMS: Final = ("WRIT_LOG_0", "WRIT_SUBMIT")
STOPPED: Final = ("leader", "standby", "worker", "broker", "broker leader")
"""What can stand still for a while and go on; the others are waited for by nobody."""

LEASE_S: Final = 2.0
STOP_S: Final = 4.0
LIVE: Final = 50
HELD: Final = 15
"""Of these, so many by a worker that is picked."""

SLOTS: Final = 60
ARRAY: Final = 25
AHEAD: Final = 600
"""Jobs that have not ended, from which on the client waits."""

PATIENCE_S: Final = 60.0
_EVER_S: Final = 86_400.0
_ISOLATED: Final = """
import os

os.environ["LEDGER"] = {ledger!r}
exec(compile(open({tasks!r}).read(), {tasks!r}, "exec"))
"""


class Lost(AssertionError):
    """What was acknowledged is not on the disk."""


class Told(NamedTuple):
    """What was done, and what was seen to hold."""

    faults: dict[str, int]
    live_at_least: int
    gaps: dict[str, list[float]]
    summary: dict[str, Any]


class Chaos:
    """One run in a directory of its own."""

    def __init__(
        self,
        root: Path,
        kills: int,
        stops: int,
        seed: int,
        parts: tuple[str, ...] = PARTS,
        servers: int = 1,
        lease_s: float = LEASE_S,
        disk: Disk | None = None,
        apart: bool = False,
    ) -> None:
        self.stage = harness.Stage(root, checker)
        self.root = root
        self.disk = disk
        self.cluster: Cluster | None = None
        if disk is not None:
            self.stage.directory = disk.path / "node"
            self.cluster = Cluster(root / "brokers", self.stage.directory, 1, "single.conf", data=disk.path)
        elif apart:
            self.cluster = Apart(root / "brokers", self.stage.directory, servers)
        elif servers > 1:
            self.cluster = Cluster(root / "brokers", self.stage.directory, servers)
        self.lease_s = lease_s
        self.gaps: dict[str, list[float]] = {}
        self.faults: Counter[str] = Counter()
        self.live_at_least = 1 << 30
        self._rng = random.Random(seed)
        plan = [(part, "kill") for part in parts for _ in range(kills)]
        plan += [(part, "stop") for part in STOPPED if part in parts for _ in range(stops)]
        self._rng.shuffle(plan)
        self._plan = plan
        self._node: subprocess.Popen[bytes] | None = None
        self._standbys: list[subprocess.Popen[bytes]] = []
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._isolated: subprocess.Popen[bytes] | None = None
        self._started = 0
        self._watch = self.stage.watch()
        self._enough = False
        self._following: asyncio.Task[None] | None = None

    # --- the system -------------------------------------------------------------------------------------

    async def run(self) -> Told:
        """All faults, and then all checks. Raises AssertionError or Broken where anything is wrong."""
        try:
            await self._start_brokers()
            self._node = await self.stage.node()
            for _ in range(2):
                if self.disk is None:
                    self._stand_by()
                self._work()
            self._isolate()
            self._following = asyncio.create_task(self._watch.until(lambda _: False, "the end", _EVER_S))
            submitting = asyncio.create_task(self._submit())
            for number, (part, fault) in enumerate(self._plan):
                await self._do(part, fault)
                print(f"  {number + 1:>4} of {len(self._plan)}: {fault} {part}", flush=True)
                if submitting.done():
                    submitting.result()
            self._enough = True
            jobs = await submitting
            return Told(dict(self.faults), self.live_at_least, self.gaps, await self._check(jobs))
        finally:
            if self._following is not None:
                while not self._following.done():  # `wait_for` of Python 3.11 may swallow a cancellation
                    self._following.cancel()
                    await asyncio.wait({self._following}, timeout=1)
            await self.stage.clear()
            if self.cluster is not None:
                self.cluster.clear()
            if self.disk is not None:
                self.disk.unmount()

    async def _start_brokers(self) -> None:
        if self.cluster is not None:
            self.cluster.start_all()
            self.stage.options = ("--broker-url", self.cluster.url)

    def _name(self, what: str) -> str:
        self._started += 1
        return f"{what}-{self._started}"

    def _stand_by(self) -> None:
        where = ("orchestrator", "--dir", str(self.stage.directory), "--broker-url", self.stage.url)
        self._standbys.append(self.stage.run(self._name("orchestrator"), *self.stage.writ(*where)))

    def _work(self) -> None:
        name = self._name("worker")
        self._workers[name] = self.stage.worker(name, SLOTS)

    def _isolate(self) -> None:
        tasks = self.root / "isolated_tasks.py"
        ours = str(harness.HERE / "ledger_tasks.py")
        tasks.write_text(_ISOLATED.format(ledger=str(self.stage.ledger), tasks=ours))
        name = self._name("isolated")
        words = ("worker", str(tasks), "--queue", harness.QUEUE, "--concurrency", "4", "--name", name)
        command = self.stage.writ(*words, "--isolate", "plain")
        self._isolated = self.stage.run(name, *command, **self.stage.credentials())

    async def _submit(self) -> int:
        """Submits as long as faults are to come; how many jobs were acknowledged."""
        ledger = os.open(self.stage.ledger / "client.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        key = Path(self.stage.credentials()["NATS_NKEY"])
        jobs = 0
        async with Client(Target(self.stage.url, key)) as client:
            while not self._enough:
                history = self._watch.history
                if jobs - sum(1 for job in history.jobs.values() if job["ends"]) > AHEAD:
                    await asyncio.sleep(0.05)
                    continue
                some = [_job(number, self.lease_s) for number in range(jobs, jobs + ARRAY)]
                while True:
                    try:
                        handles = await client.submit_many(harness.QUEUE, some, timeout_s=PATIENCE_S)
                        break
                    except (WireError, TimeoutError):  # not acknowledged: it is sent again, with the same ids
                        await asyncio.sleep(0.1)
                at_us = time.time_ns() // 1_000
                acks = [{"what": "ack", "queue": harness.QUEUE, "id": h.id, "at_us": at_us} for h in handles]
                os.write(ledger, "".join([json.dumps(ack) + "\n" for ack in acks]).encode())
                os.fsync(ledger)
                jobs += ARRAY
                await asyncio.sleep(0.02)
        os.close(ledger)
        return jobs

    # --- faults -----------------------------------------------------------------------------------------

    async def _busy(self) -> None:
        """Returns while enough leases are live."""
        await self._until(lambda log: sum(log.live.values()) >= LIVE, f"{LIVE} leases are live", PATIENCE_S)

    async def _until(self, condition: Callable[[Any], object], what: str, timeout_s: float) -> None:
        """Returns when something holds of the log, which is followed all the time."""
        until = time.monotonic() + timeout_s
        while not condition(self._watch.history):
            if self._following is not None and self._following.done():
                self._following.result()
            assert time.monotonic() < until, f"not within {timeout_s:g} s: {what}\n{self.stage.said()}"
            await asyncio.sleep(0.01)

    async def _do(self, part: str, fault: str) -> None:
        if part in ("power", "cable"):
            await self._busy()
            self.live_at_least = min(self.live_at_least, sum(self._watch.history.live.values()))
            self.faults[f"{fault} {part}"] += 1
            await (self._lose_power() if part == "power" else self._pull_cable())
            return
        pid = await self._pid(part)
        self.live_at_least = min(self.live_at_least, sum(self._watch.history.live.values()))
        self.faults[f"{fault} {part}"] += 1
        if fault == "stop":
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(STOP_S)
            os.kill(pid, signal.SIGCONT)
            return
        assert self._node is not None
        killed_us = time.time_ns() // 1_000
        os.kill(pid, signal.SIGKILL)
        if pid == self._node.pid and self.cluster is None:
            await self._mend()  # its broker went with it: nothing goes on before
        if part in STOPS_ALL:
            self.gaps.setdefault(part, []).append(await self._gap(killed_us))
        if pid != self._node.pid:
            await asyncio.sleep(0.1)
            assert self._node.poll() is None, (
                f"the node ended when the {part} was killed\n{self.stage.said()}"
            )
        await self._mend()

    async def _lose_power(self) -> None:
        """The disk is as it was on its plates; whatever used it is gone, and starts again. Raises Lost."""
        assert self.disk is not None
        assert self.cluster is not None
        assert self._node is not None
        self.disk.cut()
        os.killpg(self._node.pid, signal.SIGKILL)
        self._node.wait(PATIENCE_S)
        self.cluster.end(0)
        await asyncio.to_thread(self.disk.unmount)
        self.disk.mount()
        self.cluster.start(0)
        await self.cluster.whole(STREAMS[0])
        key = self.stage.directory / "keys" / "log.creds"
        stored = checker.fold(await checker.read_log(self.stage.url, key, STREAMS[0]))
        waiting = (await self.cluster.stream(STREAMS[1]))["state"]["messages"]
        acknowledged = {e["id"] for e in checker.read_ledger(self.stage.ledger) if e["what"] == "ack"}
        missing = acknowledged - {name.partition("~")[2] for name in stored.jobs}
        if len(missing) > waiting * ARRAY:
            raise Lost(f"{len(missing)} of {len(acknowledged)} acknowledged jobs are gone")
        self._node = await self.stage.node()

    async def _pull_cable(self) -> None:
        """Of the server that leads the log, for longer than it takes the others to elect another."""
        assert isinstance(self.cluster, Apart)
        for stream in STREAMS:
            await self.cluster.whole(stream)
        leads = await self.cluster.leader(STREAMS[0])
        assert leads is not None
        self.cluster.pull(leads)
        await asyncio.sleep(CUT_S)
        self.cluster.plug(leads)

    async def _gap(self, since_us: int) -> float:
        """For how many seconds nothing was stored, from then on, by the broker's own times."""
        await self._until(lambda _: self._watch.gap_after(since_us), "the log goes on", PATIENCE_S)
        return self._watch.gap_after(since_us) / 1_000_000

    async def _pid(self, part: str) -> int:
        """A process that plays the part now."""
        until = time.monotonic() + PATIENCE_S
        found: list[int] = []
        while not found:
            if self.cluster is not None and part.startswith("broker"):
                for stream in STREAMS:
                    await self.cluster.whole(stream)
            leads = await self.cluster.leader(STREAMS[0]) if self.cluster is not None else None
            await self._busy()
            found = self._playing(part, leads)
            assert time.monotonic() < until, f"no {part} for {PATIENCE_S:g} s\n{self.stage.said()}"
            await asyncio.sleep(0 if found else 0.02)
        return self._rng.choice(found)

    def _playing(self, part: str, leads: int | None) -> list[int]:
        assert self._node is not None
        orchestrators = [self._node.pid, *[each.pid for each in self._standbys]]
        leader = int(self._watch.history.leaders[-1].split("-")[-2])
        match part:
            case "leader":
                return [pid for pid in orchestrators if pid == leader]
            case "standby":
                return [each.pid for each in self._standbys if each.pid != leader]
            case "worker":
                live = self._watch.history.live
                return [each.pid for name, each in self._workers.items() if live.get(name, 0) >= HELD]
            case "isolated child":
                return _leaves(self._isolated.pid) if self._isolated is not None else []
            case "views":
                return [pid for pid in _children(self._node.pid) if "writ.views" in _command(pid)]
            case "broker leader" if self.cluster is not None:
                return [] if leads is None else [self.cluster.pid(leads)]
            case "broker follower" if self.cluster is not None:
                return [self.cluster.pid(each) for each in range(self.cluster.size) if each != leads]
            case _:
                return [pid for pid in (self.stage.broker_pid(),) if pid]

    async def _mend(self) -> None:
        """Whatever was killed is started again, as a supervisor would."""
        assert self._node is not None
        await asyncio.sleep(0.1)
        if self._node.poll() is not None and self.cluster is not None:
            self._node = await self.stage.node()
        elif self._node.poll() is not None:
            broker = self.stage.broker_pid()
            await self.stage.until(lambda: not self.stage.lives(broker), "the broker stops with its owner")
            self._node = await self.stage.node()
        if self.cluster is not None:
            self.cluster.mend()
        for standby in [each for each in self._standbys if each.poll() is not None]:
            self._standbys.remove(standby)
            self._stand_by()
        for name in [name for name, each in self._workers.items() if each.poll() is not None]:
            del self._workers[name]
            self._work()

    # --- checks -----------------------------------------------------------------------------------------

    async def _check(self, jobs: int) -> dict[str, Any]:
        stage = self.stage
        await self._until(
            lambda log: len(log.jobs) == jobs and all(job["ends"] for job in log.jobs.values()),
            f"all {jobs} jobs have ended",
            3 * PATIENCE_S,
        )
        ending = {**self._workers, "isolated": self._isolated}
        for process in ending.values():
            if process is not None:
                process.send_signal(signal.SIGTERM)
        for name, process in ending.items():
            if process is not None:
                await stage.ended(process, name, PATIENCE_S)
        if self.cluster is not None:
            await self.cluster.whole(STREAMS[0])  # any replica may answer the checker
        summary = await stage.verdict()
        assert summary["jobs"] == summary["acknowledged"] == jobs
        said = await stage.output(*stage.writ("replay", "--verify", "--dir", str(stage.directory)))
        summary["verify"] = said.decode().strip().splitlines()[-1]
        link = await connect(
            Target(stage.url, stage.directory / "keys" / "log.creds"), "chaos", inbox_prefix="_INBOX"
        )
        log = ArchivedLog.beside(stage.directory, await JetStreamLog.open(link))
        await Proof(stage.directory.parent, jobs, 0, 0).rebuilt(log)
        await link.close()
        return dict(summary)


def _job(number: int, lease_s: float) -> dict[str, Any]:
    return {
        "id": f"job-{number:06}",
        "task": "in_a_thread" if number % 2 else "on_the_loop",
        "input": {"ms": 100 + number * 37 % 201},
        "lease_s": lease_s,
    }


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [
            int(each)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for each in (task / "children").read_text().split()
        ]
    return []


def _leaves(pid: int) -> list[int]:
    """The attempts of a worker that isolates them: below its mould, and below the guard of each."""
    found: list[int] = []
    below = [(each, 1) for each in _children(pid)]
    while below:
        each, depth = below.pop()
        next_ = _children(each)
        below += [(child, depth + 1) for child in next_]
        if not next_ and depth > 1:
            found.append(each)
    return found


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""
