"""The base of all event data, apart, so that a page about one thing can define that thing's events."""

from __future__ import annotations

import msgspec


class Fact(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Base of all event data.

    `gc=False`, here and on every other frozen Struct of which there are many: what is never changed can hold
    no cycle, so the collector need not walk through it.
    """
