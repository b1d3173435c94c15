"""Attempts whose process died, as the worker that kept it apart reports them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from writ.schemas.errors import ErrorClass
from writ.schemas.events import DeadReason
from writ.schemas.lifecycle import State

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any

CRASH: dict[str, Any] = {"class": "system", "type": "SIGSEGV", "text": "killed by SIGSEGV", "crashed": True}
POLICY = {"max_attempts": 1, "max_lease_losses": 3, "initial_interval_s": 0.01}


async def test_a_crash_counts_as_a_lost_lease_and_not_as_a_failure(twin: Twin) -> None:
    await twin.submit({"task": "t", "id": "a", "retry": POLICY})
    for losses in (1, 2):
        (lease,) = await twin.acquire(wait_s=5, isolation="plain")
        assert "refused" not in await twin.report("fail", lease, isolation="plain", **CRASH)
        job = twin.job("a")
        assert (job.state, job.lease_losses, job.failures) == (State.RETRYING, losses, 0)
        assert job.error is not None
        assert (job.error.class_, job.error.type) == (ErrorClass.SYSTEM, "SIGSEGV")
    (lease,) = await twin.acquire(wait_s=5, isolation="plain")
    await twin.report("fail", lease, isolation="plain", **CRASH)
    job = twin.job("a")
    assert (job.state, job.dead, job.lease_losses) == (State.DEAD, DeadReason.POISON, 3)
    assert job.error is not None
    assert (job.error.class_, job.error.type) == (ErrorClass.POISON, "SIGSEGV")
    await twin.check()


async def test_a_worker_that_waits_gets_nothing_of_a_queue_that_has_become_stricter(twin: Twin) -> None:
    waiting = asyncio.create_task(twin.acquire(wait_s=0.2))
    await twin.settled()
    await twin.ask("declare", policy={"isolation": "bubblewrap"})
    await twin.submit({"task": "t", "id": "a"})
    assert await waiting == []
    (lease,) = await twin.acquire(wait_s=1, isolation="bubblewrap")
    assert lease["id"] == "a"
    await twin.check()
