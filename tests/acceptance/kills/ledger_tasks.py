"""Tasks that write every execution to the ledger, synced to disk, before and after they do their work."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

from writ import Context, task

_FILE = os.open(
    Path(os.environ["LEDGER"]) / f"worker-{os.getpid()}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND
)

_BEGAN_US = (time.time_ns() - time.monotonic_ns()) // 1_000
"""With the monotonic clock it is the time of the wall, also where somebody sets the clock of this process."""


def note(what: str, context: Context) -> None:
    """One line, on disk when this returns. The system gives each write a place of its own at the end."""
    entry = {
        "what": what,
        "queue": context.queue,
        "id": context.id,
        "attempt": context.attempt,
        "token": context.fencing_token,
        "at_us": _BEGAN_US + time.monotonic_ns() // 1_000,
    }
    os.write(_FILE, json.dumps(entry).encode() + b"\n")
    os.fsync(_FILE)


@task
def in_a_thread(ms: int, context: Context) -> int:
    note("start", context)
    time.sleep(ms / 1_000)
    note("end", context)
    return ms


@task
async def on_the_loop(ms: int, context: Context) -> int:
    note("start", context)
    await asyncio.sleep(ms / 1_000)
    note("end", context)
    return ms
