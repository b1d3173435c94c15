"""Text on one line."""

from __future__ import annotations

from typing import Final

_SHOWN_CHARS: Final = 120


def one_line(text: str) -> str:
    """Text without line ends, shortened where it is long, with how long it was."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARS else f"{line[:_SHOWN_CHARS]}... ({len(text)} characters)"
