"""`kill -9` of the orchestrator, of a worker and of the broker, in the middle of 2,000 jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.kills.harness import Stage

JOBS = 2_000
HELD_BACK = 500
UNDER_WAY = 400
LIVE = 50
SPARE = 40
"""So many more are waited for, as some end between the look and the kill."""

LEASE_S = 2.0
SLOTS = 80
FINISH_S = 75.0


class Play:
    """The run that all three kills interrupt: two workers, and a client that submits before and after."""

    def __init__(self, stage: Stage, node: subprocess.Popen[bytes]) -> None:
        self.stage = stage
        self.watch = stage.watch()
        self.node = node
        self.workers = {name: stage.worker(name, SLOTS) for name in ("left", "right")}
        self.submitter = stage.submitter(JOBS, HELD_BACK, LEASE_S)
        self.killed_us = 0

    async def until_busy(self, enough: Callable[[dict[str, int]], bool]) -> None:
        """Returns in the middle: jobs have come and go on coming, and enough leases are live."""
        await self.watch.until(
            lambda log: len(log.jobs) >= UNDER_WAY and enough(log.live), "enough leases are live", 30
        )

    async def hold(self, worker: subprocess.Popen[bytes], enough: Callable[[dict[str, int]], bool]) -> None:
        """Returns with the worker halted in the middle of its work, when what it holds is enough."""
        while True:
            await self.until_busy(enough)
            worker.send_signal(signal.SIGSTOP)
            # What it had sent by then is on record a tenth of a second later.
            await self.watch.reach(time.time_ns() // 1_000 + 100_000)
            if enough(self.watch.history.live):
                return
            worker.send_signal(signal.SIGCONT)

    def kill(self, pid: int) -> None:
        self.killed_us = time.time_ns() // 1_000
        os.kill(pid, signal.SIGKILL)

    async def finish(self) -> dict[str, Any]:
        """Lets the rest be submitted, waits until every job has ended, and has all of it checked."""
        stage = self.stage
        assert self.submitter.poll() is None, stage.said()
        stage.release()
        await self.watch.until(
            lambda log: len(log.jobs) == JOBS and all(job["ends"] for job in log.jobs.values()),
            "every job has ended",
            FINISH_S,
        )
        assert await stage.ended(self.submitter, "the submitter") == 0, stage.said()
        times = stage.acknowledged()
        before = [at for at in times if at < self.killed_us]
        assert UNDER_WAY / 2 < len(before) <= JOBS - HELD_BACK / 2, "submitting went on before and after"
        assert self.killed_us - max(before) < 1_000_000, "submitting was under way"
        assert sum(self.watch.live_at(self.killed_us).values()) >= LIVE
        for worker in self.workers.values():
            worker.send_signal(signal.SIGTERM)
        for name, worker in self.workers.items():
            assert await stage.ended(worker, name, 40) == 0, stage.said()
        summary = await stage.verdict()
        assert summary["states"] == {"completed": JOBS}
        assert summary["jobs"] == summary["acknowledged"] == JOBS
        assert summary["events"]["job_completed"] == JOBS
        self.node.send_signal(signal.SIGTERM)
        assert await stage.ended(self.node, "the node") == 0, stage.said()
        print(summary)
        return summary


@pytest.fixture
async def play(stage: Stage) -> Play:
    return Play(stage, await stage.node())


async def test_kill_nine_of_the_orchestrator(play: Play) -> None:
    """`kill -9` of the orchestrator during a run of 2,000 jobs and while at least 50 leases are live:
    after restart every job ends exactly once, no acknowledged submit is missing, and fold(log) equals what
    `writ jobs --json` says."""
    stage, broker, port = play.stage, play.stage.broker_pid(), play.stage.url
    await play.until_busy(lambda live: sum(live.values()) >= LIVE + SPARE)
    play.kill(play.node.pid)
    await stage.until(lambda: not stage.lives(broker), "the broker stops with its owner")
    play.node = await stage.node()
    assert stage.url == port, "clients and workers find it again"
    summary = await play.finish()
    assert summary["leaders"] == 2


async def test_kill_nine_of_a_worker(play: Play) -> None:
    """`kill -9` of a worker during a run of 2,000 jobs and while at least 50 of its leases are live:
    after restart every job ends exactly once, no acknowledged submit is missing, and fold(log) equals what
    `writ jobs --json` says."""
    victim = play.workers.pop("left")
    await play.hold(victim, lambda live: live.get("left", 0) >= LIVE)
    play.kill(victim.pid)
    assert victim.wait(30) == -signal.SIGKILL
    play.workers["again"] = play.stage.worker("again", SLOTS)
    summary = await play.finish()
    assert play.watch.live_at(play.killed_us)["left"] >= LIVE
    assert summary["leaders"] == 1
    assert summary["events"]["lease_expired"] >= LIVE / 2, "its leases expired; some reports were under way"
    assert summary["executions repeated"] > 0


async def test_kill_nine_of_the_broker(play: Play) -> None:
    """`kill -9` of the broker during a run of 2,000 jobs and while at least 50 leases are live:
    after restart every job ends exactly once, no acknowledged submit is missing, and fold(log) equals what
    `writ jobs --json` says."""
    stage, broker = play.stage, play.stage.broker_pid()
    await play.until_busy(lambda live: sum(live.values()) >= LIVE + SPARE)
    play.kill(broker)
    await stage.until(lambda: stage.broker_pid() not in (0, broker), "the node starts its broker again")
    summary = await play.finish()
    assert summary["leaders"] == 1, "the orchestrator lived on"
