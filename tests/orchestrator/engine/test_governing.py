"""Queues, waits, relations, schedules and operations: the shipped engine in virtual time."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from writ.orchestrator.replay.verify import verify
from writ.schemas import bounds
from writ.schemas.bounds import MESSAGE_MAX_BYTES, RECORD_MAX_BYTES
from writ.schemas.events import (
    BatchEnded,
    CommandRejected,
    DeadReason,
    HistoryLong,
    OperationEnded,
    RejectionsFolded,
)
from writ.schemas.lifecycle import State
from writ.schemas.rejections import RejectionKind
from writ.schemas.schedules import ScheduleFired, ScheduleSkipped

if TYPE_CHECKING:
    from .conftest import Tools, Twin
else:
    Tools = Twin = Any


async def submit(twin: Twin, *jobs: dict[str, Any]) -> None:
    for job in jobs:
        await twin.submit({"task": "send"} | job)
    await twin.settled()


async def ids(twin: Twin, count: int = 10, **more: Any) -> list[str]:
    return [lease["id"] for lease in await twin.acquire(count, **more)]


async def finish(twin: Twin, *leases: dict[str, Any]) -> None:
    assert "refused" not in await twin.report("complete", *leases)


def waits_for(twin: Twin, job_id: str) -> str | None:
    wait = twin.job(job_id).wait
    return None if wait is None else wait.reason


async def declare(twin: Twin, **policy: Any) -> None:
    assert "error" not in await twin.ask("declare", policy=policy)


async def fail(twin: Twin, lease: dict[str, Any], class_: str = "application", type_: str = "Bad") -> None:
    answer = await twin.report("fail", lease, **{"class": class_, "type": type_, "text": "no 17"})
    assert "refused" not in answer


async def test_a_queue_runs_no_more_jobs_than_its_concurrency(twin: Twin) -> None:
    await declare(twin, concurrency=2)
    await submit(twin, *({"id": str(n)} for n in range(4)))
    first = await twin.acquire(10)
    assert [lease["id"] for lease in first] == ["0", "1"]
    assert await ids(twin) == []
    await finish(twin, first[0])
    assert await ids(twin) == ["2"]
    await twin.check()


async def test_a_waiting_worker_gets_a_slot_when_it_is_free(twin: Twin) -> None:
    await declare(twin, concurrency=1)
    await submit(twin, {"id": "a"}, {"id": "b"})
    (held,) = await twin.acquire()
    waiting = asyncio.create_task(ids(twin, wait_s=20, worker="w2"))
    await twin.settled()
    assert not waiting.done()
    await finish(twin, held)
    assert await waiting == ["b"]


async def test_a_concurrency_key_has_slots_of_its_own_and_holds_nobody_else_up(twin: Twin) -> None:
    await declare(twin, key_concurrency=1)
    keyed = [{"id": f"a{n}", "concurrency_key": "a"} for n in range(50)]
    await submit(twin, *keyed, {"id": "b", "concurrency_key": "b"}, {"id": "free"})
    leases = await twin.acquire(10)
    assert [lease["id"] for lease in leases] == ["a0", "b", "free"]
    assert await ids(twin) == []
    await finish(twin, leases[0])
    assert await ids(twin) == ["a1"]
    await declare(twin, key_concurrency=3)
    assert await ids(twin) == ["a2", "a3"]
    await twin.check()


async def test_slots_do_not_leak_when_leases_expire(twin: Twin) -> None:
    await declare(twin, concurrency=1, key_concurrency=1)
    await submit(twin, {"id": "a", "concurrency_key": "k"})
    for _ in range(3):
        assert await ids(twin) == ["a"]
        await asyncio.sleep(31)
    await twin.check()


async def test_fairness_keys_take_turns_within_a_priority(twin: Twin) -> None:
    flood = [{"id": f"a{n}", "fairness_key": "a"} for n in range(6)]
    few = [{"id": f"b{n}", "fairness_key": "b"} for n in range(2)]
    await submit(twin, *flood, *few, {"id": "first", "priority": 1})
    assert await ids(twin, 1) == ["first"]
    assert await ids(twin, 2) == ["a0", "b0"]
    assert await ids(twin, 4) == ["a1", "b1", "a2", "a3"]
    await twin.check()


async def test_a_rate_lets_a_burst_through_and_then_so_many_a_second(twin: Twin) -> None:
    await declare(twin, rate_per_s=2, burst=3)
    await submit(twin, *({"id": str(n)} for n in range(8)))
    assert await ids(twin) == ["0", "1", "2"]
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await ids(twin, 1, wait_s=20) == ["3"]
    assert await ids(twin, 1, wait_s=20) == ["4"]
    assert 0.99 <= loop.time() - began <= 1.1
    await twin.check()


async def test_a_paused_queue_grants_nothing_and_a_draining_one_takes_nothing(twin: Twin) -> None:
    await twin.ask("pause_queue", reason="incident 4")
    await submit(twin, {"id": "a"})
    assert await ids(twin) == []
    await twin.ask("drain_queue", reason="moving out")
    await submit(twin, {"id": "late"})
    assert twin.engine is not None
    assert twin.engine.state.job("default", "mail", "late") is None
    (refused,) = [r for r in await twin.records() if r.kind == "principal"]
    assert "the queue is draining: moving out" in repr(refused.events)
    assert await ids(twin) == ["a"]
    await twin.ask("resume_queue")
    await submit(twin, {"id": "late"})
    assert await ids(twin) == ["late"]
    await twin.check()


async def test_a_job_keeps_the_policy_that_it_was_accepted_under(twin: Twin) -> None:
    await declare(twin, retry={"max_attempts": 1}, priority=2)
    await submit(twin, {"id": "old"})
    await declare(twin, retry={"max_attempts": 7})
    await submit(twin, {"id": "new"}, {"id": "own", "retry": {"max_attempts": 3}})
    found = {job: (twin.job(job).retry.max_attempts, twin.job(job).policy) for job in ("old", "new", "own")}
    assert found == {"old": (1, 1), "new": (7, 2), "own": (3, 2)}


async def test_more_pending_jobs_than_the_bound_are_refused_with_both_numbers(twin: Twin) -> None:
    await declare(twin, pending_max=2)
    await twin.submit([{"task": "send", "id": str(n)} for n in range(4)])
    await twin.settled()
    (refused,) = [r for r in await twin.records() if r.kind == "principal"]
    assert "the queue has 2 pending jobs; its pending_max is 2" in repr(refused.events)
    assert refused.source is not None
    assert await ids(twin) == ["0", "1"]
    await twin.check()


@pytest.mark.parametrize(
    ("on_clash", "states"),
    [
        ("return", {"a": State.PENDING}),
        ("reject", {"a": State.PENDING}),
        ("replace", {"a": State.CANCELLED, "b": State.PENDING}),
    ],
)
async def test_a_unique_key_is_live_once(twin: Twin, on_clash: str, states: dict[str, State]) -> None:
    await declare(twin, on_clash=on_clash)
    await submit(twin, {"id": "a", "unique_key": "u"}, {"id": "b", "unique_key": "u"})
    assert twin.engine is not None
    found = {job.id: job.state for job in twin.engine.state.jobs.values()}
    assert found == states
    refused = [r for r in await twin.records() if r.kind == "principal"]
    assert bool(refused) == (on_clash != "replace")
    for lease in await twin.acquire(5):
        await finish(twin, lease)
    await submit(twin, {"id": "c", "unique_key": "u"})
    assert twin.job("c").state is State.PENDING
    await twin.check()


async def test_every_sender_hears_which_job_stands_for_its_own(twin: Twin) -> None:
    await submit(twin, {"id": "a", "unique_key": "u"})
    double = {"task": "send", "unique_key": "u"}
    await twin.submit([double | {"id": f"d{n}"} for n in range(150)])
    for n in range(100):  # more than refusals of one principal are recorded singly
        await twin.submit(double | {"id": f"e{n}"})
    await twin.settled()
    told = [event for event in await twin.events(CommandRejected) if isinstance(event, CommandRejected)]
    assert [event.count for event in told] == [150, *[1] * 100]
    named = [each for event in told for each in event.refused]
    assert {(each.kind, each.job) for each in named} == {(RejectionKind.DUPLICATE, "mail~a")}
    assert [each.index for each in named[:150]] == list(range(150))
    assert await twin.events(RejectionsFolded) == []
    bad = [{"task": "send", "id": f"f{n}", "after": ["mail~none"]} for n in range(120)]
    await twin.submit([*bad, double | {"id": "g"}])
    await twin.settled()
    *_, last = await twin.events(CommandRejected)
    assert isinstance(last, CommandRejected)
    assert (len(last.refused), last.count) == (101, 121), "others are named up to the bound"
    assert last.refused[-1].job == "mail~a"
    await twin.check()


async def test_the_longest_duplicates_fit_a_record(twin: Twin) -> None:
    name = "k" * 240
    await submit(twin, {"id": name, "unique_key": name})
    await twin.submit([{"task": "t", "id": str(n), "unique_key": name} for n in range(490)])
    await twin.settled()
    (event,) = [event for event in await twin.events(CommandRejected) if isinstance(event, CommandRejected)]
    assert 256 < len(event.refused) < event.count == 490
    assert max([len(m.body) async for part in twin.log.read() for m in part]) < RECORD_MAX_BYTES
    await twin.check()


async def test_retries_are_held_back_by_the_queues_budget(twin: Twin) -> None:
    await declare(twin, retries_per_min=2, retry={"jitter": 0})
    await submit(twin, *({"id": str(n)} for n in range(5)))
    for lease in await twin.acquire(5):
        await fail(twin, lease)
    due = sorted((twin.job(str(n)).due_at - twin.job(str(n)).submitted_at) / 1e6 for n in range(5))
    assert due[:2] == pytest.approx([1, 1], abs=0.1)
    assert due[2:] == pytest.approx([30, 60, 90], abs=0.5)
    assert "retries_per_min 2" in repr(await twin.records())
    await twin.check()


async def test_an_error_class_has_its_own_rules(twin: Twin) -> None:
    retry = {"max_attempts": 1, "per_class": {"system": {"max_attempts": 3, "initial_interval_s": 5}}}
    await submit(twin, {"id": "a", "retry": retry}, {"id": "b", "retry": retry})
    a, b = await twin.acquire(2)
    await fail(twin, a, "system")
    await fail(twin, b, "application")
    assert (twin.job("a").state, twin.job("b").state) == (State.RETRYING, State.DEAD)


@pytest.mark.parametrize(
    ("what", "state"),
    [("suspend", State.SUSPENDED), ("cancel", State.CANCELLED), ("dead_letter", State.DEAD)],
)
async def test_used_up_attempts_end_as_the_policy_says(twin: Twin, what: str, state: State) -> None:
    await submit(twin, {"id": "a", "retry": {"max_attempts": 1, "on_exhausted": what}})
    await fail(twin, (await twin.acquire())[0])
    assert twin.job("a").state is state
    if what == "suspend":
        await twin.ask("resume", id="a")
        assert await ids(twin) == ["a"]
    await twin.check()


async def test_a_job_waits_for_a_person(twin: Twin) -> None:
    await submit(twin, {"id": "yes", "approval": {}}, {"id": "no", "approval": {}})
    assert await ids(twin) == []
    await twin.ask("approve", id="yes", reason="seen it", data={"by": "ann"})
    await twin.ask("reject", id="no", reason="too dear")
    (lease,) = await twin.acquire(5)
    assert lease["id"] == "yes"
    assert lease["signals"][0]["data"] == {"by": "ann"}
    assert (twin.job("no").state, twin.job("no").dead) == (State.DEAD, "rejected")
    answer = await twin.ask("approve", id="yes")
    assert answer["error"]["kind"] == "conflict"
    await twin.check()


@pytest.mark.parametrize(("what", "state"), [("resume", State.PENDING), ("dead_letter", State.DEAD)])
async def test_nobody_came(twin: Twin, what: str, state: State) -> None:
    await submit(twin, {"id": "a", "approval": {"timeout_s": 60, "on_timeout": what}})
    await asyncio.sleep(61)
    await twin.settled()
    assert twin.job("a").state is state
    await twin.check()


async def test_a_task_waits_for_a_signal_without_a_lease(twin: Twin) -> None:
    await submit(twin, {"id": "a"})
    (lease,) = await twin.acquire()
    await twin.ask("suspend", worker="w1", id="a", token=lease["token"], reason="signal", on="paid")
    assert (twin.job("a").state, twin.job("a").lease) == (State.SUSPENDED, None)
    await twin.ask("signal", id="a", name="other", data=1)
    assert twin.job("a").state is State.SUSPENDED
    await twin.ask("signal", id="a", name="paid", data={"sum": 5})
    (again,) = await twin.acquire()
    assert [s["name"] for s in again["signals"]] == ["other", "paid"]
    assert twin.job("a").failures == 0
    seen = again["signals"][-1]["seq"]
    await twin.ask("signal", id="a", name="late", data=2)
    held = {"id": "a", "token": again["token"], "seen": seen}
    renewed = await twin.ask("renew", worker="w1", leases=[held])
    assert [s["name"] for s in renewed["signals"]["a"]] == ["late"]
    await twin.check()


async def test_a_snooze_uses_up_no_attempt(twin: Twin) -> None:
    await submit(twin, {"id": "a", "retry": {"max_attempts": 1}})
    for _ in range(3):
        (lease,) = await twin.acquire(wait_s=30)
        await twin.ask("snooze", worker="w1", id="a", token=lease["token"], delay_s=10)
        assert twin.job("a").state is State.SCHEDULED
    (lease,) = await twin.acquire(wait_s=30)
    await finish(twin, lease)
    assert (twin.job("a").state, twin.job("a").failures) == (State.COMPLETED, 0)


async def test_progress_is_kept_and_a_void_one_is_not(twin: Twin) -> None:
    await submit(twin, {"id": "a"})
    (lease,) = await twin.acquire()
    await twin.ask("progress", worker="w1", id="a", token=lease["token"], progress={"done": 0.5})
    void = await twin.ask("progress", worker="w1", id="a", token=1, progress={"done": 9})
    assert void["refused"][0]["kind"] == "stale"
    progress = twin.job("a").progress
    assert progress is not None
    assert bytes(progress.plain) == b'{"done":0.5}'


async def test_a_job_is_held_edited_and_let_go(twin: Twin) -> None:
    await submit(twin, {"id": "a", "priority": 5}, {"id": "b"})
    await twin.ask("pause", id="a", reason="wait")
    assert twin.job("a").state is State.SUSPENDED
    await twin.ask("edit", id="a", priority=1, input={"n": 2})
    await twin.ask("resume", id="a")
    (first,) = await twin.acquire()
    assert (first["id"], first["input"]) == ("a", {"n": 2})
    answer = await twin.ask("edit", id="a", priority=2)
    assert "only a job that has not started can be edited" in answer["error"]["reason"]
    await twin.check()


async def test_terminate_voids_the_lease_at_once(twin: Twin) -> None:
    await submit(twin, {"id": "a"})
    (lease,) = await twin.acquire()
    await twin.ask("terminate", id="a", reason="runaway")
    assert twin.job("a").state is State.CANCELLED
    late = await twin.report("complete", lease)
    assert late["refused"][0]["kind"] == "stale"
    beat = await twin.ask("renew", worker="w1", leases=[{"id": "a", "token": lease["token"]}])
    assert beat["lost"][0]["kind"] == "stale"


async def test_a_finished_job_runs_again_and_a_dropped_one_is_settled(twin: Twin) -> None:
    await submit(twin, {"id": "a"}, {"id": "b", "retry": {"max_attempts": 1}})
    a, b = await twin.acquire(2)
    await finish(twin, a)
    await fail(twin, b)
    await twin.ask("rerun", id="a", reason="once more")
    assert (twin.job("a").state, twin.job("a").round) == (State.PENDING, 2)
    await twin.ask("drop", id="b", reason="known")
    assert (twin.job("b").state, twin.job("b").dropped) == (State.DEAD, "known")
    again = await twin.ask("drop", id="b")
    assert "already dropped" in again["error"]["reason"]
    await twin.check()


async def test_a_job_comes_after_others_and_takes_their_outputs(twin: Twin) -> None:
    await submit(twin, {"id": "a"}, {"id": "b"})
    last = {"id": "c", "after": ["mail~a", "mail~b"], "input": {"n": 1}, "input_from": {"from_a": "mail~a"}}
    await submit(twin, last)
    a, b = await twin.acquire(5)
    await twin.report("complete", a, output={"x": 1})
    assert twin.job("c").state is State.SUSPENDED
    await finish(twin, b)
    (lease,) = await twin.acquire(5)
    assert lease["input"] == {"n": 1, "from_a": {"x": 1}}
    await twin.check()


@pytest.mark.parametrize(
    ("on_dead", "state"),
    [
        ("dead_letter", State.DEAD),
        ("cancel", State.CANCELLED),
        ("suspend", State.SUSPENDED),
        ("run", State.PENDING),
    ],
)
async def test_what_comes_after_a_dead_job(twin: Twin, on_dead: str, state: State) -> None:
    await submit(
        twin, {"id": "a", "retry": {"max_attempts": 1}}, {"id": "b", "after": ["mail~a"], "on_dead": on_dead}
    )
    (lease,) = await twin.acquire(5)
    await fail(twin, lease)
    assert twin.job("b").state is state
    await submit(twin, {"id": "late", "after": ["mail~a"], "on_dead": on_dead})
    assert twin.job("late").state is state
    await twin.check()


async def fill(twin: Twin, job_id: str, count: int, *behind: dict[str, Any]) -> None:
    """A job whose input takes so many outputs of 200,000 bytes, and others that become due with it."""
    keys = [f"mail~{job_id}{n}" for n in range(count)]
    await submit(twin, *({"id": key[5:], "task": "fill"} for key in keys))
    leases = await twin.acquire(count, tasks=["fill"])
    await submit(twin, {"id": job_id, "after": keys, "input_from": {key[5:]: key for key in keys}})
    await submit(twin, *({"after": keys, **job} for job in behind))
    for lease in leases:
        await twin.report("complete", lease, output="x" * 200_000)


async def test_what_fills_an_input_counts_in_the_size_of_an_answer(twin: Twin) -> None:
    for job_id in "x", "y":
        await fill(twin, job_id, 2)
    for expected in ["x"], ["y"], []:
        answer = await twin.ask("acquire", worker="w1", count=10, wait_s=0)
        assert [lease["id"] for lease in answer.get("leases", [])] == expected
        assert len(json.dumps(answer)) < MESSAGE_MAX_BYTES
    await twin.check()


async def test_a_job_whose_filled_input_is_too_large_dies_at_its_grant_and_holds_nobody_up(
    twin: Twin,
) -> None:
    waiting = asyncio.create_task(ids(twin, 1, wait_s=20, tasks=["send"]))
    await fill(twin, "x", 3, {"id": "behind"}, {"id": "then", "after": ["mail~x"], "on_dead": "cancel"})
    assert await waiting == ["behind"]
    job = twin.job("x")
    assert (job.state, job.dead) == (State.DEAD, DeadReason.DEPENDENCY)
    assert job.reason == ("the input, filled by input_from, has 600016 bytes; at most 524288 are allowed")
    assert (job.lease_losses, twin.job("then").state) == (0, State.CANCELLED)
    await twin.check()


async def test_a_job_with_too_long_a_history_dies_at_its_grant(
    twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "HISTORY_MAX_RECORDS", 5)
    await submit(twin, {"id": "a"})
    for _ in range(2):
        (lease,) = await twin.acquire()
        await twin.report("renew", lease)
        await twin.report("release", lease)
    assert await ids(twin) == []
    job = twin.job("a")
    assert (job.state, job.dead) == (State.DEAD, DeadReason.HISTORY_LIMIT)
    assert job.reason == "the history holds 5 records; at most 5 are allowed"
    await twin.check()


async def test_a_long_history_is_warned_of_once_in_each_round(
    twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bound patched down to nine records, beats not counted."""
    monkeypatch.setattr(bounds, "HISTORY_LONG_RECORDS", 9)
    await submit(twin, {"id": "a"})
    for _ in range(5):
        (lease,) = await twin.acquire()
        await twin.report("renew", lease)
        await twin.report("release", lease)
    assert await twin.events(HistoryLong) == [HistoryLong(9, 9)]
    told = [(r.kind, r.key, r.cause) for r in await twin.records() if isinstance(r.events[0], HistoryLong)]
    ninth = [r.seq for r in await twin.records() if r.key == "mail~a" and r.kind == "job"][8]
    assert told == [("incident", "mail~a", f"record:{ninth}")]
    await twin.ask("cancel", id="a")
    await twin.crash()
    await twin.start()
    await twin.settled()
    assert len(await twin.events(HistoryLong)) == 1, "the next leader knows that it was told"
    await twin.ask("rerun", id="a")
    assert await twin.events(HistoryLong) == [HistoryLong(9, 9), HistoryLong(13, 9)]
    assert (await verify(twin.log)).ok
    await twin.check()


