"""`make chaos`: every fault, in systems of several kinds, and what they came to.

    python -m tests.acceptance.chaos_run [--kills 3] [--others 2] [--minutes 10] [--seed 1] [--jobs 100000]
                                         [--only single,cluster] [--parts leader,worker]

Faults come in an order by chance, spread over at least so many jobs; what the minutes do not suffice for is
left out, and told. What this machine cannot do is told as not run. Exits 1 where anything was wrong; what was
left is kept then.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.acceptance import apart, clocks, disk
from tests.acceptance.chaos import CLUSTERED, PARTS, Chaos, Fault, Told, killing

LONG_LEASE_S: Final = 20.0
"""Where no fault may cost a lease."""

BLOCKS: Final = (Fault("flip", "block"), Fault("cut", "block"))
CLOCKS: Final = tuple(
    Fault("shift the clock of", part) for part in ("leader", "standby", "worker", "broker", "machine")
)
CABLES: Final = (Fault("pull", "cable"), Fault("slow", "cable"), Fault("kill", "broker leader"))
FULL: Final = (Fault("fill", "disk"),)
POWER: Final = (Fault("lose", "power"),)
FAULTS: Final = 0.6
"""Of its time, so much is for the faults of a kind; the rest is for the last one, and for the checks."""

FULL_DISK_MIB: Final = 256
RESERVE_MB: Final = 8


class Kind(NamedTuple):
    """A kind of system: what is done to it (each of `others` so many times), and how it is made."""

    what: str
    missing: Callable[[], str | None]
    kills: tuple[str, ...]
    others: tuple[Fault, ...]
    make: Callable[[Path, list[Fault], int], Chaos]

    def plan(self, kills: int, others: int, parts: Iterable[str]) -> list[Fault]:
        """All faults of one run, of these parts alone where any are named."""
        found = killing(self.kills, kills, others) + [each for each in self.others for _ in range(others)]
        chosen = set(parts)
        return [each for each in found if not chosen or each.part in chosen]


def _nothing() -> str | None:
    return None


def _single(root: Path, plan: list[Fault], seed: int) -> Chaos:
    return Chaos(root, plan, seed)


def _cluster(root: Path, plan: list[Fault], seed: int) -> Chaos:
    return Chaos(root, plan, seed, servers=3)


def _clocks(root: Path, plan: list[Fault], seed: int) -> Chaos:
    return Chaos(root, plan, seed, lease_s=LONG_LEASE_S, keeps_leases=True)


def _full(root: Path, plan: list[Fault], seed: int) -> Chaos:
    options = ("--disk-reserve", str(RESERVE_MB))
    return Chaos(root, plan, seed, disk=disk.Disk(root, FULL_DISK_MIB), lease_s=LONG_LEASE_S, options=options)


def _power(root: Path, plan: list[Fault], seed: int) -> Chaos:
    return Chaos(root, plan, seed, servers=1, disk=disk.Disk(root))


def _cables(root: Path, plan: list[Fault], seed: int) -> Chaos:
    return Chaos(root, plan, seed, servers=3, apart=True, lease_s=LONG_LEASE_S, keeps_leases=True)


KINDS: Final[dict[str, Kind]] = {
    "single": Kind("a node with the broker inside", _nothing, PARTS, BLOCKS, _single),
    "cluster": Kind("a node on three brokers", _nothing, CLUSTERED, (), _cluster),
    "clocks": Kind("a node whose clocks jump", clocks.missing, (), CLOCKS, _clocks),
    "full": Kind("a node on a disk that becomes full", disk.missing, (), FULL, _full),
    "power": Kind("a node and its broker on a disk that loses its power", disk.missing, (), POWER, _power),
    "cables": Kind("a node on three brokers, each behind a cable", apart.missing, (), CABLES, _cables),
}


def main() -> int:
    """Prints what was done, and one line of what it came to; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=3, help="of each part [3]")
    parser.add_argument("--others", type=int, default=2, help="of each fault but kills [2]")
    parser.add_argument("--minutes", type=float, default=10, help="for all; 0 is without end [10]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=0, help="over which all faults are spread, at least [0]")
    parser.add_argument("--only", default=",".join(KINDS), help=f"kinds of systems [{','.join(KINDS)}]")
    parser.add_argument("--parts", default="", help="the parts that anything is done to [all]")
    args = parser.parse_args()
    for given, known in ((args.only, set(KINDS)), (args.parts, _parts())):
        for name in given.split(","):
            if name and name not in known:
                parser.error(f"{name!r} is none of {', '.join(sorted(known))}")
    if not apart.inside() and apart.missing() is None:
        apart.enter("tests.acceptance.chaos_run", sys.argv[1:])
    began = time.monotonic()
    told: dict[str, Told | None] = {}
    parts = [part for part in args.parts.split(",") if part]
    plans = {name: KINDS[name].plan(args.kills, args.others, parts) for name in args.only.split(",")}
    runs = {name: plan for name, plan in plans.items() if plan and KINDS[name].missing() is None}
    faults = sum(map(len, runs.values()))
    for number, (name, plan) in enumerate(plans.items()):
        kind = KINDS[name]
        left_s = args.minutes * 60 - (time.monotonic() - began)
        share_s = FAULTS * left_s / (len(plans) - number) if args.minutes else math.inf
        if not plan:
            continue
        print(f"\n{name}: {kind.what}", flush=True)
        missing = kind.missing()
        if missing is not None:
            print(f"NOT RUN: {missing}", flush=True)
        else:
            jobs = math.ceil(args.jobs * len(plan) / faults)
            told[name] = _run(kind, plan, args.seed, time.monotonic() + share_s, jobs)
    return _sum_up(told, time.monotonic() - began)


def _parts() -> set[str]:
    return {fault.part for kind in KINDS.values() for fault in kind.plan(1, 1, ())}


def _run(kind: Kind, plan: list[Fault], seed: int, until_s: float, jobs: int) -> Told | None:
    """What was seen to hold; None where something does not."""
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        chaos = kind.make(root, plan, seed)
        chaos.jobs_wanted = jobs
        chaos.until_s = until_s
        told = asyncio.run(chaos.run())
    except Exception as wrong:  # whatever it is, the other kinds are run
        print(f"BROKEN: {wrong}\n{traceback.format_exc()}\nwhat was left is in {root}", flush=True)
        return None
    shutil.rmtree(root, ignore_errors=True)  # what was killed may not be gone yet
    _print(told)
    return told


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
        f"acknowledged; {found['states']}; every view as a fold of the log",
        flush=True,
    )


def _sum_up(told: dict[str, Told | None], took_s: float) -> int:
    held = [each for each in told.values() if each is not None]
    broken = [name for name, each in told.items() if each is None]
    total = Counter[str]()
    for each in held:
        counts: dict[str, Any] = each.summary
        total += Counter({name: counts[name] for name in ("jobs", "executions", "executions repeated")})
        total["faults"] += sum(each.faults.values())
    if not total["faults"] and not broken:
        print("\nchaos: MISSED: no fault was done, so nothing was seen to hold")
        return 1
    which = f"BROKEN: {', '.join(broken)}; the rest" if broken else "all"
    print(
        f"\nchaos: {which} held in {took_s:.0f} s: "
        f"{total['faults']} faults over {total['jobs']} jobs, none lost, none ended twice in a round; "
        f"{total['executions repeated']} of {total['executions']} executions repeated"
    )
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
