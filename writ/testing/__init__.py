"""Tests of tasks without a broker: a whole system in memory, in virtual time.

    from writ import testing
    from invoices import extract

    def test_one_task():
        assert testing.run_task(extract, {"invoice": "7"})["invoice"] == "7"

    @testing.virtual
    async def test_approval():
        async with testing.System([extract, pay], "billing") as system:
            job = await system.client.submit("billing", "pay", {"invoice": "7"})
            await system.when(job, "suspended")
            await system.client.approve(job.id, job.queue, "within budget")
            assert await system.client.result(job) == "paid"

The orchestrator, the views, the worker and the client are those that run in production; the log is kept in
memory. Time stands still while code runs, and jumps to the next moment at which anything happens: an hour
of waiting takes milliseconds.
"""

from .loop import VirtualClock, VirtualLoop, run, virtual
from .system import System, run_task

__all__ = ["System", "VirtualClock", "VirtualLoop", "run", "run_task", "virtual"]
