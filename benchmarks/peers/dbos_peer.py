"""DBOS Transact (Python) on PostgreSQL: enqueue through DBOSClient, worker polls the queue
(polling 0.1 s here; the library's default is 1 s: DBOS_POLL)."""

import os
import sys
import threading

from common import PG, PY, main, rec

DSN = PG.replace("postgresql://", "postgresql+psycopg://").rsplit("/", 1)[0] + "/dbosb"


def worker():
    from dbos import DBOS

    DBOS(
        config={
            "name": "bench",
            "system_database_url": DSN,
            "log_level": "ERROR",
            "application_version": "v1",
            "sys_db_pool_size": 20,
        }
    )

    @DBOS.workflow(name="job")
    async def job(p):
        rec(p)
        return 1

    DBOS.launch()
    DBOS.register_queue(
        "bench", worker_concurrency=100, polling_interval_sec=float(os.environ.get("DBOS_POLL", "0.1"))
    )
    threading.Event().wait()


class P:
    name, dists, bulk_kind = "dbos", ["dbos"], "threads, 16 in flight"
    durability = "PostgreSQL WAL, fsync, synchronous_commit=on"
    history = (
        "workflow_status row (input, output, status) + operation_outputs row per step; kept, in-place updates"
    )

    def setup(self):
        import psycopg

        with psycopg.connect(PG, autocommit=True) as c:
            c.execute("drop database if exists dbosb with (force)")
            c.execute("create database dbosb")

    async def after_start(self):
        import asyncio

        from dbos import DBOSClient

        await asyncio.sleep(6)
        self.c = DBOSClient(system_database_url=DSN, system_database_pool_size=20)

    def worker_cmd(self):
        return [PY, __file__, "worker"]

    def one(self, p):
        self.c.enqueue({"workflow_name": "job", "queue_name": "bench"}, p)

    def many(self, ps):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(16) as ex:
            list(ex.map(self.one, ps))

    def check(self):
        import time

        import psycopg

        time.sleep(1)
        with psycopg.connect(PG.rsplit("/", 1)[0] + "/dbosb") as c:
            return {
                "status": dict(
                    c.execute("select status,count(*) from dbos.workflow_status group by 1").fetchall()
                ),
                "bytes": c.execute("select pg_database_size('dbosb')").fetchone()[0],
            }


if __name__ == "__main__":
    worker() if sys.argv[1:] == ["worker"] else main(P())
