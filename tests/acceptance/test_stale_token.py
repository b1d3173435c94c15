"""A worker that lost its lease: its reports are refused, on record, and it learns that its work is void."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from writ.schemas.events import LeaseExpired, ReportRejected
from writ.schemas.lifecycle import State

if TYPE_CHECKING:
    from .conftest import Live, Place

WAIT_S = 30.0
LEASE = b"writ.lease.default.owner."


def ask(client: Any, verb: str, **fields: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        client.request(LEASE + verb.encode() + b".mail", json.dumps(fields).encode())
    )
    return answer


def report(client: Any, verb: str, worker: str, lease: dict[str, Any], **more: Any) -> dict[str, Any]:
    name = "reports" if verb in ("complete", "fail") else "leases"
    return ask(client, verb, worker=worker, **{name: [{"id": lease["id"], "token": lease["token"], **more}]})


@pytest.mark.parametrize("verb", ["start", "complete", "fail", "release", "renew"])
async def test_a_stale_report_is_refused_recorded_and_told(live: Live, verb: str) -> None:
    """Must hold: a report with a stale fencing token is refused and recorded, and the worker learns that its
    work is void. At the protocol: the lease expires, another worker takes over, the first one reports.
    """

    def begin(client: Any) -> dict[str, Any]:
        body = {"task": "t", "id": "a", "lease_s": 1}
        client.request(b"writ.submit.default.owner.mail", json.dumps(body).encode())
        lease: dict[str, Any] = ask(client, "acquire", worker="slow", wait_s=20)["leases"][0]
        return lease

    old = await live.play(begin)
    await live.until(lambda r: any(isinstance(e, LeaseExpired) for e in r.events))

    def take_over(client: Any) -> dict[str, Any]:
        lease: dict[str, Any] = ask(client, "acquire", worker="quick", wait_s=20)["leases"][0]
        return lease

    new = await live.play(take_over)
    assert (new["id"], new["attempt"]) == ("a", 2)
    assert new["token"] > old["token"]
    before = live.state.jobs["default.mail~a"]
    more: dict[str, Any] = {"class": "application", "type": "Full"} if verb == "fail" else {}
    said = await live.play(lambda client: report(client, verb, "slow", old, **more))
    (refused,) = said["lost" if verb == "renew" else "refused"]
    assert (refused["kind"], refused["field"], refused["index"]) == ("stale", "token", 0)
    assert str(old["token"]) in refused["reason"]
    records = await live.records()
    (record,) = [r for r in records if any(isinstance(e, ReportRejected) for e in r.events)]
    assert (record.kind, record.key, record.actor, record.cause) == ("principal", "owner", "owner", verb)
    assert record.seq <= said["position"]
    (event,) = record.events
    assert isinstance(event, ReportRejected)
    assert (event.verb, event.worker) == (verb, "slow")
    assert (event.refused[0].job, event.refused[0].token) == ("mail~a", old["token"])
    assert live.state.jobs["default.mail~a"] == before

    assert "refused" not in await live.play(lambda client: report(client, "complete", "quick", new, output=2))
    after = live.state.jobs["default.mail~a"]
    assert (after.state, after.output and bytes(after.output.plain)) == (State.COMPLETED, b"2")
    # And once more: also the end of the job changes nothing about it.
    said = await live.play(lambda client: report(client, verb, "slow", old, **more))
    assert said["lost" if verb == "renew" else "refused"][0]["kind"] == "stale"
    assert live.state.jobs["default.mail~a"] == after
    await live.check()


TASKS = """
import asyncio
import os
import time
from pathlib import Path

from writ import Context, task

LEDGER = Path("ledger")


def note(*words):
    with LEDGER.open("a") as ledger:
        print(*words, file=ledger, flush=True)


@task
def watched(context: Context) -> str:
    note("begun", os.getpid(), context.attempt, context.id)
    while context.attempt == 1 and not context.cancelled:
        time.sleep(0.01)
    if context.attempt == 1:
        note("void", os.getpid(), context.attempt, context.id)
    return f"attempt {context.attempt}"


@task
async def sleeper(context: Context) -> str:
    note("begun", os.getpid(), context.attempt, context.id)
    try:
        await asyncio.sleep(3600 if context.attempt == 1 else 0)
    except asyncio.CancelledError:
        note("void", os.getpid(), context.attempt, context.id)
        raise
    return f"attempt {context.attempt}"


@task
def blind(context: Context) -> str:
    note("begun", os.getpid(), context.attempt, context.id)
    while context.attempt == 1 and not Path("go").exists():
        time.sleep(0.001)
    return f"attempt {context.attempt}"


@task
def next() -> int:
    return os.getpid()
