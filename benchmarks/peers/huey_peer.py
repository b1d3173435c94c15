"""Huey on Redis; 1 consumer process, 8 threads (greenlets would need gevent)."""

import redis
from common import BIN, MODE, REDIS, main, rec
from huey import RedisHuey

MODE_ = MODE or "aof"
huey = RedisHuey("bench", port=REDIS[MODE_], db=5, results=True)


@huey.task()
def job(p):
    rec(p)
    return 1


class P:
    name, dists, bulk_kind = "huey", ["huey"], "none"
    durability = f"redis {MODE_}; popped before run (at most once)"
    history = "result until read"

    def setup(self):
        redis.Redis(port=REDIS[MODE_], db=5).flushdb()

    def worker_cmd(self):
        return [BIN + "/huey_consumer", "huey_peer.huey", "-w", "8", "-k", "thread", "-q", "-n"]

    def one(self, p):
        job(p)


if __name__ == "__main__":
    import huey_peer  # so that the task is registered under the same module name

    main(huey_peer.P())
