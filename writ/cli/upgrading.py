"""`writ upgrade`: the log is written in a newer version of records from here on."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import TYPE_CHECKING

from .output import print_json
from .reach import connected
from .usage import CommandError

if TYPE_CHECKING:
    from writ.broker.client import Client


def upgrade(args: Namespace) -> int:
    """Raises it for all nodes over the logs."""
    return asyncio.run(_raise(args))


async def _raise(args: Namespace) -> int:
    from writ.broker.errors import Refused
    from writ.schemas.upgrading import RECORDS

    version, position = args.to or RECORDS, 0
    async with connected(args) as client:
        try:
            for queue in await _one_queue_each(client):
                position = await client.raise_records(version, args.reason, queue=queue)
        except Refused as refused:
            if refused.rejection.field != "verb":
                raise
            reason = "the leader is of an older Writ, which cannot: start the newer one there first"
            raise CommandError(reason, ["writ status"]) from refused
    if args.json:
        print_json({"version": version, "position": position})
    else:
        print(f"records are written in version {version}; an older Writ leads or follows this log no more")
    return 0


async def _one_queue_each(client: Client) -> list[str]:
    """A queue in each partition that has shards; the tenant's own place where there is one partition.

    Others cannot be asked, and need not be: a log that is new begins in the newest version.
    """
    from writ.schemas.ids import queue_in
    from writ.schemas.subjects import NO_QUEUE

    if len((await client.status()).partitions) == 1:
        return [NO_QUEUE]
    shards = (await client.shards()).shards
    return [queue_in(client.target.tenant, shards.index(partition)) for partition in sorted(set(shards))]
