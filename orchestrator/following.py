"""A state that follows the log while another leads: whoever takes over has it in memory already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, cast

from writ.broker.clock import Clock
from writ.broker.ports import Log, Stored
from writ.schemas.bounds import SECOND_US
from writ.schemas.chain import Position, TooNew
from writ.schemas.upgrading import RECORDS

from .snapshots import Snapshots, fold_one, recover
from .state import Partition

LOOK_S: Final = 5.0
"""How often it is looked whether jobs rest in a newer snapshot, and may leave memory."""


class Following:
    """One standby's. Position and state move together, so that a reading can end at any moment.

    It follows no log that is written in a newer version of records than it `reads`.
    """

    def __init__(self, log: Log, snapshots: Snapshots | None, clock: Clock, reads: int = RECORDS) -> None:
        self.state = Partition(log.partition, log.epoch)
        self.moved_us = clock.mono_us()
        """When the log was last seen to go on, monotonic."""

        self._log = log
        self._snapshots = snapshots
        self._clock = clock
        self._reads = reads
        self._at = Position()
        self.begun = False

    async def run(self) -> None:
        """Follows the log until cancelled. Raises as `recover`, TooNew and SnapshotDamaged."""
        await self._begin()
        looked_us, since = self._clock.mono_us(), self.state.seq
        reading = cast("AsyncGenerator[list[Stored]]", self._log.read(self._at.seq + 1, follow=True))
        async with aclosing(reading):
            async for stored in reading:
                self._fold(stored)
                self.moved_us = self._clock.mono_us()
                if self._snapshots is not None and self.moved_us - looked_us >= LOOK_S * SECOND_US:
                    looked_us = self.moved_us
                    since = await let_rest(self.state, self._log, self._snapshots, since)

    async def catch_up(self) -> Partition:
        """The state at the log's end, while nothing follows. Raises as `run`."""
        await self._begin()
        async with aclosing(
            cast("AsyncGenerator[list[Stored]]", self._log.read(self._at.seq + 1))
        ) as reading:
            async for stored in reading:
                self._fold(stored)
        return self.state

    async def _begin(self) -> None:
        if not self.begun:
            self.state, self._at = await recover(self._log, self._snapshots)
            self.begun = True
            self._check()

    def _fold(self, stored: list[Stored]) -> None:
        for message in stored:
            self._at = fold_one(self.state, self._at, message)
        self._check()

    def _check(self) -> None:
        """Raises TooNew where the log is written in a version that this one is held back from."""
        version = self.state.records
        if version > self._reads:
            raise TooNew(
                self.state.raised[version],
                f"from it on records are of version {version}; this orchestrator reads up to {self._reads}",
            )


async def let_rest(state: Partition, log: Log, snapshots: Snapshots, since: int) -> int:
    """Lets go of the jobs that had ended at a newer snapshot than `since`; at which record that was.

    The state may change meanwhile. Raises what reading the log raises, SnapshotDamaged.
    """
    found = await snapshots.rests(log, since, state.seq)
    if found is None:
        return since
    state.jobs.rest_on(found.ended)
    for some in state.jobs.that_rest(state.may_rest):
        state.jobs.forget(some)
        await asyncio.sleep(0)
    return found.seq
