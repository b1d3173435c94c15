"""Taskiq. BENCH_MODE default or fsync: pull broker and results on NATS JetStream; mem, aof or redisfsync: a
Redis stream and results there. TASKIQ_RESULTS=0 leaves the results out.
"""

import contextlib
import os

from common import BIN, MODE, NATS, REDIS, gather_n, main, rec

MODE_ = MODE or "default"
# Default batch 1. With a batch > 1 and the default timeout (none) a light load waits for a full batch.
BATCH = int(os.environ.get("TASKIQ_BATCH", "1"))
PT = 0.05 if BATCH > 1 else None
RES = os.environ.get("TASKIQ_RESULTS", "1") == "1"
if MODE_ in NATS:
    from nats.js.api import ConsumerConfig
    from taskiq_nats import NATSObjectStoreResultBackend, PullBasedJetStreamBroker

    broker = PullBasedJetStreamBroker(
        NATS[MODE_],
        stream_name="taskiq_b",
        subject="taskiq_b",
        durable="taskiq_b",
        pull_consume_batch=BATCH,
        pull_consume_timeout=PT,
        consumer_config=ConsumerConfig(max_ack_pending=2000),
    )
    if RES:
        broker = broker.with_result_backend(
            NATSObjectStoreResultBackend(NATS[MODE_], bucket_name="taskiq_res")
        )
else:
    from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

    U = f"redis://127.0.0.1:{REDIS[MODE_.replace('redis', '')]}/6"
    broker = RedisStreamBroker(U, xread_count=100)
    if RES:
        broker = broker.with_result_backend(RedisAsyncResultBackend(U, result_ex_time=3600))


@broker.task(task_name="job")
async def job(p: dict) -> int:
    rec(p)
    return 1


class P:
    name = "taskiq/" + ("nats" if MODE_ in NATS else "redis") + ("" if RES else "/noresult")
    dists, bulk_kind = ["taskiq", "taskiq-nats", "nats-py"], "gather, 100 in flight"
    durability = f"JetStream file, sync {MODE_}" if MODE_ in NATS else f"redis {MODE_}"
    history = ("result object" if RES else "none") + "; no states"

    async def setup(self):
        if MODE_ in NATS:
            import nats

            nc = await nats.connect(NATS[MODE_])
            js = nc.jetstream()
            for s in ("taskiq_b", "OBJ_taskiq_res"):
                with contextlib.suppress(Exception):
                    await js.delete_stream(s)
            await nc.close()
        else:
            import redis

            redis.Redis.from_url(U).flushdb()
        await broker.startup()

    def worker_cmd(self):
        return [
            BIN + "/taskiq",
            "worker",
            "taskiq_peer:broker",
            "-w",
            "1",
            "--max-async-tasks",
            "100",
            "--log-level",
            "WARNING",
        ]

    def one(self, p):
        return job.kiq(p)

    def many(self, ps):
        return gather_n(100, (job.kiq(p) for p in ps))


if __name__ == "__main__":
    main(P())
