"""What is paid while nothing happens: an idle node, and idle workers that poll it."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Final

from .figures import Result
from .stage import Stage, StageError

POLLERS: Final = 1_000
_SETTLE_S: Final = 6.0
"""Longer than an acquire waits, so that the first crowd of them has gone by."""

_CONNECT_S: Final = 60.0


async def idle(seconds: float) -> Result:
    """A node with nothing to do."""
    async with Stage() as stage:
        await asyncio.sleep(2)
        return await watch(stage, seconds, "idle", "a node with nothing to do")


async def pollers(seconds: float, count: int = POLLERS) -> Result:
    """A node with nothing to do, and so many workers that ask it for something to do."""
    async with Stage() as stage:
        await start_pollers(stage, count)
        await asyncio.sleep(_SETTLE_S)
        return await watch(
            stage, seconds, "pollers", f"{count} idle workers poll, each on its own connection"
        )


async def start_pollers(stage: Stage, count: int) -> None:
    """Returns when all of them wait for a job. Raises StageError."""
    script = Path(__file__).with_name("pollers.py")
    await stage.start("pollers", command=[sys.executable, str(script), str(count)])
    until = time.monotonic() + _CONNECT_S
    while "pollers wait" not in stage.said("pollers"):
        stage.check()
        if time.monotonic() > until:
            raise StageError(f"{count} pollers are not connected after {_CONNECT_S:g} s")
        await asyncio.sleep(0.1)


async def watch(stage: Stage, seconds: float, name: str, about: str) -> Result:
    """What each process uses in a time in which this one does nothing."""
    before, begun = stage.use(), time.monotonic()
    await asyncio.sleep(seconds)
    after, took = stage.use(), time.monotonic() - begun
    stage.check()
    return Result(
        workload=name,
        about=about,
        settings={},
        seconds=round(took, 3),
        cpu_cores={who: round((after[who].cpu_s - before[who].cpu_s) / took, 4) for who in sorted(after)},
        rss_mb={who: round(each.rss_bytes / 1e6, 1) for who, each in after.items()},
    )
