"""Logging in with an OpenID provider: authorization code flow, with PKCE, state and nonce.

A TOML file says which provider, and whom it may vouch for:

    issuer = "https://login.example.com"
    client_id = "writ"
    client_secret_file = "oidc.secret"     # mode 0600; left out for a public client
    scopes = ["openid", "profile"]
    groups_claim = "groups"

    [[rules]]                              # the first that fits names the principal, which must be known
    subject = "248289761001"
    principal = "bob"

    [[rules]]
    group = "writ-operators"
    principal_claim = "preferred_username"

The provider says who somebody is, and the log what that principal may do.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import tomllib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple
from urllib.parse import urlencode

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from writ.broker.clock import Clock, SystemClock
from writ.broker.keys import KeyFileError, read_secret
from writ.broker.refusals import OPENID_RULE
from writ.schemas.bounds import SECOND_US
from writ.schemas.granting import BY_MAX_CHARS
from writ.schemas.ids import token_fault

from .bearers import Who
from .problems import RETRY_AFTER, Fault, of_stranger
from .sessions import Sessions, cookie, cookie_name, cookie_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .app import Page
    from .id_tokens import Provider

START: Final = "/login/oidc"
FINISH: Final = "/login/oidc/callback"
LOGIN_S: Final = 10 * 60
"""How long somebody may take at the provider."""

_COOKIE: Final = "writ_login"
_SEE_OTHER: Final = 303
_Text = Annotated[str, Meta(min_length=1, max_length=1_000)]


class OidcFault(ValueError):
    """The file cannot be used; the message says what is wrong and where."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom the provider vouches for: a `subject`, or who is of a `group`; and the principal that this is."""

    subject: _Text | None = None
    group: _Text | None = None
    principal: _Text | None = None
    principal_claim: _Text | None = None

    def fault(self) -> str | None:
        if (self.subject is None) == (self.group is None):
            return "give one of subject and group"
        if (self.principal is None) == (self.principal_claim is None):
            return "give one of principal and principal_claim"
        if self.principal is not None:
            return token_fault(self.principal, "principal")
        return None

    def names(self, claims: Mapping[str, Any], groups_claim: str) -> str | None:
        """The principal that the claims are of by this rule; None where it does not fit."""
        groups = claims.get(groups_claim)
        if self.subject is not None and claims["sub"] != self.subject:
            return None
        if self.group is not None and not (isinstance(groups, list) and self.group in groups):
            return None
        if self.principal_claim is None:
            return self.principal
        named = claims.get(self.principal_claim)
        return named if isinstance(named, str) and token_fault(named, "principal") is None else None


class OidcSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file, read."""

    issuer: _Text
    client_id: _Text
    rules: Annotated[list[Rule], Meta(min_length=1, max_length=10_000)]
    client_secret_file: _Text | None = None
    scopes: list[_Text] = msgspec.field(default_factory=lambda: ["openid"])
    groups_claim: _Text = "groups"


def read_settings(path: Path) -> OidcSettings:
    """The settings in a file. Raises OidcFault, naming what is wrong."""
    from .id_tokens import is_safe

    try:
        found = msgspec.convert(tomllib.loads(path.read_text("utf-8")), OidcSettings)
    except OSError as error:
        raise OidcFault(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise OidcFault(f"{path}: {error}") from None
    if not is_safe(found.issuer):
        raise OidcFault(f"{path}: issuer {found.issuer!r} must be an https address")
    if "openid" not in found.scopes:
        raise OidcFault(f"{path}: scopes must hold openid")
    for number, rule in enumerate(found.rules, 1):
        fault = rule.fault()
        if fault is not None:
            raise OidcFault(f"{path}: rule {number}: {fault}")
    return found


def provider_of(path: Path, settings: OidcSettings) -> Provider:
    """The provider, with the secret from its file. Raises OidcFault where others can read that."""
    from .id_tokens import Provider

    secret = None
    if settings.client_secret_file is not None:
        try:
            secret = read_secret(path.parent / settings.client_secret_file).decode()
        except (KeyFileError, UnicodeDecodeError) as error:
            raise OidcFault(f"{path}: client_secret_file: {error}") from None
    return Provider(settings.issuer, settings.client_id, secret)


class _Waiting(NamedTuple):
    """A login that is under way: the browser keeps it, in a cookie with our mark on it."""

    state: str
    nonce: str
    verifier: str
    then: str
    until_us: int

    def marked(self, key: bytes) -> str:
        """As the cookie holds it."""
        body = urlsafe_b64encode(msgspec.json.encode(self))
        return f"{body.decode()}.{hmac.new(key, body, hashlib.sha256).hexdigest()}"

    @staticmethod
    def read(kept: str, key: bytes) -> _Waiting | None:
        """What a cookie holds; None where the mark is not ours."""
        body, _, mark = kept.partition(".")
        ours = hmac.new(key, body.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(mark.encode(), ours.encode()):
            return None
        return msgspec.json.decode(urlsafe_b64decode(body), type=_Waiting)


class OidcLogin:
    """The two pages of a login: the way to the provider, and the way back."""

    def __init__(
        self, settings: OidcSettings, provider: Provider, sessions: Sessions, tenant: str,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._provider = provider
        self._sessions = sessions
        self._tenant = tenant
        self._clock = clock or SystemClock()
        self._key = secrets.token_bytes(32)

    def pages(self) -> dict[str, Page]:
        """By their paths."""
        return {START: self._start, FINISH: self._finish}

    async def _start(self, request: Request) -> Response:
        """Sends a browser to the provider; `next` is the page of ours that it comes back to."""
        waiting = _Waiting(
            secrets.token_urlsafe(32),
            secrets.token_urlsafe(32),
            secrets.token_urlsafe(48),
            _own_path(request.query_params.get("next", "/")),
            self._clock.mono_us() + LOGIN_S * SECOND_US,
        )
        at = await self._asked(self._provider.endpoint, "authorization_endpoint")
        challenge = urlsafe_b64encode(hashlib.sha256(waiting.verifier.encode()).digest()).rstrip(b"=")
        asked = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": _redirect_uri(request),
            "scope": " ".join(self._settings.scopes),
            "state": waiting.state,
            "nonce": waiting.nonce,
            "code_challenge": challenge.decode(),
            "code_challenge_method": "S256",
        }
        response = RedirectResponse(f"{at}{'&' if '?' in at else '?'}{urlencode(asked)}", _SEE_OTHER)
        kept = waiting.marked(self._key)
        # Lax: the way back is begun by the provider's page.
        response.headers.append("Set-Cookie", cookie_words(request, _COOKIE, kept, LOGIN_S, "Lax"))
        response.headers["Cache-Control"] = "no-store"
        return response

    async def _finish(self, request: Request) -> Response:
        """Takes what the provider sends back, and starts a session for whom it vouches for."""
        given = request.query_params
        kept = request.cookies.get(cookie_name(request, _COOKIE), "")
        waiting = _Waiting.read(kept, self._key)
        if waiting is None or self._clock.mono_us() >= waiting.until_us:
            raise _refused(f"this browser has begun no login here, or too long ago; begin at {START}")
        if not secrets.compare_digest(given.get("state", "").encode(), waiting.state.encode()):
            raise _refused("the answer is of another login: its state is not the one of this")
        said = await self._asked(self._provider.document)
        must_say = said.get("authorization_response_iss_parameter_supported") is True
        if given.get("iss", None if must_say else self._provider.issuer) != self._provider.issuer:
            raise _refused(f"the answer is of another provider, {given.get('iss')!r}")
        if "code" not in given:
            why = f"{given.get('error', 'no code')}: {given.get('error_description', '')}"[:500]
            raise _refused(f"{self._provider.issuer} has not let anybody in: {why}")
        where = _redirect_uri(request)
        token = await self._asked(self._provider.redeem, given["code"], waiting.verifier, where)
        claims = await self._asked(self._provider.claims, token, waiting.nonce)
        secret = await self._session(claims)
        response = RedirectResponse(waiting.then, _SEE_OTHER)
        response.headers.append("Set-Cookie", cookie(request, secret))
        response.headers.append("Set-Cookie", cookie_words(request, _COOKIE, "", 0, "Lax"))
        response.headers["Cache-Control"] = "no-store"
        return response

    async def _session(self, claims: Mapping[str, Any]) -> str:
        """Starts a session for the principal that the rules name; its secret."""
        subject, issuer = str(claims["sub"]), self._provider.issuer
        named = [rule.names(claims, self._settings.groups_claim) for rule in self._settings.rules]
        found = next(((n, who) for n, who in enumerate(named, 1) if who is not None), None)
        if found is None:
            raise _refused(f"no rule says which principal {subject[:200]!r} of {issuer} is")
        rule, principal = found
        by = f"OpenID subject {subject} of {issuer}, by rule {rule}"[:BY_MAX_CHARS]
        secret, _, _ = await self._sessions.start(Who(self._tenant, principal), by)
        return secret

    async def _asked(self, ask: Any, *words: str) -> Any:
        """What the provider says; it is asked in a thread. Raises Fault."""
        from .id_tokens import NotVouchedFor, ProviderFailed

        try:
            return await asyncio.to_thread(ask, *words)
        except NotVouchedFor as error:
            raise _refused(str(error)) from None
        except ProviderFailed as error:
            raise Fault(503, str(error), headers=RETRY_AFTER) from None


def _refused(why: str) -> Fault:
    """A login that is none: for the browser, and for the audit."""
    return Fault(403, why, audit=of_stranger(OPENID_RULE, why, "login"))


def _redirect_uri(request: Request) -> str:
    """Where the provider sends the browser back to: the host that it has asked, which `check_head` knows."""
    return f"{request.url.scheme}://{request.headers['host']}{FINISH}"


def _own_path(given: str) -> str:
    """A path of this origin. Raises Fault for what a browser would take for another one."""
    if (
        given.startswith("/")
        and not given.startswith(("//", "/\\"))
        and given.isprintable()
        and given.isascii()
    ):
        return given
    raise Fault(422, f"next {given[:200]!r} is no path of this host", "next")
