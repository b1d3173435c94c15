"""The command line with a real node and a real worker, as a user meets them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Shell

FIELDS = {
    "id", "tenant", "queue", "task", "state", "attempt", "input", "output", "error", "release", "actor",
    "submitted_at", "finished_at", "records",
}  # fmt: skip


def submitted(node: Shell, *words: str) -> str:
    """The id of a job that is submitted."""
    shown = node("submit", *words)
    assert shown.code == 0, shown.err
    return shown.out.strip()


def ended(node: Shell, job: str, *words: str) -> dict[str, Any]:
    """The job, as soon as it has ended."""
    found: dict[str, Any] = {}

    def look() -> bool:
        found.update(node("job", job, "--json", *words).document)
        return found["state"] in ("completed", "cancelled", "dead")

    node.until(look)
    return found


# --- up, status, env, down ------------------------------------------------------------------------------


def test_a_running_node_says_so(node: Shell) -> None:
    shown = node("status")
    assert shown.code == 0, shown.err
    assert "is up" in shown.out
    document = node("status", "--json").document
    assert document["partitions"][0]["leader"]
    assert document["views"][0]["name"] == "jobs"


def test_an_archive_with_nothing_in_it_is_no_failure(node: Shell, writ: Shell) -> None:
    shown = node("archive", "status")
    assert (shown.code, shown.out, shown.err) == (0, "nothing was archived yet\n", "")
    assert node("archive", "status", "--json").document["segments"] == 0
    elsewhere = writ("archive", "status", "--dir", "never")
    assert elsewhere.code == 1
    assert "no node ever ran in never" in elsewhere.err


def test_a_second_node_on_the_directory_is_refused(node: Shell) -> None:
    for words in (("up",), ("up", "--detach")):
        shown = node(*words)
        assert shown.code == 1
        assert "already running" in shown.err
        assert "writ down" in shown.err
    assert node("status").code == 0


def test_the_variables_lead_to_the_node_from_anywhere(node: Shell, writ: Shell) -> None:
    script = (
        f'eval "$({" ".join(node.command("env"))})"; cd "$1"; {" ".join(node.command("status", "--json"))}'
    )
    done = subprocess.run(
        ["sh", "-c", script, "sh", str(writ.directory)],
        cwd=node.directory, env=node.env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["views"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_in_the_foreground_ends_cleanly(number: signal.Signals, writ: Shell) -> None:
    up = writ.start("up")
    assert writ("status", "--wait", "30").code == 0
    up.send_signal(number)
    out, _ = up.communicate(timeout=30)
    assert up.returncode == 0, out
    assert "Writ is up" in out
    assert "writ submit" in out
    assert not (writ.directory / ".writ" / "node.json").exists()
    assert writ("status").code == 3


def test_down_waits_until_the_node_is_gone_and_its_jobs_are_kept(writ: Shell) -> None:
    up = writ("up", "--detach", "--json").document
    job = writ("submit", "q", "t", '{"n": 1}').out.strip()
    down = writ("down", "--json").document
    assert down["stopped"] == up["pid"]
    assert writ.processes() == []
    process = Path(f"/proc/{up['pid']}/cmdline")
    assert not process.exists() or not process.read_bytes(), (
        "gone, or ended and not yet noticed by its parent"
    )
    assert writ("jobs").code == 3
    assert writ("up", "--detach").code == 0
    assert [each["id"] for each in writ("jobs", "--json").document] == [job]
    assert writ("down").code == 0


def test_a_node_that_cannot_start_says_why(writ: Shell, node: Shell) -> None:
    port = node("env", "--json").document["NATS_URL"].rpartition(":")[2]
    shown = writ("up", "--detach", "--port", port)
    assert shown.code == 1
    assert f"port {port} is in use" in shown.err


# --- submit, job ----------------------------------------------------------------------------------------


def test_a_job_is_submitted_run_and_shown(node: Shell) -> None:
    waited = node("submit", "q", "hello", '{"name": "world"}', "--wait")
    assert (waited.code, waited.out) == (0, '"hello world"\n'), waited.err
    job = submitted(node, "q", "hello", '{"name": "you"}', "--id", "greeting-1")
    assert job == "greeting-1"
    found = ended(node, job)
    assert found.keys() >= FIELDS
    assert (found["state"], found["output"], found["input"]) == ("completed", "hello you", {"name": "you"})
    records = found["records"]
    assert [each["seq"] for each in records] == sorted(each["seq"] for each in records)
    assert records[0]["record"]["events"][0]["type"] == "job_submitted"
    assert records[-1]["record"]["events"][-1]["type"] == "job_completed"
    shown = node("job", job)
    assert shown.code == 0
    assert "job_completed" in shown.out
    assert "\033" not in shown.out, "no colours in a pipe"


def test_an_input_may_come_from_standard_input(node: Shell) -> None:
    shown = node("submit", "q", "hello", "-", "--wait", "--json", input='{"name": "pipe"}')
    assert shown.document["output"] == "hello pipe"


def test_a_job_that_dies_while_waited_for_is_a_no(node: Shell) -> None:
    shown = node("submit", "q", "broken", '{"n": 7}', "--max-attempts", "1", "--wait")
    assert (shown.code, shown.out) == (1, "")
    assert "ValueError: no good: 7" in shown.err
    assert "next: writ explain" in shown.err
    as_json = node("submit", "q", "broken", '{"n": 8}', "--max-attempts", "1", "--wait", "--json")
    assert as_json.code == 1
    assert as_json.document["error"]["type"] == "ValueError"


def test_waiting_has_an_end(node: Shell) -> None:
    shown = node("submit", "nobody", "hello", "--wait", "--timeout", "0.2")
    assert shown.code == 1
    assert "has not ended within" in shown.err


def test_a_file_of_jobs(node: Shell) -> None:
    lines = [{"task": "hello", "input": {"name": str(n)}, "id": f"file-{n}"} for n in range(700)]
    text = "\n".join(map(json.dumps, lines)) + "\n\n"
    shown = node("submit", "many", "--file", "-", input=text)
    assert shown.out.split() == [f"file-{n}" for n in range(700)], shown.err
    listed = node("jobs", "--queue", "many", "--json").document
    assert {each["id"] for each in listed} == {f"file-{n}" for n in range(700)}, "all pages, not the first"
    assert len(node("jobs", "--queue", "many", "--limit", "620", "--json").document) == 620
    assert all("records" not in each for each in listed)
    (node.directory / "jobs.ndjson").write_text('{"task": "hello", "input": {"name": "a"}}\n{"task": 3}\n')
    wrong = node("submit", "many", "--file", "jobs.ndjson")
    assert wrong.code == 2
    assert "line 2" in wrong.err
    assert "nothing was submitted" in wrong.err
    waited = node("submit", "q", "hello", "--file", "-", "--wait", "--json", input='{"input": {"name": "b"}}')
    assert [each["output"] for each in waited.document] == ["hello b"], waited.err


# --- jobs, dlq, cancel ----------------------------------------------------------------------------------


def test_jobs_are_filtered(node: Shell) -> None:
    job = submitted(node, "later", "hello", "--delay", "3600")
    rows = node(
        "jobs", "--queue", "later", "--state", "scheduled,pending", "--task", "hello"
    ).out.splitlines()
    assert rows[0].split() == ["ID", "QUEUE", "TASK", "STATE", "ATTEMPT", "SUBMITTED"]
    assert [row.split()[:5] for row in rows[1:]] == [[job, "later", "hello", "scheduled", "0"]]
    assert node("jobs", "--queue", "later", "--state", "dead", "--json").document == []
    wrong = node("jobs", "--queue", "no such queue")
    assert wrong.code == 2
    assert "queue 'no such queue' holds ' '" in wrong.err


def test_a_listing_fits_a_terminal_of_80_columns(node: Shell) -> None:
    queue = "a-queue-with-quite-a-long-name"
    job = submitted(node, queue, "a.task.with.an.even.longer.name.than.that")
    seen, end = os.openpty()
    done = subprocess.run(
        node.command("jobs", "--queue", queue),
        cwd=node.directory, env=node.env | {"TERM": "xterm", "COLUMNS": "80", "LINES": "40"},
        stdin=subprocess.DEVNULL, stdout=end, stderr=subprocess.PIPE, check=True, timeout=30,
    )  # fmt: skip
    os.close(end)
    shown = os.read(seen, 1_000_000).decode()
    os.close(seen)
    assert done.stderr == b""
    assert "\033[" in shown
    lines = re.sub(r"\033\[[0-9;]*m", "", shown).splitlines()
    assert any(line.startswith(job) and "pending" in line for line in lines), "ids and states are never cut"
    assert max(map(len, lines)) <= 80
    assert "next: " not in shown, "nothing to say where there are jobs"


def test_a_watch_in_a_pipe_says_each_change(node: Shell) -> None:
    watch = node.start("jobs", "--watch", "--queue", "watched")
    assert watch.stdout is not None
    job = submitted(node, "watched", "hello", "--delay", "3600")
    assert watch.stdout.readline().split()[1:5] == ["watched", job, "hello", "scheduled"]
    assert node("cancel", job).code == 0
    assert watch.stdout.readline().split()[1:5] == ["watched", job, "hello", "cancelled"]
    watch.send_signal(signal.SIGINT)
    assert watch.wait(30) == 130


def test_a_job_is_cancelled_once(node: Shell) -> None:
    job = submitted(node, "later", "hello", "--delay", "3600")
    shown = node("cancel", job, "--reason", "wrong customer", "--json")
    assert shown.document["state"] == "cancelled"
    assert shown.document["reason"] == "wrong customer"
    again = node("cancel", job)
    assert (again.code, again.out) == (1, "")


def test_an_unknown_job_leads_to_the_listing(node: Shell) -> None:
    for line in ("job nope", "explain nope", "replay nope", "cancel nope"):
        shown = node(*line.split())
        assert (shown.code, shown.out) == (1, "")
        assert "nope" in shown.err
        assert "next: writ jobs" in shown.err


def test_dead_letters_are_grouped_by_cause_and_redriven(node: Shell) -> None:
    jobs = [submitted(node, "q", "broken", f'{{"n": {n}}}', "--max-attempts", "1") for n in range(2)]
    for job in jobs:
        assert ended(node, job)["state"] == "dead"
    grouped = node("dlq", "--task", "broken").out.splitlines()
    assert grouped[0].split()[:6] == ["CAUSE", "COUNT", "QUEUE", "CLASS", "TYPE", "TASK"]
    assert grouped[1].split()[2:6] == ["q", "application", "ValueError", "broken"]
    listed = node("dlq", "--list").out
    assert all(job in listed for job in jobs)
    document = node("dlq", "--json").document
    assert set(jobs) <= {each["id"] for each in document}
    assert all(each["state"] == "dead" and "records" not in each for each in document)
    redriven = node("dlq", "redrive", jobs[0], "nope", "--reason", "mended", "--json")
    assert redriven.code == 1, "one of them is unknown"
    assert [(each["id"], each["round"]) for each in redriven.document] == [(jobs[0], 2)]
    assert ended(node, jobs[0])["round"] == 2


# --- explain, replay ------------------------------------------------------------------------------------


def test_a_retry_is_explained_and_replayed(node: Shell) -> None:
    retry = '{"initial_interval_s": 0.1}'
    job = submitted(node, "q", "flaky", "--retry", retry)
    found = ended(node, job)
    assert (found["state"], found["attempt"]) == ("completed", 2)
    explained = node("explain", job)
    assert explained.code == 0, explained.err
    assert "Why did it retry" in explained.out
    assert "ConnectionError" in explained.out
    assert node("explain", job, "--json").document["state"] == "completed"
    replayed = node("replay", job, "--json").document
    own = [step for step in replayed["steps"] if not step["context"]]
    assert [step["seq"] for step in own] == [each["seq"] for each in found["records"]]
    assert own[0]["events"][0]["type"] == "job_submitted"
    assert own[-1]["job"]["state"] == "completed"
    for step in own:
        at = node("replay", job, "--at", str(step["seq"]), "--json").document
        assert at["job"]["state"] == step["job"]["state"]
    assert node("replay", job, "--at", found["finished_at"]).out.find("completed") > 0
    before = node("replay", job, "--at", "2020-01-01T00:00:00Z")
    assert before.code == 1
    assert "did not exist" in before.err
    verified = node("replay", job, "--verify")
    assert verified.code == 0, verified.out + verified.err
    assert "no mismatch" in verified.out
    assert node("replay", job, "--verify", "--json").document["mismatches"] == []


def test_a_reader_that_leaves_is_no_error(node: Shell) -> None:
    command = " ".join(node.command("jobs"))
    done = subprocess.run(
        ["sh", "-c", f"{command} | head -1"],
        cwd=node.directory, env=node.env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("ID")
    assert done.stderr == ""


# --- worker ---------------------------------------------------------------------------------------------


def test_a_worker_without_tasks_says_what_it_looked_for(node: Shell) -> None:
    shown = node("worker", "nowhere")
    assert shown.code == 1
    assert "nowhere" in shown.err
    assert "next: writ worker" in shown.err
