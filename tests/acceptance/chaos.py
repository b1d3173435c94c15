"""Kills and stops every part of a running system under load, and then checks all of its history.

A node, two orchestrators that stand by, workers in threads and with isolated attempts, and a client are
processes or tasks of their own. Each part is picked in turn, and gets `kill -9`, or SIGSTOP for longer
than a lease lives, while enough leases are live; what else is done to them is in `faults`. Every
acknowledgement and every execution stands in a ledger outside. At the end the log is compared with the
ledger and with what is listed, every decision is made again, and every view is built anew beside the one
there. Executions that came twice are counted: a worker that dies after its work has done it.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.acceptance import faults, processes
from tests.acceptance.apart import Apart
from tests.acceptance.cluster import Cluster
from tests.acceptance.disk import Disk
from tests.acceptance.kills import checker, harness
from tests.acceptance.retention import Proof
from writ import Client, SubmitRefused
from writ.broker.archive import ArchivedLog
from writ.broker.connect import Target, connect
from writ.broker.errors import WireError
from writ.broker.log import JetStreamLog

PARTS: Final = ("leader", "standby", "worker", "isolated child", "views", "broker")
CLUSTERED: Final = (*PARTS[:-1], "broker leader", "broker follower")
"""Where the broker is a cluster."""

STOPS_ALL: Final = ("leader", "broker", "broker leader")
"""Until each of these is replaced, the log stands still."""

STREAMS: Final = ("WRIT_LOG_0", "WRIT_SUBMIT")
STOPPED: Final = ("leader", "standby", "worker", "broker", "broker leader")
"""What can stand still for a while and go on; the others are waited for by nobody."""

LEASE_S: Final = 2.0
STOP_S: Final = 4.0
LIVE: Final = 50
HELD: Final = 15
"""Of these, so many by a worker that is picked."""

SLOTS: Final = 60
STANDBYS: Final = 2
AHEAD: Final = 600
"""Jobs that have not ended, from which on the client waits."""

PATIENCE_S: Final = 60.0
_EVER_S: Final = 86_400.0
_ISOLATED: Final = """
import os

