"""What a caller of the HTTP API can do, with a node, a worker, and nothing but requests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from writ.http.routes import ROUTES
from writ.schemas.commands import CONTROL_VERBS
from writ.schemas.verbs import QUERY_VERBS

if TYPE_CHECKING:
    from tests.http.conftest import Api


@pytest.fixture(scope="module")
def worker(api: Api) -> Iterator[subprocess.Popen[bytes]]:
    process = api.worker("--queue", "q", "--name", "w1")
    yield process
    process.terminate()
    process.wait(30)


def test_every_command_and_query_has_a_route() -> None:
    bodies = {route.body.__name__ for route in ROUTES if isinstance(route.body, type)}
    bodies |= {route.params.__name__ for route in ROUTES}
    # A session begins with a token, at /v1/session; bytes of packages go over the broker alone.
    others = {"StartSession", "KeepPackage", "PackageQuery"}
    assert {kind.__name__ for kind in CONTROL_VERBS.values()} <= bodies | others
    assert {kind.__name__ for kind, _ in QUERY_VERBS.values()} <= bodies | others


def test_a_job_from_its_submit_to_its_end(api: Api, worker: subprocess.Popen[bytes]) -> None:
    got = api.post("/v1/queues/q/jobs", {"task": "hello", "input": {"name": "Ada"}})
    assert got.status == 201
    job = got.document
    assert got.headers["location"] == f"/v1/queues/q/jobs/{job['id']}"
    assert got.position == job["position"] > 0
    done = api.ended("q", job["id"])
    assert (done["state"], done["output"]) == ("completed", "hello Ada")
    told = api.get(f"{got.headers['location']}/timeline").document["records"]
    assert told[0]["events"][0]["type"] == "job_submitted"
    assert told[-1]["state"] == "completed"
    records = api.get(f"{got.headers['location']}/records").document
    assert [each["seq"] for each in records["records"]] == [
        each["seq"] for each in told if not each["context"]
    ]
    answers = api.get(f"{got.headers['location']}/explanation").document["answers"]
    assert len(answers) == 7
    assert answers[0]["records"] == [told[0]["seq"]]
    again = api.post(f"{got.headers['location']}/rerun", {"reason": "once more"})
    assert again.status == 200
    assert api.ended("q", job["id"])["round"] == 2
    assert again.document["position"] == again.position > got.position


def test_a_dead_letter_is_redriven_by_a_plan(api: Api, worker: subprocess.Popen[bytes]) -> None:
    ids = [api.submit("q", "broken", id=f"b{n}", retry={"max_attempts": 1})["id"] for n in range(3)]
    assert {api.ended("q", each)["state"] for each in ids} == {"dead"}
    plan = {"verb": "redrive", "filter": {"states": ["dead"], "task": "broken"}, "reason": "mended"}
    dry = api.post("/v1/queues/q/operations", {**plan, "dry_run": True})
    assert (dry.status, dry.document["operation"], dry.document["matched"]) == (200, None, 3)
    made = api.post("/v1/queues/q/operations", plan)
    assert made.status == 201
    api.until(lambda: api.get(made.headers["location"]).document["done"] == 3)
    assert {api.ended("q", each)["round"] for each in ids} == {2}
    listed = api.get("/v1/jobs", operation=made.document["operation"]).document["jobs"]
    assert {each["id"] for each in listed} == set(ids)
    assert api.post("/v1/queues/q/jobs/b0/drop", {"reason": "given up"}).status == 200
    assert api.get("/v1/queues/q/jobs/b0").document["dropped"] == "given up"


def test_operators_hold_and_change_jobs(api: Api) -> None:
    api.submit("held", "hello", id="a", approval={})
    assert api.get("/v1/queues/held/jobs/a").document["wait"]["reason"] == "approval"
    assert api.post("/v1/queues/held/jobs/a/approve", {"data": {"by": "Ada"}}).status == 200
    assert api.get("/v1/queues/held/jobs/a").document["state"] == "pending"
    for verb, body, state in (
        ("pause", None, "suspended"), ("resume", None, "pending"), ("edit", {"priority": 1.0}, "pending"),
        ("signal", {"name": "go", "data": 1}, "pending"), ("cancel", {"reason": "enough"}, "cancelled"),
    ):  # fmt: skip
        got = api.post(f"/v1/queues/held/jobs/a/{verb}", body)
        assert got.status == 200, got.body
        assert api.get("/v1/queues/held/jobs/a", min_position=got.position).document["state"] == state
    assert api.get("/v1/queues/held/jobs/a").document["priority"] == 1
    refused = api.post("/v1/queues/held/jobs/a/cancel")
    assert refused.is_problem(409)
    assert refused.document["kind"] == "conflict"
    assert api.post("/v1/queues/held/jobs/none/cancel").is_problem(404)


def test_queues_and_schedules_are_declared_and_held(api: Api) -> None:
    declared = api.ask(
        "PUT", "/v1/queues/line", {"policy": {"concurrency": 2, "retry": {"max_attempts": 3.0}}}
    )
    assert declared.status == 200
    queue = api.get("/v1/queues/line").document
    assert (queue["version"], queue["policy"]["concurrency"]) == (1, 2)
    for verb, mode in (("pause", "paused"), ("drain", "draining"), ("resume", "open")):
        assert api.post(f"/v1/queues/line/{verb}", {"reason": "as agreed"}).status == 200
        assert api.get("/v1/queues/line").document["mode"] == mode
    where = "/v1/queues/line/schedules/nightly"
    spec = {"task": "hello", "cron": "30 2 * * *", "tz": "Europe/Berlin"}
    assert api.ask("PUT", where, {"spec": spec, "input": {"name": "night"}}).status == 200
    assert len(api.get(where, times=2).document["next"]) == 2
    (started,) = api.post(f"{where}/trigger").document["jobs"]
    assert api.get(f"/v1/queues/line/jobs/{quote(started, safe='')}").document["schedule"] == "nightly"
    wrong = api.ask("PUT", where, {"spec": {"task": "hello", "cron": "99 * * * *"}})
    assert wrong.is_problem(409)
    assert "99" in wrong.document["detail"]
    assert api.ask("DELETE", where, reason="no more").status == 200
    assert api.get(where).is_problem(404)
    assert [each["name"] for each in api.get("/v1/schedules", deleted="true").document["schedules"]] == [
        "nightly"
    ]


def test_many_jobs_are_submitted_in_one_request_and_each_is_told_of(api: Api) -> None:
    api.ask("PUT", "/v1/queues/few", {"policy": {"on_clash": "reject"}})
    first = api.submit("few", "hello", unique_key="k")
    jobs = [{"task": "hello", "id": f"m{n}", "batch": "june"} for n in range(4)]
    got = api.post("/v1/queues/few/submits", [*jobs, {"task": "hello", "unique_key": "k"}])
    assert got.status == 200
    told: list[Any] = got.document["jobs"]
    assert [each["id"] for each in told[:4]] == [job["id"] for job in jobs]
    assert {each["state"] for each in told[:4]} == {"pending"}
    assert (told[4]["state"], told[4]["error"]["job"]) == (None, f"few~{first['id']}")
    assert got.document["position"] == max(each["position"] for each in told[:4]) == got.position
    assert api.post("/v1/queues/few/batches/june/seal", {"size": 4}).status == 200
    assert api.get("/v1/queues/few/batches/june").document["size"] == 4
    alone = api.post("/v1/queues/few/jobs", {"task": "hello", "unique_key": "k"})
    assert alone.is_problem(409)
    assert alone.document["kind"] == "conflict"
    wrong = api.post("/v1/queues/few/submits", [jobs[0], {"task": "hello", "delay_s": 1, "not_before": "x"}])
    assert wrong.is_problem(422)
    assert wrong.document["field"] == "[1].not_before"


def test_a_full_queue_refuses_in_the_answer(own: Api) -> None:
    own.up()
    own.ask("PUT", "/v1/queues/full", {"policy": {"pending_max": 1}})
    own.submit("full", "hello")
    assert own.post("/v1/queues/full/jobs", {"task": "hello"}).is_problem(409)


def test_names_with_a_slash_are_written_with_an_escape(api: Api) -> None:
    for name in ("a/b", "a,b:c@d", "a+b=c", "jobs"):
        made = api.submit("odd", "hello", id=name)
        where = f"/v1/queues/odd/jobs/{quote(name, safe='')}"
        assert api.get(where).document["id"] == made["id"] == name
        assert api.post(f"{where}/cancel").status == 200
        assert [each["queue"] for each in api.get(f"/v1/jobs/{quote(name, safe='')}").document["jobs"]] == [
            "odd"
        ]
