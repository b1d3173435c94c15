"""The server: uvicorn on a port that is open already, with bounds on what comes before a request is whole."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

import h11
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import Server

from writ.broker.refusals import HEAD_RULE

from .guard import HEAD_MAX_BYTES
from .problems import MEDIA_TYPE, Fault, of_stranger

HEAD_S: Final = 10.0
"""How long a connection may take to bring a whole head of a request."""

IDLE_S: Final = 30
CLOSE_S: Final = 2


class Protocol(H11Protocol):
    """HTTP/1.1 of one connection, which ends where no head of a request comes in time or in bounds."""

    def __init__(self, *args: Any, note: Callable[[Fault], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._note = note
        self._head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_S, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waits = self.conn.their_state is h11.IDLE and not self.transport.is_closing()
        if waits and self._head is None:
            self._head = self.loop.call_later(HEAD_S, self.timeout_keep_alive_handler)
        elif not waits:
            self._in_time()

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def _in_time(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP, or has a head too large, is a problem like any other."""
        error = sys.exception()
        status = getattr(error, "error_status_hint", HTTPStatus.BAD_REQUEST)
        if self.conn.our_state is not h11.IDLE:
            self.transport.close()
            return
        fault = Fault(status, f"{msg} {error or ''}".strip(), audit=of_stranger(HEAD_RULE))
        self._note(fault)
        answer = fault.response()
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"connection", b"close")]
        headers.append((b"content-length", str(len(answer.body)).encode()))
        for event in (
            h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode()),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()


@asynccontextmanager
async def serving(app: ASGIApp, port: socket.socket, note: Callable[[Fault], None]) -> AsyncGenerator[None]:
    """Serves the application on an open port while it lasts; `note` is told of what is not HTTP.

    uvicorn's own loop is left out: it wakes ten times a second, to date answers as the application does.
    """
    config = Config(
        app, http=cast("type[Protocol]", partial(Protocol, note=note)), ws="none", lifespan="off",
        log_config=None, access_log=False,
        server_header=False, date_header=False, proxy_headers=False, timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=CLOSE_S, h11_max_incomplete_event_size=HEAD_MAX_BYTES,
    )  # fmt: skip
    config.load()
    server = Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[port])
    try:
        yield
    finally:
        await server.shutdown(sockets=[port])
