"""The progress bar. Loads rich, so only for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


def bar(*, stderr: bool = False, console: Console | None = None) -> Progress:
    """A calm bar: what and how much; gone when it is done."""
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=32, complete_style="cyan", finished_style="green"),
        MofNCompleteColumn(),
        console=console or Console(stderr=stderr, highlight=False),
        transient=True,
    )
