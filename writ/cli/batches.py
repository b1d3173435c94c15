"""`writ batch`: groups of jobs, how far they are, and giving them their size."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from .output import (
    STATE_STYLES,
    Table,
    count,
    fields,
    next_steps,
    on_terminal,
    paint,
    print_json,
    state,
    when,
)
from .queues import show_history
from .reach import connected
from .usage import CommandError
from .watching import Shown, rows, watch

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.schemas.queries import BatchView

_ENDS: Final = ("completed", "dead", "cancelled")


def batch(args: Namespace) -> int:
    """Lists them, shows one, or seals one."""
    if args.verb == "list":
        return watch(args, lambda client: _look(client, args)) if args.watch else asyncio.run(_list(args))
    return asyncio.run(_show(args) if args.verb == "show" else _seal(args))


async def _all(client: Client, queue: str | None) -> list[BatchView]:
    """All batches, by queue and name."""
    found: list[BatchView] = []
    cursor: str | None = None
    while True:
        page = await client.batches(None, queue, limit=500, cursor=cursor)
        found += page.batches
        cursor = page.next
        if cursor is None:
            return found


async def _look(client: Client, args: Namespace) -> Shown:
    found = await _all(client, args.queue)
    return rows(_table(found), count(len(found), "batch", "batches"))


async def _list(args: Namespace) -> int:
    async with connected(args) as client:
        found = await _all(client, args.queue)
    if args.json:
        print_json(found)
        return 0
    if not found:
        print("no batches: one comes with `writ submit ... --batch B`")
        return 0
    _table(found).print()
    next_steps(f"writ batch show {found[0].batch}")
    return 0


def _table(found: Sequence[BatchView]) -> Table:
    columns = ["batch", "queue", "size", "ended", *_ENDS, "end"]
    table = Table(columns, ["batch", "queue"], ["size", "ended", *_ENDS])
    for each in found:
        table.add(
            *(each.batch, each.queue, str(each.size or ""), str(_ended(each))),
            *(str(each.jobs.get(name, 0)) for name in _ENDS),
            (when(each.ended_at), "dim")
            if each.ended_at
            else ("goes on" if each.size else "not sealed", "cyan"),
        )
    return table


def _ended(view: BatchView) -> int:
    return sum(view.jobs.get(name, 0) for name in _ENDS)


async def _one(client: Client, args: Namespace) -> BatchView:
    """The batch that is named. Raises CommandError."""
    found = (await client.batches(args.batch, args.queue, history=True)).batches
    if not found:
        where = f" in queue {args.queue}" if args.queue else ""
        raise CommandError(f"no batch {args.batch}{where}: no job counts in it", ["writ batch list"])
    if len(found) > 1:
        queues = ", ".join(each.queue for each in found)
        raise CommandError(
            f"several queues have a batch {args.batch}: {queues}; say which",
            [f"writ batch {args.verb} {args.batch} --queue {found[0].queue}"],
        )
    return next(iter(found))


async def _show(args: Namespace) -> int:
    async with connected(args) as client:
        view = await _one(client, args)
    if args.json:
        print_json(view)
        return 0
    _say(view)
    show_history(view.history, len(view.history))
    left = [] if view.size else [f"writ batch seal {view.batch} --queue {view.queue}"]
    next_steps(f"writ jobs --batch {view.batch} --queue {view.queue}", *left)
    return 0


def _say(view: BatchView) -> None:
    counts = [f"{view.jobs[name]:,} {state(name)}" for name in STATE_STYLES if view.jobs.get(name)]
    there = sum(view.jobs.values())
    ended = f"{_ended(view):,} of {view.size or there:,} have ended"
    if view.size is None:
        standing = "is not sealed: it has no end until it is"
    elif view.ended_at is not None:
        standing = f"ended at {view.ended_at}"
    else:
        standing = "goes on"
    print(f"batch {paint(view.batch, 'bold')} of queue {view.queue} {standing}\n")
    missing = f"{view.size - there:,} not submitted yet" if view.size and view.size > there else ""
    fields(
        [
            ("progress", ended),
            ("jobs", ", ".join([*counts, *([missing] if missing else [])])),
            ("size", f"{view.size:,}" if view.size else ""),
        ]
    )


async def _seal(args: Namespace) -> int:
    """Gives it the size that is named, or that it has."""
    async with connected(args) as client:
        queue, size = args.queue, args.size
        if queue is None or size is None:
            view = await _one(client, args)
            queue, size = view.queue, size or sum(view.jobs.values())
        client.min_position = await client.seal_batch(queue, args.batch, size, args.reason)
        args.queue = queue
        view = await _one(client, args)
    if args.json:
        print_json(view)
        return 0
    end = f"ended at {view.ended_at}" if view.ended_at else f"{_ended(view):,} have ended"
    print(f"batch {view.batch} of queue {view.queue} is sealed with {count(size, 'job')}; {end}")
    if on_terminal():
        next_steps(f"writ batch show {view.batch} --queue {view.queue}")
    return 0
