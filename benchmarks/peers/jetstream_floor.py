"""The floor of our own stack, not a product: a nats-py pull consumer on a JetStream work queue (file).

Besides, FLOOR_EVENTS [0] lifecycle events a job, which the worker publishes to a second, kept stream,
pipelined for each fetched batch, before it acknowledges the job: 0 is a plain queue, 3 an event-sourced job.
"""

import asyncio
import contextlib
import json
import os
import sys

import nats
from common import MODE, NATS, PY, main, rec
from nats.js.api import ConsumerConfig, StorageType, StreamConfig

MODE_ = MODE or "default"
K = int(os.environ.get("FLOOR_EVENTS", "0"))


async def worker():
    nc = await nats.connect(NATS[MODE_])
    js = nc.jetstream(publish_async_max_pending=4000)
    sub = await js.pull_subscribe(
        "fl.job", durable="w", stream="FL", config=ConsumerConfig(max_ack_pending=5000)
    )
    while True:
        try:
            ms = await sub.fetch(100, timeout=5)
        except Exception:
            continue
        futs = []
        for m in ms:
            p = json.loads(m.data)
            if K > 1:
                futs += [await js.publish_async(f"fe.job.{p['i']}", m.data) for _ in range(K - 1)]
            rec(p)
            if K:
                futs.append(await js.publish_async(f"fe.job.{p['i']}", m.data))
        if futs:
            await asyncio.gather(*futs)
        for m in ms:
            await m.ack()


class P:
    name, dists, bulk_kind = f"jetstream-floor/{K}ev", ["nats-py"], "publish_async, 1000 in flight"
    durability = f"JetStream file, sync {MODE_}"
    history = f"{K} events a job in a kept stream" if K else "none"

    async def setup(self):
        self.nc = await nats.connect(NATS[MODE_])
        self.js = self.nc.jetstream(publish_async_max_pending=1000)
        for s, sub, ret in (("FL", "fl.>", "workqueue"), ("FE", "fe.>", "limits")):
            with contextlib.suppress(Exception):
                await self.js.delete_stream(s)
            await self.js.add_stream(
                StreamConfig(name=s, subjects=[sub], storage=StorageType.FILE, retention=ret)
            )

    def worker_cmd(self):
        return [PY, __file__, "worker"]

    def one(self, p):
        return self.js.publish("fl.job", json.dumps(p).encode())

    async def many(self, ps):
        fs = [await self.js.publish_async("fl.job", json.dumps(p).encode()) for p in ps]
        await asyncio.gather(*fs)

    async def close(self):
        await self.nc.close()


if __name__ == "__main__":
    asyncio.run(worker()) if sys.argv[1:] == ["worker"] else main(P())
