"""A whole stream as bytes, and back, by the broker's own snapshot and restore: sequences and headers stay."""
# The JSON of the broker's API is typed in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from .hardened import HardenedClient
from .ports import OutcomeUnknown
from .spread import ALONE, Spread
from .streams import ApiError, api, create

CHUNK_BYTES: Final = 256 * 1024
"""A quarter of the largest message that the broker takes."""

_SILENT_S: Final = 30.0


class StreamRefused(Exception):
    """The broker does not give a stream, or does not take it; the text is its own."""


async def snapshot(nats: HardenedClient, stream: str) -> AsyncGenerator[bytes]:
    """The parts of a stream's snapshot: first what it is, as JSON for `restore`, then its content.

    Each message is compared with its checksum on the way. Raises StreamRefused, OutcomeUnknown.
    """
    inbox = nats.new_inbox()
    waiting: asyncio.Queue[Msg] = asyncio.Queue()
    sub = await nats.subscribe(inbox, cb=waiting.put)
    try:
        await nats.flush()
        asked = {"deliver_subject": inbox, "no_consumers": True, "chunk_size": CHUNK_BYTES, "jsck": True}
        try:
            told = await api(nats, f"STREAM.SNAPSHOT.{stream}", asked)
        except ApiError as error:
            raise StreamRefused(f"the broker gives no snapshot of stream {stream}: {error}") from error
        yield msgspec.json.encode({"config": told["config"], "state": told["state"]})
        while True:
            try:
                chunk = await asyncio.wait_for(waiting.get(), _SILENT_S)
            except TimeoutError as silent:
                raise OutcomeUnknown(f"the broker went silent in a snapshot of stream {stream}") from silent
            if not chunk.data:
                status = (chunk.headers or {}).get("Status", "")
                if status not in ("", "204"):
                    said = (chunk.headers or {}).get("Description", status)
                    raise StreamRefused(f"the broker gave up its snapshot of stream {stream}: {said}")
                return
            yield chunk.data
            if chunk.reply:
                await nats.publish(chunk.reply)
    finally:
        await sub.unsubscribe()


async def restore(
    nats: HardenedClient, stream: str, parts: AsyncIterable[bytes], spread: Spread = ALONE
) -> None:
    """Makes a stream of what `snapshot` gave. It must not be there. Raises StreamRefused, OutcomeUnknown."""
    place = ""
    try:
        async for part in parts:
            if not place:
                described: dict[str, Any] = msgspec.json.decode(part)
                described["config"] |= spread.config()
                place = (await create(nats, f"STREAM.RESTORE.{stream}", described))["deliver_subject"]
            else:
                _check((await nats.request(place, part, timeout=_SILENT_S)).data)
        _check((await nats.request(place, b"", timeout=_SILENT_S)).data)
    except ApiError as error:
        raise StreamRefused(f"the broker does not take stream {stream}: {error}") from error
    except (NatsError, OSError) as silent:
        raise OutcomeUnknown(f"the broker does not answer while stream {stream} is restored") from silent


def _check(answer: bytes) -> None:
    error = msgspec.json.decode(answer).get("error") if answer else None
    if error:
        raise ApiError(error.get("err_code", 0), error.get("description", "refused"))
