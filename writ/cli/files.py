"""`writ file` and `writ memory`: what is kept beside the log."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from .output import Table, next_steps, print_json, when
from .reach import connected
from .usage import UsageError

if TYPE_CHECKING:
    from writ.schemas.stores import FileLine


def file(args: Namespace) -> int:
    """Runs one of the verbs of files."""
    return asyncio.run(_FILES[args.verb](args))


def memory(args: Namespace) -> int:
    """Runs one of the verbs of memory."""
    if (args.run is None) == (args.agent is None):
        raise UsageError("memory is of a run or of an agent; give --run or --agent", ["writ memory --help"])
    return asyncio.run(_MEMORY[args.verb](args))


async def _put(args: Namespace) -> int:
    path = None if args.path == "-" else Path(args.path)
    if path is not None and not path.is_file():
        raise UsageError(f"{args.path} is no file that can be read", ["writ file put FILE"])
    async with connected(args) as client:
        source: Any = sys.stdin.buffer if path is None else path
        made = await client.put_file(
            source, name=args.name or "", media=args.media or "", keep_s=args.keep_days * 86_400.0
        )
    if args.json:
        print_json(made)
    else:
        print(msgspec.json.encode(made).decode())
        next_steps(
            "it is an input as it stands: writ submit QUEUE TASK '{...}'", f"writ file get {made.sha256}"
        )
    return 0


async def _get(args: Namespace) -> int:
    from writ.broker.moving import FileBroken

    async with connected(args) as client:
        try:
            if args.out is not None:
                await client.save_file(args.sha256, Path(args.out))
                return 0
            async with aclosing(client.read_file(args.sha256)) as parts:
                async for part in parts:
                    sys.stdout.buffer.write(part)
        except FileBroken as error:
            print(error, file=sys.stderr)
            return 1
    return 0


async def _files(args: Namespace) -> int:
    from writ.projections.shown import timestamp

    found: list[FileLine] = []
    async with connected(args) as client:
        more = True
        while more:
            page = await client.files(after=found[-1].file.sha256 if found else "", limit=1_000)
            found += page.files
            more = page.more
    if args.json:
        print_json(found)
    elif not found:
        print("no files")
        next_steps("writ file put FILE")
    else:
        rows = Table(["sha256", "bytes", "name", "kept until"], right=["bytes"])
        for each in found:
            until = (when(timestamp(each.until)), "dim")
            rows.add(each.file.sha256, str(each.file.size_bytes), each.file.name, until)
        rows.print()
    return 0


async def _drop(args: Namespace) -> int:
    async with connected(args) as client:
        await client.drop_file(args.sha256)
    return 0


async def _keys(args: Namespace) -> int:
    async with connected(args) as client:
        keys = await client.memory_keys(args.queue, run=args.run, agent=args.agent)
    if args.json:
        print_json(keys)
    else:
        print("\n".join(keys) or "nothing is remembered")
    return 0


async def _read(args: Namespace) -> int:
    async with connected(args) as client:
        told = await client.read_memory(args.queue, args.key, run=args.run, agent=args.agent)
    if args.json:
        value = msgspec.json.decode(told.value)
        print_json({"key": args.key, "value": value, "revision": told.revision})
    elif told.revision:
        print(bytes(told.value).decode())
    return 0 if told.revision else 1


async def _forget(args: Namespace) -> int:
    async with connected(args) as client:
        await client.forget_memory(args.queue, args.key, run=args.run, agent=args.agent)
    return 0


_FILES = {"put": _put, "get": _get, "list": _files, "remove": _drop}
_MEMORY = {"list": _keys, "get": _read, "forget": _forget}
