"""Virtual time: one world of hosts, each with an event loop of its own, run by one scheduler.

Nothing sleeps: when no callback is ready, time jumps to the next timer or message. Hosts share nothing but
the messages that they send each other, so the order of callbacks of different hosts within one instant
cannot be seen by anyone; what matters, the order in which messages arrive, is drawn from the seed.
"""

# Being an event loop means to use what asyncio keeps for event loops.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from math import ceil
from typing import Any

SECOND_US = 1_000_000
WALL_START_US = 1_767_225_592 * SECOND_US
"""Eight seconds before 2026, when every history begins: so one has a full minute in its midst."""

_UNWINDING_MAX = 50_000
_UNWINDING_ROUNDS = 50
_INSTANT_MAX = 20_000
"""Callbacks within one instant: more are a loop that never waits."""

_BASE = copy_context()


class Call(asyncio.TimerHandle):
    """A callback of a host that is ready, waits for its time, or was cancelled. `args` may be a message's."""

    __slots__ = ("host", "when_us")

    def __init__(
        self,
        host: Host | None,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context,
        when_us: int,
    ) -> None:
        self.host = host
        self._callback = callback
        self._args = args
        self._context = context
        self._cancelled = False
        self.when_us = when_us

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        return self.when_us / SECOND_US


class SimTask(asyncio.Task[Any]):
    """A task whose place in a set does not hang on its address, so that one seed is one history."""

    def __init__(self, work: Coroutine[Any, Any, Any], host: Host) -> None:
        self.serial = host.world.serial = host.world.serial + 1
        host.tasks[self.serial] = self
        super().__init__(work, loop=host.loop)

    def __hash__(self) -> int:
        return self.serial

    __eq__ = object.__eq__


class HostLoop(asyncio.AbstractEventLoop):
    """As much of an event loop as Writ uses: callbacks, timers, futures and tasks."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._world = host.world
        self._put = host.world.ready.append

    def time(self) -> float:
        return self._world.now_us / SECOND_US

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        call = Call(self.host, callback, args, context or copy_context(), 0)
        self._put(call)
        return call

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self._timer(self._world.now_us + max(0, ceil(delay * SECOND_US)), callback, args, context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        when_us = int(when * SECOND_US)
        while when_us / SECOND_US < when:
            when_us += 1
        return self._timer(max(when_us, self._world.now_us), callback, args, context)

    def _timer(
        self, when_us: int, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.TimerHandle:
        world = self._world
        call = Call(self.host, callback, args, context or copy_context(), when_us)
        if self.host.alive:
            world.serial += 1
            heapq.heappush(world.heap, (when_us, world.serial, call))
        return call

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        assert isinstance(coro, Coroutine)
        return SimTask(coro, self.host)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A task or callback failed and nobody looked: that must not happen on a live host."""
        if self.host.alive:
            error = context.get("exception")
            self._world.broken(f"{self.host.name} let an error pass: {context.get('message')}: {error!r}")

    def bury(self) -> None:
        """Of a crashed host nothing goes to the world any more."""
        self._put = self.host.grave.append


class Host:
    """A process on a machine: what it holds in memory is gone with it. Another start is another Host.

    `cut` means that nothing passes between it and the broker. `fuse` counts down callbacks to a crash.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.held = False
        """Paused or dead: nothing of it runs."""
        self.cut = False
        self.fuse = 0
        self.tasks: dict[int, SimTask] = {}
        self.backlog: deque[Call] = deque()
        self.grave: deque[Call] = deque()
        self.wall_offset_us = 0
        self.mono_offset_us = 0
        self.loop = _loop_of(self)
        world.hosts.append(self)

    # --- the host's clock, as Writ is given it ------------------------------------------------------------

    def wall_us(self) -> int:
        return WALL_START_US + self.world.now_us + self.wall_offset_us

    def mono_us(self) -> int:
        return self.world.now_us + self.mono_offset_us

    # --- its life -------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, Any]) -> SimTask:
        return SimTask(work, self)

    def pause(self) -> None:
        self.held = True

    def resume(self, order: int) -> None:
        """Runs on with what has piled up: in its order, timers first, or messages first."""
        if not self.alive:
            return
        self.held = False
        calls = list(self.backlog)
        self.backlog.clear()
        if order:
            calls.sort(key=lambda call: (call._context is _BASE) == (order == 1))
        self.world.ready.extend(calls)

    def crash(self) -> None:
        """Ends at once: all its tasks are cancelled, and no effect of that leaves the host."""
        if not self.alive:
            return
        self.alive = False
        self.held = True
        self.loop.bury()
        self.grave.extend(call for call in self.backlog if call._context is not _BASE)
        self.grave.extend(
            call for call in self.world.ready if call.host is self and call._context is not _BASE
        )
        self.backlog.clear()
        running = events._get_running_loop()
        events._set_running_loop(self.loop)
        try:
            self._unwind()
        finally:
            events._set_running_loop(running)
        self.tasks.clear()

    def _unwind(self) -> None:
        """Lets every task come to its end, where nobody sees it."""
        left = _UNWINDING_MAX
        for _ in range(_UNWINDING_ROUNDS):
            waiting = [task for task in self.tasks.values() if not task.done()]
            if not waiting:
                return
            for task in waiting:
                task.cancel()
            while self.grave and left:
                left -= 1
                call = self.grave.popleft()
                if not call._cancelled:
                    call._context.run(call._callback, *call._args)
        names = ", ".join(repr(task.get_coro()) for task in self.tasks.values() if not task.done())
        raise RuntimeError(f"{self.name} cannot be ended: {names}")


def _loop_of(host: Host) -> HostLoop:
    """A host's loop, which leaves out what a real one needs for files and processes."""
    made: Any = HostLoop
    loop: HostLoop = made(host)
    return loop


