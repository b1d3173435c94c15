"""Proofs over the tree of a log, for whoever does not trust this node."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sqlite3
from collections.abc import Iterable
from typing import Final

from writ.broker.ports import Log, Stored
from writ.schemas.checkpoints import Checkpoint
from writ.schemas.codec import digest
from writ.schemas.ids import job_key
from writ.schemas.merkle import Subtrees, consistency_proof, inclusion_proof, record_leaf, root_at
from writ.schemas.proofs import (
    CheckpointPage,
    CheckpointQuery,
    ConsistencyPage,
    ConsistencyQuery,
    ProvedRecord,
    ProvePage,
    ProveQuery,
    job_statement,
)
from writ.schemas.subjects import log_subject

from .checkpoints import Checkpointing
from .file import position_of
from .shown import PAGE_MAX_BYTES
from .tree import subtrees_in

READ_MAX_S: Final = 10.0


class NotProved(ValueError):
    """What was asked for is not so; the text says why."""


class NoSuchJob(NotProved):
    """There is nothing to prove."""


class Proofs:
    """Of one partition; the tree view must be as new as is asked for."""

    def __init__(self, checkpoints: Checkpointing, log: Log) -> None:
        self._checkpoints = checkpoints
        self._log = log

    async def checkpoint(self, tenant: str, query: CheckpointQuery) -> CheckpointPage:
        """Raises NotSigned, NotProved."""
        note, checkpoint = await self._checkpoints.covering(query.covering or 1)
        if checkpoint.size < (query.covering or 1):
            raise NotProved(f"the log has {checkpoint.size} records, not {query.covering}")
        notary = await asyncio.to_thread(self._checkpoints.notary)
        key = notary.key_text(str(checkpoint.origin))
        position, keys = self._checkpoints.position, notary.statements()
        return CheckpointPage(None, position, str(note), checkpoint.size, key, keys)

    async def consistency(self, tenant: str, query: ConsistencyQuery) -> ConsistencyPage:
        """Raises NotProved, sqlite3.Error."""
        return await self._checkpoints.read(lambda db: _consistency(db, query))

    async def prove(self, tenant: str, query: ProveQuery) -> ProvePage:
        """Raises NotSigned, NotProved, sqlite3.Error, TimeoutError, and what the log raises."""
        subject = log_subject(self._log.partition, tenant, "job", job_key(query.queue, query.id))
        async with asyncio.timeout(READ_MAX_S):
            records = [each async for some in self._log.read(1, [subject]) for each in some]
        if not records:
            raise NoSuchJob(f"there is no job {query.id} in queue {query.queue}")
        if query.size is not None:
            records = [each for each in records if each.seq <= query.size]
            return await self._page(query, query.size, records, ProvePage())
        note, checkpoint = await self._checkpoints.covering(records[-1].seq)
        notary = await asyncio.to_thread(self._checkpoints.notary)
        statement = notary.sign(f"{checkpoint.origin}/job", _statement(checkpoint, subject, records))
        first = ProvePage(None, 0, 0, str(note), str(statement), notary.statements())
        return await self._page(query, checkpoint.size, records, first)

    async def _page(self, query: ProveQuery, size: int, records: list[Stored], first: ProvePage) -> ProvePage:
        wanted = [each for each in records if each.seq > query.after]
        taken: list[Stored] = []
        room = PAGE_MAX_BYTES
        for each in wanted[: query.limit]:
            room -= 2 * len(each.body) + 4096  # as a text in JSON, with its path
            if room < 0 and taken:
                break
            taken.append(each)
        proved = await self._checkpoints.read(lambda db: _proved(db, size, taken))
        more = len(taken) < len(wanted)
        return ProvePage(None, size, size, first.checkpoint, first.statement, first.keys, tuple(proved), more)


def _statement(checkpoint: Checkpoint, subject: str, records: Iterable[Stored]) -> str:
    leaves = [_leaf(each) for each in records if each.seq <= checkpoint.size]
    said = hashlib.sha256(b"".join(leaves)).hexdigest()
    return job_statement(checkpoint.origin, checkpoint.size, subject, len(leaves), said)


def _leaf(stored: Stored) -> bytes:
    return record_leaf(stored.seq, stored.subject.split(".", 3)[3], digest(stored.body))


def _tree(db: sqlite3.Connection, size: int) -> Subtrees:
    has = position_of(db)
    if size > has:
        raise NotProved(f"the tree has {has} records, not {size}")
    return subtrees_in(db)


def _proved(db: sqlite3.Connection, size: int, records: list[Stored]) -> list[ProvedRecord]:
    subtrees = _tree(db, size)
    return [
        ProvedRecord(
            each.seq, each.subject, each.body.decode(), _texts(inclusion_proof(each.seq - 1, size, subtrees))
        )
        for each in records
    ]


def _consistency(db: sqlite3.Connection, query: ConsistencyQuery) -> ConsistencyPage:
    if query.old > query.new:
        raise NotProved(f"a tree of {query.new} records has not grown from one of {query.old}")
    subtrees = _tree(db, query.new)
    old, new = _texts([root_at(query.old, subtrees), root_at(query.new, subtrees)])
    path = consistency_proof(query.old, query.new, subtrees)
    return ConsistencyPage(None, query.new, old, new, _texts(path))


def _texts(hashes: Iterable[bytes]) -> tuple[str, ...]:
    return tuple([base64.b64encode(each).decode() for each in hashes])
