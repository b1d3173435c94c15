"""Room on the disk of a node: what is there when it runs out, and how all goes on when it comes back.

Submits are what fills a disk, so they are refused first: below a reserve, with both numbers. The reserve is
for what was accepted already: its leases, reports and ends go on being stored. Where the disk becomes full
all the same, the broker gives up the stream that it could not write, until it is started again.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from writ.broker.embedded import EmbeddedBroker
    from writ.orchestrator.engine import Engine

log = logging.getLogger("writ.node")

RESERVE_BYTES: Final = 256 * 1024 * 1024
LOOK_S: Final = 0.5
_ENOUGH: Final = 1.1
"""Submits are taken again from so many times the reserve on, so that it does not go to and fro."""

_TO_START: Final = 4
"""The broker is started again once there is this part of the reserve."""

_AGAIN_S: Final = 5.0
"""Between two such starts."""


class Space:
    """Watches the room on the disk of `directory` for an engine, and starts a `broker` again that gave up."""

    def __init__(
        self,
        directory: Path,
        reserve_bytes: int,
        engine: Engine,
        broker: Callable[[], EmbeddedBroker] | None = None,
    ) -> None:
        self._directory = directory
        self._reserve = reserve_bytes
        self._engine = engine
        self._broker = broker

    async def keep(self) -> None:
        """Until cancelled. A look that fails is told of once until one succeeds, and the next one made."""
        failed = False
        while True:
            try:
                await self._look()
                failed = False
            except OSError as error:
                if not failed:
                    log.warning("the room on the disk of %s is not known: %s", self._directory, error)
                failed = True
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        free = await asyncio.to_thread(lambda: shutil.disk_usage(self._directory).free)
        self._tell(free)
        if self._broker is None:
            return
        broker = self._broker()
        if free * _TO_START >= self._reserve and await asyncio.to_thread(broker.gave_up_writing):
            log.error("the broker gave up writing, and there is room again: it is started again")
            broker.give_up()
            await asyncio.sleep(_AGAIN_S)

    def _tell(self, free: int) -> None:
        engine = self._engine
        if free < self._reserve:
            if engine.no_room is None:
                log.error("%s has %s left: submits are refused", self._directory, _size(free))
            engine.refuse_submits(
                f"the disk of the node has {_size(free)} left, and keeps {_size(self._reserve)} for the jobs "
                "that it has (writ up --disk-reserve); submit again when there is more"
            )
        elif engine.no_room is not None and free >= self._reserve * _ENOUGH:
            log.warning("%s has %s left: submits are taken again", self._directory, _size(free))
            engine.refuse_submits(None)


def _size(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"