class World:
    """The scheduler. `run` ends when `stop` is set, at `until_us`, or with the first violation."""

    def __init__(self) -> None:
        self.now_us = SECOND_US
        self.serial = 0
        self.steps = 0
        self.ready: deque[Call] = deque()
        self.heap: list[tuple[int, int, Call]] = []
        self.faults: Counter[str] = Counter()
        self.violations: list[str] = []
        self.stop = False
        self.hosts: list[Host] = []
        """All that ever were."""
        self.on_fuse: Callable[[Host], None] = Host.crash

    def broken(self, what: str) -> None:
        """Notes a violation; the history ends with it."""
        self.violations.append(f"{self.now_us / SECOND_US:.6f} s: {what}")
        self.stop = True

    def fault(self, kind: str) -> None:
        self.faults[kind] += 1
        self.steps += 1

    def post(self, delay_us: int, host: Host | None, callback: Callable[..., object], *args: Any) -> None:
        """Has something happen on a host, or in the world itself, `delay_us` from now."""
        when_us = self.now_us + delay_us
        self.serial += 1
        heapq.heappush(self.heap, (when_us, self.serial, Call(host, callback, args, _BASE, when_us)))

    def run(self, until_us: int) -> None:
        """Runs what is ready, then moves time on, again and again."""
        try:
            while not self.stop:
                self._drain()
                if self.stop or not self._advance(until_us):
                    return
        finally:
            events._set_running_loop(None)

    def _drain(self) -> None:
        ready = self.ready
        popleft, set_loop = ready.popleft, events._set_running_loop
        current: Host | None = None
        left = _INSTANT_MAX
        while ready:
            call = popleft()
            host = call.host
            left -= 1
            if not left:
                name = "the world" if host is None else host.name
                self.broken(f"{name} goes round in circles: {call._callback!r}")
                return
            if call._cancelled:
                continue
            if host is None:
                call._callback(*call._args)
            elif host.held:
                if host.alive:
                    host.backlog.append(call)
                continue
            else:
                if host is not current:
                    set_loop(host.loop)
                    current = host
                try:
                    call._context.run(call._callback, *call._args)
                except Exception as error:
                    self.broken(f"{host.name}: a callback failed: {error!r}")
                if host.fuse:
                    host.fuse -= 1
                    if not host.fuse and host.alive:
                        self.on_fuse(host)
                        current = None
            if self.stop:
                return

    def _advance(self, until_us: int) -> bool:
        """Moves time to the next timers and messages; False where there is nothing before `until_us`."""
        heap, ready = self.heap, self.ready
        pop = heapq.heappop
        while heap:
            when_us, _, call = heap[0]
            if call._cancelled:
                pop(heap)
                continue
            if when_us > until_us:
                self.now_us = until_us
                return False
            self.now_us = max(self.now_us, when_us)
            while heap and heap[0][0] <= when_us:
                _, _, call = pop(heap)
                if not call._cancelled:
                    ready.append(call)
                    self.steps += 1
            return True
        return False

    def close(self) -> None:
        """Lets go of everything without a word."""
        for host in self.hosts:
            host.crash()
        self.heap.clear()
        self.ready.clear()
