"""The worker: a keeper on a thread of its own, user code on the caller's loop and in threads."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from types import ModuleType
from typing import Any, Final, cast

import msgspec

from writ.broker.clock import Clock, SystemClock
from writ.broker.coding import Coder, PayloadCodec
from writ.broker.connect import Target
from writ.broker.wire import NatsWire, Wire
from writ.schemas.bounds import QUEUES_TOLD_MAX
from writ.schemas.commands import WorkerAbout
from writ.schemas.fleet import Labels
from writ.schemas.ids import queue_fault, token_fault
from writ.schemas.policy import Isolation

from .environments import Environment
from .errors import WorkerError
from .hands import Hands, LoopHands, Mailbox, Threads, from_anywhere
from .keeper import Keeper
from .line import Counts, Post
from .load import load, tasks_in
from .outage import Outage
from .redaction import redacted_logs
from .run import Run
from .runner.hands import ChildHands
from .runner.limits import AttemptLimits
from .runner.pool import Pool
from .tasks import Around, Task, schemas_of

log = logging.getLogger("writ.worker")

Tasks = Iterable[Task[..., Any] | ModuleType | str] | ModuleType | str
Connect = Callable[[], Awaitable[Wire]]
CONNECT_WAIT_S: Final = 30.0
WEIGHT_MAX: Final = 1_000


class Worker:
    """Runs tasks of queues, up to `concurrency` at a time.

    `queues` is one queue's name or several; as a mapping it gives each a weight of 1 to 1,000: while two have
    jobs, one of weight 3 gets three leases for each one of weight 1. `tasks` are the tasks themselves, or the
    modules, module names or files that they stand in, one or several. Each of `around` stands around every
    task, outside of what the task itself has (see `task`). `name` tells this worker from others of its
    principal; made from host, process and a chance number if not given. `target` is a broker's url or a
    Target, from the environment if not given. `drain_s` is how long running tasks may go on after a drain was
    asked for; `wait_s` [5, up to 30] is how long an acquire waits for jobs, and so how long the drain of an
    idle worker may take.

    Leases are kept alive on a thread of their own: a task that blocks the event loop keeps its lease. While
    the broker is away tasks go on, and their results are reported when it is back; those of queues with
    `strict_lease` are stopped before another worker can have the job.

    `labels` are names and values that jobs may demand of their worker, as `{"gpu": "true"}`.

    With `isolate` ("plain", "landlock" or "bubblewrap": docs/isolation.md) each attempt runs in a process of
    its own, held to `limits`; `tasks` are then modules, their names or files, and are not imported here. What
    stands around tasks is then given to the tasks themselves. With an `environment` (see `environments.py`)
    they run by its interpreter, with the modules that are there.

    With `codecs` all content is encoded by the first before it leaves the worker, and decoded by the one that
    it names as it comes; isolated attempts never hold them. `releases` are the digests of releases that
    `tasks` are the code of: a job that names a release is given to workers that hold it, and to no others.

    Raises WorkerError for a set-up that cannot work.
    """

    def __init__(
        self,
        queues: str | Iterable[str] | Mapping[str, int],
        tasks: Tasks,
        *,
        around: Iterable[Around] = (),
        concurrency: int = 10,
        name: str | None = None,
        target: Target | str | None = None,
        drain_s: float = 25.0,
        wait_s: float = 5.0,
        connect: Connect | None = None,
        clock: Clock | None = None,
        entropy: Callable[[], float] = random.random,
        isolate: Isolation | str = Isolation.NONE,
        limits: AttemptLimits | None = None,
        codecs: Iterable[PayloadCodec] = (),
        releases: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        environment: Environment | None = None,
    ) -> None:
        self._coder = Coder(codecs)
        self.target = Target(target) if isinstance(target, str) else target or Target.from_env()
        self.name = name or _name(entropy)
        weights = _weights(queues)
        self.queues = tuple(weights)
        self.concurrency = concurrency
        level = self._check(weights, isolate, labels or {})
        if environment is not None and level is Isolation.NONE:
            raise WorkerError("attempts run in an environment of their own only where isolate names a level")
        if not 0 <= wait_s <= 30:
            raise WorkerError(f"wait_s is {wait_s}; give 0 to 30 seconds")
        self._post = Post(
            self.target.tenant,
            self.target.principal,
            self.name,
            self.queues,
            concurrency,
            wait_s,
            drain_s,
            weights=weights,
            isolation=level,
            releases=tuple(releases),
            labels=dict(labels or {}),
        )
        more = tuple(around)
        self._pool: Pool | None = None
        if level is Isolation.NONE:
            self.tasks = {name: each.within(more) for name, each in _by_name(tasks).items()}
        else:
            if more:
                reason = "what stands around isolated attempts cannot come from another process"
                raise WorkerError(f"{reason}: leave around out, and give it to each task: @task(around=...)")
            secrets = [] if self.target.key_path is None else [self.target.key_path]
            self._pool = Pool(
                _places(tasks), level, limits or AttemptLimits(), secrets, concurrency, environment
            )
            self.tasks = {name: Task(_elsewhere, name) for name in self._pool.tasks}
        self._connect = connect or self._connect_nats
        self._clock = clock or SystemClock()
        self._entropy = entropy
        self._keeper: Keeper | None = None
        self._keeper_loop: asyncio.AbstractEventLoop | None = None
        self._asked_to_drain = 0
        self._lock = threading.Lock()
        self._counts = Counts()

    @property
    def counts(self) -> Counts:
        """What was done since the start."""
        return self._keeper.counts if self._keeper else self._counts

    @property
    def running(self) -> int:
        """Attempts whose user code has not ended; from any thread."""
        return self._keeper.running if self._keeper else 0

    @property
    def stale(self) -> int:
        """Reports that changed nothing, because the lease was void by then."""
        return self.counts.stale

    def drain(self) -> None:
        """Stops acquiring and lets `run` end when the running tasks have; from any thread.

        Called again it does not wait: what runs is stopped, and its leases are released.
        """
        with self._lock:
            self._asked_to_drain += 1
            if self._keeper is None:
                return  # told when there is one
            keeper, loop = self._keeper, self._keeper_loop
        if loop is None:
            keeper.drain()
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: drained already
                loop.call_soon_threadsafe(keeper.drain)

    async def run(self, *, handle_signals: bool = False) -> None:
        """Works until drained. Coroutine tasks run on this loop.

        With `handle_signals`, on the main thread, SIGTERM and SIGINT drain, and a second one releases at
        once; cancelling `run` releases at once, too. Raises Unreachable where no broker is had within 30 s,
        WorkerError where the worker cannot go on: it may not acquire, or the broker ended the connection.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        thread = threading.Thread(
            target=self._keep, args=(loop, done), name=f"writ-keeper-{self.name}", daemon=True
        )
        undo = self._handle_signals(loop) if handle_signals else []
        thread.start()
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            self.drain()
            self.drain()
            with contextlib.suppress(WorkerError):
                await done
            raise
        finally:
            for restore in undo:
                restore()
            thread.join()

    def run_sync(self) -> None:
        """`run` with signals handled, on an event loop of its own; for the main thread of a program."""
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self.run(handle_signals=threading.current_thread() is threading.main_thread()))

    async def run_inline(self, wire: Wire, threads: Threads | None = None) -> None:
        """`run` with everything on this one loop: for simulations and tests. So are plain functions, but for
        those that get `threads`.
        """
        if self._pool is not None:
            raise WorkerError("attempts of their own processes do not run inline; leave isolate out")
        loop = asyncio.get_running_loop()
        keeper = self._new_keeper(wire, self._post)  # which machine it is must not matter here
        wake = loop.call_soon if threads is None else from_anywhere(loop)
        ended = Mailbox[Run](wake, keeper.finished)
        await self._serve(keeper, None, LoopHands(loop, wake, ended.put, self._clock, threads))

    # --- the keeper's thread ----------------------------------------------------------------------------

    def _keep(self, user_loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> None:
        """The keeper's thread: its result or error becomes that of `done`, on the user's loop."""
        error: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._keep_async(user_loop))
        except BaseException as caught:
            error = caught

        def tell() -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        with contextlib.suppress(RuntimeError):  # the user's loop is closed: nobody waits
            user_loop.call_soon_threadsafe(tell)

    async def _keep_async(self, user_loop: asyncio.AbstractEventLoop) -> None:
        loop = asyncio.get_running_loop()
        wire = await self._connect()
        if self._pool is not None:
            await self._keep_isolated(loop, wire, self._pool)
            return
        threads = Threads(self.concurrency, f"writ-task-{self.name}")
        try:
            about = _about(self.concurrency, schemas_of(self.tasks), self.queues)
            keeper = self._new_keeper(wire, replace(self._post, about=about))
            ended = Mailbox[Run](from_anywhere(loop), keeper.finished)
            hands = LoopHands(user_loop, from_anywhere(user_loop), ended.put, self._clock, threads)
            await self._serve(keeper, loop, hands)
        finally:
            threads.close()
            await wire.close()

    async def _keep_isolated(self, loop: asyncio.AbstractEventLoop, wire: Wire, pool: Pool) -> None:
        about = _about(self.concurrency, pool.schemas, self.queues)
        keeper = self._new_keeper(wire, replace(self._post, about=about))
        hands = ChildHands(loop, pool, lambda run: keeper.finished([run]), self._clock)
        try:
            pool.warm()
            await self._serve(keeper, loop, hands)
        finally:
            await hands.close()
            pool.close()
            await wire.close()

    def _new_keeper(self, wire: Wire, post: Post) -> Keeper:
        return Keeper(wire, post, self.tasks, self._clock, self._entropy, self._coder)

    async def _serve(self, keeper: Keeper, loop: asyncio.AbstractEventLoop | None, hands: Hands) -> None:
        with self._lock:
            self._keeper, self._keeper_loop = keeper, loop
            for _ in range(min(self._asked_to_drain, 2)):
                keeper.drain()
        log.info("worker %s works on %s", self.name, ", ".join(self.queues))
        try:
            with redacted_logs(keeper.redactor):
                await keeper.run(hands)
        finally:
            self._counts = keeper.counts
            log.info("worker %s has ended: %s", self.name, keeper.counts)

    async def _connect_nats(self) -> Wire:
        outage = Outage(asyncio.get_running_loop(), f"worker {self.name}", self.target.url)
        name = f"writ-worker-{self.name}"
        return await NatsWire.connect(self.target, name, wait_s=CONNECT_WAIT_S, on_broken=outage.tell)

    # --- set-up -----------------------------------------------------------------------------------------

    def _check(
        self, weights: Mapping[str, int], isolate: Isolation | str, labels: Mapping[str, str]
    ) -> Isolation:
        """The level of isolation that is meant. Raises WorkerError."""
        fault = token_fault(self.name, "worker name")
        if not self.queues:
            fault = "no queue is given; name at least one"
        for queue in self.queues:
            fault = fault or queue_fault(queue)
            if not 1 <= weights.get(queue, 1) <= WEIGHT_MAX:
                fault = fault or f"the weight of queue {queue} is {weights[queue]}; give 1 to {WEIGHT_MAX:,}"
        if not 1 <= self.concurrency <= 10_000:
            fault = fault or f"concurrency is {self.concurrency}; give 1 to 10,000"
        if isolate not in tuple(Isolation):
            fault = fault or f"isolate is {isolate!r}; give one of {', '.join(Isolation)}"
        try:
            msgspec.convert(labels, Labels)
        except msgspec.ValidationError as error:
            fault = fault or f"labels {dict(labels)!r} cannot be had: {error}"
        if fault:
            raise WorkerError(fault)
        return Isolation(isolate)

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> list[Callable[[], object]]:
        """Has signals drain; what to call to have them as before."""

        def drain(number: int) -> None:
            again = " again: releasing at once" if self._asked_to_drain else ": draining"
            log.warning("worker %s got %s%s", self.name, signal.Signals(number).name, again)
            self.drain()

        undo: list[Callable[[], object]] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            try:
                loop.add_signal_handler(number, drain, number)
            except (NotImplementedError, RuntimeError, ValueError) as error:
                log.warning("signals do not drain worker %s: %s", self.name, error or "not on this system")
                break
            undo.append(partial(_restore, loop, number, before))
        return undo


