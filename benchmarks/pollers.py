"""Many idle workers in one process: each with a connection and a name of its own, asking as `Worker` asks.

What it costs to have them is measured at the node and the broker; this process is none of theirs.
Run as a script with the number of workers, in the environment of `writ env`. Prints a line when all wait.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import uvloop

from writ import Worker, task
from writ.broker.connect import Target
from writ.broker.wire import NatsWire

QUEUE: Final = "idle"
_AT_ONCE: Final = 50


@task(name="bench.never")
async def never() -> None:
    """No such job is submitted."""


async def main(count: int) -> None:
    """Returns when it is killed."""
    target = Target.from_env()
    room = asyncio.Semaphore(_AT_ONCE)

    async def connect(number: int) -> NatsWire:
        async with room:
            return await NatsWire.connect(target, f"poller-{number}", wait_s=30)

    wires = await asyncio.gather(*(connect(number) for number in range(count)))
    workers = [Worker(QUEUE, [never], name=f"poller-{n}", target=target) for n in range(count)]
    working = [
        asyncio.create_task(worker.run_inline(wire)) for worker, wire in zip(workers, wires, strict=True)
    ]
    print(f"{count} pollers wait", flush=True)
    await asyncio.gather(*working)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
