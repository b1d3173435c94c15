"""The log itself, page by page, as far as a tenant may read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from writ.broker.ports import Log, Stored
from writ.schemas.codec import CodecError, decode
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.links import MessageAccepted, MessageSent
from writ.schemas.queries import RecordView, StretchPage, StretchQuery
from writ.schemas.shards import OfShard
from writ.schemas.subjects import parse_log

from .shown import PAGE_MAX_BYTES, timestamp

READ_MAX_S: Final = 10.0
"""Time that one page may read the log for."""

_EXTRA_BYTES: Final = 150
"""More than a record weighs in a page, beside its body and its subject."""


async def stretch_page(
    log: Log, tenant: str, query: StretchQuery, last: int, seen: tuple[int, str]
) -> StretchPage:
    """A part of the log after the query's position, up to sequence `last`, as stored.

    `seen` is the position of a view, and the digest of the record there as it read it.
    What other tenants did is passed over. Raises TimeoutError where nothing came, and what the log raises.
    """
    upto, room, whole = query.after, PAGE_MAX_BYTES, True
    views: list[RecordView] = []
    try:
        async with asyncio.timeout(READ_MAX_S):
            async for stored in _one_by_one(log.read(query.after + 1)):
                if stored.seq > last:
                    break
                if _shown_to(tenant, stored):
                    room -= len(stored.body) + len(stored.subject) + _EXTRA_BYTES
                    if len(views) == query.limit or (room < 0 and views):
                        break
                    body = msgspec.Raw(stored.body)
                    views.append(RecordView(stored.seq, stored.subject, timestamp(stored.stored_us), body))
                else:
                    whole = False
                upto = stored.seq
            else:
                upto = max(upto, last)
    except TimeoutError:
        if upto == query.after:
            raise
    position, digest = seen
    return StretchPage(None, position, log.partition, log.epoch, tuple(views), upto, last, whole, digest)


async def _one_by_one(parts: AsyncIterator[list[Stored]]) -> AsyncIterator[Stored]:
    async for part in parts:
        for stored in part:
            yield stored


def _shown_to(tenant: str, stored: Stored) -> bool:
    """Whether a tenant may read a record: its own, and what the partition did that says nothing of others."""
    address = parse_log(stored.subject)
    if address.tenant == tenant:
        return True
    if address.tenant != SYSTEM_TENANT:
        return False
    if address.kind != "link":
        return True
    try:
        events = decode(stored.body).events
    except CodecError:
        return True  # whoever reads the answer must see it
    said = (event.content for event in events if isinstance(event, MessageSent | MessageAccepted))
    return all(not isinstance(content, OfShard) and content.tenant == tenant for content in said)
