"""A node that knows many tenants, each with a principal `owner`: what `writ up` runs, with more principals.

Run as a script, with the directory and the number of tenants.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from writ.broker.doors import local_principal
from writ.cli.processes import when_stdin_ends
from writ.node import Node
from writ.orchestrator.garbage import keep_small


async def main(directory: Path, count: int) -> None:
    """Returns after SIGTERM."""
    (directory / "keys").mkdir(mode=0o700, exist_ok=True)
    principals = tuple(local_principal(directory, f"tenant-{number}", "owner") for number in range(count))
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    collecting = asyncio.create_task(keep_small())
    node = await Node.start(directory, principals=principals)
    try:
        await asked.wait()
    finally:
        collecting.cancel()
        await node.stop()


if __name__ == "__main__":
    when_stdin_ends(15)
    uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2])))
