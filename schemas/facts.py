"""The base of all event data, apart, so that a page about one thing can define that thing's events."""

from __future__ import annotations

import msgspec


class Fact(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of all event data."""
