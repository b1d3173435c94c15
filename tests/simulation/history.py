"""One history: the whole system of one plan, from its first start until every job has ended."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import traceback
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from writ.broker.client import Client
from writ.broker.connect import Target
from writ.broker.objects import MemoryObjects
from writ.broker.ports import OutcomeUnknown
from writ.orchestrator.engine import AHEAD_FROM, Engine
from writ.orchestrator.snapshots import Snapshots, recover
from writ.schemas.commands import Answer
from writ.schemas.events import DeadReason
from writ.schemas.lifecycle import State
from writ.schemas.queries import JobQuery, JobsPage, JobView
from writ.schemas.records import Source
from writ.schemas.rejections import Rejection, RejectionKind
from writ.workers import Worker

from .fold import elements
from .hosts import ClientHost, OrchestratorHost, WorkerHost
from .loop import SECOND_US, Host, World
from .net import INTAKE_EPOCH, Broker, Network
from .plan import FAULTS_END_US, PARTITIONS, TENANT, Fault, Plan
from .ports import SimIntake, SimLog, SimRequests, SimWire
from .programs import Program
from .tally import Tally
from .tasks import TASKS
from .watch import Watch

PATIENCE_US: Final = 240 * SECOND_US
"""How long after the last fault a job may take to end."""

SETTLED_US: Final = 30 * SECOND_US
"""How long after the last fault a request may still go unanswered."""

SNAPSHOT_EVERY_S: Final = 7

_HANG_S: Final = 20
_decode_query = msgspec.json.Decoder(JobQuery).decode


class Outcome(NamedTuple):
    """What one history came to."""

    seed: int
    steps: int
    virtual_s: float
    records: int
    faults: Counter[str]
    edges: Counter[tuple[str | None, str]]
    ends: Counter[str]
    ways: Counter[str]
    checks: Counter[str]
    violations: list[str]
    digest: str


class History:
    """Builds the world of a plan and runs it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.world = world = World()
        seed = plan.seed * 8
        self.entropy = random.Random(seed + 1)
        self.net = Network(world, plan, random.Random(seed + 2))
        self.broker = Broker(world, self.net, random.Random(seed + 3))
        self.appends = random.Random(seed + 4)
        self.watch = watch = Watch(world, self.broker.intakes)
        self.broker.on_stored = watch.stored
        self.orchestrators: list[OrchestratorHost] = []
        self.workers: list[WorkerHost] = []
        self.clients: list[ClientHost] = []
        self.done: set[str] = set()
        self._incarnations: Counter[str] = Counter()
        self._started: dict[Host, tuple[str, int]] = {}
        self._pauses: dict[Host, int] = {}
        self._bytes_of = random.Random(seed + 5).randbytes
        self._both = False
        self.takes_snapshots = plan.seed % 4 == 3
        self.snapshots = [Snapshots(MemoryObjects(), partition) for partition in range(PARTITIONS)]
        world.on_fuse = self._fell

    # --- hosts --------------------------------------------------------------------------------------------

    def _name(self, kind: str, number: int) -> str:
        name = f"{kind}{number}"
        self._incarnations[name] += 1
        return f"{name}-{self._incarnations[name]}"

    def _skew(self, host: Host, old: Host | None = None) -> None:
        """Machines do not agree on the time; a restarted process is on the same machine."""
        if old is not None:
            host.wall_offset_us, host.cut = old.wall_offset_us, old.cut
        elif self.entropy.random() < 0.5:
            host.wall_offset_us = round(self.entropy.uniform(-1.5, 1.5) * SECOND_US)
            self.world.fault("clock_skew")
        host.mono_offset_us = self.entropy.randrange(10**12)

    def start_orchestrator(self, number: int, old: Host | None = None) -> OrchestratorHost:
        host = OrchestratorHost(self.world, self._name("o", number))
        self._skew(host, old)
        logs = [
            SimLog(host, self.broker, partition, self.plan, self.appends, self.watch)
            for partition in range(PARTITIONS)
        ]
        for partition, log in enumerate(logs):
            engine = log.engine = Engine(
                log,
                SimIntake(host, self.broker, partition),
                SimRequests(host, self.broker, partition, self.watch),
                host,
                name=f"{host.name}-p{partition}",
                version="sim",
                entropy=self.entropy.random,
                others=[other for other in logs if other is not log],
                # Appends here are short: every other history decides ahead whatever there is.
                ahead_from=1 if self.plan.seed % 2 else AHEAD_FROM,
                snapshots=self.snapshots[partition] if self.takes_snapshots else None,
            )
            host.engines.append((engine, log))
            self._run(host, engine.run(), f"engine {engine.name}")
            if self.takes_snapshots:
                self._run(host, self._take_snapshots(log), f"snapshots {engine.name}")
        return host

    async def _take_snapshots(self, log: SimLog) -> None:
        """Beside the engine, as the archiving of a node does: what has ended leaves the engine's memory."""
        snapshots = self.snapshots[log.partition]
        while True:
            await asyncio.sleep(SNAPSHOT_EVERY_S)
            try:
                state, at = await recover(log, snapshots)
                await snapshots.put(state, at.epoch)
            except (OutcomeUnknown, ConnectionError, TimeoutError):
                continue

    def start_worker(self, number: int, old: Host | None = None) -> WorkerHost:
        host = WorkerHost(self.world, self._name("w", number), self.watch)
        self._skew(host, old)
        plan = self.plan.workers[number]
        worker = host.worker = Worker(
            self.plan.queues,
            [TASKS[task] for task in plan.tasks],
            concurrency=plan.slots,
            name=host.name,
            target=Target("sim", None, TENANT, f"worker{number}"),
            wait_s=plan.wait_s,
            drain_s=2.0,
            clock=host,
            entropy=self.entropy.random,
            labels=plan.labels,
        )
        host.principal = worker.target.principal
        host.wire = SimWire(host, self.broker, self.watch, self.query)
        self.watch.tasks_of[host.name], self.watch.labels_of[host.name] = plan.tasks, plan.labels
        self._run(host, worker.run_inline(host.wire), f"worker {host.name}")
        return host

    def start_client(self, number: int, old: Host | None = None) -> ClientHost:
        host = ClientHost(self.world, self._name("c", number))
        self._skew(host, old)
        wire = SimWire(host, self.broker, self.watch, self.query)
        client = Client(
            Target("sim", None, TENANT, f"client{number}"), wire=wire, clock=host, entropy=self._bytes_of
        )
        program = Program(self.plan, number, host, client, wire, self.watch)
        for part in program.parts():
            if part.name not in self.done:
                host.open.add(part.name)
                self._run(host, program.run(part, self.done), f"client {host.name}: {part.name}")
        self._run(host, program.let_go(), f"client {host.name}: letting go")
        return host

    def _run(self, host: Host, work: Coroutine[Any, Any, None], what: str) -> None:
        """Has a part run; that it fails by itself is a violation."""

        async def watched() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except Exception as error:
                if host.alive:
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    self.world.broken(f"{what} failed: {error!r} in {where.name}, line {where.lineno}")

        events_loop = asyncio.events._get_running_loop()
        asyncio.events._set_running_loop(host.loop)
        try:
            host.spawn(watched())
        finally:
            asyncio.events._set_running_loop(events_loop)

    # --- the view -----------------------------------------------------------------------------------------

    def query(self, subject: str, body: bytes) -> bytes:
        """The jobs view, which is never behind here."""
        if not subject.endswith(".job"):
            return msgspec.json.encode(Answer(Rejection(RejectionKind.MALFORMED, "only job is served")))
        query = _decode_query(body)
        job = self.watch.find(query.queue or self.plan.queues[0], query.id)
        jobs = () if job is None else (_view(query, job),)
        return msgspec.json.encode(JobsPage(None, 0, jobs))

    # --- faults -------------------------------------------------------------------------------------------

    def _fell(self, host: Host) -> None:
        """A host's process is gone; another one is started in its place some time later."""
        self._crash(host, round(self.entropy.uniform(0.05, 2) * SECOND_US))

    def _crash(self, host: Host, for_us: int) -> None:
        if not host.alive:
            return
        if isinstance(host, OrchestratorHost):
            for engine, log in host.engines:
                self.watch.compare_at_rest(engine, log)
        host.crash()
        broker = self.broker
        for partition in range(PARTITIONS):
            broker.servers[partition] = [each for each in broker.servers[partition] if each.host is not host]
            broker.hearers[partition] = [each for each in broker.hearers[partition] if each.host is not host]
        for subject, subs in broker.feeds.items():
            broker.feeds[subject] = [each for each in subs if each[0] is not host]
        self.world.post(for_us, None, self._restart, host)

    def _restart(self, host: Host) -> None:
        if isinstance(host, OrchestratorHost):
            place = self.orchestrators.index(host)
            self.orchestrators[place] = self.start_orchestrator(place, host)
        elif isinstance(host, WorkerHost):
            place = self.workers.index(host)
            self.workers[place] = self.start_worker(place, host)
        elif isinstance(host, ClientHost):
            place = self.clients.index(host)
            self.clients[place] = self.start_client(place, host)

    def _strike(self, fault: Fault) -> None:
        """One fault of the plan, at its time."""
        world, kind, for_us = self.world, fault.kind, fault.for_us
        word, _, which = kind.partition("_")
        groups: dict[str, Sequence[Host]] = {
            "orchestrator": self.orchestrators,
            "worker": self.workers,
            "client": self.clients,
        }
        hosts = groups.get(which, ())
        host: Host | None = hosts[fault.target % len(hosts)] if hosts else None
        if host is not None and not host.alive:
            return
        if word == "crash" and host is not None:
            world.fault(kind)
            if host.held or fault.fuse == 1:
                self._crash(host, for_us)
            else:
                host.fuse = fault.fuse
        elif word == "pause" and host is not None:
            if not host.held:
                world.fault(kind)
                host.pause()
                world.post(for_us, None, self._resume, host, world.now_us, fault.order)
        elif word == "cut" and host is not None:
            if not host.cut:
                world.fault(kind)
                self._cut(host, True)
                world.post(for_us, None, self._cut, host, False)
        elif kind == "clock_jump":
            hosts = [*self.orchestrators, *self.orchestrators, *self.workers]
            host = hosts[fault.target % len(hosts)]
            host.wall_offset_us += round((fault.order - 1.1) * 2 * SECOND_US)
            world.fault(kind)
        elif kind == "broker_restart":
            if self.net.up:
                world.fault(kind)
                self.broker.down()
                self.watch.down(True)
                world.post(for_us, None, self._broker_back)
        elif kind == "full":
            self.broker.full = True
            world.post(min(for_us, 3 * SECOND_US), None, self._end_full)
        elif kind == "slow_disk":
            self.broker.slow = True
            world.post(for_us, None, self._end_slow)

    def _resume(self, host: Host, from_us: int, order: int) -> None:
        if host.alive and host.held:
            self.watch.paused(host, from_us)
            host.resume(order)

    def _cut(self, host: Host, on: bool) -> None:
        host.cut = on
        self.watch.cut(host, on)

    def _broker_back(self) -> None:
        self.broker.back()
        self.watch.down(False)

    def _end_full(self) -> None:
        self.broker.full = False

    def _end_slow(self) -> None:
        self.broker.slow = False

    def _heal(self) -> None:
        """From now on nothing goes wrong any more."""
        self.net.calm = True
        self.broker.full = self.broker.slow = False
        self.watch.calm_from_us = self.world.now_us + SETTLED_US
        if not self.net.up:
            self._broker_back()
        for host in (*self.orchestrators, *self.workers, *self.clients):
            if host.cut:
                self._cut(host, False)
            host.wall_offset_us = 0  # somebody sets the clocks right: else nobody might lead again
            host.fuse = 0

    # --- the run ------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Runs the history to its end."""
        plan, world = self.plan, self.world
        for fault in plan.faults:
            world.post(fault.at_us, None, self._strike, fault)
        world.post(FAULTS_END_US, None, self._heal)
        world.post(SECOND_US, None, self._look)
        self.orchestrators = [self.start_orchestrator(number) for number in range(plan.orchestrators)]
        self.workers = [self.start_worker(number) for number in range(len(plan.workers))]
        self.clients = [self.start_client(number) for number in range(plan.clients)]
        limit_us = FAULTS_END_US + PATIENCE_US
        world.run(limit_us)
        if not world.violations:
            self._finish(world.now_us >= limit_us)
        outcome = self.outcome()
        world.stop = True
        world.close()
        return outcome

    def _look(self) -> None:
        """Once in a while: is everything over?"""
        leading = [0] * PARTITIONS
        for host in self.orchestrators:
            if host.alive:
                for partition, (engine, _) in enumerate(host.engines):
                    leading[partition] += engine.leading.is_set()
        both = max(leading) > 1
        if both and not self._both:
            self.world.fault("two_leaders")
        self._both = both
        quiet = self.net.calm and min(leading) == 1 and not any(host.open for host in self.clients)
        if quiet and self.watch.over() and self._all_read():
            self.world.stop = True
            return
        self.world.post(SECOND_US // 2, None, self._look)

    def _all_read(self) -> bool:
        """Whether the logs' positions have reached the last elements of the intakes."""
        for fold, intake in zip(self.watch.folds, self.broker.intakes, strict=True):
            if intake and fold.source != Source(
                INTAKE_EPOCH, intake[-1].seq, len(elements(intake[-1].body)) - 1
            ):
                return False
        return True

    def _finish(self, too_late: bool) -> None:
        """What must hold in the end."""
        watch = self.watch
        if too_late:
            for what in watch.left():
                watch.broken(f"{what}, long after the last fault")
            for host in self.clients:
                for name in sorted(host.open):
                    watch.broken(f"{host.name} still waits: {name}")
            if not self._all_read():
                watch.broken("submits are still unread, long after the last fault")
            if not self.world.violations:
                watch.broken("some partition has no leader, or two, long after the last fault")
            return
        for orchestrator in self.orchestrators:
            for engine, log in orchestrator.engines:
                if orchestrator.alive:
                    watch.compare_at_rest(engine, log)
        watch.check_submits()
        watch.check_answers()
        if self.plan.seed % 16 == 0:
            watch.check_again(self.broker.logs)

    def outcome(self) -> Outcome:
        """What it came to, as far as it went."""
        folds, world = self.watch.folds, self.world
        edges: Counter[tuple[str | None, str]] = Counter()
        ends: Counter[str] = Counter()
        ways: Counter[str] = Counter()
        for fold in folds:
            edges.update(fold.edges)
            ways.update(fold.ways)
            ends.update(job.state for job in fold.jobs.values())
        return Outcome(
            self.plan.seed,
            world.steps,
            world.now_us / SECOND_US,
            sum(fold.seq for fold in folds),
            world.faults,
            edges,
            ends,
            ways,
            self.watch.checks,
            world.violations,
            "-".join(fold.digest for fold in folds),
        )


def _view(query: JobQuery, job: Tally) -> JobView:
    """As much of a job's row as the client looks at."""
    null = msgspec.Raw(b"null")
    output = null if job.output is None else msgspec.Raw(job.output)
    return JobView(
        id=query.id,
        tenant=TENANT,
        queue=query.queue or "",
        task=job.task,
        state=State(job.state),
        attempt=job.attempt,
        input=null,
        output=output,
        error=None,
        release=None,
        actor="",
        submitted_at="",
        finished_at=None,
        priority=job.priority,
        due_at="",
        round=job.round,
        failures=job.failures,
        lease_losses=job.losses,
        worker=None,
        lease_expires_at=None,
        reason=job.reason,
        dead_reason=None if job.dead is None else DeadReason(job.dead),
        seq=job.since,
    )


class _Hangs(KeyboardInterrupt):
    """Code that never waits; of this base class, so that a task lets it through."""


def _hangs(*_: object) -> None:
    raise _Hangs


def run(plan: Plan) -> Outcome:
    """The outcome of a plan, without the shipped code's log lines: they would cost more than the rest."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    handler = signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(_HANG_S)
    history = History(plan)
    try:
        return history.run()
    except _Hangs:
        history.world.broken(f"a callback goes on for more than {_HANG_S} s without ever waiting")
        return history.outcome()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        logging.disable(before)
