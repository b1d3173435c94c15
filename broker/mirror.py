"""The audit copy of a log: a JetStream mirror, which keeps what it has when the log is cut or deleted."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from writ.schemas.subjects import mirror_stream

from .hardened import HardenedClient
from .ports import Stored
from .reader import read_stream
from .spread import ALONE, Spread
from .streams import ensure_mirror, newest_seq, oldest_seq


class Mirror:
    """Of a partition's log. The connection must be that of the `log` user."""

    def __init__(self, nats: HardenedClient, partition: int) -> None:
        self._nats = nats
        self._stream = mirror_stream(partition)

    @classmethod
    async def open(cls, nats: HardenedClient, partition: int, *, spread: Spread = ALONE) -> Mirror:
        """Makes the stream where there is none; it copies what there is. Raises OutcomeUnknown, ApiError."""
        await ensure_mirror(nats, partition, spread=spread)
        return cls(nats, partition)

    async def last_seq(self) -> int:
        """Of the newest record copied; 0 before the first. Raises OutcomeUnknown."""
        return await newest_seq(self._nats, self._stream)

    async def first_seq(self) -> int:
        """Of the oldest record that it has. Raises OutcomeUnknown."""
        return await oldest_seq(self._nats, self._stream)

    def read(self, start: int) -> AsyncGenerator[list[Stored]]:
        """What it has from a sequence on. Raises OutcomeUnknown."""
        return read_stream(self._nats, self._stream, start, (), follow=False)
