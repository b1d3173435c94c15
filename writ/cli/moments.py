"""Times on the command line."""

from __future__ import annotations

import datetime
from argparse import Namespace

from .usage import UsageError


def span(args: Namespace) -> None:
    """Makes times of what `--since` and `--until` say. Raises UsageError."""
    for name in ("since", "until"):
        if getattr(args, name, None) is not None:
            setattr(args, name, moment(getattr(args, name), f"--{name}"))


def moment(text: str, option: str) -> datetime.datetime:
    """A time with an offset. Raises UsageError."""
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise UsageError(
            f"{option} {text!r} is not an RFC 3339 time with an offset", [f"{option} 2026-01-31T12:00:00Z"]
        )
    return found
