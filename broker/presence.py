"""Which orchestrators are there for a partition: each answers with its name, also one that stands by.

A header tells the newest version of records that it reads; without one it is the first.
"""
# nats-py leaves its keyword options untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from writ.schemas.subjects import leader_subject
from writ.schemas.upgrading import Member

from .hardened import HardenedClient, readable

_READS: Final = b"Writ-Records"
_READS_LINE: Final = re.compile(rb"\r\n%b: (\d{1,9})\r\n" % _READS)

QUIET_S: Final = 0.1
WAIT_S: Final = 0.3


async def be_present(link: HardenedClient, partition: int, member: Member) -> None:
    """Answers from here on, for as long as the connection of the user `log` stands."""

    head = b"%b: %d\r\n" % (_READS, member.reads)

    def asked(subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        if reply:
            link.put(reply, member.name.encode(), head=head)

    await link.feed(_subject(partition), asked)


async def present(link: HardenedClient, partition: int, quiet_s: float = QUIET_S) -> tuple[Member, ...]:
    """All that answer soon, in the order of their names: until nobody has for `quiet_s`."""
    answers: asyncio.Queue[Member] = asyncio.Queue()

    def told(subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        if body:  # empty where nobody serves the subject
            line = _READS_LINE.search(headers)
            answers.put_nowait(Member(readable(body), int(line[1]) if line else 1))

    inbox = link.new_inbox()
    subscription: Any = await link.feed(inbox, told)
    found: set[Member] = set()
    try:
        await link.publish(_subject(partition), b"", reply=inbox)
        while True:
            async with asyncio.timeout(quiet_s if found else WAIT_S + quiet_s):
                found.add(await answers.get())
    except TimeoutError:
        return tuple(sorted(found))
    finally:
        await subscription.unsubscribe()


def _subject(partition: int) -> str:
    return f"{leader_subject(partition)}.present"
