"""Virtual time: an event loop whose clock jumps to the next timer when nothing else is to do."""

from __future__ import annotations

import asyncio
import datetime
import functools
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_SECOND_US: Final = 1_000_000
START: Final = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on which waiting takes no time.

    What goes to an executor is done at once, on the loop's own thread. While it is `held`, as other threads
    are at work, time stands still.
    """

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self._holds = 0
        self._lock = threading.Lock()
        super().__init__()
        # Else no timer is met after some months: a float of so many seconds is coarser than a nanosecond.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self.now_s

    def hold(self) -> None:
        """Time stands still until as many releases; both may be called on any thread."""
        with self._lock:
            self._holds += 1

    def release(self) -> None:
        with self._lock:
            self._holds -= 1
        with suppress(RuntimeError):  # closed: nobody waits for time to go on
            self.call_soon_threadsafe(int)

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def _run_once(self) -> None:
        inner: Any = self
        if not self._holds and not inner._ready and inner._scheduled:
            self.now_s = max(self.now_s, inner._scheduled[0]._when)
        super()._run_once()  # type: ignore[misc]


class RealLoop(VirtualLoop):
    """The same on real time: for a system whose tasks speak to the world outside."""

    def time(self) -> float:
        return asyncio.SelectorEventLoop.time(self)

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        return asyncio.SelectorEventLoop.run_in_executor(self, executor, func, *args)

    def _run_once(self) -> None:
        asyncio.SelectorEventLoop._run_once(self)  # type: ignore[attr-defined]


class VirtualClock:
    """The running loop's time, on a wall that stands at `start` when the clock is made."""

    def __init__(self, start: datetime.datetime = START) -> None:
        self._loop = asyncio.get_running_loop()
        self._wall_us = round(start.timestamp() * _SECOND_US) - self.mono_us()

    def mono_us(self) -> int:
        return round(self._loop.time() * _SECOND_US)

    def wall_us(self) -> int:
        return self._wall_us + self.mono_us()


def run(work: Coroutine[Any, Any, T], loop: type[VirtualLoop] = VirtualLoop) -> T:
    """What a coroutine returns, run in virtual time, or on another of these loops."""
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(work)


def virtual(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Makes a coroutine function a plain one that runs in virtual time: for tests, whatever runs them."""

    @functools.wraps(test)
    def plain(*args: P.args, **kwargs: P.kwargs) -> T:
        return run(test(*args, **kwargs))

    return plain
