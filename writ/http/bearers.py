"""Who asks: the principal that an API token stands for.

A token is looked up by its SHA-256 in the view of principals, and what was found counts for a second: whoever
is revoked is nobody here soon after, and what it asks meanwhile is denied behind the API all the same. The
token in the node's `http.token` is the owner's. A browser has a session instead (`sessions.py`), which is
looked up the same way.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, NamedTuple

from starlette.requests import Request

from writ.broker.client import Client
from writ.broker.clock import Clock, SystemClock
from writ.broker.connect import Target
from writ.broker.refusals import LOGIN_RULE
from writ.broker.wire import NatsWire
from writ.schemas.bounds import SECOND_US
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.lists import Bearer, BearerQuery

from .problems import Fault, of_stranger

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
        self._known: dict[str, tuple[int, Bearer]] = {}
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
            raise nobody("no token is given")
        return whose(await self.of_token(given))

    async def of_token(self, token: str) -> Bearer:
        """Whose an API token is. Raises Fault where it is nobody's; a session's secret is no token."""
        found = await self.find(token)
        if found.principal is None or found.session is not None:
            raise nobody("the token is nobody's; it may be revoked or over")
        return found

    async def find(self, secret: str) -> Bearer:
        """Whose a secret is, a token's or a session's; of nobody where it is unknown."""
        if len(secret) > TOKEN_MAX_CHARS:
            return Bearer()
        digest = hashlib.sha256(secret.encode()).hexdigest()
        if hmac.compare_digest(digest, self._token):
            return Bearer(None, 0, self._owner.tenant, self._owner.principal)
        now = self._clock.mono_us()
        until, found = self._known.get(digest, (0, Bearer()))
        if now < until:
            return found
        answer = await self.component.ask(BearerQuery(digest=digest))
        assert isinstance(answer, Bearer)
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[digest] = (now + KNOWN_US, answer)
        return answer

    def forget(self, secret: str) -> None:
        """It is looked up again the next time."""
        self._known.pop(hashlib.sha256(secret.encode()).hexdigest(), None)


def whose(found: Bearer) -> Who:
    """The principal of what was found to be somebody's."""
    assert found.tenant is not None
    assert found.principal is not None
    return Who(found.tenant, found.principal)


def nobody(why: str) -> Fault:
    """Asks for credentials."""
    return Fault(
        401, f"{why}; send `Authorization: Bearer TOKEN` with one of `writ token create`, or the owner's",
        headers={"WWW-Authenticate": 'Bearer realm="writ"'}, audit=of_stranger(LOGIN_RULE, operation="login"),
    )  # fmt: skip
