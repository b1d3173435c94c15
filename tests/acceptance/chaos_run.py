"""`make chaos`: every fault, in systems of four kinds, and what they came to.

    python -m tests.acceptance.chaos_run [--kills 3] [--stops 1] [--seed 1] [--only single,cluster]

What this machine cannot do is told as not run.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from tests.acceptance import apart, disk
from tests.acceptance.chaos import CLUSTERED, LEASE_S, PARTS, Chaos, Told
from tests.acceptance.kills import checker

POWER_MAX: Final = 20
CABLES_MAX: Final = 20
LONG_LEASE_S: Final = 20.0
"""Where a broker's gap must cost no lease."""


class Kind(NamedTuple):
    """A kind of system, with what is done to it."""

    what: str
    missing: Callable[[], str | None]
    make: Callable[[Path, argparse.Namespace], Chaos]


def _nothing() -> str | None:
    return None


def _single(root: Path, args: argparse.Namespace) -> Chaos:
    return Chaos(root, args.kills, args.stops, args.seed, PARTS)


def _cluster(root: Path, args: argparse.Namespace) -> Chaos:
    return Chaos(root, args.kills, args.stops, args.seed, CLUSTERED, servers=3, lease_s=LEASE_S)


def _power(root: Path, args: argparse.Namespace) -> Chaos:
    losses = min(POWER_MAX, args.kills)
    return Chaos(root, losses, 0, args.seed, ("power",), disk=disk.Disk(root))


def _cables(root: Path, args: argparse.Namespace) -> Chaos:
    cuts = min(CABLES_MAX, args.kills)
    return Chaos(root, cuts, 0, args.seed, ("cable",), servers=3, apart=True, lease_s=LONG_LEASE_S)


KINDS: Final[dict[str, Kind]] = {
    "single": Kind("a node with the broker inside", _nothing, _single),
    "cluster": Kind("a node on three brokers", _nothing, _cluster),
    "power": Kind("a node and its broker on a disk that loses its power", disk.missing, _power),
    "cables": Kind("a node on three brokers, each behind a cable", apart.missing, _cables),
}


def main() -> int:
    """Prints what was done, and one line of what it came to; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=3, help="of each part [3]")
    parser.add_argument("--stops", type=int, default=1, help="of each part that can stand still [1]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(KINDS), help=f"kinds of systems [{','.join(KINDS)}]")
    args = parser.parse_args()
    broken = False
    for name in args.only.split(","):
        kind = KINDS[name]
        if not apart.inside():
            print(f"\n{name}: {kind.what}", flush=True)
        missing = kind.missing()
        if missing is not None:
            print(f"NOT RUN: {missing}")
            continue
        if name == "cables" and not apart.inside():
            broken |= apart.enter(("--only", name, *_again(args))) != 0
            continue
        broken |= not _run(kind, args)
    return int(broken)


def _again(args: argparse.Namespace) -> list[str]:
    return ["--kills", str(args.kills), "--stops", str(args.stops), "--seed", str(args.seed)]


def _run(kind: Kind, args: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory() as root:
        try:
            told = asyncio.run(kind.make(Path(root), args).run())
        except (AssertionError, checker.Broken) as wrong:
            print(f"BROKEN: {wrong}")
            return False
    _print(told)
    return True


def _print(told: Told) -> None:
    found = told.summary
    for name, count in sorted(told.faults.items()):
        print(f"{count:>6}  {name}")
    for name, gaps in sorted(told.gaps.items()):
        print(f"{statistics.median(gaps):>6.2f}  s without a new record at a kill of the {name}, median")
    print(f"{told.live_at_least:>6}  leases live at least, at a fault")
    for name in ("records", "leaders", "executions", "executions repeated", "executions cut short"):
        print(f"{found[name]:>6}  {name}")
    print(f"{found['events'].get('lease_expired', 0):>6}  leases expired")
    print(found["verify"])
    print(
        f"held: {sum(told.faults.values())} faults over {found['jobs']} jobs, {found['acknowledged']} "
        f"acknowledged; {found['states']}; every view as a fold of the log"
    )


if __name__ == "__main__":
    sys.exit(main())
