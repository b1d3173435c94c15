"""The loop on the in-memory twin: every flow of a job, by commands and by time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from writ.broker.ports import Message, NotStored
from writ.schemas import bounds
from writ.schemas.events import (
    Barrier,
    CommandRejected,
    LeaderElected,
    LeaseExpired,
    LeasesRenewed,
    RejectionsFolded,
    ReportRejected,
    RetryScheduled,
    TimeResumed,
    WorkerSeen,
)
from writ.schemas.ids import fencing_token
from writ.schemas.lifecycle import TERMINAL, State

if TYPE_CHECKING:
    from .conftest import Tools, Twin


async def now() -> float:
    return asyncio.get_running_loop().time()


async def granted(twin: Twin, *, worker: str = "w1", **job: Any) -> dict[str, Any]:
    """A job that is submitted and leased."""
    await twin.submit({"task": "send", "id": "a", **job})
    (lease,) = await twin.acquire(wait_s=5, worker=worker)
    return lease


# --- the plain way --------------------------------------------------------------------------------------


async def test_a_job_runs(twin: Twin) -> None:
    await twin.submit({"task": "send", "input": {"to": "a"}, "id": "a"})
    (lease,) = await twin.acquire(wait_s=5)
    assert (lease["id"], lease["task"], lease["attempt"], lease["input"]) == ("a", "send", 1, {"to": "a"})
    assert (await twin.report("start", lease)).get("refused") is None
    assert (await twin.report("complete", lease, output=[1])).get("refused") is None
    job = twin.job("a")
    assert (job.state, job.attempt) == ("completed", 1)
    assert job.output is not None
    assert bytes(job.output.plain) == b"[1]"
    assert await twin.story("a") == [
        "job_submitted+lease_granted",
        "attempt_started",
        "job_completed",
    ]
    await twin.check()


async def test_the_token_is_of_the_record_that_granted(twin: Twin) -> None:
    await twin.submit({"task": "send", "id": "a"})
    await twin.settled()
    (lease,) = await twin.acquire()
    (record,) = [r for r in await twin.records() if r.cause == "acquire"]
    assert lease["token"] == fencing_token(1, record.seq)
    assert record.actor == "robot"


async def test_an_array_is_a_job_each_and_ids_are_derived(twin: Twin) -> None:
    await twin.submit([{"task": "a"}, {"task": "b", "id": "mine"}, {"task": "c"}])
    await twin.submit({"task": "d"})
    leases = await twin.acquire(count=9, wait_s=5)
    await twin.settled()
    leases += await twin.acquire(count=9)
    assert [(x["id"], x["task"]) for x in leases] == [
        ("1-1-0", "a"),
        ("mine", "b"),
        ("1-1-2", "c"),
        ("1-2-0", "d"),
    ]


async def test_an_id_is_taken_once(twin: Twin) -> None:
    for _ in range(3):
        await twin.submit({"task": "send", "id": "a"})
    await twin.submit([{"task": "send", "id": "a"}, {"task": "send", "id": "b"}])
    await twin.settled()
    assert [x["id"] for x in await twin.acquire(count=9)] == ["a", "b"]
    assert (await twin.story("a"))[0] == "job_submitted"


async def test_nobody_takes_the_id_that_another_submit_will_derive(twin: Twin) -> None:
    """An id of that form, chosen by a sender, would make a later submit vanish as a repetition."""
    await twin.submit({"task": "squat", "id": "1-2-0"})
    await twin.submit({"task": "honest"})
    await twin.settled()
    assert [(x["id"], x["task"]) for x in await twin.acquire(count=9)] == [("1-2-0", "honest")]
    (refusal,) = [e for e in await twin.events(CommandRejected) if isinstance(e, CommandRejected)]
    assert refusal.refused[0].field == "id"


async def test_priority_first_then_first_in_first_out(twin: Twin) -> None:
    for number, priority in enumerate((3, 5, 1, 3, 1)):
        await twin.submit({"task": "t", "id": f"j{number}", "priority": priority})
    await twin.settled()
    assert [x["id"] for x in await twin.acquire(count=9)] == ["j2", "j4", "j0", "j3", "j1"]


async def test_a_worker_gets_the_tasks_it_knows(twin: Twin) -> None:
    await twin.submit([{"task": "a", "id": "1"}, {"task": "b", "id": "2"}, {"task": "a", "id": "3"}])
    await twin.settled()
    assert [x["id"] for x in await twin.acquire(count=9, tasks=["b", "c"])] == ["2"]
    assert [x["id"] for x in await twin.acquire(count=9)] == ["1", "3"]


async def test_what_a_worker_says_of_itself_is_recorded_when_it_is_new_and_now_and_then(twin: Twin) -> None:
    about = {"host": "vm-1", "version": "0.1.0", "slots": 10}
    for slots in (10, 10, 20):
        assert await twin.acquire(about=about | {"slots": slots}) == []
    assert await twin.acquire(worker="w2") == [], "who says nothing is no less served"
    assert await twin.events(WorkerSeen) == [WorkerSeen("vm-1", "0.1.0", n) for n in (10, 20)]
    (first, _) = [r for r in await twin.records() if isinstance(r.events[0], WorkerSeen)]
    assert (first.kind, first.key, first.actor, first.cause) == ("worker", "w1", "robot", "acquire")
    for _ in range(5):
        await asyncio.sleep(bounds.WORKER_SEEN_S / 4)
        await twin.acquire(about=about | {"slots": 20})
    assert len(await twin.events(WorkerSeen)) == 3, "it is heard of again though it had no lease"
    await twin.check()


async def test_what_tasks_take_is_recorded_where_it_is_new(twin: Twin) -> None:
    about = {"host": "vm-1", "version": "0.1.0", "slots": 10}
    one, other = {"mail": '{"type":"object"}'}, {"mail": '{"type":"null"}'}
    too_long = {"mail": "x" * bounds.TASKS_TOLD_MAX_BYTES}
    for told in ({"tasks": one}, {}, {"tasks": one}, {"tasks": other}, {"tasks": too_long}):
        assert await twin.acquire(about=about | told) == []
    assert [event.tasks for event in await twin.events(WorkerSeen) if isinstance(event, WorkerSeen)] == [
        one,
        other,
    ]
    await twin.check()


async def test_a_worker_of_many_names_does_not_flood_the_log(twin: Twin) -> None:
    about = {"host": "vm-1", "version": "0.1.0", "slots": 10}
    for number in range(2 * bounds.REFUSALS_BURST):
        assert await twin.acquire(worker=f"w{number}", about=about) == []
    assert len(await twin.events(WorkerSeen)) < 1.5 * bounds.REFUSALS_BURST


async def test_queues_are_apart(twin: Twin) -> None:
    await twin.submit({"task": "t", "id": "a"}, "mail")
    await twin.submit({"task": "t", "id": "a"}, "bills")
    await twin.settled()
    assert len(await twin.acquire(count=9)) == 1
    answer = await twin.ask("acquire", "bills", worker="w")
    assert len(answer["leases"]) == 1


# --- parked acquires ------------------------------------------------------------------------------------


async def test_a_parked_acquire_gets_what_comes(twin: Twin) -> None:
    parked = asyncio.create_task(twin.acquire(count=2, wait_s=50))
    second = asyncio.create_task(twin.acquire(count=2, wait_s=50, worker="w2"))
    await asyncio.sleep(20)
    await twin.submit([{"task": "t", "id": str(i)} for i in range(3)])
    assert [x["id"] for x in await parked] == ["0", "1"]
    assert [x["id"] for x in await second] == ["2"]
    assert await now() == 1_020


async def test_a_wait_ends_with_nothing(twin: Twin) -> None:
    begin = await now()
    assert await twin.acquire(wait_s=12) == []
    assert await now() == pytest.approx(begin + 12, abs=0.01)
    await twin.submit()
    await twin.settled()
    assert len(await twin.acquire()) == 1


async def test_a_parked_worker_for_other_tasks_does_not_bar_the_way(twin: Twin) -> None:
    picky = asyncio.create_task(twin.acquire(wait_s=50, tasks=["other"]))
    plain = asyncio.create_task(twin.acquire(wait_s=50, worker="w2"))
    await twin.settled()
    await twin.submit({"task": "t"})
    assert len(await plain) == 1
    await twin.submit({"task": "other"})
    assert len(await picky) == 1


# --- failure and time -----------------------------------------------------------------------------------


async def test_a_failure_is_retried_when_its_time_has_come(twin: Twin) -> None:
    lease = await granted(twin, retry={"max_attempts": 3, "initial_interval_s": 10, "jitter": 0})
    begin = await now()
    for number, delay in ((1, 10), (2, 20)):
        answer = await twin.report("fail", lease, **{"class": "application"}, type="Full", text="no")
        assert "refused" not in answer
        assert twin.job("a").state is State.RETRYING
        (lease,) = await twin.acquire(wait_s=60)
        assert lease["attempt"] == number + 1
        assert await now() == pytest.approx(begin + delay, abs=0.01)
        begin = await now()
    await twin.report("fail", lease, **{"class": "application"}, type="Full")
    job = twin.job("a")
    assert (job.state, job.dead, job.failures) == (State.DEAD, "exhausted", 3)
    assert (await twin.story("a"))[-1] == "attempt_failed+job_dead_lettered"
    await twin.check()


async def test_what_decided_a_retry_can_be_recomputed(twin: Twin) -> None:
    lease = await granted(twin, retry={"initial_interval_s": 10, "jitter": 0.5})
    await twin.report("fail", lease, **{"class": "system"}, type="Gone")
    (record,) = [r for r in await twin.records() if r.cause == "fail"]
    (event,) = [e for e in record.events if isinstance(e, RetryScheduled)]
    assert 0 <= event.seed < 1
    delay = event.base_s * (1 + event.jitter * (2 * event.seed - 1))
    assert event.due_at == record.at + round(delay * 1_000_000)
    assert event.base_s == 10


async def test_a_delayed_job_waits_for_its_time(twin: Twin) -> None:
    begin = await now()
    await twin.submit({"task": "t", "id": "a", "delay_s": 3_600})
    await twin.settled()
    assert twin.job("a").state is State.SCHEDULED
    assert await twin.acquire(wait_s=50) == []
    while not (leases := await twin.acquire(wait_s=60)):
        pass
    assert leases[0]["id"] == "a"
    assert await now() == pytest.approx(begin + 3_600, abs=0.1)
    assert (await twin.story("a"))[:2] == ["job_submitted", "job_due+lease_granted"]


async def test_an_unrenewed_lease_expires_and_the_job_goes_to_another(twin: Twin) -> None:
    lease = await granted(twin)
    begin = await now()
    (again,) = await twin.acquire(wait_s=60, worker="w2")
    assert await now() == pytest.approx(begin + 30, abs=0.1)
    assert (again["id"], again["attempt"]) == ("a", 2)
    assert again["token"] > lease["token"]
    (expired,) = [e for e in await twin.events(LeaseExpired) if isinstance(e, LeaseExpired)]
    assert (expired.worker, expired.losses, expired.token) == ("w1", 1, lease["token"])
    answer = await twin.report("complete", lease, output=1)
    assert answer["refused"][0]["kind"] == "stale"
    assert twin.job("a").lease is not None
    assert "refused" not in await twin.report("complete", again, worker="w2")
    await twin.check()


async def test_a_renewed_lease_lives(twin: Twin) -> None:
    lease = await granted(twin)
    for _ in range(20):
        await asyncio.sleep(10)
        answer = await twin.report("renew", lease)
        assert "lost" not in answer
    assert twin.job("a").state is State.RUNNING
    assert len(await twin.events(LeasesRenewed)) == 20
    assert await twin.story("a") == ["job_submitted+lease_granted"]
    await twin.check()


async def test_a_job_that_kills_its_runners_is_poison(twin: Twin) -> None:
    await twin.submit({"task": "t", "id": "a", "retry": {"max_lease_losses": 2}})
    for number in (1, 2):
        (lease,) = await twin.acquire(wait_s=60, worker=f"w{number}")
        assert lease["attempt"] == number
    await asyncio.sleep(31)
    job = twin.job("a")
    assert (job.state, job.dead, job.lease_losses, job.failures) == (State.DEAD, "poison", 2, 0)


@pytest.mark.parametrize(
    ("limit", "ends_after_s", "dead"),
    [
        ({"expires_in_s": 40}, 40, "expired"),
        ({"job_timeout_s": 70}, 70, "job_timeout"),
        ({"expires_in_s": 90, "job_timeout_s": 70}, 70, "job_timeout"),
    ],
)
async def test_a_limit_ends_a_waiting_job(
    twin: Twin, limit: dict[str, float], ends_after_s: float, dead: str
) -> None:
    await twin.submit({"task": "t", "id": "a", **limit})
    await asyncio.sleep(ends_after_s - 1)
    assert twin.job("a").state is State.PENDING
    await asyncio.sleep(2)
    assert (twin.job("a").state, twin.job("a").dead) == (State.DEAD, dead)


async def test_an_attempt_may_take_so_long_and_no_longer(twin: Twin) -> None:
    lease = await granted(twin, attempt_timeout_s=45, retry={"max_attempts": 1})
    for _ in range(4):
        await asyncio.sleep(10)
        assert "lost" not in await twin.report("renew", lease)
    await asyncio.sleep(6)
    job = twin.job("a")
    assert (job.state, job.dead) == (State.DEAD, "exhausted")
    assert job.error is not None
    assert (job.error.class_, job.error.type) == ("timeout", "AttemptTimeout")
    assert "lost" in await twin.report("renew", lease)


async def test_a_running_job_ends_at_its_own_limit(twin: Twin) -> None:
    lease = await granted(twin, job_timeout_s=45)
    for _ in range(4):
        await asyncio.sleep(10)
        assert "lost" not in await twin.report("renew", lease)
    await asyncio.sleep(6)
    assert (twin.job("a").state, twin.job("a").dead) == (State.DEAD, "job_timeout")


# --- cancel, release, redrive ---------------------------------------------------------------------------


async def test_cancelling_a_waiting_job_ends_it(twin: Twin) -> None:
    await twin.submit({"task": "t", "id": "a"})
    await twin.submit({"task": "t", "id": "b", "delay_s": 60})
    await twin.settled()
    for job_id in ("a", "b"):
        assert "error" not in await twin.ask("cancel", id=job_id, reason="enough")
        assert (twin.job(job_id).state, twin.job(job_id).reason) == (State.CANCELLED, "enough")
    assert await twin.acquire() == []
    answer = await twin.ask("cancel", id="a")
    assert answer["error"]["kind"] == "conflict"
    await twin.check()


async def test_cancelling_a_retrying_job_ends_it(twin: Twin) -> None:
    lease = await granted(twin)
    await twin.report("fail", lease, **{"class": "system"}, type="Gone")
    await twin.ask("cancel", id="a")
    assert twin.job("a").state is State.CANCELLED
    assert await twin.acquire(wait_s=60) == []


@pytest.mark.parametrize("way", ["fail", "release", "expire"])
async def test_a_running_job_is_told_and_ends_with_its_lease(twin: Twin, way: str) -> None:
    lease = await granted(twin)
    assert "error" not in await twin.ask("cancel", id="a", reason="enough")
    assert "error" not in await twin.ask("cancel", id="a", reason="again")
    assert twin.job("a").state is State.RUNNING
    answer = await twin.report("renew", lease)
    assert answer["cancel"] == ["a"]
    match way:
        case "fail":
            await twin.report("fail", lease, **{"class": "cancelled"}, type="Cancelled")
        case "release":
            await twin.report("release", lease)
        case _:
            await asyncio.sleep(31)
    assert (twin.job("a").state, twin.job("a").reason) == (State.CANCELLED, "enough")
    await twin.check()


async def test_a_cancelled_job_may_still_be_completed(twin: Twin) -> None:
    lease = await granted(twin)
    await twin.ask("cancel", id="a")
    assert "refused" not in await twin.report("complete", lease)
    assert twin.job("a").state is State.COMPLETED


async def test_a_released_lease_frees_its_job_at_once(twin: Twin) -> None:
    lease = await granted(twin)
    other = asyncio.create_task(twin.acquire(wait_s=50, worker="w2"))
    await twin.settled()
    begin = await now()
    await twin.report("release", lease)
    (again,) = await other
    assert (again["id"], again["attempt"]) == ("a", 2)
    assert await now() == begin
    assert twin.job("a").lease_losses == 0
    await twin.check()


async def test_a_dead_letter_is_redriven_and_nothing_else(twin: Twin) -> None:
    lease = await granted(twin)
    assert (await twin.ask("redrive", id="a"))["error"]["kind"] == "conflict"
    await twin.report("fail", lease, **{"class": "policy"}, type="Forbidden")
    dead = twin.job("a")
    assert (dead.state, dead.dead) == (State.DEAD, "policy")
    assert "error" not in await twin.ask("redrive", id="a", reason="allowed now")
    (lease,) = await twin.acquire()
    assert (twin.job("a").round, lease["attempt"]) == (2, 1)
    assert "refused" not in await twin.report("complete", lease)
    assert (await twin.ask("redrive", id="nope"))["error"]["kind"] == "not_found"


# --- stale and repeated reports -------------------------------------------------------------------------


async def test_a_report_said_twice_is_taken_once(twin: Twin) -> None:
    lease = await granted(twin)
    for _ in range(2):
        assert "refused" not in await twin.report("start", lease)
    for _ in range(3):
        assert "refused" not in await twin.report("complete", lease, output=5)
    assert await twin.story("a") == ["job_submitted+lease_granted", "attempt_started", "job_completed"]
    await twin.submit({"task": "t", "id": "b"})
    (lease,) = await twin.acquire(wait_s=5)
    for _ in range(3):
        assert "refused" not in await twin.report("fail", lease, **{"class": "system"}, type="X", text="y")
    assert twin.job("b").failures == 1


@pytest.mark.parametrize("verb", ["start", "complete", "fail", "release", "renew"])
@pytest.mark.parametrize("how", ["expired", "taken over", "completed", "timed out", "released", "foreign"])
async def test_a_stale_token_changes_nothing_and_is_told_so(twin: Twin, verb: str, how: str) -> None:
    """Also where an earlier attempt had failed before: its failure is not this one's."""
    timeout_s = 25 if how == "timed out" else 900
    lease = await granted(twin, attempt_timeout_s=timeout_s, retry={"initial_interval_s": 1, "jitter": 0})
    await twin.report("fail", lease, **{"class": "application"}, type="Full", text="no")
    (lease,) = await twin.acquire(wait_s=10)
    who = "robot"
    match how:
        case "expired" | "timed out":
            await asyncio.sleep(31)
        case "taken over":
            await twin.report("release", lease)
            await twin.acquire(worker="w2")
        case "completed" if verb != "complete":
            await twin.report("complete", lease)
        case "completed":
            await twin.report("fail", lease, **{"class": "policy"}, type="Forbidden")
        case "released":
            await twin.report("release", lease)
        case _:
            who = "stranger"
    before = twin.job("a")
    count = len(await twin.events(ReportRejected))
    more = {"class": "application", "type": "Full", "text": "no"} if verb == "fail" else {}
    held = [{"id": "a", "token": lease["token"], **more}]
    name = "reports" if verb in ("complete", "fail") else "leases"
    fields: dict[str, Any] = {"worker": "w1", name: held}
    answer = await twin.ask(verb, who=who, **fields)
    refused = answer["lost" if verb == "renew" else "refused"]
    assert [(r["kind"], r["field"], r["index"]) for r in refused] == [("stale", "token", 0)]
    assert twin.job("a") == before
    rejected = await twin.events(ReportRejected)
    if verb == "renew" and how not in ("taken over", "foreign"):
        # A beat often crosses the report that ended its lease: the log tells that end already.
        assert len(rejected) == count
        await twin.check()
        return
    assert len(rejected) == count + 1
    last = rejected[-1]
    assert isinstance(last, ReportRejected)
    assert (last.verb, last.worker) == (verb, "w1")
    assert (last.refused[0].job, last.refused[0].token) == ("mail~a", lease["token"])
    await twin.check()


