"""What processes have used, from /proc: Linux alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Usage(NamedTuple):
    """Processor time since the start of a process with all its threads, and its memory now."""

    cpu_s: float
    rss_bytes: int


def child(pid: int, word: str) -> int | None:
    """The child of a process whose command line holds a word; None where there is none."""
    for one in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split():
        if word in Path(f"/proc/{one}/cmdline").read_text(encoding="utf-8"):
            return int(one)
    return None


def usage(pid: int) -> Usage:
    """Raises FileNotFoundError where the process is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    resident = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS, int(resident) * _PAGE)
