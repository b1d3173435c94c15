"""`--tag NAME=VALUE` and its like, once or more."""

from __future__ import annotations

from collections.abc import Sequence

from .usage import UsageError


def pairs_of(given: Sequence[str] | None, option: str, example: str) -> dict[str, str] | None:
    """What the options say; None where there are none. Raises UsageError."""
    found: dict[str, str] = {}
    for each in given or ():
        name, separator, value = each.partition("=")
        if not (name and separator):
            raise UsageError(f"{option} {each!r} is not NAME=VALUE", [f"{option} {example}"])
        found[name] = value
    return found or None


def tags_of(given: Sequence[str] | None) -> dict[str, str] | None:
    """The tags of a job."""
    return pairs_of(given, "--tag", "customer=acme")
