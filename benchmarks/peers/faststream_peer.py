"""FastStream on NATS JetStream: push consumer with 100 workers (FS_PULL=1: pull, batches of 100, 50 ms)."""

import asyncio
import contextlib
import os

from common import MODE, NATS, PY, gather_n, main, rec
from faststream import FastStream
from faststream.nats import JStream, NatsBroker, PullSub

MODE_ = MODE or "default"
broker = NatsBroker(NATS[MODE_], logger=None)
stream = JStream("fs_b", subjects=["fs_b.>"], declare=True)


@broker.subscriber(
    "fs_b.job",
    stream=stream,
    durable="fs_b",
    max_workers=100,
    pull_sub=PullSub(batch_size=100, batch=False, timeout=0.05) if os.environ.get("FS_PULL") else None,
)
async def job(p: dict):
    rec(p)


app = FastStream(broker, logger=None)


class P:
    name, dists, bulk_kind = "faststream", ["faststream", "nats-py"], "gather, 100 in flight"
    durability = f"JetStream file, sync {MODE_}"
    history = "none (a messaging framework: no job states, no results)"

    async def setup(self):
        import nats

        nc = await nats.connect(NATS[MODE_])
        with contextlib.suppress(Exception):
            await nc.jetstream().delete_stream("fs_b")
        await nc.close()
        self.b = NatsBroker(NATS[MODE_], logger=None)
        await self.b.connect()

    async def after_start(self):
        await asyncio.sleep(2.5)

    def worker_cmd(self):
        return [PY, "-m", "faststream", "run", "faststream_peer:app"]

    def one(self, p):
        return self.b.publish(p, "fs_b.job", stream="fs_b")

    def many(self, ps):
        return gather_n(100, (self.b.publish(p, "fs_b.job", stream="fs_b") for p in ps))


if __name__ == "__main__":
    main(P())
