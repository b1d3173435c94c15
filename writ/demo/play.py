"""The course of the demonstration."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

from writ.broker.client import Client
from writ.cli.fetch import all_jobs, all_records
from writ.schemas.codec import decode
from writ.schemas.events import (
    AttemptStarted,
    Fact,
    JobCompleted,
    JobDeadLettered,
    LeaseGranted,
    RetryScheduled,
)
from writ.schemas.lifecycle import TERMINAL, State
from writ.schemas.policy import Retry

from . import tally
from .distributions import installed
from .stage import Stage, StageError
from .tally import Tally
from .tasks import TASK
from .telling import Teller

QUEUE: Final = "demo"
WORKERS: Final = ("worker-1", "worker-2")
CONCURRENCY: Final = 4
LEASE_S: Final = 2.0
RETRY: Final = Retry(max_attempts=3, initial_interval_s=0.3, backoff=2.0)
COURSE_TIMEOUT_S: Final = 50.0
LEAST_JOBS: Final = 4
_POLL_S: Final = 0.05
_SHOW_S: Final = 0.1


@dataclass(frozen=True)
class Cast:
    """Which distributions are verified, and which of them meet trouble. One seed, one cast."""

    names: tuple[str, ...]
    slow: str
    flaky: str
    broken: str

    @classmethod
    def drawn(cls, seed: int, jobs: int | None) -> Cast:
        """Raises StageError where too few distributions are installed."""
        names = list(installed())
        if len(names) < LEAST_JOBS:
            raise StageError(f"{len(names)} distributions are installed here; the demo needs {LEAST_JOBS}")
        draw = random.Random(seed)
        if jobs is not None and jobs < len(names):
            names = sorted(draw.sample(names, jobs))
        slow, flaky, broken = draw.sample(names, 3)
        return cls(tuple(names), slow, flaky, broken)

    def jobs(self) -> list[dict[str, Any]]:
        """The submits. Those with trouble go first, so that it comes while there is still work."""
        troubles = {self.slow: "slow", self.flaky: "flaky", self.broken: "broken"}
        return [
            {
                "task": TASK,
                "id": name,
                "input": {"distribution": name, "trouble": troubles.get(name, "none")},
                "lease_s": LEASE_S,
                "retry": RETRY,
                "priority": 1 if name in troubles else 3,
            }
            for name in self.names
        ]


async def play(stage: Stage, cast: Cast, teller: Teller) -> tuple[Client, Tally]:
    """Runs it all; the client is open, for looking closer, and the caller's to close.

    Raises StageError where a process ends that should not, or the jobs do not end in time.
    """
    target = await stage.start_node()
    teller.step(f"a node of its own listens at {target.url}")
    client = await Client(target, name="writ-demo").__aenter__()
    try:
        await client.submit_many(QUEUE, cast.jobs())
        teller.step(f"{len(cast.names)} jobs submitted: verify each installed distribution")
        for name in WORKERS:
            await stage.start_worker(name, QUEUE, CONCURRENCY)
        teller.step(f"{len(WORKERS)} worker processes started: {', '.join(WORKERS)}")
        try:
            await _unless_ended(stage, _course(stage, client, cast, teller))
        finally:
            teller.end_progress()
        await stage.stop_workers()
        return client, await tally.count(client, QUEUE)
    except BaseException:
        await client.close()
        raise


async def _unless_ended(stage: Stage, course: Coroutine[Any, Any, None]) -> None:
    """The course, broken off as soon as a process ends that should not."""
    going = asyncio.create_task(course)
    guard = asyncio.create_task(stage.unexpected_end())
    try:
        async with asyncio.timeout(COURSE_TIMEOUT_S):
            done, _ = await asyncio.wait({going, guard}, return_when=asyncio.FIRST_COMPLETED)
            if guard in done:
                guard.result()
            await going
    except TimeoutError:
        raise StageError(
            f"the jobs have not ended within {COURSE_TIMEOUT_S:g} s; the processes said:\n{stage.logs()}"
        ) from None
    finally:
        for task in (going, guard):
            task.cancel()
        await asyncio.gather(going, guard, return_exceptions=True)


async def _course(stage: Stage, client: Client, cast: Cast, teller: Teller) -> None:
    """From the first lease to the last job's end."""
    showing = asyncio.create_task(_show_progress(client, len(cast.names), teller))
    try:
        await _until(client, cast.flaky, RetryScheduled)
        teller.step(f"{cast.flaky} failed and is retried after a backoff", "~", "yellow")
        victim = await _holder(client, cast.slow)
        # The log says that the lease is live and user code runs: this attempt will not end by itself in time.
        pid = await stage.kill(victim)
        teller.step(f"{victim}, process {pid}, killed with SIGKILL while running {cast.slow}", "!", "red")
        await _until(client, cast.broken, JobDeadLettered)
        teller.step(f"{cast.broken} has failed too often: a dead letter", "x", "red")
        await _until(client, cast.slow, JobCompleted)
        heir = await _last_worker(client, cast.slow)
        teller.step(f"{cast.slow} reclaimed when its lease ran out; finished by {heir}")
        await showing
    finally:
        showing.cancel()
    teller.step("every job has ended")


async def _show_progress(client: Client, total: int, teller: Teller) -> None:
    """Returns when all jobs have ended."""
    while True:
        jobs = await all_jobs(client, queue=QUEUE)
        ended = sum(job.state in TERMINAL for job in jobs)
        teller.progress(ended, total)
        if ended == total:
            return
        await asyncio.sleep(_SHOW_S)


async def _holder(client: Client, name: str) -> str:
    """The worker that runs a job, as soon as the log says that it does."""
    await _until(client, name, AttemptStarted)
    view = await client.job(name, QUEUE)
    if view.state is not State.RUNNING or view.worker is None:
        raise StageError(f"{name} was to be running when its worker is killed, but it is {view.state.value}")
    return view.worker


async def _until(client: Client, name: str, kind: type[Fact]) -> None:
    """Returns once the log has such an event of the job."""
    while True:
        if any(isinstance(event, kind) for event in await _events(client, name)):
            return
        await asyncio.sleep(_POLL_S)


async def _last_worker(client: Client, name: str) -> str:
    grants = [event for event in await _events(client, name) if isinstance(event, LeaseGranted)]
    return grants[-1].worker


async def _events(client: Client, name: str) -> list[Fact]:
    records = await all_records(client, QUEUE, name)
    return [event for each in records for event in decode(bytes(each.record)).events]
