"""How jobs arrive: all at once, one after the other, by many hands, or by the clock."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from writ import Client

from .stage import QUEUE

ARRAY: Final = 500
INPUT_BYTES: Final = 200
_RETRY: Final = {"initial_interval_s": 0.1}
Options = Callable[[int], dict[str, Any]]
"""The options of a job's submit, by its number."""


class Sending:
    """Numbers the jobs of a workload, and remembers when each was meant to be sent, in wall nanoseconds."""

    def __init__(
        self, client: Client, task: str, *, input_bytes: int = INPUT_BYTES, options: Options | None = None
    ) -> None:
        self.client = client
        self.intended: list[int] = []
        self.late_us: list[float] = []
        """How much later than intended jobs were sent, where they had a time."""
        self.sent = 0
        self.acknowledged_ns = 0
        """When the last submit was acknowledged."""
        self._task = task
        self._pad = "x" * (input_bytes - len('{"n":10000,"pad":""}'))
        self._options = options

    def next(self, at_ns: int | None = None, **more: Any) -> dict[str, Any]:
        """The next job; meant to be sent now, unless it is told when."""
        n = len(self.intended)
        self.intended.append(at_ns or time.time_ns())
        job = {"task": self._task, "input": {"n": n, "pad": self._pad, **more}}
        return job if self._options is None else job | self._options(n)

    async def bulk(self, count: int) -> None:
        """All jobs in one call, which sends arrays of 500."""
        now = time.time_ns()
        await self._many([self.next(now) for _ in range(count)])

    async def one_by_one(self, count: int) -> None:
        """Each job is sent when the one before is acknowledged."""
        for _ in range(count):
            await self._one(self.next())

    async def by_many(self, count: int, hands: int) -> None:
        """So many submitters at once, each sending one job after the other."""

        async def submitter(share: int) -> None:
            await self.one_by_one(share)

        await asyncio.gather(*(submitter(count // hands) for _ in range(hands)))

    async def paced(self, count: int, per_s: float, together: int = 1) -> None:
        """Jobs at fixed times, `together` of them in one array, whether earlier ones are through or not.

        A thread keeps the time: the timers of an event loop are a millisecond late.
        """
        loop = asyncio.get_running_loop()
        sends: set[asyncio.Task[None]] = set()
        start_ns = time.time_ns() + 50_000_000

        def arrive(due_ns: int) -> None:
            self.late_us += [(time.time_ns() - due_ns) / 1_000] * together
            jobs = [self.next(due_ns) for _ in range(together)]
            sends.add(loop.create_task(self._one(jobs[0]) if together == 1 else self._many(jobs)))

        def keep_time() -> None:
            for number in range(count // together):
                due_ns = start_ns + round(number * together / per_s * 1e9)
                delay_ns = due_ns - time.time_ns()
                if delay_ns > 0:
                    time.sleep(delay_ns / 1e9)
                loop.call_soon_threadsafe(arrive, due_ns)

        keeper = threading.Thread(target=keep_time, name="bench-arrivals", daemon=True)
        keeper.start()
        await asyncio.to_thread(keeper.join)
        await asyncio.sleep(0)  # the last arrival
        await asyncio.gather(*sends)

    async def fan_out(self, parents: int, children: int) -> None:
        """Parents, each of which starts so many children; those are numbered behind all parents."""
        now = time.time_ns()
        jobs = [self.next(now, first=parents + n * children, count=children) for n in range(parents)]
        await self._many(jobs)
        self.intended += [now] * (parents * children)

    async def _one(self, job: dict[str, Any]) -> None:
        task, content = job.pop("task"), job.pop("input")
        await self.client.submit(QUEUE, task, content, **job)
        self._acknowledged(1)

    async def _many(self, jobs: list[dict[str, Any]]) -> None:
        await self.client.submit_many(QUEUE, jobs)
        self._acknowledged(len(jobs))

    def _acknowledged(self, jobs: int) -> None:
        self.sent += jobs
        self.acknowledged_ns = time.time_ns()


def retried(_: int) -> dict[str, Any]:
    """A short backoff, so that what is measured is not its length."""
    return {"retry": _RETRY}


def prioritized(seed: int = 4) -> Options:
    """Priorities 1 to 5, in an order that is the same in every run."""
    draw = random.Random(seed)
    return lambda _: {"priority": draw.randint(1, 5)}
