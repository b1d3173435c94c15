"""What a client can have proved: that the log is what was signed, and which records a job has in it."""

from __future__ import annotations

from typing import Final

from writ.schemas.proofs import (
    CheckpointPage,
    CheckpointQuery,
    ConsistencyPage,
    ConsistencyQuery,
    JobProof,
    ProvePage,
    ProveQuery,
)

from .asking import Asking

FORMAT: Final = 1
"""Of a JobProof."""


class Proving(Asking):
    """Checkpoints and proofs."""

    async def checkpoint(self, covering: int | None = None, *, timeout_s: float = 10.0) -> CheckpointPage:
        """The newest signed checkpoint; one of at least so many records, which is signed now if need be."""
        return await self._query("checkpoint", CheckpointQuery(covering=covering), CheckpointPage, timeout_s)

    async def consistency(self, old: int, new: int, *, timeout_s: float = 10.0) -> ConsistencyPage:
        """What shows that the log of `new` records begins with that of `old` ones."""
        return await self._query(
            "consistency", ConsistencyQuery(old=old, new=new), ConsistencyPage, timeout_s
        )

    async def prove(self, id: str, queue: str, *, timeout_s: float = 30.0) -> JobProof:
        """All records of a job as stored, with what proves them to whoever has the node's public key."""
        query = ProveQuery(id=id, queue=queue)
        first = page = await self._query("prove", query, ProvePage, timeout_s)
        records = list(page.records)
        while page.more:
            query = ProveQuery(id=id, queue=queue, after=records[-1].seq, size=first.size)
            page = await self._query("prove", query, ProvePage, timeout_s)
            records += page.records
        return JobProof(FORMAT, queue, id, first.checkpoint, first.statement, first.keys, tuple(records))
