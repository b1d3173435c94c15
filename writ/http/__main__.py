"""`python -m writ.http`: the HTTP API of a node. The node starts it (see `keeper`)."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from writ.broker.connect import Target
from writ.broker.wire import NatsWire
from writ.children.life import ended, live
from writ.metrics.components import component
from writ.metrics.processes import process
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.metrics import Family

from .app import App, Page
from .audited import Audited
from .bearers import COMPONENT, Bearers, Who
from .keeper import Settings
from .pages import pages, ways_to_log_in
from .server import serving
from .sessions import Sessions


def _logins(settings: Settings, sessions: Sessions) -> dict[str, Page]:
    """The page that tells how a browser may log in, and those by which it does so with a provider."""
    if settings.oidc is None:
        return {"/login": ways_to_log_in(None)}
    from .oidc import START, OidcLogin, provider_of, read_settings

    path = Path(settings.oidc)
    oidc = read_settings(path)
    login = OidcLogin(oidc, provider_of(path, oidc), sessions, settings.tenant)
    return {"/login": ways_to_log_in(START), **login.pages()}


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
    sessions = Sessions(bearers)
    open_to_all = {**pages(bearers.component, directory), **_logins(settings, sessions)}
    audited = Audited(wire, settings.tenant)
    parts.push_async_callback(ended, asyncio.create_task(audited.keep(), name="teller of refusals"))
    app = App(bearers, sessions, feed, open_to_all, directory, audited.note, settings.public)
    await parts.enter_async_context(component(directory, "http", of_this))
    await parts.enter_async_context(serving(app, socket.socket(fileno=settings.fd), audited.note))


if __name__ == "__main__":
    sys.exit(live(Settings, _open))
