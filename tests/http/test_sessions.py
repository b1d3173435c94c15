"""A browser's session: a cookie that only pages of this origin can use, and that ends when it should."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest
from starlette.requests import Request

from writ.http.bearers import Who
from writ.http.problems import Fault
from writ.http.sessions import CSRF_HEADER, IDLE_S, Sessions, cookie
from writ.schemas.bounds import SECOND_US
from writ.schemas.lists import Bearer
from writ.schemas.principals import SESSIONS_MAX

if TYPE_CHECKING:
    from tests.http.conftest import Api, Got

SESSION = "/v1/session"
JOBS = "/v1/queues/q/jobs"


@dataclass
class Browser:
    """What a browser keeps of a session, and what it says of the page that asks."""

    api: Api
    cookie: str
    csrf: str
    name: str

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.api.port}"

    def ask(self, method: str, path: str, body: object = None, **headers: str | None) -> Got:
        """As a page of ours asks; what is None is left out, underscores are dashes."""
        usual: dict[str, str | None] = {"Cookie": self.cookie, "Sec-Fetch-Site": "same-origin"}
        if method not in {"GET", "HEAD"}:
            usual |= {"Origin": self.origin, CSRF_HEADER: self.csrf}
        usual |= {name.replace("_", "-"): value for name, value in headers.items()}
        given = {name: value for name, value in usual.items() if value is not None}
        return self.api.ask(method, path, body, token=None, headers=given)


def log_in(api: Api, token: str = "", **headers: str) -> Browser:
    got = api.ask("POST", SESSION, {"token": token or api.token}, token=None, headers=headers)
    assert got.status == 201, got.body
    told = got.document
    return Browser(api, got.headers["set-cookie"].split(";")[0], told["csrf"], told["session"])


def person(api: Api, name: str) -> str:
    """The API token, called t, of a new person that may submit."""
    api.writ("principal", "create", name)
    api.writ("grant", name, "submitter", "--reason", "to try")
    return api.writ("token", "create", "t", "--for", name).stdout.strip().splitlines()[0]


def test_a_session_asks_and_changes_in_the_name_of_who_logged_in(api: Api) -> None:
    token = person(api, "ann")
    got = api.ask("POST", SESSION, {"token": token}, token=None)
    assert (got.document["tenant"], got.document["principal"]) == ("default", "ann")
    name, *words = [word.strip() for word in got.headers["set-cookie"].split(";")]
    assert name.startswith(f"writ_session_{api.port}=writs_")
    assert set(words) == {"Path=/", "HttpOnly", "SameSite=Strict", "Max-Age=43200"}
    assert got.headers["cache-control"] == "no-store"
    assert token not in got.body.decode()
    ann = Browser(api, name, got.document["csrf"], got.document["session"])
    assert ann.ask("GET", SESSION).document == got.document
    assert ann.ask("GET", "/v1/whoami").document["name"] == "ann"
    submitted = ann.ask("POST", JOBS, {"task": "hello"})
    assert submitted.status == 201
    assert api.get(f"{JOBS}/{submitted.document['id']}").document["actor"] == "ann"
    denied = ann.ask("POST", "/v1/queues/q/pause", {})
    assert denied.is_problem(403)
    assert denied.document["kind"] == "denied"
    bearer = api.ask("GET", SESSION, token=token).document
    assert (bearer["principal"], bearer["session"], bearer["csrf"]) == ("ann", None, None)


def test_the_log_has_its_start_and_end_and_no_secret(api: Api) -> None:
    owner = log_in(api)
    told = api.writ("session", "list").stdout
    assert owner.name in told
    assert "the owner's token" in told
    secret = owner.cookie.split("=", 1)[1]
    out = owner.ask("DELETE", SESSION)
    assert out.status == 200
    assert "Max-Age=0" in out.headers["set-cookie"]
    api.until(lambda: owner.ask("GET", "/v1/jobs").is_problem(401))
    assert owner.name not in api.writ("session", "list").stdout
    log = api.get("/v1/log", kind="principal", limit=500).body.decode()
    events = [
        (event["type"], event["data"]["name"])
        for record in json.loads(log)["records"]
        for event in record["record"]["events"]
        if event["type"].startswith("session_")
    ]
    assert events[-2:] == [("session_started", owner.name), ("session_ended", owner.name)]
    assert secret not in log


def test_what_another_page_sends_under_the_cookie_changes_nothing(api: Api) -> None:
    """Must hold: what is forged, without the session's word, with another's or from elsewhere, is refused."""
    mine, other = log_in(api), log_in(api)
    stale = log_in(api)
    assert stale.ask("DELETE", SESSION).status == 200
    before = len(api.get("/v1/jobs", limit=500).document["jobs"])
    forgeries: list[dict[str, str | None]] = [
        {CSRF_HEADER: None},
        {CSRF_HEADER: ""},
        {CSRF_HEADER: other.csrf},
        {CSRF_HEADER: stale.csrf},
        {CSRF_HEADER: mine.csrf[:-1]},
        {CSRF_HEADER: mine.csrf + "\xe9"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"Sec_Fetch_Site": None, "Origin": None},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{api.port + 1}"},
        {"Cookie": other.cookie},
    ]
    changes: list[tuple[str, str, dict[str, Any] | None]] = [
        ("POST", JOBS, {"task": "forged"}),
        ("PUT", "/v1/queues/q", {"policy": {}}),
        ("DELETE", SESSION, None),
        ("DELETE", "/v1/principals/owner/tokens/t", None),
    ]
    for forged in forgeries:
        for method, path, body in changes:
            assert mine.ask(method, path, body, **forged).is_problem(403), (forged, method, path)
    for site in ("cross-site", "same-site"):
        assert mine.ask("GET", "/v1/jobs", Sec_Fetch_Site=site).is_problem(403)
        assert api.ask(
            "POST", SESSION, {"token": api.token}, token=None, headers={"Sec-Fetch-Site": site}
        ).is_problem(403)
    assert len(api.get("/v1/jobs", limit=500).document["jobs"]) == before
    for good in ({}, {"Sec_Fetch_Site": None}, {"Origin": None}):
        assert mine.ask("POST", JOBS, {"task": "hello"}, **cast("Any", good)).status == 201
    assert api.post(JOBS, {"task": "hello"}).status == 201, "a bearer token needs no word"
    secret = mine.cookie.split("=", 1)[1]
    assert api.ask("GET", "/v1/jobs", token=secret).is_problem(401), "a session's secret is no token"
    as_cookie = mine.cookie.split("=")[0] + "=" + api.token
    assert mine.ask("GET", "/v1/jobs", Cookie=as_cookie).is_problem(401), "and a token is no session"


def test_a_session_ends_with_its_token_with_its_principal_and_when_it_is_ended(api: Api) -> None:
    token = person(api, "bob")
    api.writ("token", "create", "spare", "--for", "bob")
    first, second = log_in(api, token), log_in(api, token)
    assert first.ask("GET", SESSION).status == 200
    api.writ("session", "end", first.name, "--for", "bob", "--reason", "laptop lost")
    api.until(lambda: first.ask("GET", SESSION).status == 401)
    assert second.ask("GET", SESSION).status == 200
    api.writ("token", "revoke", "spare", "--for", "bob")
    assert second.ask("GET", SESSION).status == 200
    api.writ("token", "revoke", "t", "--for", "bob")
    api.until(lambda: second.ask("GET", SESSION).status == 401)
    third = log_in(api, api.writ("token", "create", "u", "--for", "bob").stdout.strip().splitlines()[0])
    api.writ("principal", "revoke", "bob", "--reason", "left")
    api.until(lambda: third.ask("GET", SESSION).status == 401)
    api.writ("principal", "restore", "bob")
    api.until(lambda: api.get("/v1/principals/bob").document["revoked"] is None)
    assert third.ask("GET", SESSION).is_problem(401), "restored, one logs in again"


def test_nobody_logs_in_with_what_is_no_token_or_for_another(api: Api) -> None:
    for token in ("wrong", api.token + "x", "writs_" + "a" * 43):
        assert api.ask("POST", SESSION, {"token": token}, token=None).is_problem(401)
    assert api.ask("POST", SESSION, {}, token=None).is_problem(422)
    assert api.ask("POST", SESSION, {"token": "x" * 257}, token=None).is_problem(422)
    assert api.ask("DELETE", SESSION).is_problem(404), "a bearer has no session to end"


def test_of_many_sessions_the_oldest_ends(api: Api) -> None:
    token = person(api, "cat")
    opened = [log_in(api, token) for _ in range(SESSIONS_MAX + 1)]
    api.until(lambda: opened[0].ask("GET", SESSION).status == 401)
    assert all(each.ask("GET", SESSION).status == 200 for each in opened[1:])
    assert len(api.get("/v1/principals/cat").document["sessions"]) == SESSIONS_MAX


# --- without a node -------------------------------------------------------------------------------------


class Hands:
    """Bearers and clock of `Sessions`, both moved by hand."""

    def __init__(self) -> None:
        self.now_us = 1_790_000_000 * SECOND_US
        self.ended: list[str] = []
        self.at = "2026-09-21T14:13:20.000000Z"

    def wall_us(self) -> int:
        return self.now_us

    mono_us = wall_us

    def client(self, who: Who) -> Hands:
        assert who == ("default", "ann")
        return self

    async def find(self, secret: str) -> Bearer:
        until = "2026-09-22T02:13:20.000000Z"
        live = Bearer(None, 0, "default", "ann", None, "s", self.at, until)
        return live if secret == "right" and not self.ended else Bearer()

    def forget(self, secret: str) -> None:
        assert secret == "right"

    async def end_session(self, session: str, *, reason: str) -> int:
        self.ended.append(f"{session}: {reason}")
        return 1

    @staticmethod
    def request(scheme: str = "http") -> Request:
        headers = [(b"host", b"127.0.0.1:9"), (b"cookie", b"writ_session_9=right")]
        scope = {"type": "http", "method": "GET", "path": "/v1/jobs", "headers": headers, "scheme": scheme}
        return Request(scope | {"query_string": b"", "server": ("127.0.0.1", 9)})


async def test_a_session_that_is_not_used_ends_and_a_stream_is_no_use() -> None:
    hands = Hands()
    sessions = Sessions(cast("Any", hands), hands)
    request = hands.request()
    for _ in range(3):
        assert await sessions.who(request) == ("default", "ann")
        hands.now_us += (IDLE_S - 1) * SECOND_US
        assert await sessions.who(request, is_use=False) == ("default", "ann")
    assert await sessions.who(request) == ("default", "ann")
    hands.now_us += IDLE_S * SECOND_US
    with pytest.raises(Fault, match="not used for 30 minutes"):
        await sessions.who(request, is_use=False)
    assert hands.ended == ["s: unused for 1800 s"]
    with pytest.raises(Fault, match="log in again"):
        await sessions.who(request)


async def test_a_process_that_has_just_started_goes_by_when_the_session_began() -> None:
    hands = Hands()
    hands.now_us += (IDLE_S - 1) * SECOND_US
    assert await Sessions(cast("Any", hands), hands).who(hands.request()) == ("default", "ann")
    hands.now_us += SECOND_US
    with pytest.raises(Fault, match="not used for 30 minutes"):
        await Sessions(cast("Any", hands), hands).who(hands.request())


async def test_over_tls_the_cookie_is_of_this_host_alone_and_never_in_the_clear() -> None:
    assert "Secure" not in cookie(Hands.request(), "s")
    words = cookie(Hands.request("https"), "s").split("; ")
    assert words[0] == "__Host-writ_session=s"
    assert {"Secure", "Path=/", "HttpOnly", "SameSite=Strict"} <= set(words)
