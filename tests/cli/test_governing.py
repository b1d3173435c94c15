"""What operators do, with a real node and a real worker: jobs, queues, schedules, dead letters, files."""

from __future__ import annotations

import json
import signal
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
    assert [job["id"] for job in done(node("jobs", "--batch", "b1", "--json"))] == [second]


def test_a_tree_is_shown_from_any_of_its_jobs(node: Shell) -> None:
    top = submitted(node, "tree", "hello", '{"name": "a"}', "--id", "top", "--approval")
    first = submitted(node, "tree", "hello", "--parent", top, "--delay", "60", "--id", "first")
    leaf = submitted(node, "leaves", "hello", "--parent", f"tree~{first}", "--delay", "60", "--id", "leaf")
    second = submitted(node, "tree", "hello", "--parent", top, "--delay", "60", "--id", "second")
    assert [job["id"] for job in done(node("jobs", "--parent", top, "--json"))] == [second, first]
    assert [job["id"] for job in done(node("jobs", "--parent", f"tree~{first}", "--json"))] == [leaf]
    view = done(node("job", top, "--json"))
    assert view["children"] == [
        {"queue": "tree", "id": name, "task": "hello", "state": "scheduled"} for name in (first, second)
    ]

    def tree(job: str) -> list[str]:
        lines = node("job", job).out.splitlines()
        start = lines.index("Tree") + 1
        return lines[start : lines.index("", start)]

    assert tree(top) == [
        "  tree~top  hello  suspended  (this job)",
        "    tree~first  hello  scheduled",
        "      leaves~leaf  hello  scheduled",
        "    tree~second  hello  scheduled",
    ]
    assert tree(leaf) == [
        "  tree~top  hello  suspended",
        "    tree~first  hello  scheduled",
        "      leaves~leaf  hello  scheduled  (this job)",
    ]
    assert "Tree" not in node("job", submitted(node, "alone", "hello", "--delay", "60")).out


def test_a_step_to_rerun_from_must_be_recorded(node: Shell) -> None:
    job = submitted(node, "q", "hello", '{"name": "a"}')
    assert ended(node, job) == "completed"
    shown = node("rerun", job, "--from-step", "extract")
    assert (shown.code, shown.out) == (1, "")
    assert "has no step 'extract' to run from; its recorded steps: none" in shown.err
    assert f"next: writ job {job}" in shown.err
    assert done(node("job", job, "--json"))["round"] == 1


def test_a_submit_with_a_unique_key_names_the_job_that_has_it(node: Shell) -> None:
    first = done(node("submit", "once", "hello", "--unique-key", "u", "--json"))
    assert first["existing"] is False
    again = done(node("submit", "once", "hello", "--unique-key", "u", "--json"))
    assert again["position"] > first["position"], "what was refused is in the log too"
    assert again == first | {"existing": True, "position": again["position"]}
    lines = '{"task": "hello", "unique_key": "u"}\n{"task": "hello", "unique_key": "v"}\n{"task": "hello"}'
    many = done(node("submit", "once", "--file", "-", "--json", input=lines))
    assert [each["existing"] for each in many] == [True, False, False]
    assert many[0]["id"] == first["id"]
    assert len(done(node("jobs", "--queue", "once", "--json"))) == 3
    assert node("apply", "-", input='[queues.strict]\non_clash = "reject"').code == 0
    assert node("submit", "strict", "hello", "--unique-key", "u").code == 0
    refused = node("submit", "strict", "hello", "--unique-key", "u")
    assert (refused.code, refused.out) == (1, "")
    assert "unique_key u belongs to the live job" in refused.err


# --- batches --------------------------------------------------------------------------------------------


