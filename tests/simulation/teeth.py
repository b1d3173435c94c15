"""`make teeth`: how many seeds it takes until each planted bug is found, searched from seed 0.

Ends with 1 where one is not found within 10,000.
"""

from __future__ import annotations

import argparse
import gc
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Final, NamedTuple

from .history import run
from .planted import planted
from .planted_links import BUGS
from .workload import draw

SEEDS_MAX: Final = 10_000


class Found(NamedTuple):
    """A planted bug and the first seed that shows it, with what was broken; None where none does."""

    bug: str
    seed: int | None
    what: str


def search(bug: str, count: int = SEEDS_MAX, first: int = 0) -> Found:
    """The first seed from `first` on whose history breaks something with the bug in place."""
    with planted(bug):
        for seed in range(first, first + count):
            outcome = run(draw(seed))
            if outcome.violations:
                return Found(bug, seed, outcome.violations[0])
            if seed % 20 == 0:
                gc.collect()
    return Found(bug, None, "not found")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make teeth", description="Planted bugs, and the seeds to find them."
    )
    parser.add_argument("bugs", nargs="*", help="some of the bugs, all if none is named")
    given = parser.parse_args()
    names: list[str] = given.bugs or list(BUGS)
    missed = 0
    with ProcessPoolExecutor(2) as pool:
        for found in pool.map(search, names):
            seeds = "none of 10,000" if found.seed is None else str(found.seed + 1)
            print(f"{found.bug:34} {seeds:>6} seeds  {found.what}", flush=True)
            missed += found.seed is None
    print(f"{len(names) - missed} of {len(names)} planted bugs found within {SEEDS_MAX} seeds each")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
