"""Logging in with an OpenID provider: one that others have written, and one that lies."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from oidc_provider_mock import User, run_server_in_thread  # type: ignore[import-untyped]

from writ.http.id_tokens import NotVouchedFor, Provider, ProviderFailed
from writ.http.oidc import OidcFault, provider_of, read_settings

if TYPE_CHECKING:
    from tests.http.conftest import Api, Got

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the provider's own libraries
NONCE = "the nonce of this login"
FRONT = "https://writ.example.com"
FILE = """
issuer = "{issuer}"
client_id = "writ"
client_secret_file = "oidc.secret"
scopes = ["openid", "profile", "groups"]

[[rules]]
subject = "7"
principal = "bob"

[[rules]]
group = "staff"
principal_claim = "nickname"
"""


# --- a provider that others have written ----------------------------------------------------------------


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    users = (
        User(sub="7", claims={"nickname": "root"}),
        User(sub="8", claims={"nickname": "ann", "groups": ["guests", "staff"]}),
        User(sub="9", claims={"nickname": "ann", "groups": ["guests"]}),
        User(sub="10", claims={"nickname": "nobody", "groups": ["staff"]}),
        User(sub="11", claims={"nickname": "not a name", "groups": ["staff"]}),
    )
    with run_server_in_thread(require_nonce=True, user_claims=users) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture(scope="module")
def sso(issuer: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A node whose browsers log in with that provider; bob and ann are known."""
    from tests.http.conftest import Api

    directory = tmp_path_factory.mktemp("sso")
    (directory / "oidc.toml").write_text(FILE.format(issuer=issuer), encoding="utf-8")
    secret = directory / "oidc.secret"
    secret.write_text("a secret of the client")
    secret.chmod(0o600)
    api = Api(directory)
    try:
        api.up("--oidc", "oidc.toml", "--http-origin", FRONT)
        for name in ("bob", "ann"):
            api.writ("principal", "create", name)
        yield api
    finally:
        api.writ("down")


@dataclass
class Browser:
    """Follows redirects by hand, and keeps the cookies of the node."""

    api: Api
    cookies: dict[str, str] = field(default_factory=dict[str, str])

    def get(self, address: str) -> Got:
        sent = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        got = self.api.ask("GET", address, token=None, headers={"Cookie": sent} if sent else {})
        for each in got.cookies:
            name, _, rest = each.partition("=")
            value, *words = rest.split("; ")
            assert "HttpOnly" in words
            if "Max-Age=0" in words:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return got

    def begin(self, then: str = "/docs") -> str:
        """The address at the provider that one is sent to."""
        got = self.get(f"/login/oidc?{urlencode({'next': then})}")
        assert got.status == 303, got.body
        return got.headers["location"]

    def answer(self, at: str, sub: str) -> str:
        """What the provider sends back, once the person is `sub`: path and query of the way back."""
        parts = urlsplit(at)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", f"{parts.path}?{parts.query}", urlencode({"sub": sub}), kind)
        answer = connection.getresponse()
        assert answer.status == 302, answer.read()
        back = urlsplit(str(answer.headers["location"]))
        connection.close()
        assert back.netloc == f"127.0.0.1:{self.api.port}"
        return f"{back.path}?{back.query}"


def _is_out(browser: Browser) -> bool:
    return browser.get("/v1/session").status == 401


