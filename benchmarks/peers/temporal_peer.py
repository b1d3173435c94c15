"""Temporal's development server: one program, SQLite; not the store for production.

One job is one workflow. With TEMPORAL_ACTIVITY=1 (default) the no-op is one activity, as users do it; with 0
the workflow's body does it.
"""

import asyncio
import os
import sys
import uuid
from datetime import timedelta

from common import PY, gather_n, main, rec
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

ADDR = "127.0.0.1:7233"
TQ = os.environ.setdefault("BENCH_TQ", "bench-" + uuid.uuid4().hex[:8])
ACT = os.environ.get("TEMPORAL_ACTIVITY", "1") == "1"


@activity.defn
async def act(p: dict) -> int:
    rec(p)
    return 1


@workflow.defn
class Job:
    @workflow.run
    async def run(self, p: dict) -> int:
        if ACT:
            return await workflow.execute_activity(act, p, start_to_close_timeout=timedelta(seconds=60))
        rec(p)
        return 1


async def worker():
    c = await Client.connect(ADDR)
    await Worker(
        c,
        task_queue=TQ,
        workflows=[Job],
        activities=[act],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_concurrent_activities=100,
        max_concurrent_workflow_tasks=100,
    ).run()


class P:
    name, dists, bulk_kind = (
        "temporal-dev/" + ("activity" if ACT else "wf-only"),
        ["temporalio"],
        "gather, 100 in flight",
    )
    durability = "dev server, SQLite file"
    history = "full event history per run (about 11 events with one activity), kept for retention"

    async def setup(self):
        self.c = await Client.connect(ADDR)

    def worker_cmd(self):
        return [PY, __file__, "worker"]

    def one(self, p):
        return self.c.start_workflow(Job.run, p, id=uuid.uuid4().hex, task_queue=TQ)

    def many(self, ps):
        return gather_n(100, (self.one(p) for p in ps))

    async def check(self):
        h = self.c.get_workflow_handle(self.last) if hasattr(self, "last") else None
        return None if h is None else len((await h.fetch_history()).events)


if __name__ == "__main__":
    asyncio.run(worker()) if sys.argv[1:] == ["worker"] else main(P())