def test_a_batch_is_sealed_and_its_end_is_told(node: Shell) -> None:
    lines = "\n".join(json.dumps({"task": "hello", "input": {"name": str(n)}}) for n in range(3))
    last = submitted(node, "batched", "hello", "--batch", "june", "--delay", "3600")
    assert node("submit", "q", "--file", "-", "--batch", "june", input=lines).code == 0
    several = node("batch", "show", "june")
    assert (several.code, several.out) == (1, "")
    assert "several queues have a batch june: batched, q" in several.err
    node.until(
        lambda: done(node("batch", "show", "june", "--queue", "q", "--json"))["jobs"] == {"completed": 3}
    )
    shown = node("batch", "show", "june", "--queue", "q").out
    assert "is not sealed" in shown
    rows = [row.split() for row in node("batch", "list").out.splitlines()]
    assert ["june", "q", "-", "3", "3", "0", "0", "not", "sealed"] in rows
    assert ["june", "batched", "-", "0", "0", "0", "0", "not", "sealed"] in rows
    sealed = node("batch", "seal", "june", "--queue", "q", "--size", "4", "--reason", "all of June").out
    assert sealed == "batch june of queue q is sealed with 4 jobs; 3 have ended\n"
    shown = node("batch", "show", "june", "--queue", "q").out
    for said in ("goes on", "3 of 4 have ended", "1 not submitted yet", "4 jobs, by owner: all of June"):
        assert said in shown
    again = node("batch", "seal", "june", "--queue", "q", "--size", "5")
    assert again.code == 1
    assert "cannot be given 5" in again.err
    view = done(node("batch", "seal", "june", "--queue", "batched", "--json"))
    assert (view["size"], view["ended_at"]) == (1, None), "as many as it has"
    assert node("cancel", last).code == 0
    view = done(node("batch", "show", "june", "--queue", "batched", "--json"))
    assert [change["event"] for change in view["history"]] == ["batch_ended", "batch_sealed"]
    assert "ended at" in node("batch", "show", "june", "--queue", "batched").out
    missing = node("batch", "show", "july")
    assert "next: writ batch list" in missing.err


# --- queues ---------------------------------------------------------------------------------------------


def test_a_queue_is_paused_drained_and_resumed(node: Shell) -> None:
    told = node("queue", "pause", "p1", "--reason", "night").out
    assert told.startswith("queue p1 is paused, ahead of time: it never had a job or a policy")
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
    assert "1 older ones: --history 3" not in node("queue", "show", "p1").out
    cut = node("queue", "show", "p1", "--history", "1").out
    assert ("queue_resumed" in cut, "queue_paused" in cut, "2 older ones: --history 3" in cut) == (
        True,
        False,
        True,
    )
    unknown = node("queue", "show", "nowhere")
    assert unknown.code == 1
    assert "next: writ queue list" in unknown.err


def test_a_rate_that_holds_jobs_back_is_told_with_its_numbers(node: Shell) -> None:
    assert node("apply", "-", input="[queues.q]\nrate_per_s = 0.001\nburst = 1").code == 0
    first = submitted(node, "q", "hello", '{"name": "a"}')
    second = submitted(node, "q", "hello", '{"name": "b"}')
    try:
        assert ended(node, first) == "completed"
        shown = node("explain", second).out
        assert "Queue q grants 0.001 a second with a burst of 1, and has 0.0" in shown
        assert "the next may be granted in " in shown
        assert "of 1 tokens, 0.001 more a second" in node("queue", "show", "q").out
    finally:
        assert node("apply", "-", input="[queues.q]").code == 0
    assert ended(node, second) == "completed"


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
    node.until(lambda: done(node("operation", "show", planned["operation"], "--json"))["ended"] is not None)
    operation = done(node("operation", "show", planned["operation"], "--json"))
    assert (operation["verb"], operation["matched"], operation["done"], operation["ended"]) == (
        "cancel", 3, 3, "done"
    )  # fmt: skip
    assert planned["operation"] in node("operation", "list", "--queue", "bulk").out
    shown = node("operation", "show", planned["operation"]).out
    for said in ("ended: done", "states", "sold", "3 of 3"):
        assert said in shown
    of_it = done(node("jobs", "--operation", planned["operation"], "--json"))
    assert {job["id"] for job in of_it} == set(jobs)
    unknown = node("operation", "show", "op0")
    assert (unknown.code, unknown.out) == (1, "")
    assert "next: writ operation list" in unknown.err


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
    first, second, *others, last = again.out.splitlines()
    assert (first, second) == ("= queue billing: unchanged", "= schedule nightly of queue billing: unchanged")
    assert last == "nothing to change"
    assert all("left alone" in line for line in others), "other tests' queues"
    (node.directory / "writ.toml").write_text(FILE.replace("= 5", "= 6").replace("30 2", "30 3"))
    changed = done(node("apply", "writ.toml", "--json", "--reason", "more"))[:2]
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


