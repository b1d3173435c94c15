"""What was done, by whom, and what came of it: the further lists, and reads that miss no write."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.cli.conftest import Result, Shell


def done(shown: Result) -> Any:
    """The document of a command that went well."""
    assert shown.code == 0, shown.err
    return shown.document


def ended(node: Shell, job: str) -> Any:
    node.until(lambda: done(node("job", job, "--json"))["state"] in ("completed", "cancelled", "dead"))
    return done(node("job", job, "--json"))


def test_jobs_are_found_by_their_tags_errors_and_times(node: Shell) -> None:
    tags = ("--tag", "customer=acme", "--tag", "day=1")
    one = done(node("submit", "q", "hello", '{"name": "a"}', *tags, "--wait", "--json"))["id"]
    lines = "".join(json.dumps({"task": "broken", "input": {"n": n}, "id": f"t-{n}"}) + "\n" for n in (1, 2))
    sent = ("submit", "q", "--file", "-", "--tag", "customer=acme", "--max-attempts", "1", "--json")
    assert [each["id"] for each in done(node(*sent, input=lines))] == ["t-1", "t-2"]
    assert done(node("job", one, "--json"))["tags"] == {"customer": "acme", "day": "1"}
    assert "customer=acme, day=1" in node("job", one).out

    def found(*words: str) -> set[str]:
        return {each["id"] for each in done(node("jobs", "--json", *words))}

    assert found("--tag", "customer=acme") == {one, "t-1", "t-2"}
    assert found("--tag", "day=1", "--tag", "customer=acme") == {one}
    node.until(lambda: found("--tag", "customer=acme", "--state", "dead") == {"t-1", "t-2"})
    assert found("--error", "application", "--tag", "customer=acme") == {"t-1", "t-2"}
    assert found("--actor", "owner", "--tag", "customer=acme", "--state", "completed") == {one}
    assert found("--actor", "nobody") == set()
    at = done(node("job", "t-1", "--json"))["submitted_at"]
    assert found("--since", at, "--tag", "customer=acme") == {"t-1", "t-2"}
    assert found("--until", at, "--tag", "customer=acme") == {one}
    refused = node("submit", "q", "hello", "--tag", "two words=x")
    assert (refused.code, "'two words'" in refused.err) == (1, True)


def test_the_audit_tells_who_did_what_and_what_was_refused(node: Shell) -> None:
    job = done(node("submit", "q", "hello", '{"name": "b"}', "--wait", "--json"))["id"]
    assert node("rerun", job, "--reason", "once more").code == 0
    ended(node, job)
    assert node("cancel", job).code != 0, "it has ended"
    acts = done(node("audit", "--job", job, "--json"))
    assert [(act["verb"], act["actor"], act["reason"]) for act in acts] == [
        ("rerun", "owner", "once more"),
        ("submit", "owner", None),
    ]
    (refused,) = done(node("audit", "--refused", "--verb", "cancel", "--limit", "1", "--json"))
    assert (refused["refused"], refused["queue"], refused["actor"]) == ("conflict", "q", "owner")
    assert "already_finished" in refused["reason"]
    assert done(node("audit", "--done", "--verb", "cancel", "--json")) == []
    assert "once more" in node("audit", "--verb", "rerun").out
    tries = done(node("attempts", "--job", job, "--json"))
    assert [each["outcome"] for each in tries] == ["completed", "completed"]
    (worker,) = done(node("workers", "--json"))
    assert worker["worker"] == tries[0]["worker"]
    assert worker["completed"] >= 2
    assert worker["queues"] == ["q"]
    assert worker["host"] == socket.gethostname()
    assert worker["slots"] >= 1
    row = next(line for line in node("workers").out.splitlines() if worker["worker"] in line)
    assert row.split()[2:4] == [worker["host"], worker["version"]]
    (queue,) = [each for each in done(node("queue", "list", "--json")) if each["queue"] == "q"]
    assert queue["traffic"]["granted"] >= 2
    assert queue["traffic"]["waits"]["p95_s"] > 0


def test_lists_without_anything_say_so(node: Shell) -> None:
    assert node("cost").out == "no usage of models is recorded\n"
    assert done(node("cost", "--by", "day", "--json")) == []
    assert node("tools").out == "no tool was called\n"
    assert done(node("tools", "calls", "--json")) == []
    assert node("audit", "--actor", "nobody").out == "nobody has done anything that matches\n"
    assert node("attempts", "--worker", "nobody").out == "no attempt matches\n"
    wrong = node("audit", "--since", "yesterday")
    assert (wrong.code, "is not an RFC 3339 time" in wrong.err) == (2, True)
    assert "'colour'" in node("cost", "--by", "colour").err


def test_a_write_says_its_position_and_a_read_waits_for_it(node: Shell) -> None:
    sent = done(node("submit", "q", "hello", '{"name": "c"}', "--json"))
    (job,) = done(node("jobs", "--after", str(sent["position"]), "--limit", "1", "--json"))
    assert job["id"] == sent["id"]
    late = node("audit", "--after", "1000000")
    assert late.code != 0
    assert "1000000 is beyond the log, whose last record is" in late.err


def test_a_watched_audit_tells_what_happens_in_its_order(node: Shell) -> None:
    process = node.start("audit", "--actor", "owner", "--queue", "watched", "--watch")
    assert process.stdout is not None
    for name in ("w-1", "w-2"):
        assert node("submit", "watched", "hello", "--id", name).code == 0
    seen = [process.stdout.readline().split()[5] for _ in range(2)]
    process.terminate()
    assert seen == ["w-1", "w-2"]