def test_who_the_provider_vouches_for_has_a_session(sso: Api, issuer: str) -> None:
    assert sso.ask("GET", "/login", token=None).document == {"token": "/v1/session", "oidc": "/login/oidc"}
    for sub, principal in (("7", "bob"), ("8", "ann")):
        browser = Browser(sso)
        at = browser.begin("/docs?of=me")
        asked = dict(parse_qsl(urlsplit(at).query))
        assert asked["code_challenge_method"] == "S256"
        done = browser.get(browser.answer(at, sub))
        assert (done.status, done.headers["location"]) == (303, "/docs?of=me")
        assert list(browser.cookies) == [f"writ_session_{sso.port}"], "and the login's own cookie is gone"
        told = browser.get("/v1/session").document
        assert told["principal"] == principal
        assert browser.get("/v1/whoami").document["name"] == principal
        session = sso.get(f"/v1/principals/{principal}").document["sessions"][-1]
        rule = 1 if sub == "7" else 2
        assert session["by"] == f"OpenID subject {sub} of {issuer}, by rule {rule}"
        sso.writ("principal", "revoke", principal, "--reason", "to try")
        sso.until(partial(_is_out, browser))
        again = Browser(sso)
        assert again.get(again.answer(again.begin(), sub)).is_problem(403), "a revoked one gets no session"
        sso.writ("principal", "restore", principal)


def test_behind_a_server_that_speaks_tls_cookies_are_of_its_host_alone(sso: Api) -> None:
    fronted = {"Host": "writ.example.com", "Origin": FRONT}
    got = sso.ask("POST", "/v1/session", {"token": sso.token}, token=None, headers=fronted)
    name, *words = got.headers["set-cookie"].split("; ")
    assert name.startswith("__Host-writ_session=")
    assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= set(words)
    mine = fronted | {"Cookie": name, "Writ-CSRF": got.document["csrf"]}
    job = {"task": "t"}
    assert sso.ask("POST", "/v1/queues/q/jobs", job, token=None, headers=mine).status == 201
    at = sso.ask("GET", "/login/oidc", token=None, headers=fronted).headers["location"]
    assert dict(parse_qsl(urlsplit(at).query))["redirect_uri"] == f"{FRONT}/login/oidc/callback"
    for wrong in ({"Origin": "http://writ.example.com"}, {"Host": "127.0.0.1"}, {"Host": "evil.example"}):
        refused = sso.ask("POST", "/v1/queues/q/jobs", job, token=None, headers=mine | wrong)
        assert refused.status in {403, 421}


def test_whom_no_rule_names_or_nobody_knows_gets_no_session(sso: Api) -> None:
    for sub, why in (
        ("9", "no rule says"), ("10", "nobody of that name is known"), ("11", "no rule says"),
        ("12", "no rule says"),
    ):  # fmt: skip
        browser = Browser(sso)
        refused = browser.get(browser.answer(browser.begin(), sub))
        assert refused.is_problem(403)
        assert why in refused.document["detail"]
        assert f"writ_session_{sso.port}" not in browser.cookies


def test_an_answer_of_another_login_or_browser_is_refused(sso: Api) -> None:
    mine, other = Browser(sso), Browser(sso)
    back = mine.answer(mine.begin(), "7")
    theirs = other.answer(other.begin(), "8")
    assert other.get(back).is_problem(403), "the code of another login"
    assert Browser(sso).get(back).is_problem(403), "a browser that has begun none"
    kept = dict(mine.cookies)
    (name,) = kept
    mine.cookies[name] = kept[name][:-1] + ("0" if kept[name][-1] != "0" else "1")
    assert mine.get(back).is_problem(403), "a cookie with a mark that is not ours"
    mine.cookies = dict(kept)
    mixed = dict(parse_qsl(urlsplit(back).query)) | {"code": parse_qs(urlsplit(theirs).query)["code"][0]}
    stolen = mine.get(f"/login/oidc/callback?{urlencode(mixed)}")
    assert stolen.is_problem(403), "a code that was given out for another login"
    mine.cookies = dict(kept)
    denied = mine.get(
        f"/login/oidc/callback?{urlencode({'state': mixed['state'], 'error': 'access_denied'})}"
    )
    assert denied.is_problem(403)
    assert "access_denied" in denied.document["detail"]
    mine.cookies = dict(kept)
    of_another = back + "&" + urlencode({"iss": "https://evil.example"})
    assert mine.get(of_another).is_problem(403)
    mine.cookies = dict(kept)
    assert mine.get(back).status == 303
    mine.cookies = dict(kept)
    assert mine.get(back).is_problem(403), "a code counts once"
    for then in ("//evil.example", "https://evil.example", "/\\evil.example", "", "/\r\nX: y"):
        assert Browser(sso).get(f"/login/oidc?{urlencode({'next': then})}").is_problem(422)


