"""`make simulate`: many histories over two processes, and what came of them.

    make simulate                10,000 histories from seed 0
    make simulate N=1000000      more
    make simulate SEED=42        one history, told at length; twice the same bytes

Ends with 1 where an invariant is broken or a bar is missed.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Final, NamedTuple

from writ.schemas.assets import ASSET_EVENTS, AssetRead
from writ.schemas.backups import LogRestored
from writ.schemas.events import (
    OTHER_EVENTS,
    AlarmRaised,
    ContentErased,
    DeadReason,
    HistoryLong,
    HoldLifted,
    HoldPlaced,
    JobSubmitted,
    WaitReason,
    WorkerSeen,
)
from writ.schemas.gates import GATE_EVENTS
from writ.schemas.lifecycle import TRANSITIONS, State
from writ.schemas.prices import PriceSet
from writ.schemas.principals import PRINCIPAL_EVENTS
from writ.schemas.processes import PROCESS_EVENTS
from writ.schemas.quotas import QUOTA_EVENTS
from writ.schemas.steps import CompensationDue
from writ.schemas.tenants import TenantDeclared
from writ.schemas.upgrading import RecordsRaised

from .history import Outcome, run
from .plan import APPEND_FAULTS, MESSAGE_FAULTS, OBSERVED_FAULTS, TIMED_FAULTS, Plan
from .shrink import shrink, story
from .workload import plans

STEPS_MIN: Final = 200
PROCESSES: Final = 2
_CHUNK: Final = 100
_SHOWN: Final = 3
KINDS: Final = (*MESSAGE_FAULTS, *APPEND_FAULTS, *TIMED_FAULTS, *OBSERVED_FAULTS)
ENDS: Final = (State.COMPLETED, State.CANCELLED, State.DEAD)
KEEPING: Final = (ContentErased, HoldPlaced, HoldLifted)
"""Nothing is sealed in a simulated history: key stores are files."""

_UNREACHED: Final = {DeadReason.HISTORY_LIMIT, WaitReason.CHILD, WaitReason.FROZEN}
"""10,000 and 50,000 records are too many for a history, and no task asks for the others yet."""

_NEVER: Final = (
    *(HistoryLong, AlarmRaised, LogRestored, RecordsRaised, PriceSet, TenantDeclared, WorkerSeen),
    *PRINCIPAL_EVENTS,
    *PROCESS_EVENTS,
    *QUOTA_EVENTS,
    *GATE_EVENTS,
    *KEEPING,
    *ASSET_EVENTS,
)
"""Nobody is governed in a simulated history, no job names a release, and nothing there raises an alarm."""

_RARE: Final = {
    (State.SCHEDULED, CompensationDue),
    (State.SUSPENDED, CompensationDue),
    (State.RUNNING, AssetRead),
}
"""A job that took steps and was then put off, or asked a person, and was cancelled before it went on. And
nobody sets an asset there."""

WAYS: Final = (
    *(f"dead {reason}" for reason in DeadReason if reason not in _UNREACHED),
    *(f"waits {reason}" for reason in WaitReason if reason not in _UNREACHED),
    *(f"refused {kind}" for kind in ("malformed", "conflict", "duplicate", "not_found")),
    *(event.__name__ for event in OTHER_EVENTS if event not in _NEVER),
)
"""What must have come in some history, apart from edges."""


class Sum(NamedTuple):
    """What some histories came to together."""

    histories: int
    steps: int
    fewest: int
    virtual_s: float
    records: int
    faults: Counter[str]
    edges: Counter[tuple[str | None, str]]
    ends: Counter[str]
    ways: Counter[str]
    checks: Counter[str]
    broken: list[tuple[int, str]]


def nothing() -> Sum:
    return Sum(0, 0, sys.maxsize, 0.0, 0, Counter(), Counter(), Counter(), Counter(), Counter(), [])


def add(total: Sum, one: Outcome) -> Sum:
    """A sum with one more history."""
    broken = [(one.seed, one.violations[0])] if one.violations else []
    fewest = total.fewest if broken else min(total.fewest, one.steps)
    return join(
        total,
        Sum(
            1,
            one.steps,
            fewest,
            one.virtual_s,
            one.records,
            one.faults,
            one.edges,
            one.ends,
            one.ways,
            one.checks,
            broken,
        ),
    )


def join(one: Sum, other: Sum) -> Sum:
    """Two sums as one; the first one's counters are the result's."""
    for mine, theirs in (
        (one.faults, other.faults),
        (one.ends, other.ends),
        (one.ways, other.ways),
        (one.checks, other.checks),
    ):
        mine.update(theirs)
    one.edges.update(other.edges)
    one.broken.extend(other.broken)
    return one._replace(
        histories=one.histories + other.histories,
        steps=one.steps + other.steps,
        fewest=min(one.fewest, other.fewest),
        virtual_s=one.virtual_s + other.virtual_s,
        records=one.records + other.records,
    )


def run_many(seeds: range) -> Sum:
    """The sum of some seeds' histories. Garbage is collected between histories only."""
    total = nothing()
    gc.disable()
    for seed in seeds:
        for plan in plans(seed):
            total = add(total, run(plan))
        if seed % 10 == 0:
            gc.collect()
    gc.enable()
    return total