@pytest.mark.parametrize("stored", [0, 1])
async def test_a_warning_cut_off_from_its_cause_is_made_up_for(
    twin: Twin, tools: Tools, monkeypatch: pytest.MonkeyPatch, stored: int
) -> None:
    """The broker has the job's record and not the warning behind it, or neither, as its leader goes away."""
    monkeypatch.setattr(bounds, "HISTORY_LONG_RECORDS", 2)
    await submit(twin, {"id": "a"})
    twin.log.script.append(tools.unknown(stored, after_s=60))
    asking = asyncio.create_task(twin.acquire())
    await twin.settled()
    await twin.crash()
    asking.cancel()
    await twin.start()
    await twin.settled()
    assert len(await twin.events(HistoryLong)) == stored
    await twin.acquire()
    assert await twin.events(HistoryLong) == [HistoryLong(2, 2)]
    await twin.check()


async def test_a_warning_that_was_not_stored_is_decided_again(
    twin: Twin, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "HISTORY_LONG_RECORDS", 1)
    twin.log.script.extend(tools.full(2))
    await submit(twin, {"id": "a"})
    await asyncio.sleep(2)
    assert await twin.events(HistoryLong) == [HistoryLong(1, 1)]
    await twin.check()


async def test_signals_that_fit_no_answer_together_come_with_the_beats_one_job_after_the_other(
    twin: Twin,
) -> None:
    await submit(twin, {"id": "a"}, {"id": "b"})
    held = [{"id": lease["id"], "token": lease["token"], "seen": 0} for lease in await twin.acquire(2)]
    for one in held:
        assert "error" not in await twin.ask("signal", id=one["id"], name="n", data="x" * 250_000)
    for job_id in "a", "b":
        (came,) = (await twin.ask("renew", worker="w1", leases=held))["signals"].items()
        assert came[0] == job_id
        held = [one | {"seen": came[1][-1]["seq"]} if one["id"] == job_id else one for one in held]
    assert "signals" not in await twin.ask("renew", worker="w1", leases=held)
    await twin.check()


