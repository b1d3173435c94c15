"""`writ schedule`."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .moments import moment
from .output import Table, count, fields, next_steps, on_terminal, paint, print_json, when
from .queues import flat, show_history, shown
from .reach import connected
from .usage import CommandError
from .watching import Shown, rows, watch

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.schemas.queries import ScheduleView


def schedule(args: Namespace) -> int:
    """Lists them, shows one, or does something to one."""
    if args.verb == "list":
        return watch(args, lambda client: _look(client, args)) if args.watch else asyncio.run(_list(args))
    if args.verb == "show":
        return asyncio.run(_show(args))
    if args.verb == "backfill":
        args.start = moment(args.start, "--from")
        args.to = moment(args.to, "--to")
    return asyncio.run(_started(args) if args.verb in ("trigger", "backfill") else _change(args))


async def all_schedules(client: Client, queue: str | None = None, times: int = 1) -> list[ScheduleView]:
    """All schedules, by queue and name."""
    found: list[ScheduleView] = []
    cursor: str | None = None
    while True:
        page = await client.schedules(queue=queue, times=times, limit=500, cursor=cursor)
        found += page.schedules
        cursor = page.next
        if cursor is None:
            return found


async def _list(args: Namespace) -> int:
    async with connected(args) as client:
        found = await all_schedules(client, args.queue)
    if args.json:
        print_json(found)
        return 0
    if not found:
        print("no schedules: declare one with `writ apply FILE`")
        return 0
    _table(found).print()
    if on_terminal():
        print(f"\n{count(len(found), 'schedule')}")
    next_steps(f"writ schedule show {found[0].name}")
    return 0


async def _look(client: Client, args: Namespace) -> Shown:
    found = await all_schedules(client, args.queue)
    return rows(_table(found), count(len(found), "schedule"))


def _table(found: Sequence[ScheduleView]) -> Table:
    columns = ["name", "queue", "task", "when", "next", "last job", "fired", "skipped"]
    table = Table(columns, ["queue", "task", "last job"], ["fired", "skipped"])
    for each in found:
        due = ("paused", "yellow") if each.paused is not None else (when(next(iter(each.next), None)), "dim")
        table.add(
            *(each.name, each.queue, each.spec.task, _when(each), due, each.last_job or ""),
            *(str(each.fired), str(each.skipped)),
        )
    return table


def _when(view: ScheduleView) -> str:
    spec = view.spec
    if spec.cron is None:
        return f"every {spec.every_s:g} s"
    return spec.cron if spec.tz == "UTC" else f"{spec.cron} {spec.tz}"


async def _one(client: Client, args: Namespace, times: int = 0, *, history: bool = False) -> ScheduleView:
    """The schedule that is named. Raises CommandError."""
    found = (await client.schedules(args.name, args.queue, times=times, history=history)).schedules
    if not found:
        where = f" in queue {args.queue}" if args.queue else ""
        raise CommandError(f"no schedule {args.name}{where}", ["writ schedule list"])
    if len(found) > 1:
        queues = ", ".join(each.queue for each in found)
        raise CommandError(
            f"several queues have a schedule {args.name}: {queues}; say which",
            [f"writ schedule {args.verb} {args.name} --queue Q"],
        )
    return next(iter(found))


async def _show(args: Namespace) -> int:
    async with connected(args) as client:
        view = await _one(client, args, args.times, history=True)
    if args.json:
        print_json(view)
        return 0
    standing = paint("paused", "yellow") + f": {view.paused}" if view.paused is not None else "live"
    print(f"schedule {paint(view.name, 'bold')} of queue {view.queue} is {standing}\n")
    content = bytes(view.input).decode()
    spec = {name: value for name, value in flat(view.spec).items() if value not in (None, False)}
    last = f"{view.last_due or ''} job {view.last_job}".strip() if view.last_job else ""
    fields(
        [
            ("version", f"{view.version}, by {view.changed_by}"),
            *[(name, shown(value)) for name, value in spec.items()],
            ("input", "" if content == "null" else content),
            ("last", last),
            ("fired", f"{view.fired}, skipped {view.skipped}"),
        ]
    )
    if view.next:
        print(f"\n{paint('Next times', 'bold')}")
        for each in view.next:
            print(f"  {each}")
    show_history(view.history, args.history)
    next_steps(f"writ jobs --schedule {view.name} --queue {view.queue}")
    return 0


async def _change(args: Namespace) -> int:
    async with connected(args) as client:
        view = await _one(client, args)
        change = getattr(client, f"{args.verb}_schedule")
        client.min_position = await change(view.queue, args.name, args.reason)
        found = (await client.schedules(args.name, view.queue, deleted=True, times=1)).schedules[0]
    if args.json:
        print_json(found)
        return 0
    if found.deleted is not None:
        print(f"schedule {args.name} is deleted; the jobs that it started go on")
    elif found.paused is not None:
        print(f"schedule {args.name} is paused")
    else:
        due = f"; next at {found.next[0]}" if found.next else "; it is not due any more"
        print(f"schedule {args.name} is live{due}")
    return 0


async def _started(args: Namespace) -> int:
    from writ.schemas.schedules import Overlap

    more: dict[str, Any] = {} if args.overlap is None else {"overlap": Overlap(args.overlap)}
    async with connected(args) as client:
        view = await _one(client, args)
        if args.verb == "trigger":
            jobs = await client.trigger_schedule(view.queue, args.name, args.reason, **more)
        else:
            more["limit"] = args.limit
            jobs = await client.backfill_schedule(
                view.queue, args.name, args.start, args.to, args.reason, **more
            )
    if args.json:
        print_json({"queue": view.queue, "jobs": list(jobs)})
    elif on_terminal():
        print(f"started {count(len(jobs), 'job')}{': ' if jobs else ''}{', '.join(jobs[:5])}")
        next_steps(*[f"writ job {job}" for job in jobs[:1]])
    else:
        for job in jobs:
            print(job)
    return 0
