"""What stands before every request: who may ask, from where, how much and how often.

The API listens on the loopback interface only, which any user of the machine and any page in a browser can
reach. So whatever tells of jobs or changes them wants the token of a principal (`bearers.py`); a request that
names another host (as by a name that was made to point here), or that comes from a page of another origin, is
refused.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from starlette.requests import Request

from writ.broker.refusals import HEAD_RULE, HOST_RULE, ORIGIN_RULE

from .problems import RETRY_AFTER, Fault, of_stranger

PROTECTED: Final = "/v1/"
HEAD_MAX_BYTES: Final = 16 * 1024
REQUESTS_AT_ONCE: Final = 64
STREAMS_AT_ONCE: Final = 32
"""Of one client, by its address."""

BODY_S: Final = 20.0
"""How long a body may take to come."""

_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_CLOSE: Final = {"Connection": "close"}
"""What is still to come is not read."""


def check_head(request: Request, public: str | None = None) -> None:
    """Raises Fault for a head too large, one meant for another host, or one of a page of another origin.

    `public` is the origin, as `https://writ.example.com`, of a server in front that speaks TLS and passes on
    to us what it gets: a request for its host is one over TLS from here on.
    """
    size = sum(len(name) + len(value) for name, value in request.headers.raw)
    if size + len(request.scope["raw_path"]) + len(request.scope["query_string"]) > HEAD_MAX_BYTES:
        why = f"the head of the request has more than {HEAD_MAX_BYTES} bytes"
        raise Fault(431, why, headers=_CLOSE, audit=of_stranger(HEAD_RULE))
    host = request.headers.get("host", "")
    scheme, _, fronted = (public or "").partition("://")
    if public is not None and host.lower() == fronted:
        request.scope["scheme"] = scheme
        _check_origin(request, public)
        return
    name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if (name or host).lower() not in _HOSTS or (name and port and not port.isdigit()):
        why = f"this is not the host {host[:200]!r}; ask for 127.0.0.1 or localhost"
        raise Fault(421, why, audit=of_stranger(HOST_RULE, repr(host[:200])))
    _check_origin(request, f"http://{host}".lower())


def _check_origin(request: Request, own: str) -> None:
    origin = request.headers.get("origin")
    if origin is not None and origin.lower() != own:
        why = f"requests of pages of {origin[:200]!r} are not answered"
        raise Fault(403, why, audit=of_stranger(ORIGIN_RULE, repr(origin[:200])))


class Turns:
    """How many requests of each client are in work."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._working: Counter[str] = Counter()

    @asynccontextmanager
    async def of(self, client: str) -> AsyncGenerator[None]:
        """Counts while it lasts. Raises Fault where the client has too many already."""
        if self._working[client] >= self._most:
            raise Fault(
                429, f"{self._most} requests of yours are in work already; wait for one to end",
                headers=RETRY_AFTER,
            )  # fmt: skip
        self._working[client] += 1
        try:
            yield
        finally:
            self._working[client] -= 1
            if not self._working[client]:
                del self._working[client]


async def body_within(request: Request, size_max: int) -> bytes:
    """The body. Raises Fault where it is too large, or takes too long."""
    length = request.headers.get("content-length", "0")
    parts: list[bytes] = []
    size = int(length) if length.isdigit() else 0
    try:
        async with asyncio.timeout(BODY_S):
            if size <= size_max:
                size = 0
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    if size > size_max:
                        break
    except TimeoutError:
        raise Fault(408, f"the body has not come within {BODY_S:g} s", headers=_CLOSE) from None
    if size > size_max:
        raise Fault(413, f"the body has {size} bytes or more; at most {size_max} are allowed", headers=_CLOSE)
    return b"".join(parts)


def wants(media_type: str, accepted: Iterable[str]) -> bool:
    """Whether a media type is asked for by name."""
    return any(media_type in each.split(";", 1)[0] for line in accepted for each in line.split(","))
