"""Forensics as a user has them: on a real node, and from a bundle where there is no node."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
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
def flaky(context: Context, fails: int) -> str:
    if context.attempt <= fails:
        raise RuntimeError(f"attempt {context.attempt} <fails>")
    return "at last"
"""
RETRY = "retry = { max_attempts = %d, initial_interval_s = 0.05, jitter = 0.5 }"
FAILS = {"never": 9, "third": 2, "second": 1}


@pytest.fixture(scope="module")
def told(place: Place) -> Place:
    """A node on which a few jobs have come to their ends."""
    (place.root / "tasks.py").write_text(TASKS)
    for name, attempts in (("before.toml", 4), ("after.toml", 2), ("more.toml", 6)):
        (place.root / name).write_text(f"[queues.work]\nconcurrency = 2\n{RETRY % attempts}\n")
    place.writ("apply", "before.toml")
    for job, fails in FAILS.items():
        place.writ("submit", "work", "flaky", json.dumps({"fails": fails}), "--id", job)
    place.writ("submit", "work", "fine", '{"n": 1}', "--id", "fine")
    place.writ("submit", "other", "fine", '{"n": 1}', "--id", "waiting", "--delay", "3600")
    with place.worker("tasks.py", "--queue", "work"):
        place.until(lambda: all(job["state"] in ("completed", "dead", "scheduled") for job in jobs(place)))
    return place


def jobs(place: Place) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = place.json("jobs")
    return found


def test_the_whole_log_is_verified(told: Place) -> None:
    found = told.json("replay", "--verify")
    assert found["ok"] is True
    assert found["coverage"] == "whole"
    assert found["report"]["decisions"] >= found["report"]["records"] - 1
    assert "no fault; digest" in told.writ("replay", "--verify").stdout


