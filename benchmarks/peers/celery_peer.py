"""Celery: BENCH_MODE = mem|aof|fsync (Redis broker+results) or rabbit (RabbitMQ broker, Redis AOF results).
CELERY_POOL: prefork (2 children, default) or threads (100)."""

import os

import redis
from celery import Celery, group
from common import AMQP, MODE, PY, REDIS, main, rec

MODE_ = MODE or "aof"
R = f"redis://127.0.0.1:{REDIS.get(MODE_, REDIS['aof'])}/1"
app = Celery("celery_peer", broker=AMQP if MODE_ == "rabbit" else R, backend=R)
app.conf.update(
    task_acks_late=os.environ.get("CELERY_LATE", "1") == "1",
    task_default_queue="bench_celery",
    worker_prefetch_multiplier=50,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": True} if MODE_ == "rabbit" else {},
)


@app.task(name="job")
def job(p):
    rec(p)


class P:
    name, dists = "celery", ["celery"]
    pool = os.environ.get("CELERY_POOL", "prefork")
    bulk_kind = "group() (loops)"
    durability = f"broker/results {MODE_}; acks_late"
    history = "last state + result only, 1 day TTL (task events not stored)"

    def setup(self):
        redis.Redis(port=REDIS.get(MODE_, REDIS["aof"]), db=1).flushdb()
        if MODE_ == "rabbit":
            with app.connection() as c:
                c.default_channel.queue_declare("bench_celery", durable=True, auto_delete=False)
                c.default_channel.queue_purge("bench_celery")

    def worker_cmd(self):
        c = "2" if self.pool == "prefork" else "100"
        return [
            PY,
            "-m",
            "celery",
            "-A",
            "celery_peer:app",
            "worker",
            "-P",
            self.pool,
            "-c",
            c,
            "--without-mingle",
            "--without-gossip",
            "-l",
            "WARNING",
        ]

    def one(self, p):
        job.delay(p)

    def many(self, ps):
        group(job.s(p) for p in ps).apply_async()


if __name__ == "__main__":
    P.name = f"celery/{P.pool}"
    main(P())
