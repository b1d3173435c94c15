"""RQ: RQ_WORKER = rq.worker.SimpleWorker (no fork, kindest) or rq.worker.Worker (default, fork per job)."""

import os

import redis
from common import BIN, MODE, REDIS, main, rec

MODE_ = MODE or "aof"
W = os.environ.get("RQ_WORKER", "simple")


def job(p):
    rec(p)


class P:
    dists, bulk_kind = ["rq"], "enqueue_many (1 pipeline)"
    name = f"rq/{W}"
    durability = f"redis {MODE_}"
    history = "job hash + last results, 500 s TTL; failed 1 year"

    def setup(self):
        from rq import Queue

        self.r = redis.Redis(port=REDIS[MODE_], db=3)
        self.r.flushdb()
        self.q = Queue("bench", connection=self.r)

    def worker_cmd(self):
        return [
            BIN + "/rq",
            "worker",
            "-q",
            "-u",
            f"redis://127.0.0.1:{REDIS[MODE_]}/3",
            "-w",
            "rq.worker.SimpleWorker" if W == "simple" else "rq.worker.Worker",
            "bench",
        ]

    def one(self, p):
        self.q.enqueue("rq_peer.job", p)

    def many(self, ps):
        Q = type(self.q)
        for k in range(0, len(ps), 500):
            self.q.enqueue_many([Q.prepare_data("rq_peer.job", (p,)) for p in ps[k : k + 500]])


if __name__ == "__main__":
    main(P())
