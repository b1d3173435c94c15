"""Whoever watches over a log goes on where it is damaged, and says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from writ.broker.archive import Archive, ArchiveDamaged, ArchivedLog
from writ.broker.memory import MemoryLog
from writ.broker.mirror import Mirror
from writ.broker.objects import MemoryObjects
from writ.broker.ports import Message, Stored
from writ.broker.streams import StreamLook
from writ.projections.checkpoints import Checkpointing
from writ.projections.watch import Alarm, Watch
from writ.schemas.chain import Violation
from writ.schemas.events import AlarmKind


class Damaged:
    """A log, or its mirror, whose reads fail as it is told to."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.fails: Exception | None = None
        self.partition, self.epoch = log.partition, log.epoch
        self.last_seq, self.first_seq = log.last_seq, log.first_seq

    async def read(
        self, start: int = 1, subjects: Sequence[str] = (), *, follow: bool = False
    ) -> AsyncGenerator[list[Stored]]:
        if self.fails is not None:
            raise self.fails
        async for some in self._log.read(start, subjects, follow=follow):
            yield some


class Signed:
    """What was signed of the log is in order."""

    refused = None


@pytest.mark.parametrize(
    ("of_mirror", "failure", "kind"),
    [
        (False, Violation(1, "its block cannot be read"), AlarmKind.LOG_DIFFERS),
        (False, ArchiveDamaged("segment 1 holds other bytes"), AlarmKind.LOG_DIFFERS),
        (True, Violation(1, "its block cannot be read"), AlarmKind.MIRROR_DIFFERS),
    ],
)
async def test_what_cannot_be_compared_with_the_mirror_is_an_alarm_and_the_watch_goes_on(
    tmp_path: Path, of_mirror: bool, failure: Exception, kind: AlarmKind
) -> None:
    log = MemoryLog()
    await log.append([Message("writ.log.0.default.job.mail~a", b"a record")], 0)
    ours, theirs = Damaged(log), Damaged(log)
    raised: list[Alarm] = []

    async def streams() -> dict[str, StreamLook]:
        return {}

    async def report(alarm: Alarm) -> None:
        raised.append(alarm)

    watch = Watch(
        tmp_path,
        ArchivedLog(cast("Any", ours), Archive(MemoryObjects(), 0)),
        cast("Checkpointing", Signed()),
        streams,
        report,
        cast("Mirror", theirs),
        about="WRIT_LOG_0",
        look_s=0.01,
    )
    damaged = theirs if of_mirror else ours
    damaged.fails = failure
    running = asyncio.create_task(watch.run())
    try:
        async with asyncio.timeout(20):
            while not watch.standing:
                assert not running.done()
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert [(each.kind, each.about) for each in raised] == [(kind, "WRIT_LOG_0")]
            assert str(failure) in raised[0].reason
            damaged.fails = None
            while watch.standing:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
