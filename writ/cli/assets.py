"""`writ asset`: named values and secrets of the tenant. A value comes from a file or standard input."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from .output import Table, next_steps, print_json, when
from .reach import connected
from .usage import UsageError

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.schemas.assets import AssetLine


def asset(args: Namespace) -> int:
    """Runs one of the verbs."""
    return asyncio.run(_VERBS[args.verb](args))


async def _set(args: Namespace) -> int:
    value = _value(args)
    async with connected(args) as client:
        rotates = args.verb == "rotate"
        secret = args.secret if not rotates else await _is_secret(client, args.name)
        told = await client.set_asset(
            args.name,
            value,
            secret=secret,
            rotate=rotates,
            forget=rotates and args.forget,
            reason=args.reason,
        )
        lines = (await client.assets(args.name)).assets
    if args.json:
        print_json(next(line for line in lines if line.version == told.version))
        return 0
    print(f"{told.name}: version {told.version}, digest {told.digest[:12]}")
    return 0


async def _is_secret(client: Client, name: str) -> bool:
    lines = (await client.assets(name)).assets
    return bool(lines) and lines[-1].secret


def _value(args: Namespace) -> bytes:
    """What is to be put away. A line's end that a terminal or `echo` adds is none of it."""
    if args.file is not None:
        try:
            return Path(args.file).read_bytes()
        except OSError as error:
            raise UsageError(f"{args.file} cannot be read: {error.strerror}") from error
    if sys.stdin.isatty():
        import getpass

        return getpass.getpass(f"value of {args.name}: ").encode()
    value = sys.stdin.buffer.read()
    return value.removesuffix(b"\n").removesuffix(b"\r")


async def _get(args: Namespace) -> int:
    async with connected(args) as client:
        told = await client.asset(args.name, args.number)
    if args.json:
        value = told.value.decode("utf-8", "replace")
        print_json({"name": told.name, "version": told.version, "digest": told.digest, "value": value})
        return 0
    sys.stdout.buffer.write(told.value + (b"\n" if sys.stdout.isatty() else b""))
    return 0


async def _list(args: Namespace) -> int:
    found: list[AssetLine] = []
    async with connected(args) as client:
        more = True
        while more:
            page = await client.assets(after=found[-1].name if found else "", limit=1_000)
            found += page.assets
            more = page.more
    return _show(args, found, "no assets", "writ asset set NAME < FILE")


async def _history(args: Namespace) -> int:
    async with connected(args) as client:
        found = list((await client.assets(args.name)).assets)
    return _show(args, found, f"no asset {args.name}", "writ asset list")


async def _remove(args: Namespace) -> int:
    async with connected(args) as client:
        await client.remove_asset(args.name, reason=args.reason)
    if not args.json:
        print(f"{args.name}: removed, and its values erased")
    else:
        print_json({"name": args.name, "removed": True})
    return 0


def _show(args: Namespace, found: list[AssetLine], none: str, then: str) -> int:
    from writ.projections.shown import timestamp

    if args.json:
        print_json(found)
        return 0
    if not found:
        print(none)
        next_steps(then)
        return 0
    rows = Table(["name", "kind", "version", "bytes", "digest", "set", "by", ""], right=["version", "bytes"])
    for each in found:
        kind = "secret" if each.secret else "asset"
        state = "erased" if each.erased else ""
        at = (when(timestamp(each.at)), "dim")
        rows.add(
            each.name, kind, str(each.version), str(each.size_bytes), each.digest[:12], at, each.by, state
        )
    rows.print()
    return 0


_VERBS = {
    "set": _set,
    "rotate": _set,
    "get": _get,
    "list": _list,
    "history": _history,
    "remove": _remove,
}
