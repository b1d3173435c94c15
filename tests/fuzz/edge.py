"""What an edge is: valid samples, what takes an input, and what makes malformed ones of the samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from writ.schemas.bounds import MESSAGE_MAX_BYTES

from .mutations import Mutations

Take = Callable[[bytes], str | None]
"""Takes an input: None where it is taken, else the reason of its refusal. What it raises is a fault."""

Ways = Callable[[Mutations, bytes], bytes]
"""A malformed input, from a sample."""


class Edge:
    """One edge, from `Making.open` to `close`."""

    def __init__(
        self, name: str, samples: Sequence[bytes], take: Take, ways: Ways,
        clock: Callable[[], float] = time.thread_time, close: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        assert samples, f"{name} has no samples"
        self.name = name
        self.samples = samples
        self.take = take
        self.clock = clock
        self.close = close
        self._ways = ways

    def malformed(self, mutations: Mutations) -> bytes:
        """An input, no longer than what the broker carries in one message."""
        return self._ways(mutations, mutations.draw.choice(self.samples))[:MESSAGE_MAX_BYTES]


class Making(NamedTuple):
    """An edge that is made when its turn comes."""

    name: str
    open: Callable[[], Edge]
