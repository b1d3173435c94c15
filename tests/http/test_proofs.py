"""Checkpoints and proofs over HTTP, checked as somebody would who has only these answers."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from writ.orchestrator.replay import offline
from writ.schemas.checkpoints import checkpoint_in, one_note
from writ.schemas.merkle import is_consistent

if TYPE_CHECKING:
    from .conftest import Api


def test_a_job_is_proved_page_by_page(api: Api) -> None:
    job = api.submit("proved", "hello", id="p-1", priority=2)["id"]
    for priority in (3, 4, 5):
        assert api.post(f"/v1/queues/proved/jobs/{job}/edit", {"priority": priority}).status == 200
    first = api.get(f"/v1/queues/proved/jobs/{job}/proof", limit=3)
    assert first.status == 200
    proof: dict[str, Any] = {"writ_proof": 1, "queue": "proved", "id": job, **first.document}
    assert proof["more"]
    after = proof["records"][-1]["seq"]
    rest = api.get(f"/v1/queues/proved/jobs/{job}/proof", after=after, size=proof["size"]).document
    assert not rest["more"]
    proof["records"] += rest["records"]
    checkpoint = api.get("/v1/audit/checkpoint").document
    assert [body["seq"] for body in offline.check(proof, checkpoint["key"])] == [
        each["seq"] for each in proof["records"]
    ]
    assert len(proof["records"]) == 4


def test_one_checkpoint_goes_on_from_another(api: Api) -> None:
    api.submit("proved", "hello", id="p-2")
    old = api.get("/v1/audit/checkpoint").document
    api.submit("proved", "hello", id="p-3")
    last = api.get("/v1/queues/proved/jobs/p-3/records").document["records"][-1]["seq"]
    new = api.get("/v1/audit/checkpoint", covering=last).document
    assert new["size"] >= last > old["size"] > 0
    got = api.get("/v1/audit/consistency", old=old["size"], new=new["size"]).document
    roots = [checkpoint_in(one_note(each["checkpoint"]).text).root for each in (old, new)]
    assert [base64.b64decode(got[name]) for name in ("old_root", "new_root")] == roots
    path = [base64.b64decode(step) for step in got["path"]]
    assert is_consistent(old["size"], new["size"], roots[0], roots[1], path)


def test_what_cannot_be_proved_is_a_problem(api: Api) -> None:
    assert api.get("/v1/queues/proved/jobs/nobody/proof").is_problem(404)
    assert api.get("/v1/audit/consistency", old=2, new=1).is_problem(409)
    assert api.get("/v1/audit/consistency", old=1, new=10**9).is_problem(409)
    assert api.get("/v1/audit/checkpoint", covering=10**9).is_problem(409)