def test_a_job_a_queue_and_a_tenant_at_any_moment(told: Place) -> None:
    records = told.json("job", "third")["records"]
    for seq in (records[0]["seq"], records[len(records) // 2]["seq"], records[-1]["seq"]):
        job = told.json("replay", "third", "--at", str(seq))["job"]
        assert told.json("replay", "--queue", "work", "--at", str(seq))["jobs"]["work~third"] == job
        assert told.json("replay", "--at", str(seq))["jobs"]["work~third"] == job
    now, queue = told.json("replay"), told.json("replay", "--queue", "work")
    assert {key: job["state"] for key, job in now["jobs"].items()} == {
        f"{job['queue']}~{job['id']}": job["state"] for job in jobs(told)
    }
    assert now["states"] == {"completed": 3, "dead": 1, "scheduled": 1}
    assert set(queue["jobs"]) == {"work~never", "work~third", "work~second", "work~fine"}
    assert queue["queues"]["work"]["policy"]["concurrency"] == 2
    assert "after record" in told.writ("replay", "--queue", "work").stdout


def test_what_changed_between_two_moments(told: Place) -> None:
    records = told.json("job", "never")["records"]
    first, last = str(records[0]["seq"]), str(records[-1]["seq"])
    (change,) = told.json("replay", "never", "--diff", first, last)["changes"]
    assert change["fields"]["state"] == ["pending", "dead"]
    assert change["fields"]["failures"] == [0, 4]
    all_ = told.json("replay", "--diff", str(records[0]["seq"] - 1), last)["changes"]
    assert {"what": "job", "key": "work~never", "change": "new", "fields": {}} in all_
    assert "state: pending -> dead" in told.writ("replay", "never", "--diff", first, last).stdout
    assert told.json("replay", "--diff", last, last)["changes"] == []


def test_what_if_of_a_file_as_apply_takes_it(told: Place) -> None:
    same = told.json("replay", "--what-if", "before.toml")
    assert same["otherwise"] == []
    assert same["was"] == same["would_be"]
    fewer = {each["key"]: each for each in told.json("replay", "--what-if", "after.toml")["otherwise"]}
    assert set(fewer) == {"work~never", "work~third"}
    assert {each["would_be"]["state"] for each in fewer.values()} == {"dead"}
    assert {each["would_be"]["attempts"] for each in fewer.values()} == {2}
    (more,) = told.json("replay", "--what-if", "more.toml")["otherwise"]
    assert (more["key"], more["would_be"]["state"]) == ("work~never", "unknown")
    assert "never ran" in more["why"]
    assert "would have come out otherwise" in told.writ("replay", "--what-if", "after.toml").stdout


def test_timelines_in_every_form(told: Place) -> None:
    text, mermaid, page = (
        told.writ("replay", "third", "--as", form).stdout for form in ("text", "mermaid", "html")
    )
    steps = told.json("replay", "third")["steps"]
    events = [event["type"] for step in steps for event in step["events"]]
    for name in events:
        assert name in text
        assert name in mermaid
        assert f"<code>{name}</code>" in page
    assert mermaid.startswith("sequenceDiagram\n")
    assert len(re.findall(r"^    (p\d+-|Note over)", mermaid, re.M)) == len(events)
    assert "attempt 1 &lt;fails&gt;" in page
    assert not re.search(r'(src|href)="(?!#)|(src|href)=[^"]|url\(|@import|<script', page), (
        "nothing from outside"
    )
    assert json.loads(told.writ("replay", "third", "--as", "json").stdout)["steps"] == steps


# --- bundles ----------------------------------------------------------------------------------------------


def elsewhere(at: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command where no node is, nor was."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "writ", *arguments], cwd=at, capture_output=True, text=True, check=False
    )


def test_a_bundle_replays_where_there_is_no_node(told: Place, tmp_path: Path) -> None:
    bundle = str(tmp_path / "third.bundle")
    assert told.json("replay", "third", "--export", bundle)["head"]["jobs"] == ["work~third"]
    last = str(told.json("job", "third")["records"][-1]["seq"])
    for asked in ((), ("--at", last), ("--diff", "1", last)):
        here = told.json("replay", "third", *asked)
        there = json.loads(
            elsewhere(tmp_path, "replay", "third", *asked, "--bundle", bundle, "--json").stdout
        )
        own = [step for step in there.get("steps", ()) if not step["context"]]
        assert own == [step for step in here.get("steps", ()) if not step["context"]]
        assert there.get("job") == here.get("job")
        assert there.get("changes") == here.get("changes")
    for option in ("--verify", "--as=mermaid", "--as=html"):
        assert elsewhere(tmp_path, "replay", "third", option, "--bundle", bundle).returncode == 0
    assert "RuntimeError" in elsewhere(tmp_path, "explain", "third", "--bundle", bundle).stdout


def test_a_bundle_of_everything_and_one_of_a_filter(told: Place, tmp_path: Path) -> None:
    all_, dead = str(tmp_path / "all.bundle.gz"), str(tmp_path / "dead.bundle")
    head = told.json("replay", "--export", all_)["head"]
    assert (head["coverage"], head["records"]) == ("whole", head["last"])
    verified = json.loads(elsewhere(tmp_path, "replay", "--bundle", all_, "--verify", "--json").stdout)
    assert verified == told.json("replay", "--verify")
    what_if = elsewhere(
        tmp_path, "replay", "--bundle", all_, "--what-if", str(told.root / "after.toml"), "--json"
    )
    assert json.loads(what_if.stdout) == told.json("replay", "--what-if", "after.toml")
    assert told.json("replay", "--state", "dead", "--export", dead)["head"]["jobs"] == ["work~never"]
    partial = elsewhere(tmp_path, "replay", "--bundle", dead, "--what-if", str(told.root / "after.toml"))
    assert (partial.returncode, "what if needs all" in partial.stderr) == (2, True)
    nothing = told.writ("replay", "--state", "cancelled", "--export", dead, check=False)
    assert (nothing.returncode, "no job matches" in nothing.stderr) == (1, True)


def test_a_bundle_that_was_changed_is_refused(told: Place, tmp_path: Path) -> None:
    bundle = tmp_path / "all.bundle.gz"
    told.writ("replay", "--export", str(bundle))
    body = gzip.decompress(bundle.read_bytes())
    lines = body.splitlines(keepends=True)
    spoiled = {
        "edited": body.replace(b"at last", b"at once"),
        "deleted": b"".join([*lines[:5], *lines[6:]]),
        "inserted": b"".join([*lines[:5], *lines[4:]]),
        "reordered": b"".join([*lines[:5], lines[6], lines[5], *lines[7:]]),
        "cut": b"".join(lines[:-3]),
        "cut in a line": body[:-40],
        "another head": body.replace(b'"tenant":"default"', b'"tenant":"another"', 1),
        "empty": b"",
    }
    for how, content in spoiled.items():
        other = tmp_path / f"{how.replace(' ', '-')}.bundle"
        assert content != body, how
        other.write_bytes(content)
        done = elsewhere(tmp_path, "replay", "--bundle", str(other))
        assert (done.returncode, done.stdout) == (1, ""), how
        assert "refused" in done.stderr, how
