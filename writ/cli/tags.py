"""`--tag NAME=VALUE`, once or more."""

from __future__ import annotations

from collections.abc import Sequence

from .usage import UsageError


def tags_of(given: Sequence[str] | None) -> dict[str, str] | None:
    """What the options say; None where there are none. Raises UsageError."""
    found: dict[str, str] = {}
    for each in given or ():
        name, separator, value = each.partition("=")
        if not (name and separator):
            raise UsageError(f"--tag {each!r} is not NAME=VALUE", ["--tag customer=acme"])
        found[name] = value
    return found or None
