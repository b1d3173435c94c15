"""`make forensics`: what replay, explain, verify and what-if promise, at full size.

Ends with one line, and with 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Final, NamedTuple

from writ.orchestrator.replay.stretch import Stretch
from writ.orchestrator.replay.verify import verify_stretch
from writ.schemas.chain import Position, link

from .forged import unfound
from .judged import fewer_attempts, more_attempts, unchanged_with_faults
from .known import Wrong, check_random_jobs
from .runs import EPOCH, of_both_sorts, retrying, run, with_faults
from .tampered import spoil_everywhere

PROCESSES: Final = 2
EXPLAINED: Final = 200
UNCHANGED: Final = 10_000
JUDGED: Final = 1_000
SPOILED_LOGS: Final = 12
FORGED_LOGS: Final = 12
VERIFIED: Final = 400
FASTEST_OF: Final = 5


class Part(NamedTuple):
    """How much of a promise one seed looked at, and what was wrong."""

    size: int
    wrong: list[str]


def explained(seed: int) -> Part:
    """Random jobs of a run with faults, explained."""
    try:
        return Part(check_random_jobs(of_both_sorts(seed), random.Random(seed), 3), [])
    except Wrong as wrong:
        return Part(1, [str(wrong)])


def unchanged(seed: int) -> Part:
    return Part(*unchanged_with_faults(seed))


def fewer(seed: int) -> Part:
    return Part(*fewer_attempts(seed))


def more(seed: int) -> Part:
    return Part(*more_attempts(seed))


def spoiled(seed: int) -> Part:
    """Every record of a log, spoiled in every way."""
    size, wrong = 0, list[str]()
    for stretch in with_faults(seed).stretches:
        found = spoil_everywhere(stretch, random.Random(seed))
        size += found.spoiled
        wrong += [f"seed {seed}, log {stretch.partition}: {each} was not found" for each in found.passed]
    return Part(size, wrong)


def forged(seed: int) -> Part:
    """Every field that was decided, forged so that the chain holds."""
    size, wrong = 0, list[str]()
    for stretch in with_faults(seed).stretches:
        count, passed = unfound(stretch)
        size += count
        wrong += [f"seed {seed}, log {stretch.partition}: {each} was not noticed" for each in passed]
    return Part(size, wrong)


def verified(seed: int) -> Part:
    """A lawful log has no fault, whatever went wrong around it."""
    size, wrong = 0, list[str]()
    for stretch in of_both_sorts(seed).stretches:
        report = verify_stretch(stretch)
        size += report.records
        wrong += [f"seed {seed}, log {stretch.partition}: {fault}" for fault in report.faults[:1]]
    return Part(size, wrong)


PROMISES: Final[tuple[tuple[str, Callable[[int], Part], int], ...]] = (
    ("jobs explained as they are known", explained, EXPLAINED),
    ("jobs unchanged by what-if with an unchanged policy", unchanged, UNCHANGED),
    ("jobs foretold as a run with max_attempts 2 came out", fewer, JUDGED),
    ("jobs with what cannot be known told as unknown", more, JUDGED),
    ("spoiled logs found", spoiled, 0),
    ("forged decisions found, with the chain made good", forged, 0),
    ("records of lawful logs decided again", verified, 0),
)


def quiet() -> None:
    """What hosts of a simulated world warn of is no news here."""
    logging.disable(logging.CRITICAL)


def seeds_for(
    pool: ProcessPoolExecutor, look: Callable[[int], Part], enough: int, most: int
) -> Iterator[Part]:
    """One seed after the other, until enough was looked at, or `most` seeds."""
    size, first, step = 0, 0, 4 * PROCESSES
    while (enough and size < enough) or (not enough and first < most):
        for part in pool.map(look, range(first, min(first + step, most) if not enough else first + step)):
            size += part.size
            yield part
        first += step


def speeds(stretch: Stretch) -> tuple[float, float]:
    """Records a second: the chain alone, and every decision made again."""
    chain = deep = 0.0
    for _ in range(FASTEST_OF):
        began, at = time.perf_counter(), Position()
        for entry in stretch.entries:
            _, at = link(at, entry.seq, entry.subject, entry.body, stretch.partition, EPOCH)
        chain = max(chain, len(stretch.entries) / (time.perf_counter() - began))
        began = time.perf_counter()
        assert verify_stretch(stretch).ok
        deep = max(deep, len(stretch.entries) / (time.perf_counter() - began))
    return chain, deep


def main() -> int:
    parser = argparse.ArgumentParser(prog="make forensics", description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="so much of the full size, such as 0.1")
    share = parser.parse_args().share
    quiet()
    began, broken, told = time.perf_counter(), 0, list[str]()
    logs: dict[Callable[[int], Part], int] = {spoiled: SPOILED_LOGS, forged: FORGED_LOGS, verified: VERIFIED}
    with ProcessPoolExecutor(PROCESSES, initializer=quiet) as pool:
        for words, look, enough in PROMISES:
            most = max(1, round(logs.get(look, 0) * share))
            parts = list(seeds_for(pool, look, round(enough * share), most))
            size, wrong = sum(part.size for part in parts), [w for part in parts for w in part.wrong]
            print(f"{size:>8,} {words} ({len(parts)} runs): {len(wrong)} wrong", flush=True)
            for each in wrong[:3]:
                print(f"         WRONG {each}")
            broken += len(wrong)
            told.append(f"{size:,} {words}")
    chain, deep = speeds(run(retrying(3, 5, jobs=max(40, round(600 * share)))).stretches[0])
    print(f"{chain:>8,.0f} records/s of the chain, {deep:,.0f} records/s with every decision made again")
    took_s = time.perf_counter() - began
    print(f"forensics: {'; '.join(told)}; {broken} wrong, in {took_s:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
