"""Which orchestrators are there for a partition: each answers with its name, also one that stands by."""
# nats-py leaves its keyword options untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
from typing import Any, Final

from writ.schemas.subjects import leader_subject

from .hardened import HardenedClient, readable

QUIET_S: Final = 0.1
WAIT_S: Final = 0.3


async def be_present(link: HardenedClient, partition: int, name: str) -> None:
    """Answers from here on, for as long as the connection of the user `log` stands."""

    def asked(subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        if reply:
            link.put(reply, name.encode())

    await link.feed(_subject(partition), asked)


async def present(link: HardenedClient, partition: int) -> tuple[str, ...]:
    """The names of all that answer soon, in their order."""
    answers: asyncio.Queue[str] = asyncio.Queue()

    def told(subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        if body:  # empty where nobody serves the subject
            answers.put_nowait(readable(body))

    inbox = link.new_inbox()
    subscription: Any = await link.feed(inbox, told)
    found: set[str] = set()
    try:
        await link.publish(_subject(partition), b"", reply=inbox)
        while True:
            async with asyncio.timeout(QUIET_S if found else WAIT_S):
                found.add(await answers.get())
    except TimeoutError:
        return tuple(sorted(found))
    finally:
        await subscription.unsubscribe()


def _subject(partition: int) -> str:
    return f"{leader_subject(partition)}.present"
