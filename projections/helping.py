"""Views that are far behind their log, folded by a process beside that of the views.

A log is read once for all who fold it in a process, but they take turns there. So some of what is built anew
is handed to a second process, and with it what the first one reads and has checked: the records as they are
stored. What the second one stored is all that it hands back: a file is the fold of the log up to its
position, whoever folded it, and only one of them at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from writ.schemas.chain import Position
from writ.schemas.codec import decode

from .feed import Batch, Bodies, Feeds, Follower
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


async def handed_on(feeds: Feeds, follower: Follower) -> AsyncIterator[Bodies]:
    """What a helper is handed: the records behind a follower's place, up to where the log ended then.

    Raises Halted, having handed on what comes before.
    """
    last = feeds.last
    while follower.at.seq < last:
        yield await follower.bodies(min(PART_RECORDS, last - follower.at.seq))


async def catch_up(files: Sequence[Folded], at: Position, parts: AsyncIterator[Bodies]) -> None:
    """Folds files by what is handed on from a position on that is behind none of them: what a helper does.

    A file at which something is wrong is left as it is; its runner comes to the same record next, and says
    so. Raises CodecError, sqlite3.Error, and what comes with the parts.
    """
    left = [file for file in files if not file.outdated]
    folding = asyncio.create_task(_fold(left, at, Batch([], at)))
    try:
        async for bodies, end in _gathered(parts):
            batch = Batch([decode(body) for body in bodies], end)  # while what came before is folded
            left = await folding
            folding = asyncio.create_task(_fold(left, at, batch))
            at = end
        await folding
    finally:
        folding.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait({folding})


async def _gathered(parts: AsyncIterator[Bodies]) -> AsyncIterator[Bodies]:
    some: list[bytes] = []
    end = Position()
    async for bodies, end in parts:
        some += bodies
        if len(some) >= _BATCH_RECORDS:
            yield Bodies(some, end)
            some = []
    if some:
        yield Bodies(some, end)


async def _fold(files: Sequence[Folded], before: Position, batch: Batch) -> list[Folded]:
    """The files that are where the batch ends, or further."""
    sound = await asyncio.gather(*[_fold_into(file, before, batch) for file in files])
    return [file for file, is_sound in zip(files, sound, strict=True) if is_sound]


async def _fold_into(file: Folded, before: Position, batch: Batch) -> bool:
    stands = file.reached.position
    index = stands.seq - before.seq
    if index > len(batch.records):
        return True
    known = batch.at(index) if index else before
    if known.digest != stands.digest:
        return False
    rest = batch.rest(index)
    return not rest.records or await file.apply(rest) is None
