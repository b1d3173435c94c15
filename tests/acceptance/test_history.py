"""A job's history is there for any NATS tool, and enough to rebuild everything that is known of the job."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Place

TASKS = """
from writ import Context, task


@task
def fine(n: int) -> int:
    return n + 1


@task
def flaky(context: Context) -> str:
    if context.attempt < 3:
        raise RuntimeError(f"attempt {context.attempt} fails")
    return "at last"


@task
def broken() -> None:
    raise ValueError("never works")
"""

RETRY = {"max_attempts": 3, "initial_interval_s": 0.05, "jitter": 0}
JOBS = {
    "fine": {"task": "fine", "id": "fine", "input": {"n": 1}},
    "flaky": {"task": "flaky", "id": "flaky", "retry": RETRY},
    "broken": {"task": "broken", "id": "broken", "retry": {**RETRY, "non_retryable_types": ["ValueError"]}},
    "later": {"task": "fine", "id": "later", "input": {"n": 2}, "delay_s": 0.3},
    "cancelled": {"task": "fine", "id": "cancelled", "delay_s": 3_600},
    "waiting": {"task": "fine", "id": "waiting", "delay_s": 3_600},
}
ENDS = {
    "fine": "completed",
    "flaky": "completed",
    "broken": "dead",
    "later": "completed",
    "cancelled": "cancelled",
    "waiting": "scheduled",
}

# Where each event leads, written down a second time and on its own: nothing of ours is imported for it.
LEADS = {
    "job_due": "pending",
    "lease_granted": "running",
    "attempt_failed": "retrying",
    "lease_expired": "pending",
    "lease_released": "pending",
    "job_completed": "completed",
    "job_cancelled": "cancelled",
    "job_dead_lettered": "dead",
    "job_redriven": "pending",
}


def retell(bodies: list[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """What a stranger makes of the records: after each its sequence, and the job as it then is."""
    job: dict[str, Any] = {}
    for body in bodies:
        record = json.loads(body)
        for event in record["events"]:
            kind, data = event["type"], event["data"]
            if kind == "job_submitted":
                later = data.get("due_at", 0) > record["at"]
                job = {"state": "scheduled" if later else "pending", "attempt": 0, "failures": 0, "round": 1}
            job["state"] = LEADS.get(kind, job["state"])
            if kind == "lease_granted":
                job["attempt"] += 1
            if kind == "attempt_failed":
                job["failures"] += 1
            if kind == "job_redriven":
                job |= {"round": job["round"] + 1, "attempt": 0, "failures": 0}
        yield record["seq"], dict(job)


@pytest.fixture(scope="module")
def told(place: Place) -> Place:
    """A node on which the jobs have run, each to its end."""
    (place.root / "past.py").write_text(TASKS)
    (place.root / "jobs.ndjson").write_text("".join(json.dumps(job) + "\n" for job in JOBS.values()))
    with place.worker("past", "--queue", "mail"):
        place.writ("submit", "mail", "--file", "jobs.ndjson")
        place.writ("cancel", "cancelled", "--reason", "not needed")
        place.until(lambda: {j["id"]: j["state"] for j in place.json("jobs", "--queue", "mail")} == ENDS)
        place.writ("dlq", "redrive", "broken", "--reason", "once more")
        place.until(lambda: (job := place.json("job", "broken"))["state"] == "dead" and job["round"] == 2)
    return place


@pytest.mark.parametrize("job_id", JOBS)
def test_a_history_is_read_by_subject_with_any_tool(told: Place, job_id: str) -> None:
    """Must hold: a job's whole history can be read by subject with any NATS tool. Here with plain sockets."""
    subject = f"writ.log.0.default.job.mail~{job_id}"
    said = told.log_by_subject(subject.encode())
    records = [json.loads(one.body) for one in said]
    assert [r["key"] for r in records] == [f"mail~{job_id}"] * len(records)
    assert records[0]["events"][0]["type"] == "job_submitted"
    shown = told.json("job", job_id)
    assert [(r["seq"], r["subject"], r["record"]) for r in shown["records"]] == [
        (r["seq"], subject, r) for r in records
    ]
    (*_, (_, last)) = retell([one.body for one in said])
    assert (last["state"], last["attempt"]) == (shown["state"], shown["attempt"])


def test_replay_rebuilds_every_state_with_all_else_deleted(told: Place) -> None:
    """Must hold: `writ replay ID` rebuilds its state at every sequence from the log alone, with all other
    state deleted.
    """
    before = {job_id: told.json("job", job_id) for job_id in JOBS}
    told.down()
    kept = {"jetstream", "keys"}
    for path in (told.root / ".writ").iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert {path.name for path in (told.root / ".writ").iterdir()} == kept
    told.up()
    for job_id in JOBS:
        bodies = [one.body for one in told.log_by_subject(f"writ.log.0.default.job.mail~{job_id}".encode())]
        replayed = {step["seq"]: step["job"] for step in told.json("replay", job_id)["steps"]}
        for seq, job in retell(bodies):
            assert {name: replayed[seq][name] for name in job} == job, f"job {job_id} at {seq}"
        assert told.json("replay", job_id, "--verify")["ok"] is True
        assert told.json("job", job_id) == before[job_id]
    assert {j["id"]: j["state"] for j in told.json("jobs", "--queue", "mail")} == ENDS


@pytest.mark.parametrize("job_id", ["flaky", "broken"])
def test_replay_at_a_sequence_is_the_state_then(told: Place, job_id: str) -> None:
    bodies = [one.body for one in told.log_by_subject(f"writ.log.0.default.job.mail~{job_id}".encode())]
    steps = list(retell(bodies))
    for (seq, job), (following, _) in zip(steps, [*steps[1:], (steps[-1][0] + 1, {})], strict=True):
        for at in {seq, following - 1}:
            shown = told.json("replay", job_id, "--at", str(at))["job"]
            assert {name: shown[name] for name in job} == job
    gone = told.writ("replay", job_id, "--at", str(steps[0][0] - 1), check=False)
    assert gone.returncode == 1
