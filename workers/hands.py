"""Where user code runs: coroutines on one event loop, plain functions in threads. Knows no wire."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from writ.broker.clock import Clock

from .run import Run

T = TypeVar("T")
Wake = Callable[[Callable[[], None]], Any]
"""`loop.call_soon` within one loop, `loop.call_soon_threadsafe` between two."""


class Mailbox(Generic[T]):
    """Brings items to a loop, from any thread; however many are put, one wake-up delivers them."""

    def __init__(self, wake: Wake, take: Callable[[list[T]], None]) -> None:
        self._items: deque[T] = deque()
        self._woken = False
        self._wake = wake
        self._take = take

    def put(self, item: T) -> None:
        self._items.append(item)
        # Cleared before the items are taken: what is put meanwhile is taken now or wakes once more.
        if not self._woken:
            self._woken = True
            self._wake(self._deliver)

    def put_all(self, items: Iterable[T]) -> None:
        self._items.extend(items)
        if not self._woken:
            self._woken = True
            self._wake(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        items: list[T] = []
        try:
            while True:
                items.append(self._items.popleft())
        except IndexError:
            pass
        if items:
            self._take(items)


class Outbox:
    """Takes runs that have noted something, from any thread, to the keeper's."""

    def __init__(self, wake: Wake, take: Callable[[list[Run]], None]) -> None:
        self._box = Mailbox[Run](wake, take)
        self._keeper = threading.get_ident()

    def put(self, run: Run) -> None:
        self._box.put(run)

    @property
    def is_here(self) -> bool:
        """Whether this thread is the keeper's, which must not wait for itself."""
        return threading.get_ident() == self._keeper


def from_anywhere(loop: asyncio.AbstractEventLoop) -> Callable[[Callable[[], None]], None]:
    """Makes calls on a loop from any thread; one that is closed needs no call."""

    def wake(call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(call)

    return wake


class Hands(Protocol):
    """Runs what the keeper gives out, and gives every run back, once, when its user code has ended."""

    def begin(self, runs: list[Run]) -> None: ...

    def interrupt(self, runs: list[Run]) -> None:
        """The runs' `stop` was set."""
        ...

    def heard(self, runs: list[Run]) -> None:
        """The runs' `heard` has grown."""
        ...


if sys.version_info >= (3, 12):

    def _start(loop: asyncio.AbstractEventLoop, work: Any) -> asyncio.Task[None]:
        return asyncio.Task(work, loop=loop, eager_start=True)

else:

    def _start(loop: asyncio.AbstractEventLoop, work: Any) -> asyncio.Task[None]:
        return loop.create_task(work)


class LoopHands:
    """Coroutines on `loop`; plain functions in `threads`, or on the loop itself where there are none.

    `wake` brings calls to the loop, and `ended` takes each run back; it is called on whatever thread ran it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wake: Wake,
        ended: Callable[[Run], None],
        clock: Clock,
        threads: Threads | None = None,
    ) -> None:
        self._loop = loop
        self._ended = ended
        self._now_us = clock.mono_us
        self._threads = threads
        self._to_begin = Mailbox[Run](wake, self._begin)
        self._to_cancel = Mailbox[Run](wake, self._cancel)

    def begin(self, runs: list[Run]) -> None:
        if self._threads is None:
            self._to_begin.put_all(runs)
            return
        coroutines = [run for run in runs if run.task.is_async]
        if coroutines:
            self._to_begin.put_all(coroutines)
        if len(coroutines) != len(runs):
            self._threads.put([run for run in runs if not run.task.is_async], self._call)

    def interrupt(self, runs: list[Run]) -> None:
        self._to_cancel.put_all(runs)

    def heard(self, runs: list[Run]) -> None:
        """Nothing is to be done: a task that waits looks at its run."""

    def _begin(self, runs: list[Run]) -> None:
        loop = self._loop
        for run in runs:
            if not run.task.is_async:
                self._call(run)
            else:
                run.handle = _start(loop, self._drive(run))

    def _cancel(self, runs: list[Run]) -> None:
        for run in runs:
            # One that has not begun sees `stop` by itself; cancelled now, it would end without giving the
            # run back.
            handle = run.handle
            if handle is not None and run.began_us:
                handle.cancel()

    async def _drive(self, run: Run) -> None:
        try:
            if run.stop is None:
                run.began_us = self._now_us()
                run.returned(await run.work(), self._now_us())
        except BaseException as error:
            run.raised(error, self._now_us())
            if isinstance(error, KeyboardInterrupt | GeneratorExit):
                raise
        finally:
            run.handle = None
            self._ended(run)

    def _call(self, run: Run) -> None:
        try:
            if run.stop is None:
                run.began_us = self._now_us()
                run.returned(run.work_plainly(), self._now_us())
        except BaseException as error:
            run.raised(error, self._now_us())
        finally:
            self._ended(run)


class Threads:
    """Up to `count` daemon threads, started as they are needed.

    Daemons, so that a function which never ends cannot keep a drained worker's process alive.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._jobs: queue.SimpleQueue[tuple[Run, Callable[[Run], None]] | None] = queue.SimpleQueue()
        self._started = 0

    def put(self, runs: list[Run], call: Callable[[Run], None]) -> None:
        """Has `call` called for each run; only ever called from one thread."""
        for run in runs:
            self._jobs.put((run, call))
        for _ in range(min(len(runs), self._count - self._started)):
            self._started += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()

    def close(self) -> None:
        """Lets idle threads end."""
        for _ in range(self._started):
            self._jobs.put(None)

    def _work(self) -> None:
        jobs = self._jobs
        while (job := jobs.get()) is not None:
            run, call = job
            call(run)
