"""Procrastinate on PostgreSQL; async worker, concurrency 100 (LISTEN/NOTIFY wake-up)."""

import psycopg
from common import PG, PY, main, rec
from procrastinate import App, PsycopgConnector

app = App(
    connector=PsycopgConnector(
        conninfo=PG, kwargs={"options": "-c search_path=procr"}, min_size=4, max_size=20
    )
)


@app.task(name="job", queue="bench")
async def job(p):
    rec(p)


class P:
    name, dists, bulk_kind = "procrastinate", ["procrastinate"], "batch_defer_async, 1000 a call"
    durability = "PostgreSQL WAL, fsync, synchronous_commit=on"
    history = "job row + procrastinate_events row per transition (deferred, started, succeeded), kept"

    async def setup(self):
        with psycopg.connect(PG, autocommit=True) as c:
            c.execute("drop schema if exists procr cascade")
            c.execute("create schema procr")
        await app.open_async()
        await app.schema_manager.apply_schema_async()

    def worker_cmd(self):
        return [
            PY,
            "-m",
            "procrastinate",
            "-a",
            "procrastinate_peer.app",
            "worker",
            "-c",
            "100",
            "-q",
            "bench",
        ]

    def one(self, p):
        return job.defer_async(p=p)

    async def many(self, ps):
        for k in range(0, len(ps), 1000):
            await job.batch_defer_async(*[{"p": p} for p in ps[k : k + 1000]])

    async def check(self):
        import asyncio

        await asyncio.sleep(1)
        with psycopg.connect(PG) as c:
            j = c.execute("select status::text,count(*) from procr.procrastinate_jobs group by 1").fetchall()
            e = c.execute("select count(*) from procr.procrastinate_events").fetchone()[0]
            b = c.execute(
                "select sum(pg_total_relation_size(c.oid)) from pg_class c"
                " join pg_namespace n on n.oid = relnamespace where nspname = 'procr' and relkind = 'r'"
            ).fetchone()[0]
        return {"jobs": dict(j), "events": e, "bytes": int(b)}


if __name__ == "__main__":
    main(P())
