"""`writ demo`."""

from __future__ import annotations

import asyncio
import random
import signal
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from .output import count, paint, print_json
from .usage import CommandError, tell

if TYPE_CHECKING:
    from writ.demo.play import Cast
    from writ.demo.stage import Stage
    from writ.demo.tally import Past, Tally
    from writ.schemas.queries import RecordView

TERMINATED: Final = 143
"""What a shell reports for a program that SIGTERM ended."""


def demo(args: Namespace) -> int:
    """Runs the demonstration; exits 1 where the log does not say what it should."""
    try:
        return asyncio.run(_demo(args))
    except asyncio.CancelledError:
        return TERMINATED


async def _demo(args: Namespace) -> int:
    """Nothing that it starts or writes is left behind, however it ends."""
    _end_on_signals()
    from writ.demo.play import Cast, play
    from writ.demo.stage import Stage, StageError
    from writ.demo.telling import Teller

    seed = random.randrange(10_000) if args.seed is None else args.seed
    teller = Teller(args.json)
    try:
        cast = Cast.drawn(seed, args.jobs)
        if not args.json:
            print(f"{paint('Writ demo', 'bold')}, seed {seed}\n", flush=True)
        async with Stage(args.keep) as stage:
            client, tally = await play(stage, cast, teller)
            try:
                faults = tally.faults(len(cast.names))
                closest = tally.closest(cast.slow)
                context: list[RecordView] = []
                if closest is not None:
                    from .fetch import all_records

                    context = await all_records(client, closest.view.queue, closest.view.id, context=True)
            finally:
                await client.close()
    except StageError as error:
        raise CommandError(str(error), ["writ demo --keep            (keeps what was written)"]) from error
    if args.json:
        print_json(_document(seed, cast, tally, faults, stage if args.keep else None))
    else:
        _show_counts(cast, tally)
        if closest is not None:
            _show_closest(closest, context)
        _show_further(seed, stage if args.keep else None)
    if faults:
        tell("the log does not say what it should: " + "; ".join(faults), [f"writ demo --seed {seed} --keep"])
    return 1 if faults else 0


def _end_on_signals() -> None:
    """Ends like Ctrl-C does on the signals that would else leave processes behind."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


# --- what it came to ------------------------------------------------------------------------------------


def _show_counts(cast: Cast, tally: Tally) -> None:
    from writ.schemas.lifecycle import State

    reports = tally.reports
    completed, dead = tally.ended(State.COMPLETED), tally.ended(State.DEAD)
    size = f"{count(tally.records, 'record')} of {count(len(tally.pasts), 'job')}"
    print(f"\n{paint('What the log says', 'bold')} ({size})")
    _counted(completed, "completed", "green", lambda _: "")
    _counted(dead, "dead", "red", _death)
    _counted(tally.reclaimed, "reclaimed", "yellow", lambda past: f"leased to {', then '.join(past.workers)}")
    _counted(tally.retried, "retried", "yellow", lambda past: f"completed on attempt {past.job.attempt}")
    checked = sum(report.checked for report in reports)
    missing = sum(report.missing_count for report in reports)
    changed = sum(report.changed_count for report in reports)
    print(f"\n  {checked:,} files checked, {missing:,} missing, {changed:,} changed")
    for report in [report for report in reports if report.missing_count or report.changed_count][:5]:
        what = f"{report.missing_count} missing, {report.changed_count} changed"
        first = [*report.missing, *report.changed][0]
        print(f"  {report.distribution} {report.version}: {what}, such as {first}")


def _counted(pasts: list[Past], what: str, style: str, how: Callable[[Past], str]) -> None:
    """A number with its name, and a line for each job where there is something to say of it."""
    head = f"  {len(pasts):>4}  {paint(what.ljust(9), style)}"
    named = [f"{past.job.id}, {words}" for past in pasts if (words := how(past))] or [""]
    for line in named:
        print(f"{head}  {line}".rstrip())
        head = " " * 17


def _death(past: Past) -> str:
    error = past.view.error
    return f"{count(past.job.attempt, 'attempt')}" + (f", then {error.type}" if error else "")


def _show_closest(past: Past, context: list[RecordView]) -> None:
    """The reclaimed job as `writ job` and `writ explain` show it."""
    from .past import explanation_lines
    from .timeline import steps_of, timeline_lines

    view = past.view
    steps = steps_of(view.tenant, view.queue, view.id, context)
    print(f"\n{paint(f'Timeline of {view.id}', 'bold')}")
    for line in timeline_lines(steps):
        print(line)
    print(f"\n{paint(f'writ explain {view.id}', 'bold')}")
    for line in explanation_lines(steps):
        print(f"  {line}" if line else "")


def _show_further(seed: int, kept: Stage | None) -> None:
    print(f"\n{paint('Look further', 'bold')}")
    if kept is not None:
        where = f"--dir {kept.directory}"
        lines = [
            (f"writ up --detach {where}", "start this node again"),
            (f"writ jobs {where}", "its jobs; then job, explain, replay, dlq"),
            (f"writ down {where}", "stop it"),
        ]
    else:
        lines = [
            (f"writ demo --seed {seed} --keep", "the same run, kept to look around in"),
            ("writ up", "a node of your own"),
            ("writ", "all that you can do"),
        ]
    width = max(len(command) for command, _ in lines)
    for command, about in lines:
        print(f"  {command.ljust(width)}  {paint(about, 'dim')}")


def _document(seed: int, cast: Cast, tally: Tally, faults: list[str], kept: Stage | None) -> dict[str, Any]:
    from writ.schemas.lifecycle import State

    def names(pasts: list[Past]) -> list[str]:
        return [past.job.id for past in pasts]

    return {
        "ok": not faults,
        "faults": faults,
        "seed": seed,
        "jobs": len(tally.pasts),
        "records": tally.records,
        "completed": len(tally.ended(State.COMPLETED)),
        "dead": names(tally.ended(State.DEAD)),
        "reclaimed": {past.job.id: past.workers for past in tally.reclaimed},
        "retried": names(tally.retried),
        "files": {
            "checked": sum(report.checked for report in tally.reports),
            "missing": sum(report.missing_count for report in tally.reports),
            "changed": sum(report.changed_count for report in tally.reports),
        },
        "directory": str(kept.directory) if kept else None,
    }
