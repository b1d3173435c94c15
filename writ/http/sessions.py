"""Sessions: a browser shows a token once, and is known by a cookie from then on.

The log has each session, by the SHA-256 of the cookie's secret, from its start to its end. So it is looked up
as an API token is, and counts no more within a second of being ended, of its token being revoked, or its
principal. It is over after `SESSION_MAX_S` in any case, and here, where its use is seen, after `IDLE_S`
without any. When it was used last is kept in memory: a process that has just started goes by when it began.

A browser sends a cookie along with whatever a page asks of this host. So under a cookie nothing is changed
unless the request comes from a page of ours, by what the browser says of it (`Sec-Fetch-Site`, `Origin`), and
carries in `Writ-CSRF` a word that is made from the session's secret and that only such a page is told. A
bearer token is sent by no browser by itself, and needs none of this.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta
from starlette.requests import Request

from writ.broker.clock import Clock, SystemClock
from writ.broker.refusals import PAGE_RULE, Refusal
from writ.schemas.bounds import SECOND_US
from writ.schemas.lists import Bearer
from writ.schemas.principals import SESSION_MAX_S
from writ.schemas.queries import Timestamp

from .bearers import TOKEN_MAX_CHARS, Bearers, Who, nobody, whose
from .problems import Fault, of_stranger
from .route import CREATED, OK, Call, Recorded, Reply, Route

if TYPE_CHECKING:
    from writ.broker.client import Client

PATH: Final = "/v1/session"
IDLE_S: Final = 30 * 60
"""How long a session may go unused; a stream that a page listens to is no use."""

CSRF_HEADER: Final = "Writ-CSRF"
_COOKIE: Final = "writ_session"
_SECRET_BYTES: Final = 32
_USED_MAX: Final = 10_000
_SAFE: Final = frozenset({"GET", "HEAD"})


class LogIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is shown once: an API token, or the owner's."""

    token: Annotated[str, Meta(min_length=1, max_length=TOKEN_MAX_CHARS)]


class SessionTold(msgspec.Struct, frozen=True):
    """Who one is here. Of a session also its name, when it is over at the latest, how many seconds it may go
    unused, and the word for the header `Writ-CSRF`, without which nothing is changed under its cookie.
    """

    tenant: str
    principal: str
    session: str | None = None
    until: Timestamp | None = None
    idle_s: int | None = None
    csrf: str | None = None


class Sessions:
    """The sessions of the API's own origin, and when each was last used."""

    def __init__(self, bearers: Bearers, clock: Clock | None = None) -> None:
        self._bearers = bearers
        self._clock = clock or SystemClock()
        self._used: dict[str, int] = {}

    @staticmethod
    def is_shown(request: Request) -> bool:
        """Whether a request brings a session, and no token beside it."""
        return "authorization" not in request.headers and cookie_name(request, _COOKIE) in request.cookies

    async def who(self, request: Request, *, is_use: bool = True, word: str | None = None) -> Who:
        """Raises Fault where the session counts no more, or the request is not one of a page of ours.

        `word` is what a form brought in a field, as a form has no header of its own.
        """
        secret = request.cookies[cookie_name(request, _COOKIE)]
        found = await self._bearers.find(secret)
        if found.session is None:
            raise nobody("the session is over, or was never begun; log in again")
        shown = request.headers.get(CSRF_HEADER, "") if word is None else word
        _check_page(request, secret, shown, whose(found))
        idle_us = self._idle_us(found, secret)
        if idle_us >= IDLE_S * SECOND_US:
            await self.end(found, secret, f"unused for {idle_us // SECOND_US} s")
            raise nobody(f"the session was not used for {IDLE_S // 60} minutes and is over; log in again")
        if is_use:
            self._use(secret)
        return whose(found)

    async def start(self, who: Who, by: str, token: str | None = None) -> tuple[str, Bearer, int]:
        """A new session: its secret, the session as the log has it, and the log position of its start.

        `by` says how somebody has logged in, `token` names the API token that was shown.
        """
        secret = f"writs_{secrets.token_urlsafe(_SECRET_BYTES)}"
        until_us = self._clock.wall_us() + SESSION_MAX_S * SECOND_US
        until = datetime.datetime.fromtimestamp(until_us / SECOND_US, datetime.UTC)
        name = f"http-{secrets.token_hex(8)}"
        position = await self._client(who).start_session(name, secret, until, by, token=token)
        self._use(secret)
        return secret, await self._bearers.find(secret), position

    def word(self, request: Request) -> str:
        """What the forms of a page bring back; nothing where the request brings no session."""
        if not self.is_shown(request):
            return ""
        return _csrf(request.cookies[cookie_name(request, _COOKIE)])

    async def find(self, request: Request) -> tuple[str, Bearer]:
        """The secret of a request that brings a session, and the session."""
        secret = request.cookies[cookie_name(request, _COOKIE)]
        return secret, await self._bearers.find(secret)

    async def of_token(self, token: str) -> Bearer:
        """Whose an API token is. Raises Fault where it is nobody's."""
        return await self._bearers.of_token(token)

    async def end(self, found: Bearer, secret: str, reason: str) -> int:
        """Ends a session; the log position of that."""
        assert found.session is not None
        position = await self._client(whose(found)).end_session(found.session, reason=reason)
        self._bearers.forget(secret)
        self._used.pop(_digest(secret), None)
        return position

    def _client(self, who: Who) -> Client:
        return self._bearers.client(who)

    def _idle_us(self, found: Bearer, secret: str) -> int:
        used = self._used.get(_digest(secret))
        if used is not None:
            return self._clock.mono_us() - used
        assert found.at is not None
        began = datetime.datetime.fromisoformat(found.at).timestamp()
        return self._clock.wall_us() - int(began * SECOND_US)

    def _use(self, secret: str) -> None:
        digest = _digest(secret)
        self._used.pop(digest, None)  # so that those not used for longest come first
        self._used[digest] = self._clock.mono_us()
        if len(self._used) > _USED_MAX:
            del self._used[next(iter(self._used))]


