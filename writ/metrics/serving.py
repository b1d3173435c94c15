"""A page of metrics over HTTP, on the loopback or where somebody asks for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Final

from writ.schemas.metrics import Family

from .exposition import page, unite

log = logging.getLogger("writ.metrics")

LOOPBACK: Final = "127.0.0.1"
PATH: Final = "/metrics"
_HEAD_MAX_BYTES: Final = 16 * 1024
_REQUEST_MAX_S: Final = 10.0

Source = Callable[[], Awaitable[list[Family]]]
"""Tells all that there is now."""


class PortTaken(Exception):
    """The port of a page is in use; the text says which."""


async def serve(source: Source, port: int = 0, host: str = LOOPBACK) -> asyncio.Server:
    """Serves `/metrics` on a port of an address; 0 takes a free one. Raises PortTaken."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            OSError, TimeoutError, asyncio.LimitOverrunError, asyncio.IncompleteReadError
        ):
            async with asyncio.timeout(_REQUEST_MAX_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await _answer(head.decode("latin-1"), source))
                await writer.drain()
        writer.close()

    try:
        return await asyncio.start_server(connected, host, port, limit=_HEAD_MAX_BYTES)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise PortTaken(
            f"port {port} of {host} cannot be had for the page of metrics: {why}; "
            "give another --metrics-port or --metrics-host"
        ) from error


def port_of(server: asyncio.Server) -> int:
    """The port that a server listens on."""
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _answer(head: str, source: Source) -> bytes:
    first, *lines = head.split("\r\n")
    method, path, *_ = [*first.split(" "), "", ""]
    headers = {
        name.strip().lower(): value.strip() for name, _, value in [line.partition(":") for line in lines]
    }
    if method not in ("GET", "HEAD"):
        return _response(
            "405 Method Not Allowed", "text/plain", b"only GET and HEAD\n", "Allow: GET, HEAD\r\n"
        )
    if path.partition("?")[0] != PATH:
        return _response("404 Not Found", "text/plain", f"the metrics are at {PATH}\n".encode())
    try:
        made = page(unite([await source()]), headers.get("accept", ""))
    except Exception as error:
        log.exception("a page of metrics could not be made")
        return _response("500 Internal Server Error", "text/plain", f"{type(error).__name__}\n".encode())
    whole = _response("200 OK", made.content_type, made.body)
    return whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == "HEAD" else whole


def _response(status: str, content_type: str, body: bytes, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{more}Connection: close\r\n\r\n".encode() + body
