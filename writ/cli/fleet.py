"""`writ workers`: who works, and who is to take no more."""

from __future__ import annotations

import asyncio
import datetime
from argparse import Namespace
from typing import TYPE_CHECKING

from . import lists
from .output import next_steps, print_json
from .reach import connected
from .usage import CommandError, UsageError

if TYPE_CHECKING:
    from writ.schemas.lists import WorkerView


def workers(args: Namespace) -> int:
    """Lists them, or drains some, or undrains them."""
    if args.verb is None:
        return lists.run(args)
    if not args.names:
        raise UsageError(f"which worker is to {args.verb}? Name it", [f"writ workers {args.verb} NAME"])
    return asyncio.run(_change(args))


async def _change(args: Namespace) -> int:
    drains, reason = args.verb == "drain", args.reason or "requested"
    async with connected(args) as client:
        found: list[WorkerView] = []
        for name in args.names:
            # Of all that ever worked: a name that nobody has would be drained without a word.
            since = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
            page = await client.workers(worker=name, since=since)
            if not page.workers:
                raise CommandError(f"no worker {name} was ever heard of", ["writ workers"])
        for name in args.names:
            await (client.drain_worker if drains else client.undrain_worker)(name, reason)
            found += (await client.workers(worker=name)).workers
    if args.json:
        print_json(found)
        return 0
    for worker in found:
        if not drains:
            print(f"worker {worker.worker} takes leases again")
        elif worker.leases:
            print(f"worker {worker.worker} takes no more leases, and finishes the {worker.leases} it holds")
        else:
            print(f"worker {worker.worker} is drained: it holds no lease, and takes none")
    again = [f"writ workers undrain {args.names[0]}"] if drains else []
    next_steps("writ workers --watch", *again)
    return 0
