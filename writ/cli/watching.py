"""`--watch`: a listing over and over until Ctrl-C; in a pipe a line for each change."""

from __future__ import annotations

import asyncio
import shutil
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from .output import Table, console, on_terminal
from .reach import connected
from .usage import UsageError

if TYPE_CHECKING:
    from writ.broker.client import Client

_WATCH_S: Final = 0.5
_AROUND_LINES: Final = 5
"""Lines of a terminal that are not for rows."""


@dataclass(frozen=True)
class Shown:
    """One look at a listing: its rows, a line below them, and for a pipe a line for each thing by name."""

    table: Table
    foot: str
    lines: Iterable[tuple[object, str]]


def rows(table: Table, foot: str, names: Sequence[int] = (0, 1)) -> Shown:
    """A look whose lines are the table's; a row's name is in the columns `names`."""
    cells = [table.texts(row) for row in table.rows]
    return Shown(table, foot, [(tuple([row[index] for index in names]), "  ".join(row)) for row in cells])


def watch(args: Namespace, look: Callable[[Client], Awaitable[Shown]]) -> int:
    """Shows what `look` sees until the watch is ended. Raises UsageError where --json is given as well."""
    if args.json:
        command = " ".join(["writ", args.command, *([args.verb] if getattr(args, "verb", None) else [])])
        raise UsageError("--watch and --json exclude each other", [f"{command} --json", f"{command} --watch"])
    return asyncio.run(_on_terminal(args, look) if on_terminal() else _in_pipe(args, look))


async def _on_terminal(args: Namespace, look: Callable[[Client], Awaitable[Shown]]) -> int:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    async with connected(args) as client:
        with Live(console=console(), screen=False, auto_refresh=False, transient=False) as live:
            while True:
                room = max(3, shutil.get_terminal_size().lines - _AROUND_LINES)
                shown = await look(client)
                table = replace(shown.table, rows=shown.table.rows[:room])
                foot = Text(f"\n{shown.foot} · Ctrl-C ends the watch", style="dim")
                live.update(Group(table.rich(), foot), refresh=True)
                await asyncio.sleep(_WATCH_S)


async def _in_pipe(args: Namespace, look: Callable[[Client], Awaitable[Shown]]) -> int:
    seen: dict[object, str] = {}
    async with connected(args) as client:
        while True:
            for name, line in (await look(client)).lines:
                if seen.get(name) != line:
                    seen[name] = line
                    print(line)
            sys.stdout.flush()
            await asyncio.sleep(_WATCH_S)