async def test_a_chain_falls_in_one_go_and_an_unknown_job_is_refused(twin: Twin) -> None:
    await submit(twin, {"id": "0", "retry": {"max_attempts": 1}})
    for n in range(1, 6):
        await submit(twin, {"id": str(n), "after": [f"mail~{n - 1}"]})
    await submit(twin, {"id": "lost", "after": ["mail~nobody"]})
    await fail(twin, (await twin.acquire())[0])
    assert [twin.job(str(n)).state for n in range(6)] == [State.DEAD] * 6
    assert twin.engine is not None
    assert twin.engine.state.job("default", "mail", "lost") is None
    await twin.check()


async def test_children_end_with_their_parent_unless_they_go_alone(twin: Twin) -> None:
    await submit(twin, {"id": "p"})
    (parent,) = await twin.acquire()
    await submit(
        twin, {"id": "c", "parent": "mail~p"}, {"id": "free", "parent": "mail~p", "on_parent_end": "abandon"}
    )
    (child,) = await twin.acquire()
    await submit(twin, {"id": "grand", "parent": "mail~c"})
    await twin.ask("terminate", id="p")
    assert twin.job("c").cancel is not None
    assert twin.job("free").state is State.PENDING
    await fail(twin, child, "cancelled")
    assert (twin.job("c").state, twin.job("grand").state) == (State.CANCELLED, State.CANCELLED)
    assert (await twin.report("complete", parent))["refused"]
    await twin.check()