# --- a provider that lies -------------------------------------------------------------------------------


@dataclass
class Crooked:
    """A provider that signs what it is told to."""

    issuer: str = ""
    keys: dict[str, Any] = field(default_factory=dict[str, Any])
    says: dict[str, Any] = field(default_factory=dict[str, Any])

    def token(self, kid: str | None = "one", algorithm: str = "RS256", key: Any = None, **other: Any) -> str:
        now = int(time.time())
        usual = {"iss": self.issuer, "aud": "writ", "sub": "7", "nonce": NONCE, "iat": now, "exp": now + 60}
        claims = {name: value for name, value in {**usual, **other}.items() if value is not None}
        head = {} if kid is None else {"kid": kid}
        return jwt.encode(claims, self.keys[kid or "one"] if key is None else key, algorithm, head)

    def public(self) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = []
        for kid, key in self.keys.items():
            public = key.public_key()
            of_rsa = isinstance(key, rsa.RSAPrivateKey)
            jwk = RSAAlgorithm.to_jwk(public) if of_rsa else ECAlgorithm.to_jwk(public)
            told.append(json.loads(jwk) | {"kid": kid, "use": "sig"})
        return told


def _rsa() -> Any:
    return rsa.generate_private_key(65537, 2048)


def _elliptic() -> Any:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def crooked() -> Iterator[Crooked]:
    found = Crooked(keys={"one": _rsa()})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said: object = {"keys": found.public()}
            if self.path == "/.well-known/openid-configuration":
                said = {"issuer": found.issuer, "jwks_uri": f"{found.issuer}/keys", **found.says}
            body = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.issuer = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _unsigned(token: str, head: dict[str, Any]) -> str:
    """The token with another head and no signature."""
    first = base64.urlsafe_b64encode(json.dumps(head).encode()).rstrip(b"=").decode()
    return f"{first}.{token.split('.')[1]}."


