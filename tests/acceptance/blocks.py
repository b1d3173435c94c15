"""The files in which a broker keeps the log, and damage to them."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random


def sizes(directory: Path) -> dict[Path, int]:
    """How many bytes each of them has, below the directory of a node."""
    folders = [Path(each) for each, _, _ in os.walk(directory)]  # the server makes and removes some meanwhile
    found = [path for each in folders if each.match("WRIT_LOG_0/msgs") for path in each.glob("*.blk")]
    return {path: path.stat().st_size for path in sorted(found)}


def harm(within: dict[Path, int], random: Random, *, cut: bool) -> str:
    """Flips a bit of a file, or cuts its end off, anywhere within these sizes; where."""
    path = random.choice(list(within))
    at = random.randrange(within[path])
    with path.open("r+b") as file:
        if cut:
            file.truncate(at)
        else:
            file.seek(at)
            byte = file.read(1)[0] ^ (1 << random.randrange(8))
            file.seek(at)
            file.write(bytes([byte]))
    return f"{path.name} at {at}, {'cut' if cut else 'flipped'}"