async def test_children_taken_in_after_their_parent_completed_are_jobs_like_any(twin: Twin) -> None:
    """A task that starts children and returns may be done before the leader reads what it submitted."""
    await submit(twin, {"id": "p"})
    await finish(twin, (await twin.acquire())[0])
    await submit(twin, {"id": "c", "parent": "mail~p"})
    assert await twin.story("c") == ["job_submitted"]
    assert [lease["id"] for lease in await twin.acquire()] == ["c"]
    assert await twin.events(CommandRejected) == []
    await twin.check()


async def test_children_taken_in_after_their_parent_ended_otherwise_are_cancelled_in_sight(
    twin: Twin,
) -> None:
    await submit(twin, {"id": "p"})
    await twin.ask("cancel", id="p")
    await submit(
        twin,
        {"id": "c", "parent": "mail~p", "after": ["mail~p"], "approval": {}, "batch": "b"},
        {"id": "free", "parent": "mail~p", "on_parent_end": "abandon"},
        {"id": "grand", "parent": "mail~c"},
    )
    assert await twin.story("c") == ["job_submitted+cancel_requested+job_cancelled"]
    assert twin.job("c").reason == "its parent mail~p is cancelled"
    assert twin.job("grand").state is State.CANCELLED
    assert twin.job("free").state is State.PENDING
    assert await twin.events(CommandRejected) == []
    await twin.ask("seal_batch", batch="b", size=1)
    assert await twin.events(BatchEnded) == [BatchEnded(completed=0, dead=0, cancelled=1)]
    await twin.ask("rerun", id="c", reason="wanted all the same")
    await twin.crash()
    await twin.start()
    await twin.settled()
    assert twin.job("c").state is State.PENDING, "who opened it again knew of its parent's end"
    await twin.check()


