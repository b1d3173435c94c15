"""`python -m writ.http`: the HTTP API of a node. The node starts it (see `keeper`)."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from writ.broker.connect import Target
from writ.broker.wire import NatsWire
from writ.children.life import live
from writ.metrics.components import component
from writ.metrics.processes import process
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.metrics import Family

from .app import App
from .bearers import COMPONENT, Bearers, Who
from .keeper import Settings
from .pages import pages
from .server import serving


async def _open(settings: Settings, parts: AsyncExitStack) -> None:
    """Serves; the token in the settings is that of the principal they name. All is closed with `parts`."""
    directory = Path(settings.directory)

    async def of_this() -> list[Family]:
        return process("http", os.getpid())

    target = Target(settings.url, Path(settings.key_path), SYSTEM_TENANT, COMPONENT)
    wires: list[NatsWire] = []
    for purpose in ("http", "http-feed"):  # apart, so that answers do not wait behind the feed
        wires.append(await NatsWire.connect(target, f"writ:{purpose}"))
        parts.push_async_callback(wires[-1].close)
    wire, feed = wires
    owner = Who(settings.tenant, settings.principal)
    bearers = Bearers(wire, settings.url, owner, settings.token)
    app = App(bearers, feed, pages(bearers.component, directory), directory)
    await parts.enter_async_context(component(directory, "http", of_this))
    await parts.enter_async_context(serving(app, socket.socket(fileno=settings.fd)))


if __name__ == "__main__":
    sys.exit(live(Settings, _open))
