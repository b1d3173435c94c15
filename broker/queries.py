"""Serving queries over NATS: the views answer, this carries."""
# nats-py, and the JSON of its API, are typed in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from writ.schemas.granting import NoteDenial
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.subjects import NO_QUEUE, control_subject, queries_of

from .streams import telling

log = logging.getLogger("writ.broker")

_ANSWER_S: Final = 6.0
"""More than a query waits for its view."""

_AT_ONCE: Final = 64
"""Queries in work together; more wait their turn."""


async def serve_queries(
    nats: Nats,
    answer: Callable[[str, bytes], Awaitable[bytes]],
    subjects: Sequence[str] = tuple(queries_of(0)),
) -> Callable[[], Awaitable[None]]:
    """Answers each query by `answer(subject, body)`, several at once, until the connection closes.

    Those are the queries of the first partition, or on other subjects.

    What it returns ends that sooner; queries in work are answered still.
    """
    turns = asyncio.Semaphore(_AT_ONCE)
    working: set[asyncio.Task[None]] = set()

    async def work(msg: Msg) -> None:
        async with turns:
            body = await answer(msg.subject, msg.data)
        try:
            await nats.publish(msg.reply, body)
        except (NatsError, OSError) as lost:
            log.warning("the answer to a query could not be sent: %s", lost)

    async def take(msg: Msg) -> None:
        if msg.reply:
            task = asyncio.create_task(work(msg))
            working.add(task)
            task.add_done_callback(working.discard)

    served = [await nats.subscribe(subject, cb=take) for subject in subjects]

    async def stop() -> None:
        for each in served:
            with suppress(NatsError, OSError):  # a connection that is gone serves nothing
                await each.unsubscribe()

    return stop


async def ask(nats: Nats, subject: str, body: bytes) -> bytes:
    """The answer to a query, by a connection that may publish anywhere. Raises OutcomeUnknown."""
    with telling("what its partition holds"):
        return bytes((await nats.request(subject, body, timeout=_ANSWER_S)).data)


def teller(nats: Nats) -> Callable[[NoteDenial], Awaitable[None]]:
    """Has the orchestrator record what a reader denied, by a connection that may publish anywhere.

    Nothing is answered, and what cannot be sent is lost: it is denied all the same.
    """
    subject = control_subject(SYSTEM_TENANT, "views", "note_denial", NO_QUEUE)

    async def tell(denial: NoteDenial) -> None:
        with suppress(NatsError, OSError):
            await nats.publish(subject, msgspec.json.encode(denial))

    return tell
