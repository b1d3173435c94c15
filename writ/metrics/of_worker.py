"""What a worker's process tells, and the thread that serves it: user code may hold up every other one."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
from concurrent.futures import Future

from writ.schemas import catalog
from writ.schemas.metrics import Family, told
from writ.workers import Worker

from .processes import process
from .serving import LOOPBACK, port_of, serve


def of_worker(worker: Worker) -> list[Family]:
    counts = dataclasses.asdict(worker.counts)
    return [
        told(catalog.SLOTS, worker.concurrency),
        told(catalog.SLOTS_BUSY, worker.running),
        *[told(catalog.WORKER_RUNS, number, what) for what, number in counts.items()],
        *process(catalog.WORKER, os.getpid()),
    ]


def serve_worker(worker: Worker, port: int, host: str = LOOPBACK) -> int:
    """Serves the page until the process ends; the port, where `port` is 0. Raises PortTaken."""
    listening: Future[int] = Future()

    async def run() -> None:
        async def source() -> list[Family]:
            return of_worker(worker)

        try:
            server = await serve(source, port, host)
        except Exception as error:
            listening.set_exception(error)
            return
        listening.set_result(port_of(server))
        await server.serve_forever()

    threading.Thread(target=asyncio.run, args=(run(),), name="writ-metrics", daemon=True).start()
    return listening.result()
