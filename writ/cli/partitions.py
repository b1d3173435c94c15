"""`writ partitions`: how many logs the node has, which shards are in each, having more, moving a shard."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .output import Table, next_steps, print_json
from .reach import connected, directory_of, logs_of, with_dir
from .usage import CommandError

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.broker.hardened import HardenedClient
    from writ.schemas.shards import ShardsTold


async def chosen(link: HardenedClient, partition: int | None, directory: Path) -> Sequence[int]:
    """The partitions that a command goes through: all, or the one that --partition names.

    Raises CommandError where there is none such, OutcomeUnknown.
    """
    from writ.broker.streams import partitions_of

    there = max(1, await partitions_of(link))
    if partition is None:
        return range(there)
    if partition >= there:
        reason = f"there is no partition {partition}: there are {there}, numbered from 0"
        raise CommandError(reason, [with_dir(f"writ partitions grow {partition + 1}", directory)])
    return [partition]


def each_of(found: Mapping[int, Any]) -> Any:
    """What was found in each partition, for --json: of one alone as if there were no other."""
    if len(found) == 1:
        return next(iter(found.values()))
    return [{"partition": number, "found": each} for number, each in found.items()]


def partitions(args: Namespace) -> int:
    """Lists them, makes more, or has a shard moved."""
    return asyncio.run(_grow(args) if args.verb == "grow" else _run(args))


async def _grow(args: Namespace) -> int:
    """Makes the logs; who leads the others sees them, and says so in its own."""
    from writ.broker.streams import partitions_of, spread_of
    from writ.engines import make_logs
    from writ.schemas.subjects import log_stream

    directory = directory_of(args)
    async with logs_of(directory, "grow") as link:
        before = await partitions_of(link)
        if args.count <= before:
            reason = f"there are {before} partitions already; they become more, and never fewer"
            raise CommandError(reason, [with_dir(f"writ partitions grow {before + 1}", directory)])
        await make_logs(directory, link, args.count, await spread_of(link, log_stream(0)))
    if args.json:
        print_json({"before": before, "partitions": args.count})
        return 0
    print(f"there are {args.count} partitions now, and were {before}: shards stay where they are")
    next_steps(
        with_dir("writ status --wait 30", directory),
        with_dir(f"writ partitions move QUEUE --to {before}", directory),
    )
    return 0


async def _run(args: Namespace) -> int:
    async with connected(args) as client:
        if args.verb == "move":
            return await _move(args, client)
        found = await client.shards()
    if args.json:
        print_json(found)
        return 0
    _show(found)
    return 0


def _show(found: ShardsTold) -> None:
    held = Counter(found.shards)
    table = Table(["partition", "shards"], right=["shards"])
    for partition in range(found.partitions):
        table.add(str(partition), str(held[partition]))
    table.print()
    for shard, to in sorted(found.moving.items()):
        print(f"shard {shard} is on its way to partition {to}")


async def _move(args: Namespace, client: Client) -> int:
    from writ.broker.errors import Refused
    from writ.schemas.ids import queue_in, shard_of

    shard = shard_of(args.of or client.target.tenant, args.queue)
    queue = args.queue if args.of is None else queue_in(client.target.tenant, shard)
    try:
        position = await client.move_shard(queue, args.to, args.reason)
    except Refused as refused:
        raise CommandError(str(refused), ["writ partitions"]) from refused
    if args.json:
        print_json({"shard": shard, "to": args.to, "position": position})
        return 0
    print(
        f"shard {shard}, in which queue {args.queue} is, is offered to partition {args.to}: record {position}"
    )
    next_steps("writ partitions")
    return 0