async def test_a_report_on_an_unknown_job_is_refused(twin: Twin) -> None:
    answer = await twin.report("complete", {"id": "ghost", "token": 5})
    assert answer["refused"][0]["kind"] == "not_found"


# --- group commit ---------------------------------------------------------------------------------------


async def test_many_commands_go_in_few_appends(twin: Twin) -> None:
    before = len(twin.log.appends)
    for _ in range(400):
        await twin.submit({"task": "t"})
    leases = await asyncio.gather(*(twin.acquire(wait_s=30, worker=f"w{i}") for i in range(400)))
    assert all(len(x) == 1 for x in leases)
    await asyncio.gather(*(twin.report("complete", x[0]) for x in leases))
    records = len(await twin.records())
    assert records >= 800
    assert len(twin.log.appends) - before <= 8
    assert all(job.state in TERMINAL for job in (await twin.folded()).jobs.values())


async def test_a_flood_is_split_into_batches_that_the_broker_takes(twin: Twin) -> None:
    twin.log.hold.clear()
    big = msgspec.json.encode([{"task": "t", "input": "x" * 100_000}] * 9)
    for _ in range(60):
        await twin.submit(big)
    for _ in range(5):
        await twin.submit([{"task": "t"}] * 450)
    twin.log.hold.set()
    await twin.settled()
    assert sum(twin.log.appends) >= 540 + 2_250
    assert max(twin.log.appends) <= 1_000
    assert len((await twin.folded()).jobs) == 540 + 2_250


