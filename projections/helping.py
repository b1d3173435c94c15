"""Views that are far behind their log, folded by a process beside that of the views.

A log is read once for all who fold it in a process, but they take turns there. So some of what is built anew
is handed to a second process, and with it what the first one reads: the messages as they are stored. What the
second one stored is all that it hands back: a file is the fold of the log up to its position, whoever folded
it, and only one of them at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from writ.broker.ports import Stored
from writ.schemas.chain import Position, link
from writ.schemas.records import Record

from .feed import Batch, Feeds, Follower
from .folded import Folded

FAR_RECORDS: Final = 10_000
"""Who is so far behind is helped. To start a process costs about as much as these do."""

PART_RECORDS: Final = 8_192
_BATCH_RECORDS: Final = 16_384
"""A helper answers nobody and is gone soon. In larger batches SQLite writes the same pages less often."""

Helper = Callable[[str, Path], Awaitable[None]]
"""Has another process fold a file, by the name of its view, up to where the log ends; returns when it ends.

It may have failed: how far the file is, the file tells.
"""


async def handed_on(feeds: Feeds, follower: Follower) -> AsyncIterator[Sequence[Stored]]:
    """What a helper is handed: the messages behind a follower's place, up to where the log ended then.

    Raises Halted, having handed on what comes before.
    """
    last = feeds.last
    while follower.at.seq < last:
        yield await follower.stored(min(PART_RECORDS, last - follower.at.seq))


async def catch_up(
    files: Sequence[Folded], at: Position, parts: AsyncIterator[Sequence[Stored]], partition: int, epoch: int
) -> None:
    """Folds files by what is handed on from a position on that is behind none of them: what a helper does.

    A file at which something is wrong is left as it is; its runner comes to the same record next, and says
    so. Raises Violation, sqlite3.Error, and what comes with the parts.
    """
    left = [file for file in files if not file.outdated]
    folding = asyncio.create_task(_fold(left, at, Batch([], [])))
    try:
        async for stored in _gathered(parts):
            before, batch = at, _batch(at, stored, partition, epoch)  # while what came before is folded
            at = batch.ends[-1]
            left = await folding
            folding = asyncio.create_task(_fold(left, before, batch))
        await folding
    finally:
        folding.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait({folding})


async def _gathered(parts: AsyncIterator[Sequence[Stored]]) -> AsyncIterator[list[Stored]]:
    some: list[Stored] = []
    async for part in parts:
        some += part
        if len(some) >= _BATCH_RECORDS:
            yield some
            some = []
    if some:
        yield some


def _batch(at: Position, stored: Sequence[Stored], partition: int, epoch: int) -> Batch:
    records: list[Record] = []
    ends: list[Position] = []
    for seq, subject, body, _ in stored:
        record, at = link(at, seq, subject, body, partition, epoch)
        records.append(record)
        ends.append(at)
    return Batch(records, ends)


async def _fold(files: Sequence[Folded], before: Position, batch: Batch) -> list[Folded]:
    """The files that are where the batch ends, or further."""
    sound = await asyncio.gather(*[_fold_into(file, before, batch) for file in files])
    return [file for file, is_sound in zip(files, sound, strict=True) if is_sound]


async def _fold_into(file: Folded, before: Position, batch: Batch) -> bool:
    stands = file.reached.position
    index = stands.seq - before.seq
    if index > len(batch.records):
        return True
    known = batch.ends[index - 1] if index else before
    if known.digest != stands.digest:
        return False
    rest = batch.part(slice(index, None))
    return not rest.records or await file.apply(rest) is None