async def test_a_batch_tells_its_end_once(twin: Twin) -> None:
    await submit(twin, *({"id": str(n), "batch": "night", "retry": {"max_attempts": 1}} for n in range(3)))
    assert "error" not in await twin.ask("seal_batch", batch="night", size=3)
    one, two, three = await twin.acquire(3)
    await finish(twin, one)
    await fail(twin, two)
    assert await twin.events(BatchEnded) == []
    await finish(twin, three)
    assert await twin.events(BatchEnded) == [BatchEnded(completed=2, dead=1, cancelled=0)]
    again = await twin.ask("seal_batch", batch="night", size=4)
    assert again["error"]["kind"] == "conflict"
    await twin.check()


async def test_what_follows_from_an_end_survives_a_crash_of_every_engine(twin: Twin) -> None:
    await submit(twin, {"id": "a", "batch": "x"}, {"id": "b", "after": ["mail~a"]})
    await twin.ask("seal_batch", batch="x", size=1)
    (lease,) = await twin.acquire()
    await twin.crash()
    await twin.start()
    await finish(twin, lease)
    await twin.settled()
    assert twin.job("b").state is State.PENDING
    assert len(await twin.events(BatchEnded)) == 1
    await twin.check()


async def test_a_schedule_fires_when_it_is_due_and_skips_an_overlap(twin: Twin) -> None:
    spec = {"task": "report", "every_s": 60, "starts_at": "2026-01-01T00:10:00Z"}
    assert "error" not in await twin.ask("declare_schedule", name="hourly", spec=spec, input={"kind": "day"})
    while not (leases := await twin.acquire(wait_s=60)):
        pass
    (first,) = leases
    assert (first["task"], first["input"]) == ("report", {"kind": "day"})
    await twin.ask("renew", worker="w1", leases=[{"id": first["id"], "token": first["token"]}])
    for _ in range(4):
        await asyncio.sleep(20)
        await twin.ask("renew", worker="w1", leases=[{"id": first["id"], "token": first["token"]}])
    skipped = await twin.events(ScheduleSkipped)
    assert skipped
    await finish(twin, first)
    await asyncio.sleep(61)
    assert len(await twin.events(ScheduleFired)) == 2
    await twin.check()