async def test_nothing_is_answered_before_it_is_stored(twin: Twin) -> None:
    await twin.submit({"task": "t", "id": "a"})
    await twin.submit({"task": "t", "id": "b"})
    await twin.settled()
    twin.log.hold.clear()
    asking: list[asyncio.Task[Any]] = [
        asyncio.create_task(twin.ask("acquire", worker="w1")),
        asyncio.create_task(twin.ask("cancel", id="b")),
        asyncio.create_task(twin.ask("cancel", id="ghost")),
        asyncio.create_task(twin.report("complete", {"id": "ghost", "token": 1})),
        asyncio.create_task(twin.raw("complete", b"no json")),
    ]
    await asyncio.sleep(5)
    assert not [task for task in asking if task.done()]
    twin.log.hold.set()
    await asyncio.gather(*asking)


async def test_a_verdict_that_stores_nothing_leaves_behind_an_append(twin: Twin) -> None:
    lease = await granted(twin)
    await twin.report("complete", lease)
    before = len(await twin.events(Barrier))
    twin.log.hold.clear()
    asking = asyncio.create_task(twin.report("complete", lease))
    await asyncio.sleep(5)
    assert not asking.done()
    twin.log.hold.set()
    assert "refused" not in await asking
    assert len(await twin.events(Barrier)) == before + 1


