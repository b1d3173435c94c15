"""`python -m writ.children.leader`: the orchestrator of a partition beside the first, started by the node."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from writ.archiving import Archiving
from writ.broker.clock import SystemClock
from writ.broker.connect import Target, connect
from writ.broker.spread import Spread
from writ.engines import wire_engine
from writ.metrics.components import component, name_in
from writ.metrics.of_engine import of_engine
from writ.orchestrator.access_desk import Founder
from writ.orchestrator.engine import Engine
from writ.orchestrator.garbage import keep_small
from writ.orchestrator.state import address
from writ.schemas.catalog import ENGINE
from writ.space import Space

from .keeper import Child
from .life import live

if TYPE_CHECKING:
    from writ.broker.hardened import HardenedClient
    from writ.schemas.metrics import Family

_BROKER_S: Final = 20.0
"""How long the broker may be away while this starts."""

_PATIENCE_S: Final = 5.0
_INTRODUCED_S: Final = 10.0
_NICE: Final = 0


class Settings(msgspec.Struct, frozen=True):
    """What the process is told: the node's directory and broker, the partition, and what an engine is."""

    directory: str
    url: str
    keys: str
    partition: int
    founders: tuple[Founder, ...]
    live_max: int
    spread: Spread
    reads: int
    disk_reserve_bytes: int | None
    """Kept free on the disk of the directory; None where the broker's is another."""


def leader_of(partition: int) -> Child[Settings]:
    """The process, for the node to hold."""
    return Child(f"the orchestrator of partition {partition}", __name__)


async def _open(settings: Settings, parts: AsyncExitStack) -> None:
    links: list[HardenedClient] = []
    for user in ("log", "answer"):
        target = Target(settings.url, Path(settings.keys) / f"{user}.creds")
        link = await connect(target, f"writ:{user}", inbox_prefix="_INBOX", wait_s=_BROKER_S)
        parts.push_async_callback(link.close)
        links.append(link)
    directory = Path(settings.directory)
    wired = await wire_engine(
        directory,
        *links,
        partition=settings.partition,
        founders=settings.founders,
        live_max=settings.live_max,
        spread=settings.spread,
        reads=settings.reads,
    )
    engine = wired.engine
    running = asyncio.create_task(engine.run(), name="orchestrator")
    parts.push_async_callback(_hand_over, engine, running)

    async def figures() -> list[Family]:
        return of_engine(engine, links[0])

    await parts.enter_async_context(component(directory, name_in(ENGINE, settings.partition), figures))
    archiving = Archiving(directory, engine, SystemClock(), partition=settings.partition)
    beside = [keep_small(), archiving.keep()]
    if settings.disk_reserve_bytes is not None:
        beside.append(Space(directory, settings.disk_reserve_bytes, engine).keep())
    for work in beside:
        parts.callback(asyncio.create_task(work).cancel)
    serving = asyncio.current_task()
    assert serving is not None
    running.add_done_callback(lambda _: serving.cancel())  # the node starts this process again
    with suppress(TimeoutError):
        async with asyncio.timeout(_INTRODUCED_S):
            await _introduced(engine, settings.founders)


async def _introduced(engine: Engine, founders: Sequence[Founder]) -> None:
    """Waits until another leads, or this one has heard of the founders, whom it would refuse before."""
    await engine.is_led.wait()
    wanted = {address(each.tenant, each.name) for each in founders}
    while engine.leading.is_set() and not wanted <= engine.state.principals.keys():  # noqa: ASYNC110 - a fold
        await asyncio.sleep(0.02)


async def _hand_over(engine: Engine, running: asyncio.Task[None]) -> None:
    """Ends the round at hand. Raises what the engine ended with."""
    engine.stop()
    await asyncio.wait({running}, timeout=_PATIENCE_S)
    running.cancel()
    if running.done() and not running.cancelled():
        running.result()


if __name__ == "__main__":
    sys.exit(live(Settings, _open, _NICE))
