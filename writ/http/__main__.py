"""`python -m writ.http`: the HTTP API of a node. The node starts it (see `keeper`)."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from writ.broker.client import Client
from writ.broker.connect import Target
from writ.broker.wire import NatsWire
from writ.children.life import live
from writ.metrics.components import component
from writ.metrics.processes import process
from writ.schemas.metrics import Family

from .app import App
from .guard import OwnerToken
from .keeper import Settings
from .pages import pages
from .server import serving


async def _open(settings: Settings, parts: AsyncExitStack) -> None:
    """Serves, as the principal that the settings name. All of it is closed with `parts`."""
    directory = Path(settings.directory)

    async def of_this() -> list[Family]:
        return process("http", os.getpid())

    target = Target(settings.url, Path(settings.key_path), settings.tenant, settings.principal)
    client = await parts.enter_async_context(Client(target, name="writ:http"))
    feed = await NatsWire.connect(
        target, "writ:http-feed"
    )  # of its own, so that answers do not wait behind it
    parts.push_async_callback(feed.close)
    app = App(client, feed, OwnerToken(settings.token), pages(client, directory), directory)
    await parts.enter_async_context(component(directory, "http", of_this))
    await parts.enter_async_context(serving(app, socket.socket(fileno=settings.fd)))


if __name__ == "__main__":
    sys.exit(live(Settings, _open))
