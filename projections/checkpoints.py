"""Signs the tree of a log now and then, and keeps what it signed outside the broker."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from writ.broker.clock import Clock, SystemClock
from writ.broker.keys import KeyFileError
from writ.broker.notary import Notary
from writ.broker.note_places import NotePlace
from writ.broker.ports import AppendFailed
from writ.schemas.bounds import SECOND_US
from writ.schemas.checkpoints import Checkpoint, Note, NoteError
from writ.schemas.merkle import root_at

from .file import Reader
from .runner import Runner
from .tree import head, subtrees_in

log = logging.getLogger("writ.projections")
T = TypeVar("T")

EVERY_RECORDS: Final = 10_000
EVERY_S: Final = 60.0
_LOOK_S: Final = 1.0


class NotSigned(Exception):
    """There is no checkpoint, as the text says: log and newest checkpoint differ, or a file cannot be had."""


class Behind(NotSigned):
    """There is none yet: the tree is still being built, or the broker does not answer. Ask again."""


class Checkpointing:
    """Signs what the tree view holds, every `every_records` records or `every_s` seconds that brought some.

    A tree that does not go on from the newest checkpoint is never signed: `refused` says why, and stands
    until somebody has put back what is missing, or the checkpoints aside. `last_seq` tells where the log
    ends. `away` are object stores among the copies that could not be reached the last time, and why.
    """

    def __init__(
        self,
        directory: Path,
        runner: Runner,
        partition: int,
        last_seq: Callable[[], Awaitable[int]],
        copies: Sequence[NotePlace] = (),
        clock: Clock | None = None,
        *,
        every_records: int = EVERY_RECORDS,
        every_s: float = EVERY_S,
    ) -> None:
        self.refused: str | None = None
        self.away: dict[str, str] = {}
        self.size = 0
        self._directory, self._copies = directory, copies
        self._runner = runner
        self._partition = partition
        self._last_seq = last_seq
        self._reader = Reader(runner.path)
        self._clock = clock or SystemClock()
        self._every_records, self._every_us = every_records, round(every_s * SECOND_US)
        self._covered_at = self._signed_at = self._clock.mono_us()
        self._signing = asyncio.Lock()

    @property
    def position(self) -> int:
        """Of the newest record in the tree."""
        return self._runner.position

    @property
    def waiting_s(self) -> float:
        """For how long records have waited for a checkpoint that is in every place.

        0 where the newest covers all of them.
        """
        if self._runner.position <= self.size and not self.away:
            return 0.0
        return (self._clock.mono_us() - self._covered_at) / SECOND_US

    async def run(self) -> None:
        """Until cancelled. The first checkpoint is signed as soon as there is a record."""
        due = True
        while True:
            waiting = self._runner.position - self.size
            now = self._clock.mono_us()
            if waiting <= 0 and not self.away:
                self._covered_at = self._signed_at = now
            in_time = now - self._signed_at < self._every_us
            if (waiting > 0 and (due or waiting >= self._every_records)) or not in_time:
                try:
                    await self.sign()
                    due = False
                except Behind:
                    pass
                except NotSigned as error:
                    log.error("no checkpoint was signed: %s", error)
                    await asyncio.sleep(self._every_us / SECOND_US)
            await asyncio.sleep(_LOOK_S)

    async def close(self) -> None:
        await self._reader.close()

    async def covering(self, seq: int) -> tuple[Note, Checkpoint]:
        """The newest checkpoint, signed now where it does not cover record `seq`. Raises NotSigned."""
        newest = await asyncio.to_thread(self._newest)
        if newest is not None and newest[1].size >= seq and self.refused is None:
            return newest
        return await self.sign()

    async def sign(self) -> tuple[Note, Checkpoint]:
        """A checkpoint of the tree as it is, which is the newest one where nothing was added since.

        Raises NotSigned.
        """
        async with self._signing:
            try:
                last = await self._last_seq()
                signed, away = await self._reader.read(partial(self._sign, last))
            except Behind:
                raise
            except AppendFailed as error:
                raise Behind(f"where the log ends is not known: {error}") from error
            except (NotSigned, sqlite3.Error, OSError, NoteError) as error:
                self.refused = str(error)
                raise NotSigned(str(error)) from error
            self.refused, self.size = None, signed[1].size
            self._signed_at = self._clock.mono_us()
            for place, why in away.items():
                if place not in self.away:
                    log.error("no checkpoint is copied to %s, until it is back: %s", place, why)
            self.away = away
            if not away:
                self._covered_at = self._signed_at
            return signed

    def notary(self) -> Notary:
        """With the keys as they are now, over the node's own folder. Raises NotSigned."""
        return self._notary(())

    def _notary(self, copies: Sequence[NotePlace]) -> Notary:
        try:
            return Notary(self._directory, self._clock.wall_us(), copies)
        except KeyFileError as error:
            raise NotSigned(str(error)) from error

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` reads of the tree's file, in one transaction. Raises sqlite3.Error."""
        return await self._reader.read(work)

    def _newest(self) -> tuple[Note, Checkpoint] | None:
        try:
            return self.notary().newest(self._partition)
        except (OSError, NoteError) as error:
            raise NotSigned(str(error)) from error

    def _sign(self, last: int, db: sqlite3.Connection) -> tuple[tuple[Note, Checkpoint], dict[str, str]]:
        """The checkpoint, and the stores that could not be reached."""
        if self._runner.halted:
            raise NotSigned(f"the view tree has halted: {self._runner.halted}")
        notary = self._notary(self._copies)
        newest = notary.newest(self._partition)
        tree = head(db)
        if newest is not None:
            said = newest[1]
            if said.size > last:
                raise NotSigned(
                    f"the newest checkpoint is of {said.size} records, the log has {last}: "
                    "it was cut or made anew"
                )
            if said.size > tree.size:
                raise Behind(f"the tree has {tree.size} of {said.size} records, and is still being built")
            if root_at(said.size, subtrees_in(db)) != said.root:
                raise NotSigned(f"the first {said.size} records are others than the newest checkpoint says")
            if said.size == tree.size:
                notary.copy(self._partition)
                return newest, notary.away
        origin = notary.origin(self._partition, tree.epoch)
        after = "-" if newest is None else newest[0].digest
        found = Checkpoint(origin, tree.size, tree.root, self._clock.wall_us(), after)
        return (notary.add(found), found), notary.away