os.environ["LEDGER"] = {ledger!r}
exec(compile(open({tasks!r}).read(), {tasks!r}, "exec"))
"""


class Fault(NamedTuple):
    """What is done to which part."""

    what: str
    part: str

    def __str__(self) -> str:
        return f"{self.what} {self.part}"


def killing(parts: Iterable[str], kills: int, stops: int = 0) -> list[Fault]:
    """So many kills of each part, and so many stops of each that can stand still."""
    found = [Fault("kill", part) for part in parts for _ in range(kills)]
    return found + [Fault("stop", part) for part in STOPPED if part in parts for _ in range(stops)]


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
        plan: Iterable[Fault],
        seed: int,
        *,
        servers: int = 0,
        apart: bool = False,
        tls: bool = False,
        disk: Disk | None = None,
        lease_s: float = LEASE_S,
        keeps_leases: bool = False,
        options: tuple[str, ...] = (),
    ) -> None:
        """With no `servers` the broker is inside the node. `keeps_leases` where none of the faults may cost a
        lease. `options` are further words for `writ up`.
        """
        self.stage = harness.Stage(root, checker)
        self.root = root
        self.disk = disk
        if disk is not None:
            self.stage.directory = disk.path / "node"
        self.cluster = self._brokers(servers, apart, tls)
        self.stage.options = options
        self.lease_s = lease_s
        self.gaps: dict[str, list[float]] = {}
        self.faults: Counter[str] = Counter()
        self.live_at_least = 1 << 30
        self.rng = random.Random(seed)
        self.watch = self.stage.watch()
        self.holds = False
        """Whether the client waits."""

        self.until_s = math.inf
        """By `time.monotonic`: no fault is begun later."""

        self.jobs_wanted = 0
        """Over so many jobs, at least, the faults are spread."""

        self.client: Client | None = None
        self._keeps_leases = keeps_leases
        self._plan = list(plan)
        self.rng.shuffle(self._plan)
        self._node: subprocess.Popen[bytes] | None = None
        self._standbys: list[subprocess.Popen[bytes]] = []
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._isolated: subprocess.Popen[bytes] | None = None
        self._started = 0
        self._jobs = self._probes = 0
        self._enough = False
        self._tasks: list[asyncio.Task[None]] = []

    def _brokers(self, servers: int, apart: bool, tls: bool) -> Cluster | None:
        where, keys = self.root / "brokers", self.stage.directory
        if not servers:
            return None
        if apart:
            return Apart(where, keys, servers)
        data = None if self.disk is None else self.disk.path
        name = ("single" if servers == 1 else "cluster") + ("-tls" if tls else "")
        cluster = Cluster(where, keys, servers, f"{name}.conf", data=data)
        if tls:
            cluster.secure()
        return cluster

    # --- the system -------------------------------------------------------------------------------------

    async def run(self) -> Told:
        """All faults, and then all checks. Raises AssertionError or Broken where anything is wrong."""
        try:
            await self._start_brokers()
            await self.start_node()
            for _ in range(2):
                self._work()
            self._isolate()
            submitting = asyncio.create_task(self._submit())
            following = asyncio.create_task(self.watch.until(lambda _: False, "the end", _EVER_S))
            self._tasks = [submitting, following]
            for number, fault in enumerate(self._plan):
                if number and time.monotonic() > self.until_s:
                    print(f"  {len(self._plan) - number} faults are left out: the time is over", flush=True)
                    break
                await self._worked(number / len(self._plan))
                await self._do(fault)
                at = time.strftime("%H:%M:%S", time.gmtime())
                print(f"  {at} {number + 1:>4} of {len(self._plan)}: {fault}", flush=True)
            await self._worked(1)
            self._enough = True
            await submitting
            return Told(dict(self.faults), self.live_at_least, self.gaps, await self._check(self._jobs))
        finally:
            while left := [task for task in self._tasks if not task.done()]:
                for task in left:  # more than once: `wait_for` of Python 3.11 may swallow a cancellation
                    task.cancel()
                await asyncio.wait(left, timeout=1)
            await self.stage.clear()
            if self.cluster is not None:
                self.cluster.clear()
            if self.disk is not None:
                self.disk.unmount()

    async def _start_brokers(self) -> None:
        if self.cluster is not None:
            self.cluster.start_all()
            self.stage.options += ("--broker-url", self.cluster.url)

    @property
    def node(self) -> subprocess.Popen[bytes]:
        assert self._node is not None
        return self._node

    async def start_node(self) -> None:
        """The node; who stands by is started by the way."""
        self._node = await self.stage.node()
        self._stand_by()

    async def end_leaders(self) -> None:
        """Kills the node, what it runs, and those that stand by."""
        for each in (self.node, *self._standbys):
            with suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
            each.wait(PATIENCE_S)
        self._standbys.clear()
        await self._broker_stops()

    async def _broker_stops(self) -> None:
        if self.cluster is None:
            broker = self.stage.broker_pid()
            await self.stage.until(lambda: not self.stage.lives(broker), "the broker stops with its owner")

    @property
    def leader_pid(self) -> int:
        """Of whom the log says last that it leads."""
        return int(self.watch.history.leaders[-1].split("-")[-2])

    @property
    def jobs(self) -> int:
        """How many were submitted."""
        return self._jobs

    def everything(self) -> list[int]:
        """All processes of the system but the brokers of a cluster, with those that they started."""
        found = [self.node, *self._standbys, *self._workers.values()]
        pids = [each.pid for each in found if each.poll() is None]
        if self._isolated is not None:
            pids.append(self._isolated.pid)
        for pid in pids:
            pids += processes.children(pid)
        return pids

    def _name(self, what: str) -> str:
        self._started += 1
        return f"{what}-{self._started}"

    def _stand_by(self) -> None:
        """As many as there are to be; none beside a disk that comes and goes with its node."""
        where = ("orchestrator", "--dir", str(self.stage.directory), "--broker-url", self.stage.url)
        while self.disk is None and len(self._standbys) < STANDBYS:
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

    async def _submit(self) -> None:
        """Submits as long as faults are to come, with so many jobs at hand that there is always work."""
        key = Path(self.stage.credentials()["NATS_NKEY"])
        async with Client(Target(self.stage.url, key)) as self.client:
            while not self._enough:
                wanted = min(faults.ARRAY, AHEAD - (self._jobs - self.watch.history.ended))
                if self.holds or wanted < 1:
                    await asyncio.sleep(0.05)
                    continue
                await self.submit([_job(self._jobs + number) for number in range(wanted)])
                await asyncio.sleep(0.05)

    async def submit(self, work: Iterable[dict[str, Any]]) -> None:
        """Submits jobs until they are acknowledged, and writes that down."""
        assert self.client is not None
        some = [
            {"id": f"job-{self._jobs + number:06}", "lease_s": self.lease_s, **each}
            for number, each in enumerate(work)
        ]
        self._jobs += len(some)
        while True:
            try:
                handles = await self.client.submit_many(harness.QUEUE, some, timeout_s=PATIENCE_S)
                break
            except (WireError, TimeoutError):  # not acknowledged: it is sent again, with the same ids
                await asyncio.sleep(0.1)
        at_us = time.time_ns() // 1_000
        self.note(*[{"what": "ack", "queue": harness.QUEUE, "id": h.id, "at_us": at_us} for h in handles])

    async def probe(self) -> str:
        """Submits one job more; "" when it is done, or why it was refused, and then there is no such job."""
        assert self.client is not None
        self._probes += 1
        name = f"probe-{self._probes}"
        while True:
            try:
                handle = await self.client.submit(harness.QUEUE, "on_the_loop", {"ms": 1}, id=name)
                break
            except (WireError, TimeoutError):
                await asyncio.sleep(0.1)
        try:
            await self.client.result(handle, timeout_s=PATIENCE_S)
        except SubmitRefused as why:
            return str(why)
        self._jobs += 1
        at_us = time.time_ns() // 1_000
        self.note({"what": "ack", "queue": harness.QUEUE, "id": name, "at_us": at_us})
        return ""

    def note(self, *entries: dict[str, Any]) -> None:
        """Lines of the ledger, on the disk when this returns."""
        with (self.stage.ledger / "client.jsonl").open("a") as ledger:
            ledger.writelines(json.dumps(entry) + "\n" for entry in entries)
            ledger.flush()
            os.fsync(ledger.fileno())

    # --- faults -----------------------------------------------------------------------------------------

    async def busy(self) -> None:
        """Returns while enough leases are live."""
        await self.until(lambda log: sum(log.live.values()) >= LIVE, f"{LIVE} leases are live")

    async def until(
        self, condition: Callable[[Any], object], what: str, timeout_s: float = PATIENCE_S
    ) -> None:
        """Returns when something holds of the log, which is followed all the time."""
        until = time.monotonic() + timeout_s
        while not condition(self.watch.history):
            for task in self._tasks:
                if task.done():
                    task.result()
            assert time.monotonic() < until, (
                f"not within {timeout_s:g} s: {what}; {self._jobs} jobs submitted, {self.watch.history.seq} "
                f"records seen, {self.watch.history.live} live\n{self.stage.said()}"
            )
            await asyncio.sleep(0.01)

    async def _worked(self, part: float) -> None:
        """Returns when this part of the jobs that are wanted has ended."""
        wanted = part * self.jobs_wanted
        while self.watch.history.ended < wanted:
            more = self.watch.history.ended + 1
            await self.until(lambda log: log.ended >= more, "jobs are worked on")  # noqa: B023 - it is awaited

    async def _do(self, fault: Fault) -> None:
        await self.busy()
        self._count_live()
        await ACTS[fault.what](self, fault.part)
        self.faults[str(fault)] += 1
        shown = self.watch.history.seq
        await self.until(lambda log: log.seq > shown, "the log goes on")

    def _count_live(self) -> None:
        self.live_at_least = min(self.live_at_least, sum(self.watch.history.live.values()))

    async def _signal(self, part: str, how: signal.Signals) -> int:
        """Sends it to a process that plays the part now, and has not ended; which it was."""
        while True:
            pid = await self.pid(part)
            with suppress(ProcessLookupError):
                os.kill(pid, how)
                self._count_live()
                return pid

    async def stop(self, part: str) -> None:
        pid = await self._signal(part, signal.SIGSTOP)
        await asyncio.sleep(STOP_S)
        os.kill(pid, signal.SIGCONT)

    async def kill(self, part: str) -> None:
        pid = await self._signal(part, signal.SIGKILL)
        killed_us = time.time_ns() // 1_000
        await self.stage.until(lambda: processes.dead(pid), f"the {part} is dead")
        of_node = pid == self.node.pid
        if of_node and self.cluster is None:
            await self._mend()  # its broker went with it: nothing goes on before
        if part in STOPS_ALL:
            self.gaps.setdefault(part, []).append(await self._gap(killed_us))
        if not of_node:
            assert self.node.poll() is None, f"the node ended when the {part} was killed\n{self.stage.said()}"
        await self._mend()

    async def whole(self) -> None:
        """Returns when each stream of the cluster has a leader, and every server has all of it."""
        assert self.cluster is not None
        for stream in STREAMS:
            await self.cluster.whole(stream)

    async def newest(self) -> int:
        """The last record that the broker has, which may be ahead of what was seen."""
        async with self._log() as log:
            return await log.last_seq()

    @asynccontextmanager
    async def _log(self) -> AsyncGenerator[JetStreamLog]:
        target = Target(self.stage.url, self.stage.directory / "keys" / "log.creds")
        link = await connect(target, "chaos", inbox_prefix="_INBOX")
        try:
            yield await JetStreamLog.open(link)
        finally:
            await link.close()

    async def _gap(self, since_us: int) -> float:
        """For how many seconds nothing was stored, from then on, by the broker's own times."""
        await self.until(lambda _: self.watch.gap_after(since_us), "the log goes on")
        return self.watch.gap_after(since_us) / 1_000_000

    async def pid(self, part: str) -> int:
        """A process that plays the part now."""
        until = time.monotonic() + PATIENCE_S
        found: list[int] = []
        while not found:
            if self.cluster is not None and part.startswith("broker"):
                await self.whole()
            leads = await self.cluster.leader(STREAMS[0]) if self.cluster is not None else None
            await self.busy()
            found = self._playing(part, leads)
            assert time.monotonic() < until, f"no {part} for {PATIENCE_S:g} s\n{self.stage.said()}"
            await asyncio.sleep(0 if found else 0.02)
        return self.rng.choice(found)

    def _playing(self, part: str, leads: int | None) -> list[int]:
        orchestrators = [self.node.pid, *[each.pid for each in self._standbys]]
        leader = self.leader_pid
        match part:
            case "leader":
                return [pid for pid in orchestrators if pid == leader]
            case "standby":
                return [each.pid for each in self._standbys if each.pid != leader]
            case "worker":
                live = self.watch.history.live
                return [each.pid for name, each in self._workers.items() if live.get(name, 0) >= HELD]
            case "isolated child":
                return processes.leaves(self._isolated.pid) if self._isolated is not None else []
            case "views":
                return [
                    pid for pid in processes.children(self.node.pid) if "writ.views" in processes.command(pid)
                ]
            case "broker leader" if self.cluster is not None:
                return [] if leads is None else [self.cluster.pid(leads)]
            case "broker follower" if self.cluster is not None:
                return [self.cluster.pid(each) for each in range(self.cluster.size) if each != leads]
            case _:
                return [pid for pid in (self.stage.broker_pid(),) if pid]

    async def _mend(self) -> None:
        """Whatever was killed is started again, as a supervisor would."""
        if self.cluster is not None:
            self.cluster.mend()
        if self.node.poll() is not None:
            await self._broker_stops()
            await self.start_node()
        self._standbys = [each for each in self._standbys if each.poll() is None]
        self._stand_by()
        for name in [name for name, each in self._workers.items() if each.poll() is not None]:
            ended = self._workers.pop(name)
            assert ended.returncode == -signal.SIGKILL, f"{name} ended by itself\n{self.stage.said()}"
            self._work()
        isolated = self._isolated
        assert isolated is None or isolated.poll() is None, f"a worker ended by itself\n{self.stage.said()}"

    # --- checks -----------------------------------------------------------------------------------------

    async def _check(self, jobs: int) -> dict[str, Any]:
        stage = self.stage
        await self.until(
            lambda log: len(log.jobs) == jobs == log.ended,
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
        words = ("status", "--wait", f"{PATIENCE_S:g}", "--dir", str(stage.directory))
        await stage.output(*stage.writ(*words))  # the views may have been killed last
        summary = await stage.verdict()
        assert summary["jobs"] == summary["acknowledged"] == jobs
        expired = summary["events"].get("lease_expired", 0)
        assert not (expired and self._keeps_leases), f"{expired} leases expired, and none had to"
        said = await stage.output(*stage.writ("replay", "--verify", "--dir", str(stage.directory)))
        summary["verify"] = said.decode().strip().splitlines()[-1]
        async with self._log() as log:
            await Proof(stage.directory.parent, jobs, 0, 0).rebuilt(ArchivedLog.beside(stage.directory, log))
        return dict(summary)


ACTS: Final[dict[str, Callable[[Chaos, str], Awaitable[None]]]] = {
    "kill": Chaos.kill,
    "stop": Chaos.stop,
    **faults.ACTS,
}
"""Faults by what is done, with the part that it is done to."""


def _job(number: int) -> dict[str, Any]:
    task = "in_a_thread" if number % 2 else "on_the_loop"
    return {"task": task, "input": {"ms": 300 + number * 37 % 601}}
