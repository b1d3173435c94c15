"""What the system tells of processes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def dead(pid: int) -> bool:
    """Whether it has ended with all its threads, so that its parent is told."""
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state in "ZX" and len(os.listdir(f"/proc/{pid}/task")) <= 1
    return True


def children(pid: int) -> list[int]:
    """Those that it has started itself."""
    with suppress(OSError):
        return [
            int(each)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for each in (task / "children").read_text().split()
        ]
    return []


def leaves(pid: int) -> list[int]:
    """The attempts of a worker that isolates them: below its mould, and below the guard of each."""
    found: list[int] = []
    below = [(each, 1) for each in children(pid)]
    while below:
        each, depth = below.pop()
        next_ = children(each)
        below += [(child, depth + 1) for child in next_]
        if not next_ and depth > 1:
            found.append(each)
    return found


def command(pid: int) -> str:
    """Its command line; empty where it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""
