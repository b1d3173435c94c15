"""Looks at a long log in stretches, with as many processes as there are processors."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import AsyncGenerator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Final

from writ.broker.archive import ArchivedLog
from writ.broker.connect import Target, connect
from writ.broker.errors import Unreachable
from writ.broker.log import JetStreamLog
from writ.broker.ports import OutcomeUnknown
from writ.orchestrator.replay.checked import Stretch, stretch_of

from .processes import new_loop

RECORDS_MAX: Final = 1_000_000
"""In a stretch. The broker sends up to 32 MB beyond its end, so that short ones are read twice."""

LONG: Final = 500_000
"""Records of a log that is worth the second which it takes to start processes."""

_PROCESSES_MAX: Final = 8
_GARBAGE: Final = (50_000, 20, 100)
"""Records come by the ten thousand and hold no cycles, so that Python need not look through them so often."""


async def stretches(
    target: Target, directory: Path, partition: int, last: int, records_max: int = RECORDS_MAX
) -> AsyncGenerator[Stretch | None]:
    """Records 1 to `last` of a log and its archive, in order. Ends with None where some cannot be read."""
    processes = min(_PROCESSES_MAX, os.cpu_count() or 1)
    records = min(records_max, -(-last // processes))
    loop = asyncio.get_running_loop()
    asked: deque[asyncio.Future[Stretch | None]] = deque()
    # Begun anew and not forked: a connection and its loop cannot be in two processes.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin)
    try:
        for first in range(1, last + 1, records):
            if len(asked) > processes:
                yield await asked.popleft()
            upto = min(last, first + records - 1)
            asked.append(loop.run_in_executor(pool, _look, target, directory, partition, first, upto))
        while asked:
            yield await asked.popleft()
    except (BrokenProcessPool, OSError):
        yield None
    finally:
        for each in asked:
            each.cancel()
        pool.shutdown(wait=False, cancel_futures=True)


def _begin() -> None:
    """Ctrl-C is for the process that it works for, and it ends with that one."""
    gc.set_threshold(*_GARBAGE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _look(target: Target, directory: Path, partition: int, first: int, last: int) -> Stretch | None:
    with asyncio.Runner(loop_factory=new_loop()) as runner:
        return runner.run(_stretch(target, directory, partition, first, last))


async def _stretch(target: Target, directory: Path, partition: int, first: int, last: int) -> Stretch | None:
    try:
        link = await connect(target, "writ:audit", inbox_prefix="_INBOX")
    except Unreachable:
        return None
    try:
        log = ArchivedLog.beside(directory, await JetStreamLog.open(link, partition))
        return await stretch_of(log, first, last)
    except OutcomeUnknown:
        return None
    finally:
        await link.close()
