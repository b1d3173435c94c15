"""What the log tells over HTTP: as it was, what changed, verified, supposed otherwise, and taken away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from writ import Client, Target
from writ.http import replaying
from writ.http.problems import Fault
from writ.http.route import Call, Reply
from writ.projections.registry import VIEWS

if TYPE_CHECKING:
    from tests.http.conftest import Api

TWICE = {"max_attempts": 2, "initial_interval_s": 0.01}


@pytest.fixture(scope="module")
def told(api: Api) -> Iterator[Api]:
    """A node on which two jobs have completed and two are dead letters."""
    worker = api.worker("--queue", "q", "--name", "w1")
    api.ask("PUT", "/v1/queues/q", {"policy": {"retry": TWICE}, "reason": "as agreed"})
    for n in range(2):
        api.submit("q", "hello", input={"name": "Ada"}, id=f"h{n}")
        api.submit("q", "broken", id=f"b{n}")
    for job in ("h0", "h1", "b0", "b1"):
        api.ended("q", job)
    yield api
    worker.terminate()
    worker.wait(30)


def records(api: Api, job: str) -> list[Any]:
    found: list[Any] = api.get(f"/v1/queues/q/jobs/{job}/records").document["records"]
    return found


def test_a_job_a_queue_and_a_tenant_at_any_moment(told: Api) -> None:
    first, *_, last = records(told, "b0")
    for seq in (first["seq"], last["seq"]):
        job = told.get("/v1/queues/q/jobs/b0/replay", seq=seq).document
        assert (job["id"], job["queue"], job["tenant"]) == ("b0", "q", "default")
        for scope in ({"queue": "q"}, {}):
            all_ = told.get("/v1/replay", seq=seq, **scope)
            assert all_.document["jobs"]["q~b0"] == job["job"]
            assert all_.position == all_.document["seq"] == seq
    assert told.get("/v1/queues/q/jobs/b0/replay").document["job"]["state"] == "dead"
    now = told.get("/v1/replay", queue="q").document
    assert (now["states"], now["total"]) == ({"completed": 2, "dead": 2}, 4)
    assert now["queues"]["q"]["policy"]["retry"]["max_attempts"] == 2
    pages = [told.get("/v1/replay", limit=1, skip=n).document["jobs"] for n in range(5)]
    assert [list(page) for page in pages] == [["q~b0"], ["q~b1"], ["q~h0"], ["q~h1"], []]
    before = told.get("/v1/queues/q/jobs/b0/replay", seq=first["seq"] - 1)
    assert before.is_problem(404)
    assert "did not exist then" in before.document["detail"]
    at = told.get("/v1/replay", seq=first["seq"]).document["at"]
    assert 0 < told.get("/v1/replay", at=at).document["total"] < 4
    assert told.get("/v1/replay", at="1999-12-31T23:59:59Z").document["total"] == 0


def test_what_changed_between_two_moments(told: Api) -> None:
    first, *_, last = records(told, "b0")
    of_job = told.get("/v1/queues/q/jobs/b0/diff", from_seq=first["seq"], to_seq=last["seq"]).document
    (change,) = of_job["changes"]
    assert change["fields"]["failures"] == [0, 2]
    assert (of_job["from_seq"], of_job["to_seq"], of_job["total"]) == (first["seq"], last["seq"], 1)
    all_ = told.get("/v1/replay/diff").document
    jobs = {each["key"] for each in all_["changes"] if each["what"] == "job"}
    assert jobs == {"q~b0", "q~b1", "q~h0", "q~h1"}
    assert {each["change"] for each in all_["changes"]} == {"new"}
    some = told.get("/v1/replay/diff", limit=2, skip=1).document
    assert some["changes"] == all_["changes"][1:3]
    assert some["total"] == all_["total"]


def test_every_decision_is_made_again(told: Api) -> None:
    found = told.get("/v1/replay/verification").document
    assert (found["ok"], found["coverage"], found["report"]["faults"]) == (True, "whole", [])
    assert found["report"]["decisions"] > 8
    by_command = json.loads(told.writ("replay", "--verify", "--json").stdout)
    assert found["report"]["digest"] == by_command["report"]["digest"]
    job = told.get("/v1/queues/q/jobs/b0/verification").document
    assert (job["ok"], job["mismatches"], job["coverage"]) == (True, [], "jobs")


def test_what_would_have_come_out_otherwise(told: Api) -> None:
    once = {
        "queues": {"q": {"retry": {"max_attempts": 1}}},
        "alerts": {"dying": {"measure": "dead_letters", "above": 1}},
    }
    got = told.post("/v1/replay/what-if?limit=1", once)
    found = got.document["what_if"]
    assert (got.status, got.document["total"], len(found["otherwise"])) == (200, 2, 1)
    assert found["otherwise"][0]["would_be"]["attempts"] == 1
    assert found["would_be"]["attempts"] == found["was"]["attempts"] - 2
    (alert,) = found["alerts"]
    assert [firing["queue"] for firing in alert["firings"]] == ["q"]
    assert told.post("/v1/replay/what-if", {"queues": {"q": {"retries": 3}}}).is_problem(422)
    assert told.post("/v1/replay/what-if", {}).document["total"] == 0
    too_high = {"alerts": {"never": {"measure": "backlog_age_s", "above": 1.1e308}}}
    refused = told.post("/v1/replay/what-if", too_high)
    assert refused.is_problem(422)
    assert "1000000000000" in refused.document["detail"]


def test_a_bundle_replays_where_there_is_no_node(told: Api, tmp_path: Path) -> None:
    for path, jobs in (
        ("/v1/queues/q/jobs/b0/bundle", ["q~b0"]),
        ("/v1/bundle?queue=q&states=completed", ["q~h0", "q~h1"]),
        ("/v1/bundle", []),
    ):
        got = told.get(path)
        assert (got.status, got.headers["content-type"]) == (200, "application/x-ndjson")
        assert json.loads(got.body.splitlines()[0])["jobs"] == jobs
        bundle = tmp_path / "some.bundle"
        bundle.write_bytes(got.body)
        verified = told.writ("replay", "--bundle", str(bundle), "--verify", "--json")
        assert json.loads(verified.stdout)["ok"] is True
    assert told.get("/v1/bundle", task="nothing").is_problem(404)
    assert told.get("/v1/queues/q/jobs/none/bundle").is_problem(404)


def test_a_view_is_built_anew(told: Api) -> None:
    for name in [make().name for make in VIEWS]:
        got = told.post(f"/v1/views/{name}/rebuild")
        assert (got.status, got.document, got.headers["location"]) == (202, {"view": name}, "/v1/status")
    files = told.directory / ".writ" / "views"
    told.until(lambda: all((files / f"{make().name}.db").is_symlink() for make in VIEWS))
    assert told.get("/v1/jobs").document["jobs"]
    assert told.post("/v1/views/nothing/rebuild").is_problem(404)


def test_a_log_that_is_too_long_is_not_read(told: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """But up to a moment before that it is. The bound is of the process that serves: here that is ours."""
    monkeypatch.setattr(replaying, "RECORDS_MAX", 3)

    async def asked(seq: int | None) -> Reply:
        target = Target(told.info["url"], Path(told.info["key_path"]))
        async with Client(target) as client:
            params, none = replaying.OfAll(seq=seq), cast("Any", None)
            return await replaying.replay(Call(client, none, told.directory, none, params))

    assert asyncio.run(asked(3)).position == 3
    for seq in (None, 4):
        with pytest.raises(Fault, match="at most 3 are replayed here"):
            asyncio.run(asked(seq))