"""


def until(condition: Callable[[], Any]) -> Any:
    """What the condition gives as soon as it gives something."""
    end = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)
    return found


def ledger(root: Path) -> list[list[str]]:
    path = root / "ledger"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("kind", ["watched", "blind"])
def test_a_worker_stopped_past_its_lease_learns_that_its_work_is_void(own_place: Place, kind: str) -> None:
    """Must hold: the same with real workers: one is stopped (SIGSTOP) past its lease, its job is finished by
    another, and it goes on (SIGCONT). A task that watches is told; what a blind one returns is void.
    """
    root = own_place.root
    (root / "work.py").write_text(TASKS)

    def submit(task: str, job_id: str) -> None:
        job = {"task": task, "id": job_id, "lease_s": 1}
        (root / "jobs.ndjson").write_text(json.dumps(job) + "\n")
        own_place.writ("submit", "mail", "--file", "jobs.ndjson")

    def job(job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = own_place.json("job", job_id)
        return found

    with own_place.worker("work", "--queue", "mail", "--name", "first") as first:
        submit(kind, "a")
        until(lambda: [x for x in ledger(root) if x[0] == "begun"])
        os.kill(first.pid, signal.SIGSTOP)
        try:
            with own_place.worker("work", "--queue", "mail", "--name", "second"):
                until(lambda: job("a")["state"] == "completed")
                assert job("a")["output"] == "attempt 2"
                (root / "go").touch()
                os.kill(first.pid, signal.SIGCONT)
                (token,) = (
                    e["data"]["token"]
                    for r in job("a")["records"]
                    for e in r["record"]["events"]
                    if e["type"] == "lease_expired"
                )
                if kind == "watched":
                    until(lambda: [x for x in ledger(root) if x[0] == "void"])
        finally:
            os.kill(first.pid, signal.SIGCONT)
        # The second one is gone: the first one is sound, and takes the next job.
        submit("next", "b")
        until(lambda: job("b")["state"] == "completed")
        assert job("b")["output"] == first.pid

    begun = [(pid, attempt) for word, pid, attempt, _ in ledger(root) if word == "begun"]
    assert [attempt for _, attempt in begun] == ["1", "2"]
    assert begun[0][0] == str(first.pid) != begun[1][0]
    last = job("a")
    assert (last["state"], last["output"], last["attempt"]) == ("completed", "attempt 2", 2)
    completed = [
        r for r in last["records"] if any(e["type"] == "job_completed" for e in r["record"]["events"])
    ]
    assert len(completed) == 1
    rejected = [
        event["data"]
        for line in read_log(own_place)
        for event in line["events"]
        if event["type"] == "report_rejected"
    ]
    assert rejected, "nothing in the log tells of the stale worker"
    assert {(r["worker"], x["job"], x["token"]) for r in rejected for x in r["refused"]} == {
        ("first", "mail~a", token)
    }
    assert {x["rejection"]["kind"] for r in rejected for x in r["refused"]} == {"stale"}
    assert {r["verb"] for r in rejected} <= {"renew", "complete", "start"}


ROUNDS, STOPPED = 5, 4


def test_a_worker_stopped_past_its_lease_and_continued_twenty_times(own_place: Place) -> None:
    """Must hold: a worker is stopped with SIGSTOP past its lease and continued, 20 times: no stale report is
    accepted, no job ends twice, and the resumed worker stops the void work by itself.

    In each of 5 rounds 4 of 8 workers are stopped at once, and the others finish their jobs.
    """
    root = own_place.root
    (root / "work.py").write_text(TASKS)
    with ExitStack() as stack:
        for number in range(2 * STOPPED):
            work = own_place.worker("work", "--queue", "mail", "--name", f"w{number}", "--concurrency", "1")
            stack.enter_context(work)
        for number in range(ROUNDS):
            ids = [f"{number}-{place}" for place in range(STOPPED)]
            jobs = [
                {"task": ("watched", "sleeper")[place % 2], "id": job_id, "lease_s": 1}
                for place, job_id in enumerate(ids)
            ]
            (root / "jobs.ndjson").write_text("\n".join(map(json.dumps, jobs)))
            own_place.writ("submit", "mail", "--file", "jobs.ndjson")
            held: list[tuple[str, str, str]] = until(partial(_said, root, "begun", ids, STOPPED))
            stopped = {int(pid) for pid, _, _ in held}
            assert len(stopped) == STOPPED, "each of them holds one job"
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            try:
                until(partial(_ended, own_place, ids))
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
            void = until(partial(_said, root, "void", ids, STOPPED))
            assert sorted(void) == sorted(held), "each resumed worker ended its own void work"
    _holds_in_the_log(own_place, ROUNDS * STOPPED)


def _said(root: Path, word: str, ids: list[str], count: int) -> list[tuple[str, str, str]]:
    """Who said it of the first attempts at these jobs; nothing until so many have."""
    found = [(p, a, job) for said, p, a, job in ledger(root) if said == word and a == "1" and job in ids]
    return found if len(found) == count else []


def _ended(place: Place, ids: list[str]) -> bool:
    jobs = {job["id"]: job for job in place.json("jobs", "--queue", "mail")}
    return all(jobs[job_id]["output"] == "attempt 2" for job_id in ids)


def _holds_in_the_log(place: Place, jobs: int) -> None:
    """Every job lost one lease and ended once, by the next; behind its loss a token did nothing."""
    void: set[int] = set()
    ends: Counter[str] = Counter()
    refused: list[tuple[int, str]] = []
    for record in read_log(place):
        for event in record["events"]:
            data = event["data"]
            if event["type"] == "report_rejected":
                refused += [(each["token"], each["rejection"]["kind"]) for each in data["refused"]]
            elif record["kind"] == "job":
                assert data.get("token") not in void, f"record {record['seq']} takes a void token"
            elif event["type"] == "leases_renewed":
                assert not {token for _, token in data["leases"]} & void, f"record {record['seq']}"
            if event["type"] == "lease_expired":
                void.add(data["token"])
            if event["type"] in ("job_completed", "job_dead_lettered", "job_cancelled"):
                ends[record["key"]] += 1
    assert len(void) == jobs, "each was stopped past its lease"
    assert set(ends.values()) == {1}, "no job ends twice"
    assert len(ends) == jobs
    assert {token for token, _ in refused} <= void, "only what is void was refused"
    assert {token for token, kind in refused if kind == "stale"} == void, "each resumed worker was told"


def read_log(place: Place) -> list[dict[str, Any]]:
    """Every record of the log, by the broker's own direct reads."""
    return [json.loads(said.body) for said in place.log_by_subject(b"writ.log.0.>")]
