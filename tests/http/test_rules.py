"""What holds for every request: who may ask, the form of errors, pages, tags, positions and limits."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
from starlette.responses import Response

from writ.http import server
from writ.http.audited import TOLD_BURST, TOLD_PER_S

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from tests.http.conftest import Api

JOBS = "/v1/queues/q/jobs"


# --- who may ask ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_the_owners_token_nothing_is_told_or_done(api: Api, method: str) -> None:
    for token, headers in (
        (None, {}), ("wrong", {}), (api.token + "x", {}), (None, {"Authorization": "Basic b3duZXI6eA=="}),
        (None, {"Authorization": "Bearer"}), (None, {"Authorization": api.token}),
    ):  # fmt: skip
        for path in (JOBS, "/v1/jobs", "/v1/nothing", "/v1/log"):
            got = api.ask(method, path, token=token, headers=headers)
            assert got.is_problem(401)
            assert got.headers["www-authenticate"].startswith("Bearer")
    for path in ("/healthz", "/readyz", "/openapi.json", "/docs"):
        assert api.ask("GET", path, token=None).status == 200


def test_a_page_of_another_origin_and_a_name_that_points_here_are_refused(api: Api) -> None:
    for host in ("evil.example", f"evil.example:{api.port}", "127.0.0.1.evil.example", "", "127.0.0.1:x"):
        assert api.ask("GET", "/v1/jobs", headers={"Host": host}).is_problem(421)
        assert api.ask("GET", "/healthz", headers={"Host": host}).is_problem(421)
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{api.port}", "http://127.0.0.1:1"):
        got = api.ask("POST", JOBS, {"task": "hello"}, headers={"Origin": origin})
        assert got.is_problem(403)
        assert not any(name.startswith("access-control") for name in got.headers)
    for host in (f"localhost:{api.port}", f"127.0.0.1:{api.port}", f"[::1]:{api.port}"):
        own = {"Host": host, "Origin": f"http://{host}"}
        assert api.ask("GET", "/v1/jobs", headers=own).status == 200


def _refused(api: Api, what: str, actor: str = "nobody") -> int:
    """How often something was refused, as the audit tells it: by a rule, or what else its reason names."""
    acts = api.get("/v1/audit", refused="true", actor=actor, limit=500).document["acts"]
    return sum([act.get("of") or 1 for act in acts if what in act["reason"]])


def _is_refused(api: Api, what: str, times: int) -> bool:
    return _refused(api, what) >= times


def test_what_the_guard_refuses_is_in_the_audit_of_nobody_or_of_whose_session_it_was(api: Api) -> None:
    rules = ("[http.login]", "[http.head]")
    before = [_refused(api, rule) for rule in rules]
    for _ in range(2):
        api.ask("GET", "/healthz", headers={"Host": "elsewhere.example"})
        with socket.create_connection(("127.0.0.1", api.port)) as raw:
            raw.sendall(b"this is no HTTP\r\n\r\n")
            assert b" 400 " in raw.recv(65_536)
    for origin in ("http://one.example", "http://two.example", "http://two.example"):
        api.ask("POST", JOBS, {"task": "hello"}, headers={"Origin": origin})
    for token in (None, "wrong", "wrong"):
        api.ask("GET", "/v1/jobs", token=token)

    for named, times in (
        ("'elsewhere.example'", 2),
        ("'http://one.example'", 1),
        ("'http://two.example'", 2),
    ):
        api.until(partial(_is_refused, api, named, times))
        assert _refused(api, named) == times
    for rule, times, was in zip(rules, (3, 2), before, strict=True):
        api.until(partial(_is_refused, api, rule, was + times))
    session = api.post("/v1/session", {"token": api.token})
    cookie = {"Cookie": session.cookies[0].partition(";")[0], "Origin": f"http://127.0.0.1:{api.port}"}
    assert api.ask("POST", JOBS, {"task": "t"}, token=None, headers=cookie).is_problem(403)
    assert api.ask("DELETE", "/v1/session", token=None, headers={**cookie, "Origin": "null"}).is_problem(403)
    api.until(lambda: _refused(api, "[http.page]", "owner") == 1)


def test_a_flood_of_strangers_costs_the_log_a_record_a_second_and_each_is_counted(api: Api) -> None:
    rule = "[http.origin]"
    before, last = _refused(api, rule), api.get("/v1/jobs").position
    connection = api.connection()
    began = time.monotonic()
    for number in range(400):
        connection.request("GET", "/v1/jobs", headers={"Origin": f"http://{number}.example"})
        connection.getresponse().read()
    connection.close()
    api.until(lambda: _refused(api, rule) - before > 300)
    most = TOLD_BURST + TOLD_PER_S * (time.monotonic() - began) + 1
    assert api.get("/v1/jobs").position - last <= most


# --- what is wrong is a problem -------------------------------------------------------------------------


def test_every_error_is_a_problem(api: Api) -> None:
    assert api.get("/v1/nothing").is_problem(404)
    assert api.get("/elsewhere").is_problem(404)
    assert api.get("/").headers["location"] == "/console"
    assert api.get(f"{JOBS}/none").is_problem(404)
    wrong = api.ask("PATCH", JOBS, {})
    assert wrong.is_problem(405)
    assert wrong.headers["allow"] == "POST"
    assert api.ask("POST", "/healthz").headers["allow"] == "GET, HEAD"
    assert api.ask("POST", JOBS, sent=b"{", headers={"Content-Type": "application/json"}).is_problem(400)
    assert api.ask("GET", "/v1/jobs", sent=b"{}").is_problem(400)
    assert api.ask("POST", JOBS, sent=b'{"task": "hello"}').is_problem(415)
    assert api.ask("POST", JOBS, sent=b"a=b", headers={"Content-Type": "text/plain"}).is_problem(415)
    for body, field in (
        ({"task": "hello", "prioritty": 1}, "prioritty"), ({"task": "hello", "priority": 9}, "priority"),
        ({"task": "hello", "priority": 2.5}, "priority"), ({}, "task"), ({"task": 1}, "task"),
    ):  # fmt: skip
        got = api.post(JOBS, body)
        assert got.is_problem(422)
        assert got.document["field"] == field
    for query in (
        {"limit": "0"}, {"limit": "ten"}, {"limit": "null"}, {"limti": "1"}, {"queue": "a b"}, {"queue": ""},
        {"min_position": "-1"}, {"states": "gone"}, {"limit": ["1", "2"]},
    ):  # fmt: skip
        assert api.get("/v1/jobs", **query).is_problem(422), query
    assert api.get("/v1/queues", history="yes").is_problem(422)
    assert api.get("/v1/queues/a%20b").is_problem(404)


def test_a_body_that_is_too_large_is_not_read(api: Api) -> None:
    large = json.dumps({"task": "hello", "input": "x" * 1_100_000}).encode()
    kind = {"Content-Type": "application/json"}
    announced = api.ask("POST", JOBS, headers=kind | {"Content-Length": str(2**40)})
    assert announced.is_problem(413)
    assert announced.headers["connection"] == "close"
    connection = api.connection()
    parts = (large[at : at + 50_000] for at in range(0, len(large), 50_000))
    with suppress(BrokenPipeError, ConnectionResetError):  # it may answer before all is sent
        connection.request("POST", JOBS, parts, kind | {"Authorization": f"Bearer {api.token}"})
    assert connection.getresponse().status == 413
    connection.close()
    fits = api.ask(
        "POST", JOBS, sent=json.dumps({"task": "hello", "input": "x" * 262_143}).encode(), headers=kind
    )
    assert fits.is_problem(409)
    assert fits.document["kind"] == "too_large"


def test_what_is_not_http_or_has_a_head_too_large_is_a_problem(api: Api) -> None:
    for head, status in (
        (b"nonsense\r\n\r\n", 400), (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
    ):  # fmt: skip
        with socket.create_connection(("127.0.0.1", api.port), timeout=30) as plain:
            plain.sendall(head)
            answer = http.client.HTTPResponse(plain)
            answer.begin()
            assert answer.status == json.loads(answer.read())["status"] == status
            assert answer.headers["content-type"] == "application/problem+json"


def test_a_client_has_so_many_streams_and_no_more(api: Api) -> None:
    with ExitStack() as held:
        for _ in range(32):
            held.enter_context(api.events())
        more = api.ask("GET", "/v1/log", headers={"Accept": "text/event-stream"})
        assert more.is_problem(429)
        assert more.headers["retry-after"] == "1"
        assert api.get("/v1/log").status == 200
    api.until(lambda: _streams(api))


def test_a_client_has_so_many_requests_in_work_and_no_more(api: Api) -> None:
    """Each of these waits for its body; when one has it, there is room for another."""
    head = f"POST {JOBS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.token}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 16\r\n\r\n"
    with ExitStack() as held:
        waiting = [held.enter_context(socket.create_connection(("127.0.0.1", api.port))) for _ in range(64)]
        for each in waiting:
            each.sendall(head.encode())
        api.until(lambda: api.get("/v1/jobs").status == 429)
        refused = api.ask("GET", "/healthz", token=None)
        assert refused.is_problem(429)
        assert refused.headers["retry-after"] == "1"
        assert "64 requests of yours" in refused.document["detail"]
        waiting[0].sendall(b'{"task": "hello"')
        answer = http.client.HTTPResponse(waiting[0])
        answer.begin()
        assert answer.status == 400, "it came to its end, though it is no JSON"
        api.until(lambda: api.get("/v1/jobs").status == 200)
    api.until(lambda: api.get("/v1/jobs").status == 200)


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HTT", b"GET /healthz HTTP/1.1\r\nHost: local"])
async def test_a_head_that_does_not_come_in_time_ends_its_connection(
    begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a byte comes now and then; and on a connection that has had an answer before."""
    monkeypatch.setattr(server, "HEAD_S", 0.4)
    with socket.create_server(("127.0.0.1", 0)) as port:
        address = port.getsockname()
        async with server.serving(_hello, port.dup(), lambda fault: None):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(begun)
            dripping = asyncio.create_task(_drip(writer)) if begun else None
            with suppress(ConnectionResetError):  # so the end is told to what still drips in
                async with asyncio.timeout(30):
                    assert await reader.read() == b""
            if dripping is not None:
                dripping.cancel()
            writer.close()
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
            writer.write(b"GET / HTTP/1.1\r\n")
            async with asyncio.timeout(30):
                assert await reader.read() == b""
            writer.close()