async def test_a_question_is_answered_behind_a_look_at_the_log_and_stores_nothing(twin: Twin) -> None:
    before = len(await twin.records())
    for verb in ("get_tenant", "list_prices", "list_processes", "list_gates", "list_assets", "list_tenants"):
        answer = await twin.ask(verb, queue="-", who="owner")
        assert "error" not in answer, verb
        assert answer["position"] == before
    assert len(await twin.records()) == before


async def test_a_question_that_cannot_be_looked_up_holds_nobody_up_for_long(twin: Twin) -> None:
    twin.log.silent = True
    begun = asyncio.get_running_loop().time()
    asked = await twin.ask("get_tenant", queue="-", who="owner")
    assert asked["error"]["kind"] == "try_later"
    assert asyncio.get_running_loop().time() - begun < 1  # of virtual time
    twin.log.silent = False
    assert "error" not in await twin.ask("get_tenant", queue="-", who="owner")
    assert twin.engine is not None
    assert twin.engine.leading.is_set()


async def test_a_deposed_leader_does_not_tell_how_things_are(twin: Twin) -> None:
    other = twin.log.inner
    lead = (await twin.records())[-1].seq
    (stolen,) = [m async for part in other.read(lead) for m in part]
    await other.append([Message(stolen.subject, stolen.body)], lead)  # a record that it has not written
    asked = await twin.ask("get_tenant", queue="-", who="owner")
    assert asked["error"]["kind"] == "try_later"
    await twin.settled()
    assert twin.engine is not None
    assert not twin.engine.leading.is_set()


