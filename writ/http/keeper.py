"""The node's hold on its HTTP API: the port, the owner's token, and the process that serves.

The node opens the port itself and hands it to the process, which is started when somebody first connects:
a node that nobody asks over HTTP spends nothing on it, and while a process is started again its callers wait
instead of being turned away.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from writ.children.keeper import Child

if TYPE_CHECKING:
    from writ.node import NodeInfo

HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 9748
TOKEN_FILE: Final = "http.token"
_TOKEN_BYTES: Final = 32
_BACKLOG: Final = 128


class PortTaken(OSError):
    """The port that was asked for is not to be had."""

    def __init__(self, port: int, why: OSError) -> None:
        super().__init__(
            f"the HTTP port {port} cannot be opened on {HOST}: {why.strerror}; "
            "give another one by --http-port, or leave it out to have a free one found"
        )


class Settings(msgspec.Struct, frozen=True):
    """What the process is told. `fd` is the open port, `token` the owner's.

    `public` is the origin of a server in front that speaks TLS, `oidc` the file about an OpenID provider.
    `key_path` is the API's own seed file, `directory` the node's; `tenant` and `principal` are the owner's.
    """

    directory: str
    url: str
    key_path: str
    tenant: str
    principal: str
    token: str
    fd: int
    public: str | None = None
    oidc: str | None = None


class Http(Child[Settings]):
    """The HTTP API of the node in `directory`: its port from here, its process from the first connection.

    Without a `port` it is 9748, or a free one where that is taken. Raises PortTaken.
    """

    def __init__(
        self, directory: Path, port: int | None = None, public: str | None = None, oidc: Path | None = None
    ) -> None:
        self._public = public
        self._oidc = None if oidc is None else str(oidc.absolute())
        self._socket = _listen(port)
        self.token_path = directory.absolute() / TOKEN_FILE
        self.url = f"http://{HOST}:{self._socket.getsockname()[1]}"
        super().__init__("the HTTP API", "writ.http", fds=(self._socket.fileno(),))

    def settings(self, info: NodeInfo) -> Settings:
        """What to tell the process of a node that runs; makes the token at the first start.

        Raises KeyFileError where others can read it.
        """
        from writ.broker.keys import secret_in

        token = secret_in(self.token_path, lambda: secrets.token_urlsafe(_TOKEN_BYTES).encode()).decode()
        directory = str(self.token_path.parent)
        key_path = str(Path(info.key_path).with_name("http.creds"))
        return Settings(
            directory, info.url, key_path, info.tenant, info.principal, token, self._socket.fileno(),
            self._public, self._oidc,
        )  # fmt: skip

    @asynccontextmanager
    async def _absence(self, settings: Settings) -> AsyncGenerator[None]:
        loop = asyncio.get_running_loop()
        somebody = asyncio.Event()
        loop.add_reader(self._socket.fileno(), somebody.set)
        try:
            await somebody.wait()
        finally:
            loop.remove_reader(self._socket.fileno())
        yield

    async def stop(self) -> None:
        """As `Child.stop`; the port is closed as well."""
        await super().stop()
        self._socket.close()


def _listen(port: int | None) -> socket.socket:
    try:
        return _bound(DEFAULT_PORT if port is None else port)
    except OSError as error:
        if port is not None:
            raise PortTaken(port, error) from error
        return _bound(0)


def _bound(port: int) -> socket.socket:
    return socket.create_server((HOST, port), backlog=_BACKLOG)
