"""What operators do, with a real node and a real worker: jobs, queues, schedules, dead letters, files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Result, Shell

FILE = """
[queues.billing]
concurrency = 5
retry = {max_attempts = 3}

[schedules.nightly]
queue = "billing"
task = "hello"
cron = "30 2 * * *"
tz = "Europe/Berlin"
input = {name = "night"}
"""


def submitted(node: Shell, *words: str) -> str:
    shown = node("submit", *words)
    assert shown.code == 0, shown.err
    return shown.out.strip()


def done(shown: Result) -> Any:
    """The document of a command that went well."""
    assert shown.code == 0, shown.err
    return shown.document


def state(node: Shell, job: str) -> str:
    return str(done(node("job", job, "--json"))["state"])


def ended(node: Shell, job: str) -> str:
    node.until(lambda: state(node, job) in ("completed", "cancelled", "dead"))
    return state(node, job)


# --- single jobs ----------------------------------------------------------------------------------------


def test_a_person_says_yes_or_no(node: Shell) -> None:
    yes = submitted(node, "q", "hello", '{"name": "a"}', "--approval", "--approval-timeout", "3600")
    no = submitted(node, "q", "hello", '{"name": "b"}', "--approval")
    view = done(node("job", yes, "--json"))
    assert (view["state"], view["wait"]["reason"], view["wait"]["on_timeout"]) == (
        "suspended", "approval", "dead_letter"
    )  # fmt: skip
    assert "approval since" in node("job", yes).out
    assert "a person must say yes" in node("explain", yes).out
    assert [job["id"] for job in done(node("jobs", "--state", "suspended", "--json"))] == [no, yes]
    shown = node("approve", yes, "--reason", "within budget", "--data", '{"limit": 5}')
    assert (shown.code, shown.err) == (0, "")
    assert ended(node, yes) == "completed"
    assert "within budget" in node("job", yes).out
    assert done(node("reject", no, "--reason", "too much", "--json"))[0]["dead_reason"] == "rejected"
    again = node("approve", no)
    assert (again.code, again.out) == (1, "")
    assert f"next: writ job {no}" in again.err


def test_a_job_is_paused_edited_resumed_and_rerun(node: Shell) -> None:
    job = submitted(node, "q", "hello", '{"name": "a"}', "--delay", "3600")
    assert node("pause", job, "--reason", "until Monday").out == f"job {job} is suspended: paused\n"
    edited = node(
        "edit", job, "--input", '{"name": "b"}', "--priority", "1", "--not-before", "2020-01-01T00:00Z"
    )
    assert edited.code == 0, edited.err
    view = done(node("job", job, "--json"))
    assert (view["priority"], view["input"], view["state"]) == (1, {"name": "b"}, "suspended")
    assert done(node("resume", job, "--json"))[0]["wait"] is None
    assert ended(node, job) == "completed"
    assert done(node("job", job, "--json"))["output"] == "hello b"
    assert done(node("rerun", job, "--reason", "again", "--json"))[0]["round"] == 2
    assert ended(node, job) == "completed"
    late = node("edit", job, "--priority", "2")
    assert late.code == 1
    assert "already_finished" in late.err


def test_a_signal_reaches_a_job_and_terminate_ends_it(node: Shell) -> None:
    job = submitted(node, "nobody", "hello")
    assert node("signal", job, "paid", "--data", '{"amount": 12}').code == 0
    assert "signal paid" in node("job", job).out
    shown = node("terminate", job, "nope", "--json")
    assert (shown.code, [each["state"] for each in shown.document]) == (1, ["cancelled"])
    assert "nope" in shown.err
    assert "next: writ jobs" in shown.err


def test_a_job_comes_after_another_with_its_output(node: Shell) -> None:
    first = submitted(node, "q", "hello", '{"name": "first"}', "--delay", "3600", "--id", "first")
    second = submitted(
        node, "q", "hello", "--after", first, "--input-from", f"name={first}", "--batch", "b1",
        "--unique-key", "only", "--concurrency-key", "k",
    )  # fmt: skip
    view = done(node("job", second, "--json"))
    assert (view["wait"]["reason"], view["after"], view["batch"], view["unique_key"]) == (
        "dependency", ["q~first"], "b1", "only"
    )  # fmt: skip
    assert node("edit", first, "--not-before", "2020-01-01T00:00Z").code == 0
    assert ended(node, second) == "completed"
    assert done(node("job", second, "--json"))["output"] == "hello hello first"
    assert done(node("batches", "b1", "--json")) == [
        {
            "batch": "b1",
            "queue": "q",
            "tenant": "default",
            "size": None,
            "jobs": {"completed": 1},
            "ended_at": None,
        }
    ]
    assert node("batches").out.splitlines()[1].split()[:2] == ["b1", "q"]


# --- queues ---------------------------------------------------------------------------------------------


def test_a_queue_is_paused_drained_and_resumed(node: Shell) -> None:
    assert node("queue", "pause", "p1", "--reason", "night").out == "queue p1 is paused\n"
    job = submitted(node, "p1", "hello")
    view = done(node("queue", "show", "p1", "--json"))
    assert (view["mode"], view["reason"], view["jobs"]) == ("paused", "night", {"pending": 1})
    shown = node("queue", "show", "p1").out
    assert "queue p1 is paused: night" in shown
    assert "queue_paused" in shown
    assert "paused: night" in node("explain", job).out
    assert node("queue", "drain", "p1").code == 0
    assert done(node("queue", "resume", "p1", "--json"))["mode"] == "open"
    rows = {row.split()[0]: row.split()[1:4] for row in node("queue", "list").out.splitlines()}
    assert rows["p1"] == ["open", "0", "1"]
    unknown = node("queue", "show", "nowhere")
    assert unknown.code == 1
    assert "next: writ queue list" in unknown.err


def test_many_jobs_are_cancelled_by_plan(node: Shell) -> None:
    jobs = [submitted(node, "bulk", "hello", "--delay", "3600") for _ in range(3)]
    kept = submitted(node, "bulk", "hello")
    words = ("cancel", "--all", "--queue", "bulk", "--state", "scheduled", "--json")
    (dry,) = done(node(*words, "--dry-run"))
    assert (dry["matched"], dry["operation"], set(dry["sample"])) == (3, None, set(jobs))
    assert "would cancel 3 jobs of queue bulk" in node(*words[:-1], "--dry-run").out
    assert state(node, jobs[0]) == "scheduled"
    (planned,) = done(node(*words, "--reason", "sold"))
    for job in jobs:
        assert ended(node, job) == "cancelled"
    assert state(node, kept) == "pending"
    node.until(lambda: done(node("operations", planned["operation"], "--json"))[0]["ended"] is not None)
    (operation,) = done(node("operations", planned["operation"], "--json"))
    assert (operation["verb"], operation["matched"], operation["done"], operation["ended"]) == (
        "cancel", 3, 3, "done"
    )  # fmt: skip
    assert planned["operation"] in node("operations", "--queue", "bulk").out


# --- files and schedules --------------------------------------------------------------------------------


def test_a_file_is_applied_and_shows_what_differs(node: Shell) -> None:
    (node.directory / "writ.toml").write_text(FILE)
    dry = node("apply", "writ.toml", "--dry-run")
    assert dry.code == 0, dry.err
    assert "+ queue billing: new" in dry.out
    assert "    concurrency: none -> 5" in dry.out
    assert "2 of 2 would be declared" in dry.out
    assert node("queue", "show", "billing").code == 1, "a dry run declares nothing"
    assert "2 of 2 declared" in node("apply", "writ.toml").out
    again = node("apply", "writ.toml")
    assert again.out.splitlines() == [
        "= queue billing: unchanged",
        "= schedule nightly of queue billing: unchanged",
        "nothing to change",
    ]
    (node.directory / "writ.toml").write_text(FILE.replace("= 5", "= 6").replace("30 2", "30 3"))
    changed = done(node("apply", "writ.toml", "--json", "--reason", "more"))
    assert [(each["change"], each["fields"], each["declared"]) for each in changed] == [
        ("changed", {"concurrency": {"old": 5, "new": 6}}, True),
        ("changed", {"cron": {"old": "30 2 * * *", "new": "30 3 * * *"}}, True),
    ]
    view = done(node("queue", "show", "billing", "--json"))
    assert (view["version"], view["policy"]["concurrency"]) == (2, 6)
    assert [(c["event"], c["data"]["version"]) for c in view["history"]] == [
        ("queue_declared", 2), ("queue_declared", 1)
    ]  # fmt: skip
    assert "retry.max_attempts" in node("queue", "show", "billing").out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[queues.a]\nconcurrency = 0", "queues.a.concurrency: Expected `int` >= 1"),
        ("[queues.a]\nconcurency = 1", "queues.a.concurency: Object contains unknown field"),
        ("[queues.a]\nconcurency = 1", "did you mean concurrency?"),
        ("[queues.a]\nretry = {backoff = 0.5}", "queues.a.retry.backoff: Expected `float` >= 1"),
        ("[queue.a]\nconcurrency = 1", "did you mean queues?"),
        ("[queues.'a.b']", "queues.a.b: queue 'a.b' holds '.'"),
        ("[schedules.n]\ntask = 't'\ncron = '* * * * *'", "schedules.n.queue: the queue"),
        (
            "[schedules.n]\nqueue = 'q'\ntask = 't'\ncron = '99 * * * *'",
            "schedules.n.cron: cron '99 * * * *'",
        ),
        ("[schedules.n]\nqueue = 'q'\ntask = 't'", "schedules.n.cron: neither cron nor every_s"),
        ("[queues.a", "is not TOML"),
        ("", "holds no [queues.NAME]"),
    ],
)
def test_a_bad_file_names_the_table_and_the_field(text: str, said: str, writ: Shell) -> None:
    shown = writ("apply", "-", input=text)
    assert (shown.code, shown.out) == (2, "")
    assert said in shown.err


def test_a_schedule_is_listed_triggered_paused_and_deleted(node: Shell) -> None:
    text = '[schedules.often]\nqueue = "q"\ntask = "hello"\ninput = {name = "s"}\nevery_s = 3600'
    assert node("apply", "-", input=text).code == 0
    view = done(node("schedule", "show", "often", "--times", "3", "--json"))
    assert (len(view["next"]), view["fired"], view["spec"]["every_s"]) == (3, 0, 3600)
    assert view["next"][0] in node("schedule", "list", "--queue", "q").out
    assert "Next times" in node("schedule", "show", "often").out
    (job,) = done(node("schedule", "trigger", "often", "--json"))["jobs"]
    assert ended(node, job) == "completed"
    assert done(node("job", job, "--json"))["schedule"] == "often"
    shown = node(
        "schedule", "backfill", "often", "--from", "2026-01-01T00:00Z", "--to", "2026-01-01T01:59:59Z"
    )
    assert shown.code == 0, shown.err
    assert len(shown.out.split()) == 2 or len(shown.out.split()) == 1
    assert node("schedule", "pause", "often", "--reason", "audit").out == "schedule often is paused\n"
    assert done(node("schedule", "show", "often", "--json"))["next"] == []
    assert "is live; next at" in node("schedule", "resume", "often").out
    assert "is deleted" in node("schedule", "delete", "often").out
    gone = node("schedule", "show", "often")
    assert (gone.code, gone.out) == (1, "")
    assert "next: writ schedule list" in gone.err


# --- dead letters ---------------------------------------------------------------------------------------


def test_dead_letters_are_redriven_and_dropped_by_cause(node: Shell) -> None:
    jobs = [submitted(node, "q", "broken", json.dumps({"n": n}), "--max-attempts", "1") for n in range(3)]
    for job in jobs:
        assert ended(node, job) == "dead"
    listed = node("dlq", "--queue", "q", "--task", "broken").out.splitlines()
    assert listed[0].split()[0] == "CAUSE"
    cause, count = listed[1].split()[:2]
    assert (len(cause), count) == (12, "3"), "one cause, whatever the numbers in the text"
    vague = node("dlq", "redrive", "--reason", "mended")
    assert vague.code == 2
    assert "--cause" in vague.err
    words = ("dlq", "redrive", "--cause", cause, "--reason", "mended", "--json")
    (dry,) = done(node(*words, "--dry-run"))
    assert (dry["matched"], dry["operation"]) == (3, None)
    (planned,) = done(node(*words, "--canary", "1", "--rate", "1000"))
    node.until(lambda: done(node("operations", planned["operation"], "--json"))[0]["ended"] is not None)
    (operation,) = done(node("operations", planned["operation"], "--json"))
    assert (operation["done"], operation["canary"]) == (1, 1)
    assert "canary failed" in operation["ended"]
    rounds = sorted(done(node("job", job, "--json"))["round"] for job in jobs)
    assert rounds == [1, 1, 2]
    assert node("dlq", "drop", jobs[0], "--reason", "customer left").out == f"job {jobs[0]} is settled\n"
    (planned,) = done(node("dlq", "drop", "--cause", cause, "--reason", "all of it", "--json"))
    assert planned["matched"] == 2
    node.until(lambda: done(node("dlq", "--cause", cause, "--json")) == [])
    assert done(node("job", jobs[0], "--json"))["dropped"] == "customer left"
