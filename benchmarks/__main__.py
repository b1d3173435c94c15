"""`make bench`: runs the workloads, prints the figures, keeps them, and says which bars are missed."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from .bars import verdicts
from .beside import Servers
from .beside import one_pass as peers_pass
from .figures import Report, Result
from .history import record
from .machine import RESULTS, machine, versions
from .resting import idle, pollers
from .show import show_peers, show_result, show_verdicts, summary
from .workloads import at_half, run, workloads

_COMPARED: Final = frozenset({"bulk", "single", "light"})
_HALVES: Final = (
    ("half", "fifty", "no-op jobs at half of what 50 submitters reach", 1),
    ("half-bulk", "bulk", "no-op jobs in arrays of 50, at half of what bulk reaches", 50),
)


@dataclass(frozen=True)
class Plan:
    """What is run. `only` narrows it to some workloads; `scale` is of their numbers of jobs and seconds."""

    mode: str
    passes: int
    scale: float
    only: frozenset[str]
    peers: bool

    def wants(self, name: str) -> bool:
        return not self.only or name in self.only


async def one_pass(plan: Plan) -> AsyncIterator[Result]:
    """Every workload once, each on a node of its own."""
    most: dict[str, float] = {}
    for workload in workloads(plan.scale):
        if plan.wants(workload.name):
            result = await run(workload)
            most[workload.name] = result.jobs_per_s
            yield result
    for name, of, about, together in _HALVES:
        if plan.wants(name) and of in most:
            yield await run(at_half(name, about, most[of], 10 * plan.scale, together))
    if plan.wants("pollers"):
        yield await pollers(20 * plan.scale)
    if plan.wants("idle"):
        yield await idle(20 * plan.scale)


async def measure(plan: Plan) -> Report:
    """All passes of a plan, printed as they come."""
    report = Report(
        mode=plan.mode,
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=machine(Path(tempfile.gettempdir())),
        versions=versions(),
        results=[],
        peers=[],
    )
    if report.machine["filesystem"] == "tmpfs":
        print("warning: the data are on tmpfs, where a sync costs nothing; set TMPDIR to a disk", flush=True)
    async with contextlib.AsyncExitStack() as stack:
        servers = await stack.enter_async_context(Servers()) if plan.peers else None
        for number in range(plan.passes):
            if plan.passes > 1:
                print(f"--- pass {number + 1} of {plan.passes}\n", flush=True)
            async for result in one_pass(plan):
                report.results.append(result)
                print(show_result(result), end="\n\n", flush=True)
            if servers is not None:
                async for line in peers_pass(servers):
                    report.peers.append(line)
                    print(json.dumps(line), flush=True)
    return msgspec.structs.replace(report, verdicts=verdicts(report.results, report.peers))


async def _until_told(work: Coroutine[Any, Any, Report]) -> Report:
    """SIGTERM ends it as Ctrl-C does: orderly, with no server left behind."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def keep(report: Report, path: Path | None) -> Path:
    """Writes the figures down as JSON; where."""
    if path is None:
        stamp = report.at.replace(":", "").replace("-", "").partition("+")[0]
        path = RESULTS / f"{stamp}-{report.mode}-{report.versions['commit'].rstrip('+')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    return path


def main() -> int:
    """Exits 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--full", action="store_true", help="five passes beside the peers: the whole must-hold"
    )
    parser.add_argument("--peers", action="store_true", help="beside the peers, what is compared with them")
    parser.add_argument("--passes", type=int, help="how many [1, with --full 5]")
    parser.add_argument("--only", default="", help="some workloads, with commas between them")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of jobs and seconds [1]")
    parser.add_argument(
        "--record", action="store_true", help="add a line to benchmarks/history.jsonl, and draw"
    )
    parser.add_argument("--out", type=Path, help="file for the figures [one in benchmarks/results]")
    args = parser.parse_args()
    only = frozenset(name for name in args.only.split(",") if name)
    mode = "FULL" if args.full else "peers" if args.peers else "quick"
    if args.peers and not args.full:
        only = only or _COMPARED
    passes = args.passes or (5 if args.full else 1)
    plan = Plan(mode, passes, args.scale, only, args.full or args.peers)
    begun = time.monotonic()
    try:
        report = asyncio.run(_until_told(measure(plan)))
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("bench: stopped before its end; no figures are kept", file=sys.stderr)
        return 130
    if report.peers:
        print(f"\n{show_peers(report)}\n")
    print(show_verdicts(report), end="\n\n")
    path = keep(report, args.out)
    if args.record:
        record(report)
    where = os.path.relpath(path)
    print(f"{summary(report, time.monotonic() - begun)}; figures in {where}")
    return 1 if any(each.kept is False for each in report.verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
