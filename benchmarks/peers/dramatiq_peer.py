"""Dramatiq: BENCH_MODE = mem|aof|fsync (Redis) or rabbit. 1 process, 8 threads (its default)."""

import dramatiq
import redis
from common import AMQP, MODE, PY, REDIS, main, rec

MODE_ = MODE or "aof"
if MODE_ == "rabbit":
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    broker = RabbitmqBroker(url=AMQP.rstrip("/"), confirm_delivery=True)
else:
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(port=REDIS[MODE_], db=2)
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker.add_middleware(
    Results(backend=RedisBackend(port=REDIS.get(MODE_, REDIS["aof"]), db=2), store_results=True)
)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="bench")
def job(p):
    rec(p)
    return 1


class P:
    name, dists, bulk_kind = "dramatiq", ["dramatiq"], "none"
    durability = f"{MODE_}; ack after run"
    history = "result only, 10 min TTL; dead letters 7 days"

    def setup(self):
        redis.Redis(port=REDIS.get(MODE_, REDIS["aof"]), db=2).flushdb()
        if MODE_ == "rabbit":
            broker.declare_queue("bench", ensure=True)
            broker.flush_all()

    def worker_cmd(self):
        return [PY, "-m", "dramatiq", "dramatiq_peer", "-p", "1", "-t", "8", "--use-spawn"]

    def one(self, p):
        job.send(p)


if __name__ == "__main__":
    main(P())
