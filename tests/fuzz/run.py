"""Holds every decoder and edge to 50,000 malformed inputs each: `make fuzz` (ARGS='--only http --seed 7').

An edge is given what mutations make of valid samples. Each input must be taken, or refused with a reason in
words; nothing may be raised, nothing may take 100 ms of CPU, and a valid neighbour is taken as before.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .edge import Edge
from .edges import edges
from .mutations import Mutations

COUNT: Final = 50_000
HANG_S: Final = 0.1
NEIGHBOUR_EVERY: Final = 50
AGAIN: Final = 3
"""What took too long is tried again: what is slow by itself is so each time."""

_FAULTS_SHOWN: Final = 5
_REASONS_KEPT: Final = 5_000


@dataclass
class Held:
    """What became of the inputs to one edge."""

    edge: str
    inputs: int = 0
    taken: int = 0
    refused: int = 0
    neighbours: int = 0
    slowest_s: float = 0.0
    reasons: set[str] = field(default_factory=set[str])
    faults: list[str] = field(default_factory=list[str])

    def line(self) -> str:
        verdict = "ok" if not self.faults else f"{len(self.faults)} FAULTS"
        return (
            f"{self.edge:<14} {self.inputs:>7,} inputs  {self.refused:>7,} refused in {len(self.reasons):>5,}"
            f" ways  {self.taken:>7,} taken  {self.neighbours:>5,} neighbours"
            f"  slowest {self.slowest_s * 1e3:5.1f} ms  {verdict}"
        )


def hold(edge: Edge, count: int, seed: int) -> Held:
    """So many inputs to one edge."""
    held = Held(edge.name)
    mutations = Mutations(seed)
    _neighbours(edge, held)
    for number in range(count):
        data = edge.malformed(mutations)
        held.inputs += 1
        _one(edge, data, held)
        if (number + 1) % NEIGHBOUR_EVERY == 0:
            _neighbours(edge, held)
        if len(held.faults) >= _FAULTS_SHOWN:
            break
    edge.close()
    return held


def _one(edge: Edge, data: bytes, held: Held) -> None:
    took_s, reason, error = _tried(edge, data)
    for _ in range(AGAIN):
        if took_s < HANG_S or error is not None:
            break
        took_s = min(took_s, _tried(edge, data)[0])
    held.slowest_s = max(held.slowest_s, took_s)
    if error is not None:
        held.faults.append(f"{_shown(data)}\n    raised {error}")
    elif took_s >= HANG_S:
        held.faults.append(f"{_shown(data)}\n    took {took_s * 1e3:.0f} ms")
    elif reason is None:
        held.taken += 1
    elif not reason.strip():
        held.faults.append(f"{_shown(data)}\n    was refused without a reason")
    else:
        held.refused += 1
        if len(held.reasons) < _REASONS_KEPT:
            held.reasons.add(reason[:80])


def _tried(edge: Edge, data: bytes) -> tuple[float, str | None, str | None]:
    """CPU seconds, the reason of a refusal, and an error nobody has handled."""
    begun = edge.clock()
    try:
        reason = edge.take(data)
    except Exception:
        return edge.clock() - begun, None, "".join(traceback.format_exc().splitlines(keepends=True)[-6:])
    return edge.clock() - begun, reason, None


def _neighbours(edge: Edge, held: Held) -> None:
    """One of the valid samples is taken, as if nothing had been."""
    sample = edge.samples[held.neighbours % len(edge.samples)]
    held.neighbours += 1
    _, reason, error = _tried(edge, sample)
    if reason is not None or error is not None:
        held.faults.append(f"the valid neighbour {_shown(sample)}\n    {reason or error}")


def _shown(data: bytes) -> str:
    return f"{data[:300]!r}{f'... of {len(data):,} bytes' if len(data) > 300 else ''}"


def run(count: int, seed: int, only: Sequence[str], directory: Path) -> list[Held]:
    """All edges, or those of the names given; each is told of as it ends."""
    found: list[Held] = []
    for make in edges(directory):
        if only and make.name not in only:
            continue
        begun = time.monotonic()
        held = hold(make.open(), count, seed)
        found.append(held)
        print(f"{held.line()}  {time.monotonic() - begun:.0f} s", flush=True)
        for fault in held.faults:
            print(f"  {fault}", flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """0 where every edge has held."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=COUNT, help=f"inputs to each edge [{COUNT}]")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeats a run")
    parser.add_argument("--only", action="append", default=[], metavar="EDGE", help="repeat for more")
    args = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)
    print(f"seed {args.seed}, {args.count:,} inputs to each edge", flush=True)
    with tempfile.TemporaryDirectory(prefix="writ-fuzz-") as name:
        held = run(args.count, args.seed, args.only, Path(name))
    totals: Counter[str] = Counter()
    for each in held:
        totals.update(inputs=each.inputs, refused=each.refused, taken=each.taken, faults=len(each.faults))
    slowest = max([each.slowest_s for each in held], default=0.0)
    print(
        f"{len(held)} edges, {totals['inputs']:,} inputs: {totals['refused']:,} refused with a reason,"
        f" {totals['taken']:,} taken, {totals['faults']} faults; the slowest took {slowest * 1e3:.1f} ms"
    )
    return 0 if held and not totals["faults"] else 1


if __name__ == "__main__":
    sys.exit(main())
