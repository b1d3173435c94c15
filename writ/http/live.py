"""Live records as server-sent events: what the feed brings, and from the log what a reader has missed.

A stream follows the log of one partition. The id of an event is the epoch and sequence of its record. A
reader that comes back with the last one that it has had (`Last-Event-ID`, as browsers do by themselves) first
gets what came since, from the log. So does one that reads too slowly: what its buffer cannot hold is let go
of, and read again when it has caught up.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from msgspec import structs
from starlette.responses import Response, StreamingResponse

from writ.broker.errors import WritError
from writ.schemas.ids import job_key
from writ.schemas.queries import LogQuery, NodeStatus, RecordsPage, StatusQuery
from writ.schemas.subjects import feed_subject, log_stream

from .problems import Fault
from .route import GRACE_S, Call, partition_asked

if TYPE_CHECKING:
    from writ.broker.client import Client

log = logging.getLogger("writ.http")

MEDIA_TYPE: Final = "text/event-stream"
HEARTBEAT_S: Final = 15.0
"""A comment goes out where nothing else did for so long."""

ADMITTED_S: Final = 1.0
"""So often it is looked at whether the reader may still read."""

BUFFER_RECORDS: Final = 1_000
BUFFER_BYTES: Final = 4 * 1024 * 1024
"""Of records that wait for a reader; one that is slower reads them from the log."""

_PAGE: Final = 200
_HELLO: Final = b": records follow as they are stored\n\n"
_HEARTBEAT: Final = b": nothing new\n\n"
_RESET: Final = b"event: reset\ndata: {}\n\n"
"""The log has no such place, as it is another one: what the reader has missed cannot be told."""

_ID: Final = re.compile(r"(\d{1,18})-(\d{1,18})")


class _Head(msgspec.Struct):
    """What is needed of a record to pass it on."""

    epoch: int
    seq: int
    kind: str
    key: str


_head = msgspec.json.Decoder(_Head).decode


class _Place(NamedTuple):
    """How far a reader has come."""

    epoch: int
    seq: int


class _Buffer:
    """What the feed has brought and nobody has taken yet; `overflowed` where some had to be let go of."""

    def __init__(self, query: LogQuery) -> None:
        self._query = query
        self._waiting: deque[tuple[_Head, bytes]] = deque()
        self._bytes = 0
        self.overflowed = False
        self.some = asyncio.Event()

    def put(self, _: str, body: bytes) -> None:
        """Takes a message of the feed; never blocks."""
        try:
            head = _head(body)
        except msgspec.MsgspecError:
            return
        if not self._query.holds(head.kind, head.key):
            return
        self._waiting.append((head, body))
        self._bytes += len(body)
        if len(self._waiting) > BUFFER_RECORDS or self._bytes > BUFFER_BYTES:
            self._waiting.clear()
            self._bytes = 0
            self.overflowed = True
        self.some.set()

    def take(self) -> list[tuple[_Head, bytes]]:
        """All that waits."""
        taken = list(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        self.some.clear()
        return taken


async def stream(call: Call, last_id: str | None) -> Response:
    """The records that match a log query, as they are stored, after the last one that the reader has had.

    Without `last_id` and `after` it begins now. Raises Fault for an id that is none.
    """
    partition = await partition_asked(call)
    given = structs.asdict(call.params)
    del given["partition"]
    query = LogQuery(**given)
    place = None
    if last_id is not None:
        found = _ID.fullmatch(last_id)
        if found is None:
            raise Fault(400, f"Last-Event-ID {last_id[:40]!r} is not the id of an event, as in 1-42")
        place = _Place(int(found[1]), int(found[2]))
    elif query.after:
        place = _Place(0, query.after)
    events = _events(call, query, place, partition)
    first = await anext(events)  # what cannot be had at all is told by the status of the answer
    headers = {"Cache-Control": "no-store"}
    return StreamingResponse(_sent(first, events), media_type=MEDIA_TYPE, headers=headers)


async def _sent(first: bytes, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The events until there can be no more: then the reader comes back with the last id that it has had."""
    async with aclosing(events):
        yield first
        try:
            async for event in events:
                yield event
        except (Fault, WritError) as error:
            log.info("a stream of records ends: %s", error)


async def _events(call: Call, query: LogQuery, place: _Place | None, partition: int) -> AsyncGenerator[bytes]:
    client, feed = call.client, call.feed
    buffer = _Buffer(query)
    key = "*" if query.id is None or query.queue is None else job_key(query.queue, query.id)
    subject = feed_subject(client.target.tenant, query.kind or "*", key)
    stop = await feed.subscribe(subject, buffer.put, stream=log_stream(partition))
    try:
        status = await client.ask(StatusQuery(), partition=partition)
        assert isinstance(status, NodeStatus)
        (now,) = status.partitions
        known = place is None or (place.epoch in (0, now.epoch) and place.seq <= now.last_seq)
        behind = known and place is not None
        seq = place.seq if behind and place is not None else now.last_seq
        epoch, connections = now.epoch, feed.connections
        await _admitted(call, seq, partition)
        loop = asyncio.get_running_loop()
        looked = spoke = loop.time()
        yield _HELLO if known else _RESET
        while True:
            if loop.time() - looked >= ADMITTED_S:
                await _admitted(call, seq, partition)
                looked = loop.time()
            if behind or buffer.overflowed or feed.connections != connections:
                behind = buffer.overflowed = False
                connections = feed.connections
                async for page in _missed(client, query, seq, partition):
                    for each in page.records:
                        yield _event(_head(each.record), bytes(each.record))
                    seq = page.records[-1].seq if page.more else max(seq, page.position)
            for head, body in buffer.take():
                if (head.epoch, head.seq) > (epoch, seq):
                    epoch, seq = head.epoch, head.seq
                    spoke = loop.time()
                    yield _event(head, body)
            if not await _within(buffer.some, ADMITTED_S) and loop.time() - spoke >= HEARTBEAT_S:
                spoke = loop.time()
                yield _HEARTBEAT
    finally:
        await stop()


async def _admitted(call: Call, seq: int, partition: int) -> None:
    """Raises PermissionDenied, or Fault, where the reader may not read the log, or not any more."""
    if call.still is not None:
        await call.still()
    await call.client.ask(LogQuery(after=seq, limit=1), partition=partition)


async def _missed(client: Client, query: LogQuery, seq: int, partition: int) -> AsyncGenerator[RecordsPage]:
    """The records after a sequence, page by page, as the log has them."""
    more = True
    while more:
        asked = structs.replace(query, after=seq, limit=_PAGE, min_position=None)
        page = await client.ask(asked, timeout_s=query.max_wait_s + GRACE_S, partition=partition)
        assert isinstance(page, RecordsPage)
        yield page
        more = page.more
        seq = page.records[-1].seq if more else seq


async def _within(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False


def _event(head: _Head, body: bytes) -> bytes:
    """A stored body is one line: JSON as our encoder writes it holds no line end."""
    return b"id: %d-%d\nevent: %b\ndata: %b\n\n" % (head.epoch, head.seq, head.kind.encode(), body)
