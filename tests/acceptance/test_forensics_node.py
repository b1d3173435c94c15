"""Forensics as a user has them: on a real node, and from a bundle where there is no node."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from writ.cli import main

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


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def writ(*arguments: str) -> Done:
    """One command in this process: a user's own would each take as long as all of it."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return Done(code, out.getvalue(), err.getvalue())


class Told:
    """A node on which a few jobs have come to their ends."""

    def __init__(self, place: Place) -> None:
        self.root = place.root

    def writ(self, *arguments: str) -> Done:
        return writ(*arguments, "--dir", str(self.root / ".writ"))

    def json(self, *arguments: str) -> Any:
        done = self.writ(*arguments, "--json")
        assert done.err == ""
        return json.loads(done.out)


@pytest.fixture(scope="module")
def told(place: Place) -> Told:
    node = Told(place)
    (place.root / "tasks.py").write_text(TASKS)
    for name, attempts in (("before.toml", 4), ("after.toml", 2), ("more.toml", 6)):
        (place.root / name).write_text(f"[queues.work]\nconcurrency = 2\n{RETRY % attempts}\n")
    assert node.writ("apply", str(place.root / "before.toml")).code == 0
    for job, fails in FAILS.items():
        node.writ("submit", "work", "flaky", json.dumps({"fails": fails}), "--id", job)
    node.writ("submit", "work", "fine", '{"n": 1}', "--id", "fine")
    node.writ("submit", "other", "fine", '{"n": 1}', "--id", "waiting", "--delay", "3600")
    with place.worker("tasks.py", "--queue", "work"):
        place.until(lambda: all(job["state"] in ("completed", "dead", "scheduled") for job in jobs(node)))
    return node


def jobs(told: Told) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = told.json("jobs")
    return found


def test_the_whole_log_is_verified(told: Told) -> None:
    found = told.json("replay", "--verify")
    assert found["ok"] is True
    assert found["coverage"] == "whole"
    report = found["report"]
    # What workers say of themselves is decided by nobody; nor is what the first leader found.
    assert report["decisions"] + report["unrecorded"]["worker_seen"] >= report["records"] - 1
    assert "no fault; digest" in told.writ("replay", "--verify").out


def test_to_explain_a_live_job_stores_nothing(told: Told) -> None:
    """A question of what holds a job back, with its tenant's quotas, is no record of the log."""
    before = told.json("replay", "--verify")["report"]["records"]
    found = told.json("explain", "waiting", "--queue", "other")
    assert found["state"] == "scheduled"
    assert told.json("replay", "--verify")["report"]["records"] == before


def test_a_job_a_queue_and_a_tenant_at_any_moment(told: Told) -> None:
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
    assert "after record" in told.writ("replay", "--queue", "work").out


def test_what_changed_between_two_moments(told: Told) -> None:
    records = told.json("job", "never")["records"]
    first, last = str(records[0]["seq"]), str(records[-1]["seq"])
    (change,) = told.json("replay", "never", "--diff", first, last)["changes"]
    assert change["fields"]["state"] == ["pending", "dead"]
    assert change["fields"]["failures"] == [0, 4]
    all_ = told.json("replay", "--diff", str(records[0]["seq"] - 1), last)["changes"]
    assert {"what": "job", "key": "work~never", "change": "new", "fields": {}} in all_
    assert "state: pending -> dead" in told.writ("replay", "never", "--diff", first, last).out
    assert told.json("replay", "--diff", last, last)["changes"] == []


def test_what_if_of_a_file_as_apply_takes_it(told: Told) -> None:
    same = told.json("replay", "--what-if", str(told.root / "before.toml"))
    assert same["otherwise"] == []
    assert same["was"] == same["would_be"]
    fewer = {
        each["key"]: each
        for each in told.json("replay", "--what-if", str(told.root / "after.toml"))["otherwise"]
    }
    assert set(fewer) == {"work~never", "work~third"}
    assert {each["would_be"]["state"] for each in fewer.values()} == {"dead"}
    assert {each["would_be"]["attempts"] for each in fewer.values()} == {2}
    (more,) = told.json("replay", "--what-if", str(told.root / "more.toml"))["otherwise"]
    assert (more["key"], more["would_be"]["state"]) == ("work~never", "unknown")
    assert "never ran" in more["why"]
    assert (
        "would have come out otherwise" in told.writ("replay", "--what-if", str(told.root / "after.toml")).out
    )


def test_timelines_in_every_form(told: Told) -> None:
    text, mermaid, page = (
        told.writ("replay", "third", "--as", form).out for form in ("text", "mermaid", "html")
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
    assert json.loads(told.writ("replay", "third", "--as", "json").out)["steps"] == steps


# --- bundles ----------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Runs a command where no node is, nor was."""
    for name in ("NATS_URL", "NATS_NKEY", "WRIT_TENANT", "WRIT_PRINCIPAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return writ


def test_a_bundle_replays_where_there_is_no_node(
    told: Told, tmp_path: Path, elsewhere: Callable[..., Done]
) -> None:
    bundle = str(tmp_path / "third.bundle")
    assert told.json("replay", "third", "--export", bundle)["head"]["jobs"] == ["work~third"]
    last = str(told.json("job", "third")["records"][-1]["seq"])
    for asked in ((), ("--at", last), ("--diff", "1", last)):
        here = told.json("replay", "third", *asked)
        there = json.loads(elsewhere("replay", "third", *asked, "--bundle", bundle, "--json").out)
        own = [step for step in there.get("steps", ()) if not step["context"]]
        assert own == [step for step in here.get("steps", ()) if not step["context"]]
        assert there.get("job") == here.get("job")
        assert there.get("changes") == here.get("changes")
    for option in ("--verify", "--as=mermaid", "--as=html"):
        assert elsewhere("replay", "third", option, "--bundle", bundle).code == 0
    assert "RuntimeError" in elsewhere("explain", "third", "--bundle", bundle).out


def test_a_bundle_of_everything_and_one_of_a_filter(
    told: Told, tmp_path: Path, elsewhere: Callable[..., Done]
) -> None:
    all_, dead = str(tmp_path / "all.bundle.gz"), str(tmp_path / "dead.bundle")
    head = told.json("replay", "--export", all_)["head"]
    assert (head["coverage"], head["records"]) == ("whole", head["last"])
    verified = json.loads(elsewhere("replay", "--bundle", all_, "--verify", "--json").out)
    assert verified == told.json("replay", "--verify")
    what_if = elsewhere("replay", "--bundle", all_, "--what-if", str(told.root / "after.toml"), "--json")
    assert json.loads(what_if.out) == told.json("replay", "--what-if", str(told.root / "after.toml"))
    assert told.json("replay", "--state", "dead", "--export", dead)["head"]["jobs"] == ["work~never"]
    partial = elsewhere("replay", "--bundle", dead, "--what-if", str(told.root / "after.toml"))
    assert (partial.code, "what if needs all" in partial.err) == (2, True)
    nothing = told.writ("replay", "--state", "cancelled", "--export", dead)
    assert (nothing.code, "no job matches" in nothing.err) == (1, True)


def test_a_bundle_that_was_changed_is_refused(
    told: Told, tmp_path: Path, elsewhere: Callable[..., Done]
) -> None:
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
        done = elsewhere("replay", "--bundle", str(other))
        assert (done.code, done.out) == (1, ""), how
        assert "refused" in done.err, how
