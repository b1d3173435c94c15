"""What a process takes of the machine, as Linux tells; elsewhere nothing is told."""

from __future__ import annotations

import os
from pathlib import Path

from writ.schemas import catalog
from writ.schemas.metrics import Family, told

_PROC = Path("/proc")


def process(component: str, pid: int | None) -> list[Family]:
    """CPU time, memory and start of a process; nothing where there is none, or no /proc."""
    if pid is None:
        return []
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        booted = next(line for line in (_PROC / "stat").read_text().splitlines() if line.startswith("btime"))
    except (OSError, StopIteration):
        return []
    # Counted from the third field on, as the second holds a name; see proc(5).
    user, system, started, pages = int(fields[11]), int(fields[12]), int(fields[19]), int(fields[21])
    ticks = os.sysconf("SC_CLK_TCK")
    return [
        told(catalog.CPU, (user + system) / ticks, component),
        told(catalog.MEMORY, pages * os.sysconf("SC_PAGE_SIZE"), component),
        told(catalog.STARTED, int(booted.split()[1]) + started / ticks, component),
    ]
