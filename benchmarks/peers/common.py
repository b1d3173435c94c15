"""What all peers share: every harness does the same work and prints one line of JSON.

The work is no-op jobs with about 200 bytes of JSON, one worker process, and a body that calls `rec(payload)`,
which appends phase, time of the submit and time of the start to a file: one write of about 2 microseconds.

Phases: 0 warm-up, 1 one enqueue at a time, 2 bulk enqueue, 3 light load. The end-to-end rate is jobs / (last
body - first enqueue call), the worker running all the while. A harness runs in the peers' own environment.
"""

import argparse
import asyncio
import contextlib
import inspect
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path

LINE = struct.Struct("ddd")
REDIS = {"mem": 7390, "aof": 7391, "fsync": 7392}
NATS = {"default": "nats://127.0.0.1:7422", "fsync": "nats://127.0.0.1:7423"}
PG = "postgresql://bench@127.0.0.1:7432/bench"
AMQP = "amqp://guest:guest@127.0.0.1:7672//"
MODE = os.environ.get("BENCH_MODE", "")
PY = sys.executable
BIN = str(Path(PY).parent)


@cache
def _out():
    return os.open(os.environ["BENCH_OUT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def rec(payload):
    """What a job's body does."""
    os.write(_out(), LINE.pack(payload["phase"], payload["t"], time.time()))


def payload(phase, i):
    """A job's input, stamped with the time of its submit."""
    return {"phase": phase, "i": i, "t": time.time(), "pad": "x" * 140}


class Recs:
    """What the bodies have written down so far."""

    def __init__(self, path):
        self.path = path
        self.rows = []
        self.offset = 0

    def of(self, phase):
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            content = file.read()
        whole = len(content) // LINE.size * LINE.size
        self.offset += whole
        self.rows += LINE.iter_unpack(content[:whole])
        return [row for row in self.rows if row[0] == phase]

    async def wait(self, phase, count, timeout):
        end = time.time() + timeout
        while time.time() < end:
            if len(self.of(phase)) >= count:
                return True
            await asyncio.sleep(0.02)
        return False


async def _maybe(result):
    return await result if inspect.isawaitable(result) else result


async def gather_n(count, coroutines):
    """Runs coroutines with so many in flight: "bulk" where a tool has no call for it."""
    left = iter(coroutines)

    async def work():
        for each in left:
            await each

    await asyncio.gather(*(work() for _ in range(count)))


def quantile(values, share):
    """In milliseconds."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3, 2) if ordered else None


def main(peer):
    """Runs a peer: an object with name, dists, durability, history, worker_cmd(), setup(), one(payload),
    many(payloads) and bulk_kind; it may have after_start(), check(), close(), env."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--light-secs", type=float, default=10)
    parser.add_argument("--light-rate", type=float, default=50)
    parser.add_argument("--timeout", type=float, default=120)
    parser.add_argument("--no-bulk", action="store_true")
    asyncio.run(_run(peer, parser.parse_args()))


async def _run(peer, args):
    descriptor, out = tempfile.mkstemp(prefix="bench_")
    os.close(descriptor)
    os.environ["BENCH_OUT"] = out
    result = {
        "peer": peer.name,
        "mode": MODE or "default",
        "jobs": args.jobs,
        "bulk_kind": peer.bulk_kind,
        "durability": peer.durability,
        "history": peer.history,
        "versions": {dist: version(dist) for dist in peer.dists},
    }
    worker = None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # in blocking calls, too
    try:
        await _maybe(peer.setup())
        worker = _start(peer)
        await _measure(peer, Recs(out), args, result)
    except (Exception, asyncio.CancelledError) as error:  # told, not hidden
        result["error"] = repr(error)[:300]
    finally:
        if worker is not None:
            _end(worker)
        if hasattr(peer, "close"):
            await _maybe(peer.close())
        os.unlink(out)
    print(json.dumps(result), flush=True)
    os._exit(0)  # some clients have threads that do not end


def _start(peer):
    with open(os.environ.get("BENCH_LOG", os.devnull), "ab") as log:
        return subprocess.Popen(
            peer.worker_cmd(),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **getattr(peer, "env", {})},
        )


def _end(worker):
    """The worker and all its children, which are of its session."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(4)


async def _measure(peer, recs, args, result):
    if hasattr(peer, "after_start"):
        await _maybe(peer.after_start())
    for i in range(20):
        await _maybe(peer.one(payload(0, i)))
    if not await recs.wait(0, 20, 40):
        raise RuntimeError("warm-up jobs did not finish")
    await _light(peer, recs, args, result)
    await _load(peer, recs, args, result, 1, "single")
    if not args.no_bulk and peer.bulk_kind != "none":
        await _load(peer, recs, args, result, 2, "bulk")
    if hasattr(peer, "check"):
        result["state"] = await _maybe(peer.check())


async def _light(peer, recs, args, result):
    """Few jobs at fixed times, with an idle worker and an empty queue."""
    count = int(args.light_secs * args.light_rate)
    begun = time.time()
    for i in range(count):
        delay = begun + i / args.light_rate - time.time()
        if delay > 0:
            await asyncio.sleep(delay)
        await _maybe(peer.one(payload(3, i)))
    if count:
        await recs.wait(3, count, 20)
        latencies = [start - submit for _, submit, start in recs.of(3)]
        result["lat_p50_ms"], result["lat_p99_ms"] = quantile(latencies, 0.5), quantile(latencies, 0.99)
        result["lat_n"] = len(latencies)


async def _load(peer, recs, args, result, phase, label):
    """As many jobs as fast as they go."""
    begun = time.time()
    if phase == 1:
        for i in range(args.jobs):
            await _maybe(peer.one(payload(1, i)))
    else:
        await _maybe(peer.many([payload(2, i) for i in range(args.jobs)]))
    result[f"{label}_enq_per_s"] = round(args.jobs / (time.time() - begun))
    done = await recs.wait(phase, args.jobs, args.timeout)
    rows = recs.of(phase)
    if rows:
        seconds = max(start for _, _, start in rows) - begun
        result[f"{label}_e2e_per_s"] = round(len(rows) / seconds)
        result[f"{label}_e2e_s"] = round(seconds, 2)
    if not done:
        result[f"{label}_done"] = len(rows)
        raise RuntimeError(f"{label}: {len(rows)} of {args.jobs} jobs were run within {args.timeout:g} s")
