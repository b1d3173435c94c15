"""What an OpenID provider says of somebody: its document, its keys, and the tokens that it signs.

Needs `pip install writ-orchestrator[oidc]`. All blocks; call it in a thread.
"""

from __future__ import annotations

import hmac
import json
import ssl
import urllib.error
import urllib.request
from base64 import b64encode
from http.client import HTTPException
from typing import Any, Final, cast
from urllib.parse import quote_plus, urlencode, urlsplit

import jwt

ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""Signatures that only the provider can make. What a client's secret could make, or nobody, is none."""

LEEWAY_S: Final = 30
TIMEOUT_S: Final = 10.0
ANSWER_MAX_BYTES: Final = 1 << 20
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class NotVouchedFor(Exception):
    """What came does not show who somebody is; the message says why."""


class ProviderFailed(Exception):
    """The provider cannot be asked, or says what it should not; the message says what."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Provider:
    """One OpenID provider, by its issuer; its document and keys are fetched when they are first needed."""

    def __init__(self, issuer: str, client_id: str, secret: str | None = None) -> None:
        self.issuer = issuer
        self._client_id = client_id
        self._secret = secret
        self._document: dict[str, Any] = {}
        self._keys: dict[str | None, jwt.PyJWK] = {}
        context = urllib.request.HTTPSHandler(context=ssl.create_default_context())
        self._open = urllib.request.build_opener(context, _NoRedirects()).open

    def endpoint(self, name: str) -> str:
        """An address of the provider's document, as `token_endpoint`. Raises ProviderFailed."""
        found = self.document().get(name)
        if not isinstance(found, str) or not is_safe(found):
            raise ProviderFailed(f"{self.issuer} gives {found!r} for {name}; it must be an https address")
        return found

    def document(self) -> dict[str, Any]:
        """What the provider says of itself, which must be of the issuer. Raises ProviderFailed."""
        if not self._document:
            found = self._fetch(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
            if found.get("issuer") != self.issuer:
                raise ProviderFailed(f"{self.issuer} says that it is {found.get('issuer')!r}")
            self._document = found
        return self._document

    def redeem(self, code: str, verifier: str, redirect_uri: str) -> str:
        """The ID token for a code. Raises NotVouchedFor where the provider refuses it, or ProviderFailed."""
        asked = {"grant_type": "authorization_code", "code": code, "code_verifier": verifier}
        asked["redirect_uri"] = redirect_uri
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if self._secret is None:
            asked["client_id"] = self._client_id
        else:
            pair = f"{quote_plus(self._client_id)}:{quote_plus(self._secret)}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        found = self._fetch(self.endpoint("token_endpoint"), urlencode(asked).encode(), headers)
        token = found.get("id_token")
        if not isinstance(token, str):
            raise NotVouchedFor(f"{self.issuer} gives no ID token for this code")
        return token

    def claims(self, token: str, nonce: str) -> dict[str, Any]:
        """What a token says, once signature, issuer, audience, times and nonce are right.

        Raises NotVouchedFor, or ProviderFailed where there are no keys to be had.
        """
        try:
            head = jwt.get_unverified_header(token)
            algorithm = head.get("alg")
            if algorithm not in ALGORITHMS:
                raise NotVouchedFor(f"the ID token is signed by {algorithm!r}, which is no signature")
            found: dict[str, Any] = jwt.decode(
                token,
                self._key(head.get("kid"), algorithm),
                algorithms=[algorithm],
                audience=self._client_id,
                issuer=self.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise NotVouchedFor(f"the ID token does not hold: {error}") from None
        said = found.get("nonce")
        if not isinstance(said, str) or not hmac.compare_digest(said.encode(), nonce.encode()):
            raise NotVouchedFor("the ID token is of another login: its nonce is not the one of this")
        of_many = isinstance(found["aud"], list) and len(cast("list[object]", found["aud"])) > 1
        party = found.get("azp", None if of_many else self._client_id)
        if party != self._client_id:
            raise NotVouchedFor(f"the ID token was given to {party!r}, and not to us")
        return found

    def _key(self, kid: str | None, algorithm: str) -> jwt.PyJWK:
        """The key of a token. One that is not known may be new: then the keys are fetched again."""
        if kid not in self._keys:
            self._keys = self._fetch_keys()
        key = self._keys.get(kid)
        if key is None and kid is None and len(self._keys) == 1:
            (key,) = self._keys.values()
        if key is None:
            raise NotVouchedFor(f"the ID token is signed with key {kid!r}, which {self.issuer} does not have")
        return key

    def _fetch_keys(self) -> dict[str | None, jwt.PyJWK]:
        found = self._fetch(self.endpoint("jwks_uri")).get("keys")
        if not isinstance(found, list):
            raise ProviderFailed(f"{self.issuer} tells no keys")
        keys: dict[str | None, jwt.PyJWK] = {}
        for each in cast("list[object]", found):
            told = cast("dict[str, Any]", each) if isinstance(each, dict) else {}
            if not told or told.get("use", "sig") != "sig" or told.get("kty") == "oct":
                continue
            try:
                keys[told.get("kid")] = jwt.PyJWK(told)
            except jwt.PyJWTError:
                continue  # of a kind that we do not know: what it signs is refused
        return keys

    def _fetch(
        self, address: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        request = urllib.request.Request(address, body, {"Accept": "application/json", **(headers or {})})  # noqa: S310
        try:
            with self._open(request, timeout=TIMEOUT_S) as answer:
                said = answer.read(ANSWER_MAX_BYTES + 1)
        except urllib.error.HTTPError as error:
            why = error.read(2_000).decode(errors="replace")
            if body is not None and error.code in {400, 401}:
                raise NotVouchedFor(f"{self.issuer} does not take the code: {why}") from None
            raise ProviderFailed(f"{address} answers {error.code}: {why[:200]}") from None
        except (OSError, HTTPException) as error:
            raise ProviderFailed(f"{address} cannot be asked: {error}") from None
        try:
            found = json.loads(said) if len(said) <= ANSWER_MAX_BYTES else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ProviderFailed(f"{address} does not answer with JSON of at most {ANSWER_MAX_BYTES} bytes")
        return cast("dict[str, Any]", found)


def is_safe(address: str) -> bool:
    """Whether nobody on the way can read or change what goes there: https, or this machine."""
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK))
