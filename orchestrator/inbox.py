"""What waits to be decided: requests, and what is read of the intake and of other partitions' logs."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import msgspec

from writ.broker.ports import Answer, Intake, Log, Shards
from writ.schemas import commands
from writ.schemas.records import Source
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.subjects import link_filter

from .figures import Figures
from .links import Links
from .messages import Asked, Linked, Submitted, open_link, open_request, open_submit
from .strongroom import Strongroom

log = logging.getLogger("writ.orchestrator")

READ_MAX = 2_000
"""Jobs that were read of the intake and wait to be decided on: there, more cost no memory and no time."""

ASKED_MAX = 8_000
"""Requests that wait; beyond it, whoever asks is told to ask again."""

_END_S = 0.2
_NOBODY = msgspec.json.encode(
    commands.Answer(Rejection(RejectionKind.TRY_LATER, "the leader stepped down; nothing was decided"))
)


async def end(task: asyncio.Task[None]) -> None:
    """Cancels a task until it has ended: `wait_for` of Python 3.11 may swallow a cancellation.

    A cancellation of the caller waits for that end: no part of a leadership may outlive it.
    """
    again: asyncio.CancelledError | None = None
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait([task], timeout=_END_S)
        except asyncio.CancelledError as cancelled:
            again = cancelled
    if again is not None:
        raise again
    if not task.cancelled() and (failed := task.exception()) is not None:
        log.debug("a part ended with %r", failed)


class Inbox:
    """Of one leadership after the other, each from `open` to `close`. `wake` is called when more is there."""

    def __init__(
        self,
        partition: int,
        intake: Intake,
        others: Sequence[Log],
        shards: Shards,
        figures: Figures,
        wake: Callable[[], None],
        strongroom: Strongroom,
    ) -> None:
        self.asked: deque[Asked] = deque()
        self.read: deque[Submitted | Linked] = deque()
        self.jobs_read = 0
        self._partition = partition
        self._intake = intake
        self._others = others
        self._shards = shards
        self._figures = figures
        self._wake = wake
        self._strongroom = strongroom
        self._drained = asyncio.Event()
        self._reading: list[asyncio.Task[None]] = []

    @property
    def records_max(self) -> int:
        """What all that waits makes of records, at most."""
        return self.jobs_read + sum([asked.records_max for asked in self.asked])

    @property
    def is_broken(self) -> bool:
        """Whether a reading has ended; `check` raises why."""
        return any([reading.done() for reading in self._reading])

    def check(self) -> None:
        """Raises what a reading ended with."""
        for reading in self._reading:
            if reading.done():
                reading.result()

    def open(self, source: Source, links: Links) -> None:
        """Reads from the positions that the partition's log names."""
        self._read_by(self._read_intake(source))
        for other in self._others:
            self._read_by(self._read_link(other, links.read_from(other.partition, other.epoch)))

    async def close(self, refusal: bytes) -> None:
        """Reads no more, and answers every request that waits."""
        while self._reading:
            await end(self._reading[-1])
            self._reading.pop()
        for asked in self.asked:
            asked.send(refusal)
        self.asked.clear()
        self.read.clear()
        self.jobs_read = 0

    def take(self) -> Submitted | Linked:
        """The oldest of what was read."""
        item = self.read.popleft()
        if isinstance(item, Submitted):
            self.jobs_read -= 1 + len(item.sound)
            if self.jobs_read <= READ_MAX:
                self._drained.set()
        return item

    def put_back(self, taken: Iterable[Submitted | Linked]) -> None:
        """What was taken in vain waits again, in its order and before all else."""
        items = list(taken)
        self.read.extendleft(reversed(items))
        self.jobs_read += sum([1 + len(item.sound) for item in items if isinstance(item, Submitted)])

    def ask(self, subject: str, body: bytes, send: Answer) -> None:
        """Takes a request; too many at a time are told to ask again."""
        try:
            asked = open_request(subject, body, send)
        except ValueError as error:
            log.error("request passed over: %s", error)
            return
        self._figures.requests += 1
        if len(self.asked) > ASKED_MAX:
            self._figures.shed += 1
            reason = "the orchestrator is behind; nothing was decided, ask again"
            send(msgspec.json.encode(commands.Answer(Rejection(RejectionKind.TRY_LATER, reason))))
            return
        self._strongroom.take(asked, self._put)

    def _put(self, asked: Asked) -> None:
        """One that is ready to be decided on, which may be some time after it came."""
        if not self._reading:
            asked.send(_NOBODY)
            return
        self.asked.append(asked)
        self._wake()

    def _read_by(self, work: Coroutine[Any, Any, None]) -> None:
        reading = asyncio.create_task(work)
        reading.add_done_callback(lambda _: self._wake())
        self._reading.append(reading)

    async def _read_intake(self, source: Source) -> None:
        """Brings submits, from the message that the log's position names."""
        start = source.seq if source.epoch == self._intake.epoch else 1
        async for messages in self._intake.read(max(start, 1), self._shards):
            for message in messages:
                try:
                    item = open_submit(self._intake.epoch, message.seq, message.subject, message.body)
                except ValueError as error:
                    log.error("submit %d is passed over: %s", message.seq, error)
                    continue
                self.read.append(item)
                self.jobs_read += 1 + len(item.sound)
                self._wake()
                while self.jobs_read > READ_MAX:
                    # What is read is parsed: while that goes on, no request is answered and no lease renewed.
                    self._drained.clear()
                    await self._drained.wait()

    async def _read_link(self, other: Log, start: int) -> None:
        """Brings what another partition says, from where the log's position names."""
        subjects = [link_filter(other.partition, self._partition)]
        async for messages in other.read(start, subjects, follow=True):
            for message in messages:
                linked = open_link(other.partition, message)
                if linked is not None:
                    self.read.append(linked)
            self._wake()
