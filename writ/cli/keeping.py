"""`writ erase` and `writ hold`: what is unreadable for good, and what must stay readable."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from .fetch import states_of
from .output import Table, count, next_steps, paint, print_json, when
from .queues import shown
from .reach import connected
from .usage import CommandError, UsageError

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.schemas.queries import HoldView


def erase(args: Namespace) -> int:
    """Destroys the key of one job, or of a subject. Cannot be undone, so the reason must be given."""
    if (args.id is None) == (args.subject is None):
        raise UsageError("give a job's ID or --subject S, and not both", ["writ erase ID --reason R"])
    if not args.reason:
        raise UsageError("--reason is missing; it is kept in the log", ["writ erase ID --reason R"])
    return asyncio.run(_erase(args))


async def _erase(args: Namespace) -> int:
    from writ.broker.errors import Refused

    async with connected(args) as client:
        # A subject's jobs may be in any queue; the name of one only leads to a partition.
        queue = args.queue or "default"
        if args.id is not None:
            queue = (await client.job(args.id, args.queue)).queue
        try:
            jobs = await client.erase(queue, args.id, args.reason, data_subject=args.subject)
        except Refused as error:
            raise CommandError(str(error)) from error
    what = f"subject {args.subject}" if args.id is None else f"job {args.id}"
    if args.json:
        print_json({"id": args.id, "queue": queue if args.id else None, "jobs": jobs})
    elif jobs:
        print(f"{paint('erased', 'bold red')} the content of {count(jobs, 'job')} of {what}")
    else:
        print(f"nothing of {what} is left to erase")
    return 0


def hold(args: Namespace) -> int:
    """Places, lists or lifts holds."""
    return asyncio.run({"add": _add, "list": _list, "remove": _remove}[args.verb](args))


async def _add(args: Namespace) -> int:
    from writ.schemas.events import Filter
    from writ.schemas.lifecycle import State

    ids: Any = tuple(args.ids) or None
    filter_ = Filter(states=tuple([State(name) for name in states_of(args.state)]), task=args.task, ids=ids)
    async with connected(args) as client:
        await client.place_hold(args.queue, args.name, filter_, args.reason)
    if args.json:
        print_json({"name": args.name, "queue": args.queue, "filter": filter_})
    else:
        print(f"{_meant(filter_)} of queue {args.queue} cannot be erased while hold {args.name} stands")
    return 0


async def _remove(args: Namespace) -> int:
    from writ.broker.errors import Refused

    async with connected(args) as client:
        try:
            await client.lift_hold(args.queue, args.name, args.reason)
        except Refused as error:
            raise CommandError(str(error), ["writ hold list"]) from error
    if args.json:
        print_json({"name": args.name, "queue": args.queue})
    else:
        print(f"hold {args.name} of queue {args.queue} is lifted")
    return 0


async def _list(args: Namespace) -> int:
    async with connected(args) as client:
        found = await _all(client, args)
    if args.json:
        print_json(found)
        return 0
    if not found:
        print("no holds")
        next_steps("writ hold add QUEUE NAME --id ID --reason R")
        return 0
    table = Table(["hold", "queue", "jobs", "reason", "by", "since"], ["reason", "jobs"])
    for each in found:
        standing = each.reason if each.lifted is None else f"lifted: {each.lifted}"
        table.add(
            *(each.name, each.queue, _meant(each.filter), standing, each.placed_by),
            (when(each.changed_at), "dim"),
        )
    table.print()
    return 0


async def _all(client: Client, args: Namespace) -> list[HoldView]:
    found: list[HoldView] = []
    cursor: str | None = None
    while True:
        page = await client.holds(queue=args.queue, lifted=args.lifted, limit=500, cursor=cursor)
        found += page.holds
        cursor = page.next
        if cursor is None:
            return found


def _meant(filter_: Any) -> str:
    """A filter in words."""
    import msgspec

    terms: dict[str, Any] = msgspec.to_builtins(filter_)
    return ", ".join(f"{name} {shown(value)}" for name, value in terms.items()) or "all jobs"