class Visit(NamedTuple):
    """How a request came in: itself, and as whom."""

    sessions: Sessions
    request: Request
    who: Who


def told(found: Bearer, secret: str) -> SessionTold:
    """A session, to a page of ours."""
    who = whose(found)
    return SessionTold(*who, found.session, found.until, IDLE_S, _csrf(secret))


def cookie(request: Request, secret: str) -> str:
    """What the browser is to keep, or to forget where the secret is empty: for this host alone."""
    return cookie_words(request, _COOKIE, secret, SESSION_MAX_S if secret else 0, "Strict")


def cookie_words(request: Request, name: str, value: str, age_s: int, same_site: str) -> str:
    """A cookie that no page can read, for this host alone, and over TLS alone where there is TLS."""
    words = [f"{cookie_name(request, name)}={value}", "Path=/", "HttpOnly", f"SameSite={same_site}"]
    words.append(f"Max-Age={age_s}")
    if _is_tls(request):
        words.append("Secure")
    return "; ".join(words)


def is_of_own_page(request: Request) -> bool:
    """Whether the browser says that a page of ours asks; `check_head` has compared an `Origin`."""
    site = request.headers.get("sec-fetch-site")
    if site is None:
        return "origin" in request.headers
    return site == "same-origin"


def _check_page(request: Request, secret: str, shown: str, who: Who) -> None:
    """Raises Fault where a request under the cookie of `who` may have been made by somebody else's page."""
    audit = Refusal(f"{who.tenant}.{who.principal}", "request", "", PAGE_RULE)
    if request.method in _SAFE:
        if request.headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
            raise Fault(403, "under a session only pages of this origin are answered", audit=audit)
        return
    if not is_of_own_page(request):
        why = "under a session only pages of this origin change anything; tools send a token"
        raise Fault(403, why, audit=audit)
    if not hmac.compare_digest(shown.encode(), _csrf(secret).encode()):
        why = f"the header {CSRF_HEADER} is not the word of this session; GET {PATH} tells it"
        raise Fault(403, why, audit=audit)


def cookie_name(request: Request, name: str) -> str:
    """Cookies know no ports: without TLS the name keeps nodes of one machine apart."""
    if _is_tls(request):
        return f"__Host-{name}"
    return f"{name}_{request.url.port or 80}"


def _is_tls(request: Request) -> bool:
    return request.url.scheme == "https"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _csrf(secret: str) -> str:
    return hmac.new(secret.encode(), b"writ csrf", hashlib.sha256).hexdigest()


# --- routes ---------------------------------------------------------------------------------------------


class _Nothing(msgspec.Struct, frozen=True):
    pass


async def _log_in(call: Call) -> Reply:
    sessions, request, _ = call.visit
    if "sec-fetch-site" in request.headers and not is_of_own_page(request):
        raise Fault(403, "only a page of this origin logs a browser in", audit=of_stranger(PAGE_RULE))
    shown = await sessions.of_token(call.body.token)
    by = "the owner's token" if shown.token is None else f"API token {shown.token}"
    secret, found, position = await sessions.start(whose(shown), by, shown.token)
    return Reply(told(found, secret), position, status=CREATED, location=PATH, cookie=cookie(request, secret))


async def _get(call: Call) -> Reply:
    sessions, request, who = call.visit
    if not sessions.is_shown(request):
        return Reply(SessionTold(*who))
    secret, found = await sessions.find(request)
    return Reply(told(found, secret))


async def _log_out(call: Call) -> Reply:
    sessions, request, _ = call.visit
    if not sessions.is_shown(request):
        raise Fault(404, "there is no session here to end; a token is ended by `writ token revoke`")
    secret, found = await sessions.find(request)
    position = await sessions.end(found, secret, "logged out")
    return Reply(Recorded(position=position), position, cookie=cookie(request, ""))


ROUTES: Final = (
    Route(
        "POST",
        PATH,
        "log_in",
        "Logs a browser in: a cookie stands for the token from here on.",
        _Nothing,
        {CREATED: SessionTold},
        _log_in,
        LogIn,
        is_open=True,
    ),
    Route(
        "GET", PATH, "get_session", "Who one is here, and of which session.",
        _Nothing, {OK: SessionTold}, _get,
    ),
    Route("DELETE", PATH, "log_out", "Ends the session.", _Nothing, {OK: Recorded}, _log_out),
)  # fmt: skip
