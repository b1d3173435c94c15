"""`make bench-spawn`: what an isolated attempt costs over a plain subprocess, one after the other.

A plain spawn is `python -c pass`, to its end. An isolated one is all of an attempt: its processes, folder,
limits and isolation, the task, its result, and that nothing is left. Exits 1 where the median costs more than
15 ms over the plain one. At bubblewrap attempts are timed apart by what it takes to start the next sandbox:
these stand by ahead of need; the second figure is without that.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from writ.broker.clock import SystemClock
from writ.schemas.commands import Lease
from writ.schemas.policy import Isolation
from writ.workers.line import Line
from writ.workers.run import Run
from writ.workers.runner.hands import ChildHands
from writ.workers.runner.levels import lacking
from writ.workers.runner.limits import AttemptLimits
from writ.workers.runner.pool import Pool
from writ.workers.tasks import Task

BAR_MS: Final = 15.0
TASKS: Final = "from writ import task\n\n\n@task\ndef nothing() -> None:\n    pass\n"
_STAND_BY_S: Final = 2.0


def plain(count: int) -> list[float]:
    """Milliseconds of each."""
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        took.append((time.perf_counter() - began) * 1e3)
    return took


async def isolated(level: Isolation, module: str, count: int, apart_s: float) -> list[float]:
    """Milliseconds of each attempt, with `apart_s` seconds between two."""
    loop = asyncio.get_running_loop()
    pool = Pool([module], level, AttemptLimits(), [], concurrency=1)
    took: list[float] = []
    try:
        pool.warm()
        for number in range(count + 1):
            await asyncio.sleep(apart_s)
            ended: asyncio.Future[Run] = loop.create_future()
            hands = ChildHands(loop, pool, ended.set_result, SystemClock())
            lease = Lease(f"job-{number}", "nothing", number, 1, msgspec.Raw(b"null"))
            began = time.perf_counter()
            hands.begin([Run(lease, Line("bench", "default"), Task(_nothing, "nothing"), SystemClock())])
            run = await ended
            took.append((time.perf_counter() - began) * 1e3)
            assert run.fault is None, run.fault
            assert run.isolation is level
    finally:
        pool.close()
    return took[1:]


def _nothing() -> None:
    """Stands for the task, which is in the other process."""


def main(count: int) -> int:
    """The exit code."""
    base = statistics.median(plain(count))
    print(f"plain subprocess: median {base:.1f} ms of {count}", flush=True)
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder, "spawned.py")
        module.write_text(TASKS)
        for level in (Isolation.PLAIN, Isolation.LANDLOCK, Isolation.BUBBLEWRAP):
            if (lacks := lacking(level)) is not None:
                print(f"{level}: not run: {lacks}")
                continue
            waits = (_STAND_BY_S, 0.0) if level is Isolation.BUBBLEWRAP else (0.0,)
            for apart_s in waits:
                held = not (level is Isolation.BUBBLEWRAP and not apart_s)
                many = count if not apart_s else min(count, 20)
                took = asyncio.run(isolated(level, str(module), many, apart_s))
                median = statistics.median(took)
                over = median - base
                missed = missed or (held and over > BAR_MS)
                about = f", {apart_s:g} s apart" if apart_s else ""
                bar = f" (bar: {BAR_MS:g} ms)" if held else " (none stands by)"
                print(f"{level}{about}: median {median:.1f} ms of {many}, {over:+.1f} ms{bar}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="spawns of each kind [100]")
    sys.exit(main(parser.parse_args().count))
