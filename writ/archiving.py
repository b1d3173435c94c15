"""Has finished history moved and snapshots taken, now and then, by a process that ends when that is done."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from writ.orchestrator.retention import SEGMENT_MIN_RECORDS, SNAPSHOT_EVERY, Kept, calls_for_snapshot

from .children.apart import run_apart

if TYPE_CHECKING:
    from writ.broker.clock import Clock
    from writ.orchestrator.engine import Engine

log = logging.getLogger("writ.node")

LOOK_S: Final = 30.0

RESTS: Final = 3
"""So many times as long as a pass took none follows: it reads all live jobs, which may take a minute."""


class Archiving:
    """`writ archive run` of a partition, whenever a pass is due by what its engine in this process knows.

    That may stand by: `writ orchestrator`, which may lead meanwhile, has no archiving of its own.
    """

    def __init__(
        self,
        directory: Path,
        engine: Engine,
        clock: Clock,
        look_s: float = LOOK_S,
        partition: int = 0,
        snapshot_every: int = SNAPSHOT_EVERY,
    ) -> None:
        self._words = ("archive", "run", "--dir", str(directory), "--partition", str(partition))
        self._engine = engine
        self._clock = clock
        self._look_s = look_s
        self._snapshot_every = snapshot_every
        self._kept = Kept()

    async def keep(self) -> None:
        """Until cancelled. A pass that fails is told of, and made again when the next is due."""
        loop, rest_s = asyncio.get_running_loop(), self._look_s
        while True:
            await asyncio.sleep(rest_s)
            begun = loop.time()
            if self.due():
                await self._run()
            rest_s = max(self._look_s, RESTS * (loop.time() - begun))

    def due(self) -> bool:
        """Whether a pass would take a snapshot, or might move something."""
        kept, state = self._kept, self._engine.state
        if calls_for_snapshot(state, kept.snapshot, self._snapshot_every):
            return True
        if state.seq - kept.archive_last < SEGMENT_MIN_RECORDS:
            return False
        asked = [queue.policy.archive_after_s for queue in state.queues.values()]
        asked += [tenant.policy.archive_after_s for tenant in state.tenants.values()]
        if all(after_s is None for after_s in asked):
            return False
        held = kept.held_back
        return state.seq > kept.log_last or (held is not None and (held.until or 0) <= self._clock.wall_us())

    async def _run(self) -> None:
        """One pass."""
        try:
            code, said = await run_apart(*self._words)
        except OSError as error:  # no process to be had: the node goes on
            log.error("archiving could not begin: %s", error)
            return
        if code == 0:
            self._kept = msgspec.json.decode(said, type=Kept)
        else:
            log.error("archiving ended with code %d; what it could not move is still in the log", code)