# --- appends that go wrong ------------------------------------------------------------------------------


async def test_what_is_not_stored_is_given_back(twin: Twin, tools: Tools) -> None:
    """A full log loses no submit, and a request is told to ask again."""
    await twin.submit({"task": "t", "id": "a"})
    await twin.settled()
    twin.log.script += tools.full(3)
    await twin.submit([{"task": "t", "id": "b"}, {"task": "t", "id": "c"}, {"nonsense": 1}])
    asked = await twin.ask("acquire", worker="w1", count=9)
    assert asked["error"]["kind"] == "try_later"
    await asyncio.sleep(5)
    assert [x["id"] for x in await twin.acquire(count=9)] == ["a", "b", "c"]
    assert sum(e.count for e in await twin.events(CommandRejected) if isinstance(e, CommandRejected)) == 1
    await twin.check()


async def test_a_full_log_loses_no_folded_refusal(twin: Twin, tools: Tools) -> None:
    for _ in range(80):
        await twin.submit(b"{}")
    await twin.settled()
    twin.log.script += tools.full(2)
    for _ in range(30):
        await twin.submit(b"{}")
    await twin.submit({"task": "t", "id": "a"})
    await asyncio.sleep(10)
    assert await refusals(twin) == 110
    await twin.check()


async def refusals(twin: Twin) -> int:
    """How many elements of submits the log says were refused."""
    events = await twin.events(CommandRejected, RejectionsFolded)
    return sum(e.count for e in events if isinstance(e, CommandRejected | RejectionsFolded))


