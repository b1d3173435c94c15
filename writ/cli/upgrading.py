"""`writ upgrade`: the log is written in a newer version of records from here on."""

from __future__ import annotations

import asyncio
from argparse import Namespace

from .output import print_json
from .reach import connected
from .usage import CommandError


def upgrade(args: Namespace) -> int:
    """Raises it for all nodes over the log."""
    return asyncio.run(_raise(args))


async def _raise(args: Namespace) -> int:
    from writ.broker.errors import Refused
    from writ.schemas.upgrading import RECORDS

    version = args.to or RECORDS
    async with connected(args) as client:
        try:
            position = await client.raise_records(version, args.reason)
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
