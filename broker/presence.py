"""Which orchestrators are there for a partition: each answers with its name, also one that stands by.

A header tells the newest version of records that it reads; without one it is the first.
"""
# nats-py leaves its keyword options untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from writ.schemas.subjects import leader_subject
from writ.schemas.upgrading import Member

from .hardened import HardenedClient, readable

_RECORDS: Final = re.compile(rb"\r\nWrit-Records: (\d{1,9}) (\d{1,9})\r\n")

QUIET_S: Final = 0.1
WAIT_S: Final = 0.3


class Present(NamedTuple):
    """Who answered, and the version of records that its log is written in; 0 where it does not say."""

    member: Member
    written: int


async def be_present(
    link: HardenedClient, partition: int, member: Member, written: Callable[[], int]
) -> None:
    """Answers from here on, for as long as the connection of the user `log` stands."""

    def asked(subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        if reply:
            told = b"Writ-Records: %d %d\r\n" % (member.reads, written())
            link.put(reply, member.name.encode(), head=told)

    await link.feed(_subject(partition), asked)


async def present(link: HardenedClient, partition: int, quiet_s: float = QUIET_S) -> tuple[Present, ...]:
    """All that answer soon, in the order of their names: until nobody has for `quiet_s`."""
    answers: asyncio.Queue[Present] = asyncio.Queue()

    def answered(subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        if body:  # empty where nobody serves the subject
            told = _RECORDS.search(headers)
            reads, written = (int(told[1]), int(told[2])) if told else (1, 0)
            answers.put_nowait(Present(Member(readable(body), reads), written))

    inbox = link.new_inbox()
    subscription: Any = await link.feed(inbox, answered)
    found: set[Present] = set()
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