@pytest.mark.parametrize("stored", [0, 1, 2, None])
async def test_an_unknown_outcome_is_looked_up(twin: Twin, tools: Tools, stored: int | None) -> None:
    lease = await granted(twin, id="z")
    twin.log.script.append(tools.unknown(stored))
    await twin.submit([{"task": "t", "id": i} for i in "abc"])
    asked = twin.report("complete", lease)
    assert "refused" not in await asked
    assert len(await twin.events(TimeResumed)) == 1
    for job_id in "abc":
        assert (await twin.story(job_id))[0] == "job_submitted"
    assert [x["id"] for x in await twin.acquire(count=9)] == ["a", "b", "c"]
    await twin.check()


async def test_an_outcome_may_stay_unknown_for_long(twin: Twin, tools: Tools) -> None:
    twin.log.script += [tools.unknown(1), tools.unknown(0), *tools.full(2), tools.unknown(None)]
    twin.log.script += [tools.unknown(0), tools.unknown(None)]
    await twin.submit([{"task": "t", "id": i} for i in "abc"])
    await asyncio.sleep(30)
    assert not twin.log.script
    for job_id in "abc":
        assert await twin.story(job_id) == ["job_submitted"]
    await twin.check()


async def test_no_lease_expires_on_a_clock_that_ran_while_the_log_was_away(twin: Twin, tools: Tools) -> None:
    lease = await granted(twin)
    twin.log.script.append(tools.unknown(0, after_s=300))
    await twin.submit({"task": "t", "id": "b"})
    await asyncio.sleep(301)
    assert twin.job("a").state is State.RUNNING
    assert "lost" not in await twin.report("renew", lease)
    (resumed,) = [e for e in await twin.events(TimeResumed) if isinstance(e, TimeResumed)]
    assert resumed.gap_ms >= 0
    assert not await twin.events(LeaseExpired)
    await twin.check()


