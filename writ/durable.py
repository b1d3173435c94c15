"""How safe what is acknowledged is: on how many disks it is, when it gets there, and who could lead."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from writ.broker.joined import USUAL_REPLICAS
from writ.broker.ports import OutcomeUnknown
from writ.broker.presence import Present, present
from writ.broker.servers import Servers, look_at_servers
from writ.broker.streams import ApiError, api, replicas_in, telling
from writ.schemas.queries import Durability
from writ.schemas.subjects import log_stream

if TYPE_CHECKING:
    from writ.broker.clock import Clock
    from writ.broker.hardened import HardenedClient

log = logging.getLogger("writ.node")

_FRESH_US: Final = 2_000_000
"""So long one look serves all who ask."""

_WAIT_S: Final = 2.5
"""No look takes longer: who asks for the status of a node has little time just when the broker is away."""


class Durable:
    """Looks at the broker on the connections of the users `system` and `log`."""

    def __init__(self, system: HardenedClient, logs: HardenedClient, partition: int, clock: Clock) -> None:
        self._system = system
        self._logs = logs
        self._partition = partition
        self._clock = clock
        self._found: Durability | None = None
        self._at_us: int | None = None

    async def look(self) -> Durability | None:
        """As of a moment ago; None where the broker does not tell."""
        if self._at_us is None or self._clock.mono_us() - self._at_us > _FRESH_US:
            self._found = await self._look()
            self._at_us = self._clock.mono_us()
        return self._found

    async def _look(self) -> Durability | None:
        try:
            with telling("how it keeps the log"):
                async with asyncio.timeout(_WAIT_S):
                    servers = await look_at_servers(self._system)
                    if not servers.found:
                        raise OutcomeUnknown("none of the broker's servers answers")
                    stream = await api(self._logs, f"STREAM.INFO.{log_stream(self._partition)}")
                    found = await present(self._logs, self._partition)
        except (OutcomeUnknown, ApiError) as silent:
            log.info("what the status tells of the broker is left out: %s", silent)
            return None
        return durability(servers, stream, found)


def durability(servers: Servers, stream: dict[str, Any], found: tuple[Present, ...]) -> Durability:
    """In the words of `writ status`, from what the servers say, and the API says of the log's stream."""
    replicas = replicas_in(stream)
    placement: dict[str, Any] = stream["config"].get("placement") or {}
    return Durability(
        servers=servers.size,
        answering=tuple([each.name for each in servers.found]),
        replicas=replicas.wanted,
        current=replicas.current,
        placement=tuple(placement.get("tags") or ()),
        sync=sync_mode(servers.sync_s),
        orchestrators=tuple([each.member.name for each in found]),
        reads={each.member.name: each.member.reads for each in found},
        written=max([each.written for each in found], default=0),
    )


def sync_mode(sync_s: float | None) -> str:
    """When a server has on the disk what it has acknowledged."""
    if sync_s is None:
        return "unknown"
    return f"every {sync_s:g} s" if sync_s else "always"


def doubts(found: Durability | None) -> list[str]:
    """What a loss of power or of a server could cost, in words; empty where it costs nothing."""
    if found is None:
        return ["the broker does not tell now on how many servers the log is kept, and when on their disks"]
    words: list[str] = []
    if found.sync not in ("always", "unknown"):
        words.append(
            f"the broker has on the disk {found.sync} what it acknowledges: a loss of power loses what came "
            "since; set sync_interval: always in its configuration"
        )
    if found.servers >= USUAL_REPLICAS > found.replicas:
        times = "once" if found.replicas == 1 else f"{found.replicas} times"
        words.append(
            f"the broker has {found.servers} servers and keeps the log {times}: start with "
            f"--replicas {USUAL_REPLICAS}"
        )
    if found.current < found.replicas:
        words.append(f"of {found.replicas} replicas of the log {found.current} have all of it")
    return words