def test_what_the_file_does_not_name_is_left_alone_unless_pruned(writ: Shell) -> None:
    assert writ("up", "--detach").code == 0
    try:
        both = "[queues.a]\nconcurrency = 1\n[queues.b]\nconcurrency = 2\nretry = {max_attempts = 3}\n"
        text = both + '[schedules.s]\nqueue = "a"\ntask = "hello"\nevery_s = 3600\n'
        assert writ("apply", "-", input=text).code == 0
        alone = "[queues.a]\nconcurrency = 1"
        for more in ((), ("--dry-run",)):
            assert writ("apply", "-", *more, input=alone).out.splitlines() == [
                "= queue a: unchanged",
                "? queue b: declared, and not in the file: left alone; --prune gives it the built-in policy",
                "? schedule s of queue a: declared, and not in the file: left alone; --prune deletes it",
                "nothing to change",
            ]
        dry = writ("apply", "-", "--prune", "--dry-run", input=alone).out.splitlines()
        assert dry[1:] == [
            "- queue b: not in the file: the built-in policy again",
            "    retry.max_attempts: 3 -> 5",
            "    concurrency: 2 -> none",
            "- schedule s of queue a: not in the file: deleted; the jobs that it started go on",
            "",
            "0 of 1 would be declared, 2 would be pruned",
        ]
        assert done(writ("queue", "show", "b", "--json"))["policy"] != {}, "a dry run prunes nothing"
        pruned = done(writ("apply", "-", "--prune", "--reason", "tidy", "--json", input=alone))
        assert [(each["name"], each["change"], each["pruned"]) for each in pruned] == [
            ("a", "unchanged", False), ("b", "pruned", True), ("s", "pruned", True)
        ]  # fmt: skip
        view = done(writ("queue", "show", "b", "--json"))
        assert (view["version"], view["policy"]) == (2, {}), "the history is kept"
        assert [change["data"].get("reason") for change in view["history"]] == ["tidy", "applied a file"]
        assert writ("schedule", "show", "s").code == 1
        again = writ("apply", "-", "--prune", input=alone).out.splitlines()
        assert again == ["= queue a: unchanged", "nothing to change"]
    finally:
        assert writ("down").code == 0


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
    assert [each["id"] for each in done(node("jobs", "--schedule", "often", "--json"))][-1] == job
    told = node("schedule", "show", "often").out.partition("History")[2]
    for said in ("not due until resumed, by owner: audit", f"owner started job {job}", "schedule_declared"):
        assert said in told
    assert "is deleted" in node("schedule", "delete", "often").out
    gone = node("schedule", "show", "often")
    assert (gone.code, gone.out) == (1, "")
    assert "next: writ schedule list" in gone.err


def test_a_schedule_tells_what_it_did_and_why_not(node: Shell) -> None:
    text = '[schedules.ticks]\nqueue = "stuck"\ntask = "hello"\nevery_s = 1'
    watch = node.start("schedule", "list", "--queue", "stuck", "--watch")
    assert watch.stdout is not None
    assert node("apply", "-", input=text).code == 0
    assert watch.stdout.readline().split()[:3] == ["ticks", "stuck", "hello"]
    node.until(lambda: done(node("schedule", "show", "ticks", "--json"))["skipped"] > 1)
    fired = watch.stdout.readline().split()
    assert (fired[-3], fired[-2]) == (done(node("schedule", "show", "ticks", "--json"))["last_job"], "1")
    watch.send_signal(signal.SIGINT)
    assert watch.wait(30) == 130
    assert node("schedule", "delete", "ticks", "--reason", "enough").code == 0
    found = done(node("jobs", "--schedule", "ticks", "--json"))
    assert len(found) == 1
    gone = node("schedule", "show", "ticks")
    assert gone.code == 1


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
    (dry,) = done(node("dlq", "redrive", "--cause", cause, "--dry-run", "--json"))
    words = ("dlq", "redrive", "--cause", cause, "--reason", "mended", "--json")
    assert (dry["matched"], dry["operation"]) == (3, None)
    (planned,) = done(node(*words, "--canary", "1", "--rate", "1000"))
    node.until(lambda: done(node("operation", "show", planned["operation"], "--json"))["ended"] is not None)
    operation = done(node("operation", "show", planned["operation"], "--json"))
    assert (operation["done"], operation["canary"]) == (1, 1)
    assert "canary failed" in operation["ended"]
    rounds = sorted(done(node("job", job, "--json"))["round"] for job in jobs)
    assert rounds == [1, 1, 2]
    assert node("dlq", "drop", jobs[0], "--reason", "customer left").out == f"job {jobs[0]} is settled\n"
    (planned,) = done(node("dlq", "drop", "--cause", cause, "--reason", "all of it", "--json"))
    assert planned["matched"] == 2
    node.until(lambda: done(node("dlq", "--cause", cause, "--json")) == [])
    assert done(node("job", jobs[0], "--json"))["dropped"] == "customer left"