async def _drip(writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)


async def _hello(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(b"hello")(scope, receive, send)


def _streams(api: Api) -> bool:
    with ExitStack() as held:
        try:
            held.enter_context(api.events())
        except AssertionError:
            return False
        return True


# --- pages, tags and positions --------------------------------------------------------------------------


def test_pages_are_walked_by_their_links(api: Api) -> None:
    ids = {api.submit("pages", "hello")["id"] for _ in range(7)}
    where, found = "/v1/jobs?queue=pages&limit=3", list[str]()
    sizes: list[int] = []
    while where:
        got = api.get(where)
        found += [each["id"] for each in got.document["jobs"]]
        sizes.append(len(got.document["jobs"]))
        link = got.headers.get("link", "")
        assert bool(link) == bool(got.document["next"])
        where = link.removeprefix("<").partition(">")[0]
        assert not link or link.endswith('>; rel="next"')
    assert (sizes, set(found), len(found)) == ([3, 3, 1], ids, 7)
    records = api.get("/v1/log", limit=5, queue="pages")
    following = api.get(records.headers["link"].removeprefix("<").partition(">")[0])
    assert [len(each.document["records"]) for each in (records, following)] == [5, 2]
    assert following.document["more"] is False
    for cursor in ("x", "!!", "eA", "a b"):
        assert api.get("/v1/jobs", cursor=cursor).is_problem(404), cursor


def test_what_has_not_changed_is_not_sent_again(api: Api) -> None:
    job = api.submit("tagged", "hello")["id"]
    for path in (f"/v1/queues/tagged/jobs/{job}", "/v1/jobs?queue=tagged", "/v1/queues/tagged"):
        first = api.get(path)
        tag = first.headers["etag"]
        for asked in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            same = api.ask("GET", path, headers={"If-None-Match": asked})
            assert (same.status, same.body, same.headers["etag"]) == (304, b"", tag)
            assert same.position >= first.position
        assert api.ask("GET", path, headers={"If-None-Match": '"other"'}).status == 200
        assert api.ask("HEAD", path).headers["etag"] == tag
    tag = api.get(f"/v1/queues/tagged/jobs/{job}").headers["etag"]
    api.post(f"/v1/queues/tagged/jobs/{job}/pause")
    after = api.ask("GET", f"/v1/queues/tagged/jobs/{job}", headers={"If-None-Match": tag})
    assert (after.status, after.document["state"]) == (200, "suspended")


def test_nobody_misses_what_they_have_written(api: Api) -> None:
    newest = 0
    for number in range(10):
        made = api.submit("own", "hello", id=f"n{number}")
        listed = api.get("/v1/jobs", queue="own", min_position=made["position"])
        assert len(listed.document["jobs"]) == number + 1
        assert listed.position >= made["position"]
        held = api.post(f"/v1/queues/own/jobs/n{number}/pause")
        seen = api.get(f"/v1/queues/own/jobs/n{number}", min_position=held.position)
        assert seen.document["state"] == "suspended"
        newest = held.position
    beyond = api.get("/v1/jobs", min_position=newest + 1_000_000)
    assert beyond.is_problem(409)
    assert beyond.document["field"] == "min_position"


def test_a_role_that_was_not_granted_is_a_conflict_as_the_principal_is_there(api: Api) -> None:
    assert api.post("/v1/principals/nora").status == 200
    assert api.post("/v1/principals/nora/ungrant", {"role": "approver"}).is_problem(409)
    assert api.post("/v1/principals/nobody/ungrant", {"role": "approver"}).is_problem(404)
