"""What a node has of partitions beside the first: a leader and views of each, in processes of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from writ.broker.log import JetStreamLog
from writ.broker.ports import OutcomeUnknown
from writ.broker.streams import partitions_of

from .children.leader import Settings as LeaderSettings
from .children.leader import leader_of
from .scrubbing import Scrubbing
from .views.keeper import Settings as ViewSettings
from .views.keeper import Views

if TYPE_CHECKING:
    from writ.children.keeper import Child

log = logging.getLogger("writ.node")

LOOK_S: Final = 2.0


class Partitions:
    """Begins with a partition as soon as it has a log; `told` is called with a fault of it and its number."""

    def __init__(
        self,
        leaders: LeaderSettings,
        views: ViewSettings,
        scrub_every_s: float,
        told: Callable[[str, int], Awaitable[None]],
    ) -> None:
        self._leaders = leaders
        self._views = views
        self._scrub_every_s = scrub_every_s
        self._told = told
        self._children: list[Child[Any]] = []
        self._led: list[Child[LeaderSettings]] = []
        self._looked = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._known = 1

    async def keep(self, link: Any) -> None:
        """Looks for more of them, until cancelled."""
        while True:
            try:
                for number in range(self._known, await partitions_of(link)):
                    self._begin(number, (await JetStreamLog.open(link, number)).epoch)
                    self._known = number + 1
                self._looked.set()
            except OutcomeUnknown as silent:
                log.info("how many partitions there are is not known now: %s", silent)
            await asyncio.sleep(LOOK_S)

    async def begun(self) -> None:
        """Returns when each partition that there is has an orchestrator which knows who began the node."""
        await self._looked.wait()
        while any([leader.away is not None for leader in self._led]):  # noqa: ASYNC110 - several processes
            await asyncio.sleep(0.02)

    def _begin(self, number: int, epoch: int) -> None:
        directory = Path(self._leaders.directory)
        leader, views = leader_of(number), Views(directory, number)
        self._children += [leader, views]
        self._led.append(leader)

        async def tell(reason: str) -> None:
            await self._told(reason, number)

        self._spawn(leader.keep(replace(self._leaders, partition=number)))
        self._spawn(views.keep(replace(self._views, partition=number, log_epoch=epoch)))
        self._spawn(Scrubbing(directory, self._scrub_every_s, tell, partition=number).keep())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def stop(self) -> None:
        """Ends all of it; `keep` must have ended."""
        for task in self._tasks:
            while not task.done():  # more than once, as `wait_for` of Python 3.11 may swallow a cancellation
                task.cancel()
                await asyncio.wait({task}, timeout=1)
        await asyncio.gather(*[child.stop() for child in self._children])
