"""Who asks: the principal that an API token stands for.

A token is looked up by its SHA-256 in the view of principals, and what was found counts for a second: whoever
is revoked is nobody here soon after, and what it asks meanwhile is denied behind the API all the same. The
token in the node's `http.token` is the owner's. Another way to say who one is, such as the session of a
console, is another function of a request that gives a `Who`.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, NamedTuple

from starlette.requests import Request

from writ.broker.client import Client
from writ.broker.clock import Clock, SystemClock
from writ.broker.connect import Target
from writ.broker.wire import NatsWire
from writ.schemas.bounds import SECOND_US
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.lists import Bearer, BearerQuery

from .problems import Fault

COMPONENT: Final = "http"
KNOWN_US: Final = SECOND_US
TOKEN_MAX_CHARS: Final = 256
_KNOWN_MAX: Final = 10_000
_SCHEME: Final = "bearer"


class Who(NamedTuple):
    """A principal that has shown its token."""

    tenant: str
    principal: str


class Bearers:
    """The principals that ask over HTTP, and a client for each, on one connection."""

    def __init__(self, wire: NatsWire, url: str, owner: Who, token: str, clock: Clock | None = None) -> None:
        self._wire = wire
        self._url = url
        self._owner = owner
        self._token = hashlib.sha256(token.encode()).hexdigest()
        self._clock = clock or SystemClock()
        self._known: dict[str, tuple[int, Who | None]] = {}
        self._clients: dict[Who, Client] = {}
        self.component = self.client(Who(SYSTEM_TENANT, COMPONENT))
        """Asks what the API itself wants to know."""

    def client(self, who: Who) -> Client:
        """Asks in the name of a principal."""
        client = self._clients.get(who)
        if client is None:
            target = Target(self._url, None, who.tenant, who.principal)
            client = self._clients[who] = Client(target, wire=self._wire, name="writ:http")
        return client

    async def who(self, request: Request) -> Who:
        """Raises Fault where the request brings no token, or one that counts for nobody."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        given = given.strip()
        if scheme.lower() != _SCHEME or not given:
            raise _nobody("no token is given")
        found = await self._find(given) if len(given) <= TOKEN_MAX_CHARS else None
        if found is None:
            raise _nobody("the token is nobody's; it may be revoked or over")
        return found

    async def _find(self, token: str) -> Who | None:
        digest = hashlib.sha256(token.encode()).hexdigest()
        if hmac.compare_digest(digest, self._token):
            return self._owner
        now = self._clock.mono_us()
        until, who = self._known.get(digest, (0, None))
        if now < until:
            return who
        answer = await self.component.ask(BearerQuery(digest=digest))
        assert isinstance(answer, Bearer)
        who = (
            None
            if answer.tenant is None or answer.principal is None
            else Who(answer.tenant, answer.principal)
        )
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[digest] = (now + KNOWN_US, who)
        return who


def _nobody(why: str) -> Fault:
    return Fault(
        401, f"{why}; send `Authorization: Bearer TOKEN` with one of `writ token create`, or the owner's",
        headers={"WWW-Authenticate": 'Bearer realm="writ"'},
    )  # fmt: skip