def _about(slots: int, schemas: dict[str, str], queues: tuple[str, ...]) -> WorkerAbout:
    """What a worker says of itself."""
    host = socket.gethostname() or "localhost"
    return WorkerAbout(host, version("writ-orchestrator"), slots, schemas, queues[:QUEUES_TOLD_MAX])


def _weights(queues: str | Iterable[str] | Mapping[str, int]) -> dict[str, int]:
    """Queues in their order, each with its weight."""
    if isinstance(queues, str):
        return {queues: 1}
    if isinstance(queues, Mapping):
        return dict(cast("Mapping[str, int]", queues))
    return dict.fromkeys(queues, 1)


def _restore(loop: asyncio.AbstractEventLoop, number: int, before: Any) -> None:
    loop.remove_signal_handler(number)
    if before is not None:
        signal.signal(number, before)


def _several(tasks: Tasks) -> Iterable[Task[..., Any] | ModuleType | str]:
    if isinstance(tasks, str):
        return [tasks]
    if isinstance(tasks, ModuleType):
        return [tasks]
    return tasks


def _places(tasks: Tasks) -> list[str]:
    """Where the tasks stand, for other processes to load them from."""
    found: list[str] = []
    for each in _several(tasks):
        if isinstance(each, Task):
            reason = "isolated attempts load their tasks themselves"
            raise WorkerError(f"{reason}: give the module, its name or its file")
        found.append(each if isinstance(each, str) else getattr(each, "__file__", None) or each.__name__)
    return found


