"""A whole system in memory: orchestrator, views, worker and client, as they run in production."""

from __future__ import annotations

import asyncio
import datetime
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final, Self

from writ.broker.client import Client
from writ.broker.connect import Target
from writ.broker.filing import MemoryFiling
from writ.broker.keyvalue import MemoryKeyValue
from writ.broker.memory import MemoryIntake, MemoryLog, MemoryWire, RequestHub
from writ.broker.results import JobHandle
from writ.orchestrator.engine import Engine
from writ.projections.feed import Feeds
from writ.projections.queries import Queries
from writ.projections.registry import VIEWS
from writ.projections.runner import Runner
from writ.schemas.codec import decode
from writ.schemas.queries import JobView
from writ.schemas.records import Record
from writ.schemas.states import State
from writ.workers import Task, Worker
from writ.workers.hands import Threads
from writ.workers.journal import blocked
from writ.workers.run import Run
from writ.workers.worker import Tasks

from ..storehouse import Storehouse
from .loop import START, VirtualClock, VirtualLoop, run

_NOWHERE: Final = Target("memory://", tenant="default", principal="owner")
_NEVER_S: Final = 1e9
_LOOK_S: Final = 0.05
_WAIT_S: Final = 30.0


class System:
    """Runs `tasks` for `queues` in memory, from a moment `start` on. Use it with `async with`.

    `client` is a Client of principal `owner`. `concurrency` is the worker's, of which there is none where no
    tasks are given. The `seed` draws jitter and ids: one seed, one history.
    """

    def __init__(
        self,
        tasks: Tasks = (),
        queues: str | Iterable[str] = "test",
        *,
        concurrency: int = 10,
        start: datetime.datetime = START,
        seed: int = 0,
        **worker: Any,
    ) -> None:
        self._tasks = tasks
        self._queues = queues
        self._concurrency = concurrency
        self._start = start
        self._random = random.Random(seed)
        self._more = worker
        self._parts = AsyncExitStack()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise TypeError("a System runs in virtual time: decorate the test with @writ.testing.virtual")
        async with AsyncExitStack() as parts:
            await self._open(loop, parts)
            self._parts = parts.pop_all()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self._parts.__aexit__(*raised)

    @property
    def now(self) -> datetime.datetime:
        """The time on the system's clock."""
        return datetime.datetime.fromtimestamp(self.clock.wall_us() / 1_000_000, datetime.UTC)

    async def when(self, job: JobHandle, state: State | str, *, timeout_s: float = 7 * 86_400.0) -> JobView:
        """The job as soon as it is in a state, such as "suspended". Raises TimeoutError."""
        wanted = State(state)
        async with asyncio.timeout(timeout_s):
            view = await self.client.accepted(job)
            while view.state is not wanted:
                await asyncio.sleep(_LOOK_S)
                view = await self.client.job(view.id, view.queue)
        return view

    async def records(self) -> list[Record]:
        """All records of the log, oldest first."""
        return [decode(stored.body) async for part in self.log.read() for stored in part]

    # --- set-up -----------------------------------------------------------------------------------------

    async def _open(self, loop: VirtualLoop, parts: AsyncExitStack) -> None:
        self.clock = VirtualClock(self._start)
        self.log = MemoryLog(clock=self.clock)
        intake, hub = MemoryIntake(clock=self.clock), RequestHub()
        queries = await self._open_views(intake, hub, parts)
        house = self.house = self._storehouse(queries)
        wire = self.wire = MemoryWire(intake, hub, queries.answer, house.answer)
        _beside(parts, wire.feed(self.log))
        await asyncio.sleep(0)
        engine = self.engine = Engine(
            self.log,
            intake,
            hub.host(),
            self.clock,
            name="engine",
            version="testing",
            entropy=self._random.random,
        )
        _beside(parts, engine.run(), engine.stop)
        await engine.leading.wait()
        entropy = self._random.randbytes
        self.client = Client(_NOWHERE, wire=wire, clock=self.clock, entropy=entropy)
        if self._tasks:
            threads = _Held(self._concurrency, loop)
            parts.callback(threads.close)
            worker = self.worker = Worker(
                self._queues,
                self._tasks,
                concurrency=self._concurrency,
                name="worker",
                target=_NOWHERE,
                wait_s=_WAIT_S,
                clock=self.clock,
                entropy=self._random.random,
                **self._more,
            )
            _beside(parts, worker.run_inline(wire, threads), worker.drain, worker.drain)

    def _storehouse(self, queries: Queries) -> Storehouse:
        filing: dict[str, MemoryFiling] = defaultdict(MemoryFiling)
        memory: dict[str, MemoryKeyValue] = defaultdict(lambda: MemoryKeyValue(self.clock))

        async def buckets() -> list[str]:
            return list(filing)

        return Storehouse(queries.admit, filing.__getitem__, memory.__getitem__, buckets, self.clock)

    async def _open_views(self, intake: MemoryIntake, hub: RequestHub, parts: AsyncExitStack) -> Queries:
        directory = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="writ-testing-")))
        feeds = Feeds(self.log)
        parts.push_async_callback(feeds.close)
        runners: list[Runner] = []
        for make in VIEWS:
            runner = Runner(directory / f"{make().name}.db", feeds, make, asked_s=_NEVER_S)
            parts.push_async_callback(runner.close)
            await runner.open()
            _beside(parts, runner.run())
            runners.append(runner)
        who = hub.host().who
        queries = Queries(runners, self.log, intake, "testing", who=who, clock=self.clock)
        parts.push_async_callback(queries.close)
        return queries


class _Held(Threads):
    """Threads for plain functions; time stands still while they work, and not while they wait for a step."""

    def __init__(self, count: int, loop: VirtualLoop) -> None:
        super().__init__(count, "writ-testing")
        self._loop = loop

    def put(self, runs: list[Run], call: Callable[[Run], None]) -> None:
        def held(run: Run) -> None:
            blocked.set(self._wait)
            try:
                call(run)
            finally:
                self._loop.release()

        for _ in runs:
            self._loop.hold()
        super().put(runs, held)

    def _wait(self, answered: Future[Any]) -> Any:
        self._loop.release()
        answered.add_done_callback(lambda _: self._loop.hold())  # before anything else can happen
        return answered.result()


def _beside(parts: AsyncExitStack, work: Coroutine[Any, Any, None], *stop: Callable[[], object]) -> None:
    """Runs a coroutine until the parts are closed: it is stopped, or else cancelled. Its error is raised."""
    task = asyncio.ensure_future(work)

    async def end() -> None:
        for each in stop:
            each()
        if not stop:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    parts.push_async_callback(end)


def run_task(task: Task[..., Any], input: object = None, **options: Any) -> Any:
    """The output of one job of a task, run in memory and in virtual time, with its retries.

    `options` are those of `Client.submit`. Raises JobFailed where it becomes a dead letter.
    """

    async def once() -> Any:
        async with System([task]) as system:
            job = await system.client.submit("test", task.name, input, **options)
            return await system.client.result(job)

    return run(once())
