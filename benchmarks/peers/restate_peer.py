"""Restate, one node with its own log on RocksDB: a handler with one step, invoked one-way over HTTP."""

import asyncio

import aiohttp
import restate
from common import PY, gather_n, main, rec

PORT = 7533
job_svc = restate.Service("bench")


@job_svc.handler()
async def job(ctx: restate.Context, p: dict) -> int:
    async def step():
        rec(p)
        return 1

    return await ctx.run_typed("step", step)


app = restate.app([job_svc])


class P:
    name, dists, bulk_kind = "restate", ["restate-sdk"], "gather, 100 in flight"
    durability = "single node, own log on disk (default profile)"
    history = "invocation journal (input, each step, output), 1 day retention"

    async def setup(self):
        self.s = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=100))

    def worker_cmd(self):
        return [PY, "-m", "hypercorn", "-b", f"127.0.0.1:{PORT}", "restate_peer:app"]

    async def after_start(self):
        await asyncio.sleep(3)
        async with self.s.post(
            "http://127.0.0.1:9070/deployments", json={"uri": f"http://127.0.0.1:{PORT}", "force": True}
        ) as r:
            assert r.status < 300, await r.text()

    async def one(self, p):
        async with self.s.post("http://127.0.0.1:8080/bench/job/send", json=p) as r:
            assert r.status < 300, await r.text()

    def many(self, ps):
        return gather_n(100, (self.one(p) for p in ps))

    async def close(self):
        await self.s.close()


if __name__ == "__main__":
    main(P())
