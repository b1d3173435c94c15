"""`writ price`: what the tokens of models cost, and since when."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from .moments import moment
from .output import Table, next_steps, print_json, when
from .reach import connected
from .usage import UsageError

if TYPE_CHECKING:
    from writ.schemas.prices import Price

_MICRO = 1_000_000


def price(args: Namespace) -> int:
    """Lists the table, or sets a price."""
    return asyncio.run(_set(args) if args.verb == "set" else _list(args))


def microusd(text: str, option: str) -> int:
    """US dollars as whole micro-dollars. Raises UsageError."""
    try:
        found = Decimal(text) * _MICRO
    except InvalidOperation:
        found = Decimal(-1)
    if not found.is_finite() or found < 0 or found != found.to_integral_value():
        reason = f"{option} {text!r} is no amount of US dollars, to the millionth"
        raise UsageError(reason, [f"writ price set small --input 0.25 --output 1.25, not {option} {text}"])
    return int(found)


async def _set(args: Namespace) -> int:
    given = microusd(args.input, "--input")
    got = microusd(args.output, "--output")
    since = None if args.since is None else moment(args.since, "--from")
    async with connected(args) as client:
        await client.set_price(args.model, given, got, args.reason, from_=since)
        table = (await client.prices(args.model)).table
    _show(args, table)
    return 0


async def _list(args: Namespace) -> int:
    async with connected(args) as client:
        table = (await client.prices(args.model)).table
    _show(args, table)
    return 0


def _show(args: Namespace, table: tuple[Price, ...]) -> None:
    from writ.projections.shown import timestamp

    if args.json:
        print_json(table)
        return
    if not table:
        print("no prices")
        next_steps("writ price set MODEL --input 0.25 --output 1.25")
        return
    rows = Table(["model", "from", "input $/M", "output $/M"], right=["input $/M", "output $/M"])
    for each in table:
        dollars = (_dollars(each.input_microusd), _dollars(each.output_microusd))
        rows.add(each.model, (when(timestamp(each.from_at)), "dim"), *dollars)
    rows.print()


def _dollars(microusd: int) -> str:
    return f"{Decimal(microusd) / _MICRO:f}"
