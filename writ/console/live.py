"""What keeps open pages up to date: a stream of server-sent events that says when there is something new.

An event says how far the log is and how far the views are behind it; the page then asks for itself again.
What is told here is what the status of the node tells anybody who may ask for it, and it is asked for in the
person's own name each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.responses import StreamingResponse

from writ.broker.errors import PermissionDenied, WritError
from writ.http.problems import Fault

if TYPE_CHECKING:
    from .visit import Visit

EVERY_S: Final = 1.0
BEAT_S: Final = 5.0
"""An event comes at least so often: a page that has heard none for long says that it is behind."""


class News(msgspec.Struct, frozen=True):
    """How many records the logs have, and how many records and seconds the slowest view is behind."""

    seq: int
    lag: int
    lag_s: float
    faults: tuple[str, ...]


async def live(visit: Visit) -> StreamingResponse:
    first = await _news(visit)  # what is denied is told by the status of the answer
    return StreamingResponse(_events(visit, first), media_type="text/event-stream")


async def _events(visit: Visit, news: News) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    yield b"retry: 2000\n\n" + _event(news)
    spoke = loop.time()
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            if visit.still is not None:
                await visit.still()
            found = await _news(visit)
        except (Fault, PermissionDenied):
            return
        except (WritError, TimeoutError) as error:
            found = News(news.seq, 0, 0.0, (str(error)[:300],))
        if found != news or loop.time() - spoke >= BEAT_S:
            news, spoke = found, loop.time()
            yield _event(news)


async def _news(visit: Visit) -> News:
    status = await visit.client.status(timeout_s=3)
    seq = sum([each.last_seq for each in status.partitions])
    lag = max((each.lag for each in status.views), default=0)
    lag_s = max((each.lag_s for each in status.views), default=0.0)
    return News(seq, lag, round(lag_s, 1), tuple(status.faults()))


def _event(news: News) -> bytes:
    return b"data: " + msgspec.json.encode(news) + b"\n\n"