async def test_a_new_leader_gives_every_lease_its_time(twin: Twin) -> None:
    lease = await granted(twin)
    await twin.crash()
    await asyncio.sleep(600)
    await twin.start()
    assert "lost" not in await twin.report("renew", lease)
    assert len(await twin.events(LeaderElected)) == 2
    await asyncio.sleep(31)
    assert twin.job("a").state is State.PENDING
    await twin.check()


async def test_a_deposed_leader_steps_back_rests_and_loses_nothing(twin: Twin) -> None:
    other = twin.log.inner
    await twin.submit({"task": "t", "id": "a"})
    await twin.settled()
    lead = (await twin.records())[-1].seq
    (stolen,) = [m async for part in other.read(lead) for m in part]
    await other.append([Message(stolen.subject, stolen.body)], lead)  # a record that it has not written
    asked = await twin.ask("acquire", worker="w1")
    assert asked["error"]["kind"] == "try_later"
    await twin.settled()
    assert twin.engine is not None
    assert not twin.engine.leading.is_set()


async def test_a_leader_of_whom_a_part_has_ended_leads_anew(
    twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nothing else happens: or nobody would purge the intake, and submits were refused in the end."""
    purge, failed = twin.intake.purge, list[int]()

    async def fails_once(up_to: int, *of: Any) -> None:
        if not failed:
            failed.append(up_to)
            raise NotStored("nobody thought of this")
        await purge(up_to, *of)

    monkeypatch.setattr(twin.intake, "purge", fails_once)
    await twin.submit({"task": "t", "id": "a"})
    await asyncio.sleep(5)
    assert failed == [1]
    assert len(await twin.events(LeaderElected)) == 2
    assert await twin.intake.first_seq() == 2
    await twin.submit({"task": "t", "id": "b"})
    await twin.settled()
    assert twin.job("b").state is State.PENDING
    await twin.check()


async def test_of_two_engines_one_leads_and_the_other_takes_over(twin: Twin) -> None:
    first = twin.engine
    assert first is not None
    second = twin.stand("second")
    await asyncio.sleep(60)
    assert (first.leading.is_set(), second.leading.is_set()) == (True, False)
    await twin.submit({"task": "t", "id": "a"})
    await twin.settled()
    first.stop()
    begin = await now()
    await second.leading.wait()
    assert await now() - begin < 10
    assert len(await twin.acquire()) == 1
    await twin.check()


# --- refusals -------------------------------------------------------------------------------------------


async def test_refusals_beyond_the_budget_are_counted(twin: Twin) -> None:
    for number in range(300):
        await twin.submit(b'{"task":%d}' % number)
    await twin.submit([{"task": "t", "id": "good"}, {"nonsense": 1}])
    await twin.settled()
    singly = len(await twin.events(CommandRejected))
    assert 50 <= singly <= 55
    await asyncio.sleep(5)
    assert await refusals(twin) == 301
    assert [x["id"] for x in await twin.acquire(count=5)] == ["good"]
    await twin.check()


async def test_each_principal_has_a_budget_of_its_own(twin: Twin) -> None:
    for number in range(100):
        await twin.submit(b"[]", who="noisy")
        if number % 20 == 0:
            await twin.submit(b"[]", who="quiet")
    await asyncio.sleep(5)
    quiet = [e for r in await twin.records() if r.actor == "quiet" for e in r.events]
    assert [type(e) for e in quiet] == [CommandRejected] * 5
    assert await refusals(twin) == 105


async def test_beyond_the_budget_a_request_gets_no_verdict(twin: Twin) -> None:
    kinds = [(await twin.ask("cancel", id="ghost"))["error"]["kind"] for _ in range(60)]
    assert kinds[:50] == ["not_found"] * 50
    assert set(kinds[50:]) == {"try_later"}
    assert len(await twin.events(CommandRejected)) == 50
    await asyncio.sleep(10)
    assert (await twin.ask("cancel", id="ghost"))["error"]["kind"] == "not_found"


async def test_the_intakes_position_settles_and_is_purged_behind(twin: Twin) -> None:
    """Submits that leave no record, as repeats do, are not read for ever."""
    await twin.submit({"task": "t", "id": "a"})
    for _ in range(40):
        await twin.submit({"task": "t", "id": "a"})
    await asyncio.sleep(5)
    assert twin.engine is not None
    assert (twin.engine.state.source.seq, twin.engine.state.source.index) == (41, 0)
    reader = twin.intake.read(1)
    await twin.submit({"task": "t", "id": "b"})
    assert [m.seq for m in await anext(reader)] == [42]
    await twin.check()


@pytest.mark.parametrize(
    ("verb", "body", "field"),
    [
        ("acquire", b"", None),
        ("acquire", b"[", None),
        ("acquire", b"{}", "worker"),
        ("acquire", b'{"worker":"w\\n"}', "worker"),
        ("acquire", b'{"worker":"a.b"}', "worker"),
        ("acquire", b'{"worker":"w","count":501}', "count"),
        ("acquire", b'{"worker":"w","wait_s":1e9}', "wait_s"),
        ("acquire", b'{"worker":"w","' + b"x" * 600_000 + b'":1}', "x" * 200),
        ("renew", b'{"worker":"w","leases":[]}', "leases"),
        ("complete", b'{"worker":"w","reports":[{"id":"a"}]}', "reports[0].token"),
        ("complete", b"[" * 100_000, None),
        ("fail", b'{"worker":"w","reports":[{"id":"a","token":1,"class":"odd","type":"T"}]}', None),
        ("dance", b"{}", "verb"),
    ],
)
async def test_a_malformed_request_is_refused_by_its_field(
    twin: Twin, verb: str, body: bytes, field: str | None
) -> None:
    answer = await twin.raw(verb, body)
    assert answer.error is not None
    assert answer.error.kind == "malformed"
    if field is not None:
        assert answer.error.field is not None
        assert answer.error.field.startswith(field.split("[")[0])
    (event,) = [e for e in await twin.events(CommandRejected) if isinstance(e, CommandRejected)]
    assert event.verb == verb
    await twin.check()


# --- answers that fit -----------------------------------------------------------------------------------


async def test_an_answer_fits_the_brokers_largest_message(twin: Twin) -> None:
    long = "é" * 256
    for _ in range(12):
        await twin.submit([{"task": long, "input": "x" * 1_000}] * 100)
    await twin.settled()
    taken = 0
    while taken < 1_200:
        body = msgspec.json.encode({"worker": "w", "count": 500})
        answer = await twin.hub.request("default", "robot", "acquire", "mail", body)
        assert len(answer) < 1024 * 1024
        taken += len(msgspec.json.decode(answer)["leases"])