def _elsewhere() -> None:
    """Stands for a task that is imported in other processes alone."""


def _by_name(tasks: Tasks) -> dict[str, Task[..., Any]]:
    found: list[Task[..., Any]] = []
    for each in _several(tasks):
        if isinstance(each, str):
            found += load(each)
        else:
            found += tasks_in(each) if isinstance(each, ModuleType) else [each]
    named: dict[str, Task[..., Any]] = {}
    for each in found:
        if not isinstance(each, Task):  # pyright: ignore[reportUnnecessaryIsInstance] - users get this wrong
            raise WorkerError(f"{each!r} is not a task; put @task above the function")
        if named.setdefault(each.name, each) is not each:
            raise WorkerError(f"two tasks are named {each.name}; give one another name with @task(name=...)")
    if not named:
        raise WorkerError("no task is given; put @task above a function and pass it, or its module")
    return named


def _name(entropy: Callable[[], float]) -> str:
    host = "".join(c if c.isalnum() or c in "-_" else "-" for c in socket.gethostname()) or "host"
    safe = host.encode("ascii", "replace").decode().replace("?", "-")[:100]
    return f"{safe}-{os.getpid()}-{int(entropy() * 16**6):06x}"


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one."""
    if sys.platform == "win32":
        return None
    return importlib.import_module("uvloop").new_event_loop  # type: ignore[no-any-return]
