"""The servers of a broker: how many there are, and how each keeps what it stores."""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

import msgspec

from .accounts import SERVERS
from .hardened import HardenedClient

QUIET_S: Final = 0.3
"""No server takes longer than the one before it by so much, where they are well."""

WAIT_S: Final = 2.0
_NS: Final = 1_000_000_000


class Server(NamedTuple):
    """One that answered. `sync_s` is how long what it has acknowledged may be in memory alone: 0 for none."""

    name: str
    version: str
    sync_s: float


class _Config(msgspec.Struct, frozen=True):
    sync_interval: int = 0
    sync_always: bool = False


class _Meta(msgspec.Struct, frozen=True):
    cluster_size: int = 1
    leader: str = ""


class _Stands(msgspec.Struct, frozen=True):
    config: _Config | None = None
    meta_cluster: _Meta | None = None


class _Named(msgspec.Struct, frozen=True):
    name: str
    ver: str


class _Said(msgspec.Struct, frozen=True):
    server: _Named
    data: _Stands = _Stands()


class Servers(NamedTuple):
    """Those that store, by name, and of how many the cluster consists; 1 for a server that is alone.

    `ready` tells whether streams can be made: a cluster that has just started elects a leader first.
    """

    found: tuple[Server, ...]
    size: int
    ready: bool

    @property
    def sync_s(self) -> float | None:
        """The longest of them; None where no server told."""
        return max((each.sync_s for each in self.found), default=None)


async def look_at_servers(system: HardenedClient) -> Servers:
    """Asks them all, on the connection of the user `system`; those that are away do not answer."""
    answers: asyncio.Queue[bytes] = asyncio.Queue()

    def told(subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        if body:  # empty where nobody serves the subject
            answers.put_nowait(body)

    inbox = system.new_inbox()
    subscription: Any = await system.feed(inbox, told)
    found: dict[str, Server] = {}
    size, ready = 1, True
    loop = asyncio.get_running_loop()
    until = loop.time() + WAIT_S
    try:
        await system.publish(SERVERS, b'{"config":true}', reply=inbox)
        while ((left := until - loop.time()) > 0 and len(found) < size) or not found:
            try:
                async with asyncio.timeout(min(left, QUIET_S) if found else left):
                    body = await answers.get()
            except TimeoutError:
                break
            said = msgspec.json.decode(body, type=_Said)
            if said.data.meta_cluster is not None:
                size = max(size, said.data.meta_cluster.cluster_size)
                ready = bool(said.data.meta_cluster.leader)
            if said.data.config is not None:
                sync_s = 0.0 if said.data.config.sync_always else said.data.config.sync_interval / _NS
                found[said.server.name] = Server(said.server.name, said.server.ver, sync_s)
    finally:
        await subscription.unsubscribe()
    return Servers(tuple([found[name] for name in sorted(found)]), size, ready and bool(found))
