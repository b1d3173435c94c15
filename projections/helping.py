"""Views that are far behind their log, folded by a process beside that of the views.

A log is read and decoded once for all who fold it in a process, but they take turns there. So some of what is
built anew is handed to a second process, which reads for itself. What it stored is all that it hands back: a
file is the fold of the log up to its position, whoever folded it, and only one of them at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from .feed import Feeds, Halted
from .folded import Folded
from .view import View

FAR_RECORDS: Final = 10_000
"""Who is so far behind is helped. To start a process and to read for it costs about as much as these do."""

WINDOW_RECORDS: Final = 32_768
_BATCH_RECORDS: Final = 16_384
"""A helper answers nobody and is gone soon. In larger batches SQLite writes the same pages less often."""

Helper = Callable[[str, Path], Awaitable[None]]
"""Has another process fold a file, by the name of its view, up to where the log ends; returns when it ends.

It may have failed: how far the file is, the file tells.
"""


async def catch_up(path: Path, feeds: Feeds, view: View) -> None:
    """Folds a file up to where its log ends now: what the helping process does.

    Stops before a record at which the view must halt; its runner comes to that record next, and says so.
    Raises sqlite3.Error, OSError, and what reading the log raises.
    """
    folded = await Folded.open(path, view)
    try:
        if folded.outdated:
            return
        follower = await feeds.follow(folded.reached.position)
        try:
            while folded.reached.position.seq < feeds.last:
                if await folded.apply(await follower.next(_BATCH_RECORDS)) is not None:
                    return
        except Halted:
            return
        finally:
            follower.leave()
    finally:
        await folded.close()