def run_all(count: int, first: int = 0, processes: int = PROCESSES) -> Iterator[Sum]:
    """Sums of chunks as they come."""
    chunks = [
        range(start, min(start + _CHUNK, first + count)) for start in range(first, first + count, _CHUNK)
    ]
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(run_many, chunks)


def edge_names() -> list[tuple[str | None, str]]:
    """Every row of the lifecycle table that histories come to."""
    return [
        (None if state is None else state.value, event.__name__)
        for state, event in TRANSITIONS
        if (state, event) not in _RARE
    ]


def report(total: Sum, took_s: float) -> list[str]:
    """The summary's lines."""
    never = [edge for edge in edge_names() if not total.edges[edge]]
    lines = [
        f"histories  {total.histories} in {took_s:.1f} s ({total.histories / took_s:.0f}/s)",
        f"steps      {total.steps} ({total.steps / took_s:.0f}/s), at least {total.fewest} in each",
        f"virtual    {total.virtual_s / 3600:.1f} hours; {total.records} records",
        "faults     " + ", ".join(f"{kind} {total.faults[kind]}" for kind in KINDS),
        "checks     " + ", ".join(f"{kind} {count}" for kind, count in sorted(total.checks.items())),
        f"edges      {len(edge_names()) - len(never)} of {len(edge_names())} taken",
    ]
    for state, event in edge_names():
        lines.append(f"             {state or '-'} + {event}: {total.edges[state, event]}")
    lines.append("never      " + (", ".join(f"{state or '-'} + {event}" for state, event in never) or "none"))
    lines.append("ways       " + ", ".join(f"{way} {total.ways[way]}" for way in WAYS))
    lines.append("jobs       " + ", ".join(f"{end} {total.ends[end]}" for end in ENDS))
    return lines


def missed(total: Sum) -> list[str]:
    """The bars that these histories do not reach."""
    jobs = total.edges[None, JobSubmitted.__name__]
    faults = [f"fault {kind} never fired" for kind in KINDS if not total.faults[kind]]
    edges = [
        f"edge {state} + {event} never taken"
        for state, event in edge_names()
        if not total.edges[state, event]
    ]
    ends = [f"no job ended as {end}" for end in ENDS if not total.ends[end]]
    ways = [f"{way} never came" for way in WAYS if not total.ways[way]]
    found = faults + edges + ends + ways
    if total.fewest < STEPS_MIN:
        found.append(f"a history has {total.fewest} steps; at least {STEPS_MIN} are asked for")
    if 2 * total.ends[State.COMPLETED] < jobs:
        found.append(f"{total.ends[State.COMPLETED]} of {jobs} jobs were completed; at least half should be")
    return found


def tell(seed: int) -> int:
    """One seed, twice; where it fails, its smallest history."""
    return max([_tell(seed, plan) for plan in plans(seed)])


def _tell(seed: int, plan: Plan) -> int:
    outcome, again = run(plan), run(plan)
    print(story(plan, outcome))
    print(f"log digests {outcome.digest}")
    if outcome.digest != again.digest:
        print(f"NOT THE SAME when run again: {again.digest}")
        return 1
    if not outcome.violations:
        print(f"seed {seed}: {outcome.steps} steps, {outcome.records} records, no violation")
        return 0
    print("\nthe smallest history found that fails:\n")
    print(story(*shrink(plan)))
    print(f"seed {seed}: {outcome.violations[0]}")
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description="Simulated histories, checked.")
    parser.add_argument("--seed", type=int, help="one history")
    parser.add_argument("--count", type=int, default=10_000, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    given = parser.parse_args()
    if given.seed is not None:
        return tell(given.seed)
    started = time.perf_counter()
    total = nothing()
    for part in run_all(given.count, given.first):
        total = join(total, part)
        if sys.stderr.isatty():
            print(f"\r{total.histories} histories, {len(total.broken)} broken", end="", file=sys.stderr)
    took_s = time.perf_counter() - started
    print("\n".join(report(total, took_s)))
    for seed, what in total.broken[:20]:
        print(f"BROKEN     seed {seed}: {what}")
    for seed, _ in total.broken[:_SHOWN]:
        for plan in plans(seed):
            if run(plan).violations:
                print("\n" + story(*shrink(plan)))
    bars = missed(total)
    for bar in bars:
        print(f"MISSED     {bar}")
    print(
        f"simulated {total.histories} histories, {total.steps} steps in {took_s:.0f} s: "
        f"{len(total.broken)} violations, {len(bars)} bars missed"
    )
    return 1 if total.broken or bars else 0


if __name__ == "__main__":
    sys.exit(main())