def _signed_with_the_public_key(crooked: Crooked) -> str:
    """HS256, with what everybody knows as the secret: taken by verifiers that let the token choose."""
    import hashlib
    import hmac

    public = crooked.keys["one"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, claims = _unsigned(crooked.token(), {"alg": "HS256", "kid": "one"}).split(".")[:2]
    mark = hmac.new(public, f"{head}.{claims}".encode(), hashlib.sha256).digest()
    return f"{head}.{claims}.{base64.urlsafe_b64encode(mark).rstrip(b'=').decode()}"


LIES: dict[str, Callable[[Crooked], str]] = {
    "another nonce": lambda c: c.token(nonce="another"),
    "no nonce": lambda c: c.token(nonce=None),
    "another audience": lambda c: c.token(aud="somebody"),
    "no audience": lambda c: c.token(aud=None),
    "given to another of several": lambda c: c.token(aud=["writ", "other"], azp="other"),
    "given to nobody of several": lambda c: c.token(aud=["writ", "other"]),
    "another issuer": lambda c: c.token(iss="https://evil.example"),
    "no issuer": lambda c: c.token(iss=None),
    "no subject": lambda c: c.token(sub=None),
    "expired": lambda c: c.token(exp=int(time.time()) - 60),
    "for ever": lambda c: c.token(exp=None),
    "issued in the future": lambda c: c.token(iat=int(time.time()) + 600),
    "another key": lambda c: c.token(key=_rsa()),
    "a key of no name": lambda c: c.token(kid="two", key=_rsa()),
    "a key of another kind": lambda c: c.token(
        algorithm="ES256", key=ec.generate_private_key(ec.SECP256R1())
    ),
    "alg none": lambda c: _unsigned(c.token(), {"alg": "none", "kid": "one"}),
    "alg NONE": lambda c: _unsigned(c.token(), {"alg": "NONE", "kid": "one"}),
    "no alg": lambda c: _unsigned(c.token(), {"kid": "one"}),
    "no signature": lambda c: _unsigned(c.token(), {"alg": "RS256", "kid": "one"}),
    "the public key as a secret": _signed_with_the_public_key,
    "a shared secret": lambda c: c.token(algorithm="HS256", key="s" * 32),
    "other words under the signature": lambda c: ".".join(
        [c.token().split(".")[0], c.token(sub="8").split(".")[1], c.token().split(".")[2]]
    ),
    "no token at all": lambda _: "a.b",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_token_that_does_not_hold_is_refused(crooked: Crooked, lie: str) -> None:
    """Must hold: nonce, audience, times and key are right, and something that only the provider can make."""
    provider = Provider(crooked.issuer, "writ")
    for good in (crooked.token(), crooked.token(kid=None), crooked.token(aud=["writ", "b"], azp="writ")):
        assert provider.claims(good, NONCE)["sub"] == "7"
    with pytest.raises(NotVouchedFor):
        provider.claims(LIES[lie](crooked), NONCE)
    assert provider.claims(crooked.token(), NONCE)["sub"] == "7"


def test_a_new_key_is_fetched_and_an_old_one_counts_no_more(crooked: Crooked) -> None:
    provider = Provider(crooked.issuer, "writ")
    old = crooked.token()
    assert provider.claims(old, NONCE)
    crooked.keys = {"two": _elliptic()}
    assert provider.claims(crooked.token(kid="two", algorithm="ES256"), NONCE)["sub"] == "7"
    with pytest.raises(NotVouchedFor, match="does not have"):
        provider.claims(old, NONCE)


def test_a_provider_that_is_another_or_sends_us_elsewhere_is_refused(crooked: Crooked) -> None:
    crooked.says = {"issuer": "https://evil.example"}
    with pytest.raises(ProviderFailed, match="says that it is"):
        Provider(crooked.issuer, "writ").document()
    crooked.says = {"token_endpoint": "http://evil.example/token"}
    with pytest.raises(ProviderFailed, match="must be an https address"):
        Provider(crooked.issuer, "writ").endpoint("token_endpoint")
    with pytest.raises(ProviderFailed, match="cannot be asked"):
        Provider("http://127.0.0.1:9", "writ").document()


# --- the file -------------------------------------------------------------------------------------------


@contextmanager
def _refused(match: str) -> Generator[None]:
    with pytest.raises(OidcFault, match=match):
        yield


def test_a_file_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    path = tmp_path / "oidc.toml"
    good = FILE.format(issuer="https://login.example.com")
    for text, why in (
        ("", "issuer"), ("issuer = 1", "issuer"), ("nonsense", "oidc.toml"),
        (good.replace("https:", "http:"), "must be an https address"),
        (good.replace('"openid", ', ""), "must hold openid"),
        (good.replace('principal = "bob"', ""), "rule 1: give one of principal"),
        (good.replace('group = "staff"', ""), "rule 2: give one of subject"),
        (good.replace('"bob"', '"b o b"'), "rule 1: principal"),
        (good + "\nrules_of = 3", "rules_of"),
    ):  # fmt: skip
        path.write_text(text)
        with _refused(why):
            read_settings(path)
    path.write_text(good)
    settings = read_settings(path)
    with _refused("client_secret_file"):
        provider_of(path, settings)
    (tmp_path / "oidc.secret").write_text("s")
    (tmp_path / "oidc.secret").chmod(0o644)
    with _refused("others can read it"):
        provider_of(path, settings)
    (tmp_path / "oidc.secret").chmod(0o600)
    assert provider_of(path, settings).issuer == "https://login.example.com"
