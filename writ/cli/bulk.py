"""Doing one thing to many jobs, by plan; and `writ cancel`, which can do it to one as well."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .fetch import states_of
from .output import Table, ago, count, fields, next_steps, on_terminal, paint, print_json, state, when
from .queues import flat, shown
from .reach import connected
from .usage import CommandError, UsageError
from .watching import Shown, rows, watch

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.schemas.commands import Planned
    from writ.schemas.events import Filter
    from writ.schemas.queries import OperationView


def given(value: str | None, field: str) -> Any:
    """JSON from the command line. Raises UsageError."""
    import msgspec

    if value is None:
        return None
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, ValueError) as error:
        raise UsageError(f"{field} is not JSON: {error}", [f'{field} \'{{"name": "value"}}\'']) from error


# --- cancel ---------------------------------------------------------------------------------------------


def cancel(args: Namespace) -> int:
    """Asks for the end of a job, or of many, and says what came of it."""
    if args.all:
        if args.id is not None:
            raise UsageError("--all and ID exclude each other", ["writ cancel ID"])
        if args.queue is None:
            raise UsageError("--all is for one queue: which?", ["writ cancel --all --queue Q --dry-run"])
        return asyncio.run(_cancel_all(args))
    wide = [name for name in ("state", "task", "dry_run", "limit", "rate") if getattr(args, name)]
    if wide:
        option = wide[0].replace("_", "-")
        raise UsageError(f"--{option} is for --all", ["writ cancel --all --queue Q --dry-run"])
    if args.id is None:
        raise UsageError("which job? give its ID, or --all", ["writ jobs", "writ cancel --all --queue Q"])
    return asyncio.run(_cancel(args))


async def _cancel(args: Namespace) -> int:
    async with connected(args) as client:
        queue = args.queue or (await client.job(args.id)).queue
        client.min_position = await client.cancel(args.id, queue, args.reason)
        view = await client.job(args.id, queue)
    if args.json:
        print_json(view)
    elif view.state.value == "cancelled":
        print(f"job {view.id} is {state('cancelled')}")
    else:
        since = f" (its lease ends {ago(view.lease_expires_at)})" if view.lease_expires_at else ""
        print(f"job {view.id} is still {state(view.state.value)}: its worker has been asked to stop{since}")
        next_steps(f"writ job {view.id}")
    return 0


async def _cancel_all(args: Namespace) -> int:
    from writ.schemas.events import Filter
    from writ.schemas.ids import lanes_of
    from writ.schemas.lifecycle import State

    filter_ = Filter(states=tuple([State(name) for name in states_of(args.state)]), task=args.task)
    async with connected(args) as client:
        queues = [args.queue, *lanes_of(args.queue, await client.lanes(args.queue))]
        return await carry_out(args, client, "cancel", queues, filter_)


# --- plans ----------------------------------------------------------------------------------------------


async def carry_out(
    args: Namespace, client: Client, verb: str, queues: Sequence[str], filter_: Filter
) -> int:
    """Plans it in each queue, and says what is meant and where to follow it."""
    from writ.schemas.commands import Plan
    from writ.schemas.events import OperationVerb

    plan = Plan(
        OperationVerb(verb),
        filter_,
        args.reason or "dry run",
        args.limit,
        args.rate,
        getattr(args, "canary", 0),
        getattr(args, "stop_after", 0),
        args.dry_run,
    )
    done = [(queue, await client.plan(queue, plan)) for queue in queues]
    if args.json:
        print_json([_document(queue, planned) for queue, planned in done])
        return 0
    for queue, planned in done:
        print(_said(args, verb, queue, planned))
    if not done:
        print("no job matches")
    started = [planned.operation for _, planned in done if planned.operation is not None]
    next_steps(
        *[f"writ operation show {_name(key)}" for key in started[:1]],
        *([_in_earnest(args)] if args.dry_run and done else []),
    )
    return 0


def _in_earnest(args: Namespace) -> str:
    return "the same without --dry-run" + (" and with --reason R" if args.reason is None else "")


def _name(operation: str) -> str:
    return operation.partition("~")[2]


def _document(queue: str, planned: Planned) -> dict[str, Any]:
    operation = None if planned.operation is None else _name(planned.operation)
    return {
        "queue": queue,
        "operation": operation,
        "matched": planned.matched,
        "sample": list(planned.sample),
    }


def _said(args: Namespace, verb: str, queue: str, planned: Planned) -> str:
    meant = count(planned.matched, "job")
    if args.limit and planned.matched > args.limit:
        meant = f"{args.limit:,} of {meant}"
    sample = f": {', '.join(planned.sample)}" if planned.sample else ""
    more = ", ..." if planned.matched > len(planned.sample) and planned.sample else ""
    if planned.operation is None:
        return f"would {verb} {meant} of queue {queue}{sample}{more}"
    return f"operation {paint(_name(planned.operation), 'bold')} will {verb} {meant} of queue {queue}"


# --- operations -----------------------------------------------------------------------------------------


def operation(args: Namespace) -> int:
    """What was planned, how far it is, and why it ended."""
    if args.verb == "show":
        return asyncio.run(_show_operation(args))
    if args.watch:
        return watch(args, lambda client: _look(client, args))
    return asyncio.run(_list_operations(args))


async def _all(client: Client, queue: str | None, id: str | None = None) -> list[OperationView]:
    """Operations, newest first."""
    found: list[OperationView] = []
    cursor: str | None = None
    while True:
        page = await client.operations(id, queue, limit=500, cursor=cursor)
        found += page.operations
        cursor = page.next
        if cursor is None:
            return sorted(found, key=lambda each: each.planned_at, reverse=True)


async def _look(client: Client, args: Namespace) -> Shown:
    found = await _all(client, args.queue)
    live = sum(each.ended is None for each in found)
    return rows(_table(found), f"{count(len(found), 'operation')}, {live:,} going on", names=(0,))


async def _list_operations(args: Namespace) -> int:
    async with connected(args) as client:
        found = await _all(client, args.queue)
    if args.json:
        print_json(found)
        return 0
    if not found:
        print("no operations: one comes with `writ dlq redrive` or `writ cancel --all`")
        return 0
    _table(found).print()
    if on_terminal():
        print(f"\n{count(len(found), 'operation')}")
    next_steps(f"writ operation show {found[0].id}")
    return 0


def _table(found: Sequence[OperationView]) -> Table:
    columns = ["id", "queue", "verb", "matched", "done", "planned", "by", "end"]
    table = Table(columns, elastic=["queue", "by", "end"], right=["matched", "done"])
    for each in found:
        end = (each.ended, "dim") if each.ended else ("goes on", "cyan")
        planned = (when(each.planned_at), "dim")
        table.add(
            *(each.id, each.queue, each.verb.value, str(each.matched), str(each.done)),
            *(planned, each.actor, end),
        )
    return table


async def _show_operation(args: Namespace) -> int:
    async with connected(args) as client:
        found = await _all(client, args.queue, args.id)
    if not found:
        raise CommandError(f"no operation {args.id}", ["writ operation list"])
    view = found[0]
    if args.json:
        print_json(view)
        return 0
    end = f"ended: {view.ended}" if view.ended else paint("goes on", "cyan")
    print(f"operation {paint(view.id, 'bold')} on queue {view.queue} {end}\n")
    filter_ = {name: value for name, value in flat(view.filter).items() if value not in (None, [])}
    fields(
        [
            ("plan", f"{view.verb.value} {count(view.matched, 'job')}"),
            ("filter", ", ".join(f"{name} {shown(value)}" for name, value in filter_.items()) or "all jobs"),
            ("by", f"{view.actor} at {view.planned_at}: {view.reason}"),
            ("limit", str(view.limit or "")),
            ("rate", f"{view.rate_per_s:g} a second" if view.rate_per_s else ""),
            ("canary", f"the first {view.canary} alone" if view.canary else ""),
            ("stops after", f"{view.stop_after} that died again" if view.stop_after else ""),
            ("done", f"{view.done:,} of {view.matched:,}"),
            ("ended", view.ended_at or ""),
        ]
    )
    next_steps(f"writ jobs --operation {view.id}")
    return 0
