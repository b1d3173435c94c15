"""`writ jobs` and `job`."""

from __future__ import annotations

import asyncio
import shutil
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from .fetch import all_jobs, all_records, states_of
from .output import (
    STATE_STYLES,
    Table,
    console,
    count,
    fields,
    next_steps,
    on_terminal,
    one_line,
    paint,
    print_json,
    state,
    when,
)
from .reach import connected
from .timeline import steps_of, timeline_lines
from .usage import UsageError

if TYPE_CHECKING:
    from writ.schemas.queries import JobView

_WATCH_S: Final = 0.5


# --- jobs -----------------------------------------------------------------------------------------------


def jobs(args: Namespace) -> int:
    """The listing. No job is an answer, too."""
    args.states = states_of(args.state)
    if args.watch and args.json:
        raise UsageError("--watch and --json exclude each other", ["writ jobs --json", "writ jobs --watch"])
    return asyncio.run(_watch(args) if args.watch else _list(args))


async def _list(args: Namespace) -> int:
    async with connected(args) as client:
        found = await all_jobs(client, states=args.states, queue=args.queue, task=args.task, limit=args.limit)
    if args.json:
        print_json(found)
        return 0
    table_of(found).print()
    if on_terminal():
        print(f"\n{summary(found)}")
    if not found:
        asked = args.states or args.queue or args.task
        next_steps("writ jobs            (without filters)" if asked else "writ submit QUEUE TASK INPUT")
    return 0


def table_of(found: Iterable[JobView]) -> Table:
    """Jobs as rows."""
    table = Table(
        ["id", "queue", "task", "state", "attempt", "submitted"], elastic=["queue", "task"], right=["attempt"]
    )
    for job in found:
        styled = (job.state.value, STATE_STYLES[job.state.value])
        submitted = (when(job.submitted_at), "dim")
        table.add(job.id, job.queue, job.task, styled, str(job.attempt), submitted)
    return table


def summary(found: Iterable[JobView]) -> str:
    """`12 jobs: 10 completed, 2 dead`."""
    counts = Counter(job.state.value for job in found)
    parts = ", ".join(f"{counts[name]:,} {state(name)}" for name in STATE_STYLES if counts[name])
    return f"{count(counts.total(), 'job')}{': ' if parts else ''}{parts}"


async def _watch(args: Namespace) -> int:
    """The listing over and over: the newest that fit a terminal; in a pipe, a line for each change."""
    if not on_terminal():
        return await _watch_plain(args)
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    async with connected(args) as client:
        with Live(console=console(), screen=False, auto_refresh=False, transient=False) as live:
            while True:
                room = max(3, shutil.get_terminal_size().lines - 5)
                found = await all_jobs(
                    client, states=args.states, queue=args.queue, task=args.task, limit=args.limit or 500
                )
                totals = (await client.status()).jobs
                line = ", ".join(f"{number:,} {name}" for name, number in totals.items() if number)
                foot = Text(f"\n{line or 'no jobs yet'} · Ctrl-C ends the watch", style="dim")
                live.update(Group(table_of(found[:room]).rich(), foot), refresh=True)
                await asyncio.sleep(_WATCH_S)


async def _watch_plain(args: Namespace) -> int:
    seen: dict[tuple[str, str], int] = {}
    async with connected(args) as client:
        while True:
            found = await all_jobs(
                client, states=args.states, queue=args.queue, task=args.task, limit=args.limit
            )
            for job in sorted(found, key=lambda job: job.seq):
                if seen.get((job.queue, job.id)) != job.seq:
                    seen[job.queue, job.id] = job.seq
                    print(job.seq, job.queue, job.id, job.task, job.state.value, job.attempt)
            sys.stdout.flush()
            await asyncio.sleep(_WATCH_S)


# --- job ------------------------------------------------------------------------------------------------


def job(args: Namespace) -> int:
    """One job: what it is, and all that happened to it."""
    return asyncio.run(_job(args))


async def _job(args: Namespace) -> int:
    async with connected(args) as client:
        view = await client.job(args.id, args.queue)
        records = await all_records(client, view.queue, view.id)
    if args.json:
        import msgspec

        print_json({**msgspec.structs.asdict(view), "records": records})
        return 0
    show_job(view)
    print(f"\n{paint('Timeline', 'bold')}")
    for line in timeline_lines(steps_of(view.tenant, view.queue, view.id, records)):
        print(line)
    print()
    next_steps(f"writ explain {view.id}")
    return 0


def show_job(view: JobView) -> None:
    """The job's fields, those that say something."""
    print(f"{paint(view.id, 'bold')} in queue {view.queue} is {state(view.state.value)}\n")
    error = view.error
    fields(
        [
            ("task", view.task),
            ("attempt", _attempts(view)),
            ("submitted", f"{view.submitted_at} by {view.actor}"),
            ("due", view.due_at if view.state.value in ("scheduled", "retrying") else ""),
            ("priority", f"{view.priority}" if view.priority != 3 else ""),
            ("waits for", _wait(view)),
            ("after", ", ".join(view.after)),
            ("parent", view.parent or ""),
            ("batch", view.batch or ""),
            ("schedule", view.schedule or ""),
            ("keys", _keys(view)),
            ("worker", f"{view.worker}, lease until {view.lease_expires_at}" if view.worker else ""),
            ("finished", view.finished_at or ""),
            ("input", _content(view.input)),
            ("output", _content(view.output)),
            ("last error", f"{error.class_} {error.type}: {one_line(error.text or '')}" if error else ""),
            ("progress", _content(view.progress)),
            ("to be cancelled", view.cancel or ""),
            ("cause", view.cause or ""),
            ("dropped", view.dropped or ""),
            ("operation", view.operation or ""),
            ("reason", ": ".join(each for each in (view.dead_reason, view.reason) if each)),
        ]
    )


def _wait(view: JobView) -> str:
    wait = view.wait
    if wait is None:
        return ""
    on = f" {', '.join(wait.on)}" if wait.on else ""
    until = f", until {wait.until} and then {wait.on_timeout}" if wait.until else ""
    return f"{wait.reason}{on} since {wait.since}{until}"


def _keys(view: JobView) -> str:
    named = [
        ("unique", view.unique_key),
        ("concurrency", view.concurrency_key),
        ("fairness", view.fairness_key),
    ]
    return ", ".join(f"{name} {key}" for name, key in named if key)


def _attempts(view: JobView) -> str:
    parts = [str(view.attempt)]
    if view.round > 1:
        parts.append(f"round {view.round}")
    if view.failures:
        parts.append(f"{view.failures} failed")
    if view.lease_losses:
        parts.append(f"{view.lease_losses} lost")
    return ", ".join(parts)


def _content(raw: Any) -> str:
    text = bytes(raw).decode(errors="replace")
    if text == "null":
        return ""
    return one_line(text, 60) if on_terminal() else text
