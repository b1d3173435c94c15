"""Writing to people and programs: tables and colour on a terminal, plain lines in a pipe, JSON if asked."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

STATE_STYLES: Final = {
    "scheduled": "blue",
    "pending": "default",
    "suspended": "yellow",
    "running": "cyan",
    "retrying": "yellow",
    "completed": "green",
    "cancelled": "magenta",
    "dead": "red",
}
_ANSI: Final = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}


def on_terminal() -> bool:
    """Whether standard output is a terminal that can do more than print."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def coloured() -> bool:
    """Whether standard output may hold colours."""
    return on_terminal() and "NO_COLOR" not in os.environ


def paint(text: str, style: str) -> str:
    """The text in a colour or weight, where standard output takes it. Styles may be joined by a blank."""
    codes = [_ANSI[name] for name in style.split() if name in _ANSI]
    return f"\033[{';'.join(codes)}m{text}\033[0m" if codes and coloured() else text


def state(name: str) -> str:
    """A state's name in its colour."""
    return paint(name, STATE_STYLES.get(name, ""))


def console() -> Console:
    """The terminal. Only for use on one: rich takes a while to load."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


def print_json(value: object) -> None:
    """One JSON document on standard output: indented on a terminal, on one line in a pipe."""
    import msgspec

    body = msgspec.json.encode(value)
    if sys.stdout.isatty():
        body = msgspec.json.format(body, indent=2)
    print(body.decode())


def next_steps(*lines: str) -> None:
    """What to type next. Left out in a pipe."""
    if on_terminal():
        for index, line in enumerate(lines):
            print(f"{paint('next: ' if index == 0 else '      ', 'dim')}{line}")


_ELASTIC_MIN: Final = 8
Cell = str | tuple[str, str]
"""Text, or text and its style."""


@dataclass
class Table:
    """Rows under headings. On a terminal the `elastic` columns give way when the line is full, no others."""

    columns: Sequence[str]
    elastic: Sequence[str] = ()
    right: Sequence[str] = ()
    rows: list[Sequence[Cell]] = field(default_factory=list[Sequence[Cell]])

    def add(self, *cells: Cell) -> None:
        self.rows.append(cells)

    def print(self) -> None:
        """To standard output."""
        if on_terminal():
            console().print(self.rich())
        else:
            for line in self.plain():
                print(line)

    def plain(self) -> Iterable[str]:
        """Aligned lines, nothing cut off; a blank cell is `-` so that columns can be counted."""
        table = [[name.upper() for name in self.columns], *[self.texts(row) for row in self.rows]]
        widths = [max(len(row[index]) for row in table) for index in range(len(self.columns))]
        for row in table:
            cells = [
                cell.rjust(width) if name in self.right else cell.ljust(width)
                for cell, width, name in zip(row, widths, self.columns, strict=True)
            ]
            yield "  ".join(cells).rstrip()

    @staticmethod
    def texts(row: Sequence[Cell]) -> list[str]:
        """A row's cells without their styles; a blank one is `-`."""
        return [_text(cell) or "-" for cell in row]

    def rich(self) -> Any:
        """As rich shows it."""
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name, width in self._widths(shutil.get_terminal_size().columns).items():
            table.add_column(
                name,
                justify="right" if name in self.right else "left",
                no_wrap=True,
                overflow="ellipsis",
                width=width,
            )
        for row in self.rows:
            table.add_row(
                *(Text(cell) if isinstance(cell, str) else Text(cell[0], style=cell[1]) for cell in row)
            )
        return table

    def _widths(self, room: int) -> dict[str, int]:
        """Each column's width: as its cells need, and less for the widest elastic ones until all fit."""
        widths = {
            name: max([len(name), *(len(_text(row[index])) for row in self.rows)])
            for index, name in enumerate(self.columns)
        }
        excess = sum(widths.values()) + 2 * len(widths) - room
        while excess > 0 and self.elastic:
            widest = max(self.elastic, key=lambda name: widths[name])
            if widths[widest] <= _ELASTIC_MIN:
                break
            widths[widest] -= 1
            excess -= 1
        return widths


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def fields(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values, one a line; an empty value is left out."""
    shown = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{paint(name.ljust(width), 'dim')}  {value}")


def one_line(text: str, width: int = 72) -> str:
    """The first line, cut to a width."""
    line = text.strip().split("\n", 1)[0]
    return line if len(line) <= width else line[: width - 1] + "…"


def ago(timestamp: str | None) -> str:
    """How long ago a moment was, in one unit: `4s`, `3m`, `2h`, `5d`; `in 4s` for what is to come."""
    if timestamp is None:
        return ""
    import datetime

    moment = datetime.datetime.fromisoformat(timestamp)
    seconds = (datetime.datetime.now(datetime.UTC) - moment).total_seconds()
    text = _unit(abs(seconds))
    return f"in {text}" if seconds <= -1 else text


def when(timestamp: str | None) -> str:
    """A moment in a listing: its age on a terminal, in full in a pipe."""
    return ago(timestamp) if on_terminal() else timestamp or ""


def _unit(seconds: float) -> str:
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{name}"
    return f"{int(seconds)}s"


def took(seconds: float | None) -> str:
    """A duration to three digits: `12.3 ms`, `4.56 s`, `2h`."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1_000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1_000 else f"{seconds / 3_600:.3g} h"


def count(number: int, noun: str, many: str = "") -> str:
    """`1 job`, `2,000 jobs`; `many` where an `s` does not make it."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {many or f'{noun}s'}"


def dollars(microusd: int) -> str:
    """An amount of micro-dollars in US dollars."""
    return f"${microusd / 1_000_000:,.6f}"