async def test_a_schedule_catches_up_once_after_a_downtime(twin: Twin) -> None:
    spec = {"task": "report", "every_s": 60, "overlap": "allow"}
    await twin.ask("declare_schedule", name="m", spec=spec)
    await asyncio.sleep(61)
    assert len(await twin.events(ScheduleFired)) == 1
    await twin.crash()
    await asyncio.sleep(3_600)
    await twin.start()
    await twin.settled()
    assert len(await twin.events(ScheduleFired)) == 2
    await twin.check()


async def test_a_schedule_is_triggered_paused_and_deleted(twin: Twin) -> None:
    await twin.ask(
        "declare_schedule", name="m", spec={"task": "report", "cron": "0 3 * * *", "tz": "Europe/Berlin"}
    )
    started = await twin.ask("trigger_schedule", name="m", reason="now")
    assert len(started["jobs"]) == 1
    assert await ids(twin) == started["jobs"]
    await twin.ask("pause_schedule", name="m")
    await twin.ask("delete_schedule", name="m")
    gone = await twin.ask("trigger_schedule", name="m")
    assert gone["error"]["kind"] == "not_found"
    bad = await twin.ask("declare_schedule", name="bad", spec={"task": "t", "cron": "61 * * * *"})
    assert "61" in bad["error"]["reason"]
    await twin.check()


