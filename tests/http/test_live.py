"""Live records by server-sent events, and the process that serves them."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from writ.http.keeper import Http, Settings
from writ.http.pages import LAG_MAX_RECORDS, LAG_MAX_S
from writ.node import NODE_FILE, Node, NodeInfo

if TYPE_CHECKING:
    from tests.http.conftest import Api


def seqs(events: list[dict[str, str]]) -> list[int]:
    return [int(each["id"].partition("-")[2]) for each in events]


def stored(api: Api, **query: Any) -> list[int]:
    """The sequences of the records in the log that match."""
    found: list[int] = []
    while True:
        page = api.get("/v1/log", after=found[-1] if found else 0, limit=500, **query).document
        found += [each["seq"] for each in page["records"]]
        if not page["more"]:
            return found


def test_records_come_as_they_are_stored_and_a_reader_goes_on_where_it_stopped(api: Api) -> None:
    with api.events(queue="live") as reader:
        assert "" in reader.next()
        for number in range(5):
            api.submit("live", "hello", id=f"a{number}")
            api.submit("other", "hello")
        got = reader.until(lambda event: '"live~a4"' in event["data"])
    assert [each["event"] for each in got] == ["job"] * 5
    assert seqs(got) == stored(api, queue="live")
    record = msgspec.json.decode(got[0]["data"])
    assert (record["key"], record["events"][0]["type"]) == ("live~a0", "job_submitted")
    api.post("/v1/queues/live/jobs/a1/cancel")
    with api.events(got[1]["id"], queue="live") as reader:
        assert "" in reader.next()
        rest = reader.until(lambda event: "job_cancelled" in event["data"])
        api.submit("live", "hello", id="last")
        rest += reader.until(lambda event: "last" in event["data"])
    assert seqs(got[:2]) + seqs(rest) == stored(api, queue="live")
    with api.events(after=seqs(got)[0], kind="job", queue="live", id="a1") as reader:
        assert "" in reader.next()
        assert seqs(reader.until(lambda event: "job_cancelled" in event["data"])) == [
            seqs(got)[1], seqs(rest)[3]
        ]  # fmt: skip


def test_an_id_of_another_log_is_told_so(api: Api) -> None:
    for last_id in ("99-1", "1-999999999"):
        with api.events(last_id) as reader:
            assert reader.next()["event"] == "reset"
    for last_id in ("x", "1-", "1"):
        got = api.ask("GET", "/v1/log", headers={"Accept": "text/event-stream", "Last-Event-ID": last_id})
        assert got.is_problem(400)


def test_a_slow_reader_gets_every_record_and_its_buffer_stays_small(own: Api) -> None:
    own.up()
    with own.events(kind="job", small=True) as reader:
        assert "" in reader.next()
        for part in range(8):
            jobs = [{"task": "hello", "id": f"{part}-{n}", "input": "x" * 1_500} for n in range(500)]
            assert own.post("/v1/queues/q/submits", jobs).status == 200
        got = reader.until(lambda event: '"q~7-499"' in event["data"])
    assert len(got) == 4_000
    assert seqs(got) == stored(own, kind="job")


def test_what_was_stored_while_the_connection_was_broken_is_not_missed(own: Api) -> None:
    own.up()
    (own.directory / "jobs.ndjson").write_text('{"task": "hello"}\n' * 20, encoding="utf-8")
    with own.events(queue="q") as reader:
        assert "" in reader.next()
        own.submit("q", "hello", id="before")
        reader.until(lambda event: '"q~before"' in event["data"])
        serving, broker = own.child("writ.http"), own.child("nats-server")
        assert serving is not None
        assert broker is not None
        os.kill(serving, signal.SIGSTOP)  # it hears nothing of what is stored until it has connected again
        os.kill(broker, signal.SIGKILL)
        own.writ("status", "--wait", "60")
        own.writ("submit", "q", "--file", "jobs.ndjson")
        own.until(lambda: len(json.loads(own.writ("jobs", "--json").stdout)) == 21)  # all is published
        os.kill(serving, signal.SIGCONT)
        own.until(lambda: own.post("/v1/queues/q/jobs", {"task": "hello", "id": "after"}).status == 201)
        got = reader.until(lambda event: '"q~after"' in event["data"])
    assert len(got) == 21
    assert seqs(got) == stored(own, queue="q")[1:]


# --- the process ----------------------------------------------------------------------------------------


def test_the_process_starts_when_it_is_asked_and_again_when_it_dies(own: Api) -> None:
    own.up()
    assert own.child("writ.http") is None
    assert own.ask("GET", "/healthz", token=None).document == {"status": "alive"}
    first = own.child("writ.http")
    assert first is not None
    assert os.getpriority(os.PRIO_PROCESS, first) == os.getpriority(os.PRIO_PROCESS, 0) + 5
    os.kill(first, signal.SIGKILL)
    own.until(lambda: own.child("writ.http") != first)
    assert own.get("/v1/jobs").status == 200
    second = own.child("writ.http")
    assert second not in (None, first)
    os.kill(own.info["pid"], signal.SIGKILL)
    own.until(lambda: not Path(f"/proc/{second}").exists())
    with pytest.raises(ConnectionRefusedError):
        own.get("/v1/jobs")


def test_the_token_is_the_owners_alone_and_stays(own: Api) -> None:
    own.up()
    path, token = Path(own.info["token_path"]), own.token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(token) >= 40
    own.writ("down")
    path.chmod(0o644)
    refused = own.writ("up", "--detach", ok=False)
    assert refused.returncode == 1
    assert f"chmod 600 {path}" in refused.stderr
    path.chmod(0o600)
    own.up()
    assert own.token == token


async def test_the_token_is_there_before_anybody_is_told_where(tmp_path: Path) -> None:
    told = tmp_path / NODE_FILE
    before: list[bool] = []

    class Watched(Http):
        def settings(self, info: NodeInfo) -> Settings:
            before.append(told.exists())
            return super().settings(info)

    node = await Node.start(tmp_path, http=Watched(tmp_path))
    try:
        assert before == [False]
    finally:
        await node.stop()


def test_a_port_that_is_taken_is_passed_over_unless_it_was_asked_for(own: Api) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = own.writ("up", "--detach", "--http-port", str(port), ok=False)
        assert refused.returncode == 1
        assert f"the HTTP port {port} cannot be opened" in refused.stderr
        assert "--http-port" in refused.stderr
    try:
        usual = socket.create_server(("127.0.0.1", 9748))
    except OSError:
        usual = None  # somebody else has it, and may give it back at any time
    own.up()
    assert usual is None or own.port != 9748
    assert own.get("/v1/status").status == 200
    if usual is not None:
        usual.close()
    environment = own.writ("env").stdout
    assert f"export WRIT_HTTP_URL={own.info['http_url']}\n" in environment
    assert own.info["http_url"] in own.writ("status").stdout
    own.writ("down")
    own.up("--http-port", "off")
    assert own.info["http_url"] is None
    assert "WRIT_HTTP" not in own.writ("env").stdout


def test_a_node_whose_views_have_died_is_alive_and_not_ready(own: Api) -> None:
    own.up()
    assert own.ask("GET", "/readyz", token=None).document == {"status": "ready"}
    views = own.child("writ.views")
    assert views is not None
    os.kill(views, signal.SIGSTOP)
    got = own.ask("GET", "/readyz", token=None)
    assert got.is_problem(503)
    assert got.headers["retry-after"]
    assert own.get("/v1/jobs", max_wait_s=0).is_problem(503)
    assert own.ask("GET", "/healthz", token=None).status == 200
    os.kill(views, signal.SIGCONT)
    own.until(lambda: own.ask("GET", "/readyz", token=None).status == 200)


def test_a_node_is_not_ready_while_a_view_is_far_behind(own: Api) -> None:
    """Here as another program holds its file. The other views go on, and the node says which it is."""
    own.up()
    lines = '{"task": "hello"}\n' * (LAG_MAX_RECORDS + 1)
    (own.directory / "jobs.ndjson").write_text(lines, encoding="utf-8")
    with closing(sqlite3.connect(own.directory / ".writ" / "views" / "audit.db", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        own.writ("submit", "many", "--file", "jobs.ndjson")

        def held_up() -> bool:
            got = own.ask("GET", "/readyz", token=None)
            return got.status == 503 and "view audit is 1" in got.document["detail"]

        own.until(held_up)
        found = own.ask("GET", "/readyz", token=None).document["detail"]
        assert f"{LAG_MAX_RECORDS} and {LAG_MAX_S:g} s are allowed" in found
        assert "view jobs" not in found
        assert own.get("/v1/jobs", queue="many", limit=1).status == 200, "the other views go on"
    own.until(lambda: own.ask("GET", "/readyz", token=None).status == 200)


def test_the_page_of_metrics_tells_of_each_component_also_of_one_that_is_away(own: Api) -> None:
    own.up()

    def told() -> bytes:
        got = own.ask("GET", "/metrics", token=None, headers={"Accept": "text/plain"})
        assert (got.status, got.headers["content-type"].partition(";")[0]) == (200, "text/plain")
        return got.body

    for component in (b"engine", b"views", b"http"):
        assert b'writ_component_up{component="%b"} 1\n' % component in told()
        assert b'writ_process_cpu_seconds_total{component="%b"}' % component in told()
    assert b'\nwrit_leader_elections_total{partition="0"} 1\n' in told()
    views = own.child("writ.views")
    assert views is not None
    os.kill(views, signal.SIGSTOP)
    try:
        page = told()
    finally:
        os.kill(views, signal.SIGCONT)
    assert b'writ_component_up{component="views"} 0\n' in page
    assert b'writ_engine_leading{partition="0"} 1\n' in page
