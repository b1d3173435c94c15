"""What the demonstration says while it runs: steps with their time, and a bar on a terminal."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from typing import IO, Any, Final

from writ.cli.output import on_terminal, paint

_INDENT: Final = 11


class Teller:
    """Says each step as it happens; on standard error where standard output is for JSON."""

    def __init__(self, json: bool) -> None:
        self._live = on_terminal() and not json
        self._out: IO[str] = sys.stderr if json else sys.stdout
        self._began = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def step(self, text: str, mark: str = "+", style: str = "green") -> None:
        """One thing that has happened."""
        at = f"{self.elapsed_s:5.1f} s"
        line = f"{at}  {mark} {text}"
        if self._live:
            wide = shutil.get_terminal_size().columns - _INDENT - 1
            wrapped = f"\n{' ' * _INDENT}".join(textwrap.wrap(text, max(wide, 30)))
            line = f"{paint(at, 'dim')}  {paint(mark, style)} {wrapped}"
        if self._bar is not None:
            from rich.text import Text

            self._bar.console.print(Text.from_ansi(line), soft_wrap=True)
        else:
            print(line, file=self._out, flush=True)

    def progress(self, done: int, total: int) -> None:
        """How many jobs have ended; only shown on a terminal."""
        if not self._live:
            return
        if self._bar is None:
            from writ.cli.progress import bar

            self._bar = bar()
            self._bar.start()
            self._task = self._bar.add_task("jobs ended", total=total)
        self._bar.update(self._task, completed=done)

    def end_progress(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