async def dead_letters(twin: Twin, count: int) -> None:
    await submit(twin, *({"id": f"d{n}", "retry": {"max_attempts": 1}} for n in range(count)))
    for lease in await twin.acquire(count):
        await fail(twin, lease)


async def test_dead_letters_are_redriven_as_a_plan(twin: Twin) -> None:
    await dead_letters(twin, 5)
    causes = {twin.job(f"d{n}").cause for n in range(5)}
    assert len(causes) == 1
    (cause,) = causes
    filter_ = {"states": ["dead"], "cause": cause}
    dry = await twin.ask("plan", verb="redrive", filter=filter_, dry_run=True)
    assert (dry["matched"], "operation" in dry) == (5, False)
    assert twin.job("d0").state is State.DEAD
    plan = await twin.ask("plan", verb="redrive", filter=filter_, reason="mended", limit=4)
    assert plan["matched"] == 5
    await twin.settled()
    assert [twin.job(f"d{n}").state for n in range(5)] == [State.PENDING] * 4 + [State.DEAD]
    assert twin.job("d0").operation == plan["operation"]
    (ended,) = await twin.events(OperationEnded)
    assert ended == OperationEnded("limit 4 reached", 4)
    await twin.check()


async def test_a_canary_goes_first_and_stops_the_plan_when_it_dies(twin: Twin) -> None:
    await dead_letters(twin, 4)
    await twin.ask("plan", verb="redrive", filter={"states": ["dead"]}, canary=1)
    await twin.settled()
    (lease,) = await twin.acquire(5)
    await fail(twin, lease)
    (ended,) = await twin.events(OperationEnded)
    assert "the canary failed" in repr(ended)
    assert await ids(twin) == []
    await twin.ask("plan", verb="redrive", filter={"states": ["dead"]}, canary=1, rate_per_s=1)
    (lease,) = await twin.acquire(5, wait_s=5)
    await twin.crash()
    await twin.start()
    await finish(twin, lease)
    began = asyncio.get_running_loop().time()
    rest: list[str] = []
    while len(rest) < 3:
        rest += await ids(twin, wait_s=30, worker=f"w{len(rest)}")
    assert asyncio.get_running_loop().time() - began >= 2
    await asyncio.sleep(2)
    assert len(await twin.events(OperationEnded)) == 2
    await twin.check()


