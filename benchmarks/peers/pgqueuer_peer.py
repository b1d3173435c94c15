"""PgQueuer on PostgreSQL (asyncpg); batch_size 100, max_concurrent_tasks 100."""

import asyncio
import json
import sys

import asyncpg
from common import PG, PY, main, rec
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgDriver

DSN = PG.rsplit("/", 1)[0] + "/pgq"


async def worker():
    c = await asyncpg.connect(DSN)
    pgq = PgQueuer(AsyncpgDriver(c))

    @pgq.entrypoint("job")
    async def job(j):
        rec(json.loads(j.payload))

    await pgq.run(batch_size=100, max_concurrent_tasks=200)


class P:
    name, dists, bulk_kind = "pgqueuer", ["pgqueuer"], "enqueue(list), 1000 a call"
    durability = "PostgreSQL WAL, fsync, synchronous_commit=on (queue log durable by default)"
    history = "queue row deleted at end; pgqueuer_log row per transition"

    async def setup(self):
        a = await asyncpg.connect(PG)
        await a.execute("drop database if exists pgq with (force)")
        await a.execute("create database pgq")
        await a.close()
        self.c = await asyncpg.connect(DSN)
        self.q = Queries(AsyncpgDriver(self.c))
        await self.q.install()

    def worker_cmd(self):
        return [PY, __file__, "worker"]

    def one(self, p):
        return self.q.enqueue("job", json.dumps(p).encode())

    async def many(self, ps):
        for k in range(0, len(ps), 1000):
            b = ps[k : k + 1000]
            await self.q.enqueue(["job"] * len(b), [json.dumps(p).encode() for p in b], [0] * len(b))

    async def check(self):
        await asyncio.sleep(2)
        return {
            "log": [
                list(map(str, r))
                for r in await self.c.fetch("select status,count(*) from pgqueuer_log group by 1")
            ],
            "left": await self.c.fetchval("select count(*) from pgqueuer"),
            "bytes": await self.c.fetchval("select pg_database_size('pgq')"),
        }


if __name__ == "__main__":
    asyncio.run(worker()) if sys.argv[1:] == ["worker"] else main(P())
