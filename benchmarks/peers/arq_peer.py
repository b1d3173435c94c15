"""arq: async Redis queue; max_jobs=100; poll_delay is its default 0.5 s."""

import redis
from arq import create_pool
from arq.connections import RedisSettings
from common import BIN, MODE, REDIS, gather_n, main, rec

MODE_ = MODE or "aof"
RS = RedisSettings(port=REDIS[MODE_], database=4)


async def job(ctx, p):
    rec(p)


class WorkerSettings:
    functions = (job,)
    redis_settings = RS
    max_jobs = 100


class P:
    name, dists, bulk_kind = "arq", ["arq"], "gather, 100 in flight"
    durability = f"redis {MODE_}"
    history = "result, 1 h TTL"

    async def setup(self):
        redis.Redis(port=REDIS[MODE_], db=4).flushdb()
        self.p = await create_pool(RS)

    def worker_cmd(self):
        return [BIN + "/arq", "arq_peer.WorkerSettings"]

    def one(self, p):
        return self.p.enqueue_job("job", p)

    def many(self, ps):
        return gather_n(100, (self.p.enqueue_job("job", p) for p in ps))


if __name__ == "__main__":
    main(P())