async def test_a_plan_cancels_many_and_leaves_newer_ones_alone(twin: Twin) -> None:
    await submit(twin, *({"id": str(n)} for n in range(3)))
    answer = await twin.ask("plan", verb="cancel", filter={"states": ["pending"]}, rate_per_s=1)
    await submit(twin, {"id": "new"})
    await asyncio.sleep(5)
    assert answer["matched"] == 3
    assert [twin.job(str(n)).state for n in range(3)] == [State.CANCELLED] * 3
    assert twin.job("new").state is State.PENDING
    await twin.check()


async def test_a_refusal_by_state_and_an_acceptance_are_stored_together(twin: Twin) -> None:
    await declare(twin, on_clash="reject")
    await twin.submit(
        [{"task": "t", "id": "a", "unique_key": "u"}, {"task": "t", "id": "b", "unique_key": "u"}]
    )
    await twin.settled()
    records = await twin.records()
    sources = [(r.kind, r.source.index) for r in records if r.source is not None]
    assert sources == [("job", 0), ("principal", 1)]
    await twin.check()


@pytest.mark.parametrize("skipped", [False, True])
async def test_a_job_that_comes_after_another_is_approved_when_that_one_is_done(
    twin: Twin, skipped: bool
) -> None:
    """Also where an operator does not let it wait for the other one: who must say yes is still asked."""
    await submit(twin, {"id": "plan"})
    await submit(twin, {"id": "do", "after": ["mail~plan"], "approval": {"timeout_s": 60}})
    assert waits_for(twin, "do") == "dependency"
    if skipped:
        await twin.ask("resume", id="do", reason="now")
    else:
        await finish(twin, *await twin.acquire())
    await twin.settled()
    assert waits_for(twin, "do") == "approval"
    assert (await twin.story("do"))[-1] == "job_resumed+job_suspended"
    assert "do" not in await ids(twin)
    await twin.ask("approve", id="do", reason="yes")
    assert "do" in await ids(twin)
    await twin.check()
