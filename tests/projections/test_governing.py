"""What the views tell of queues, schedules, operations and batches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from writ.broker.memory import MemoryIntake
from writ.orchestrator.state import Partition
from writ.projections.queries import Queries
from writ.projections.shown import timestamp
from writ.schemas.codec import decode
from writ.schemas.events import (
    BatchEnded,
    BatchSealed,
    CancelRequested,
    Fact,
    Filter,
    JobCancelled,
    JobEdited,
    JobSubmitted,
    OperationEnded,
    OperationPlanned,
    OperationVerb,
    QueueDeclared,
    QueuePaused,
    QueueResumed,
)
from writ.schemas.policy import QueuePolicy
from writ.schemas.queries import BatchesPage, JobsPage, OperationsPage, QueuesPage, SchedulesPage
from writ.schemas.schedules import (
    ScheduleDeclared,
    ScheduleDeleted,
    ScheduleFired,
    SchedulePaused,
    ScheduleSkipped,
    ScheduleSpec,
)
from writ.schemas.sealed import seal

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.histories.builder import Histories, History
    from tests.projections.conftest import Running

SPEC = ScheduleSpec(task="t", every_s=3600)
Ask = Any


def tell(told: History, kind: str, key: str, *events: Fact, cause: str | None = None) -> None:
    told.add(kind, key, events, actor="owner", **({} if cause is None else {"cause": cause}))


async def asked(running: Running, told: History, verb: str, kind: type[Any], **query: Any) -> Any:
    log = told.log()
    async with running(log) as runner:
        queries = Queries([runner], log, MemoryIntake(), "0.1.0")
        try:
            subject = f"writ.query.default.owner.{verb}"
            answer = await queries.answer(subject, msgspec.json.encode(query))
            assert (await queries.answer(subject.replace("default", "other"), b"{}")).find(b'"queue"') < 0
        finally:
            await queries.close()
    return msgspec.json.decode(answer, type=kind)


async def test_a_queue_has_its_policy_mode_counts_and_history(history: Histories, running: Running) -> None:
    told = history()
    tell(told, "queue", "mail", QueueDeclared(1, QueuePolicy(concurrency=2), "first"))
    tell(told, "queue", "mail", QueueDeclared(2, QueuePolicy(concurrency=3), "more"))
    tell(told, "queue", "mail", QueuePaused("night"))
    told.job("a").submitted().granted("w1")
    told.job("b", "bills").submitted()
    page = await asked(running, told, "queues", QueuesPage, history=True)
    assert page.error is None
    bills, mail = page.queues
    assert (bills.queue, bills.version, bills.mode, bills.jobs) == ("bills", 0, "open", {"pending": 1})
    assert (mail.version, mail.policy.concurrency, mail.mode, mail.reason) == (2, 3, "paused", "night")
    assert mail.jobs == {"running": 1}
    assert [c.event for c in mail.history] == ["queue_paused", "queue_declared", "queue_declared"]
    assert (await asked(running, told, "queues", QueuesPage, queue="none")).queues == ()
    first = await asked(running, told, "queues", QueuesPage, limit=1)
    assert ([q.queue for q in first.queues], first.next) == (["bills"], "bills")
    second = await asked(running, told, "queues", QueuesPage, limit=1, cursor=first.next)
    assert ([q.queue for q in second.queues], second.next) == (["mail"], None)


async def test_a_schedule_has_its_next_times(history: Histories, running: Running) -> None:
    told = history()
    tell(told, "schedule", "mail~hourly", ScheduleDeclared(1, SPEC, seal(b'{"a":1}')))
    hour = 3_600_000_000
    start = told.job("x").submitted().now.submitted_at
    tell(told, "schedule", "mail~hourly", ScheduleFired(start + hour, "j1", "due"))
    tell(told, "schedule", "mail~hourly", ScheduleSkipped(start + 2 * hour, "late"))
    tell(told, "schedule", "bills~gone", ScheduleDeclared(1, SPEC, seal(b"null")), ScheduleDeleted("over"))
    tell(told, "schedule", "bills~held", ScheduleDeclared(1, SPEC, seal(b"null")), SchedulePaused("audit"))
    page = await asked(running, told, "schedules", SchedulesPage, times=2, history=True)
    held, hourly = page.schedules
    assert (held.name, held.paused, held.next) == ("held", "audit", ())
    assert (hourly.fired, hourly.skipped, hourly.last_job, bytes(hourly.input)) == (1, 1, "j1", b'{"a":1}')
    assert [at[:13] for at in hourly.next] == ["2026-01-01T03", "2026-01-01T04"]
    assert [c.event for c in hourly.history] == ["schedule_skipped", "schedule_fired", "schedule_declared"]
    assert hourly.declared_at == hourly.history[-1].at
    everything = await asked(running, told, "schedules", SchedulesPage, deleted=True)
    assert [each.name for each in everything.schedules] == ["gone", "held", "hourly"]
    for query, names in (({"queue": "mail"}, ["hourly"]), ({"name": "held"}, ["held"])):
        found = await asked(running, told, "schedules", SchedulesPage, **query)
        assert [each.name for each in found.schedules] == names


async def test_an_operation_counts_what_it_did(history: Histories, running: Running) -> None:
    told = history()
    for name in ("a", "b"):
        told.job(name).submitted()
    plan = OperationPlanned(OperationVerb.CANCEL, Filter(task="t"), "sold", 2, limit=5)
    tell(told, "operation", "mail~op3", plan)
    for name in ("a", "b"):
        ends = (CancelRequested("sold"), JobCancelled("sold"))
        tell(told, "job", f"mail~{name}", *ends, cause="operation:mail~op3")
    page = await asked(running, told, "operations", OperationsPage, id="op3")
    (operation,) = page.operations
    assert (operation.matched, operation.done, operation.ended, operation.actor) == (2, 2, None, "owner")
    tell(told, "operation", "mail~op3", OperationEnded("done", 2))
    (operation,) = (await asked(running, told, "operations", OperationsPage, queue="mail")).operations
    assert (operation.ended, operation.limit, operation.filter.task) == ("done", 5, "t")
    assert operation.ended_at is not None


async def test_a_batch_has_its_jobs_by_state(history: Histories, running: Running) -> None:
    told = history()
    for name in ("a", "b"):
        tell(told, "job", f"mail~{name}", JobSubmitted("t", seal(b"1"), batch="x"))
    tell(told, "job", "mail~c", JobSubmitted("t", seal(b"1"), batch="y_"))
    tell(told, "batch", "mail~x", BatchSealed(2))
    told.job("a").granted("w1").completed()
    (x, y) = (await asked(running, told, "batches", BatchesPage)).batches
    assert (x.batch, x.size, x.jobs, x.ended_at) == ("x", 2, {"completed": 1, "pending": 1}, None)
    assert (y.batch, y.size, y.jobs) == ("y_", None, {"pending": 1})
    first = await asked(running, told, "batches", BatchesPage, limit=1)
    second = await asked(running, told, "batches", BatchesPage, limit=1, cursor=first.next)
    assert ([b.batch for b in first.batches], [b.batch for b in second.batches]) == (["x"], ["y_"])
    assert (first.next, second.next, second.error) == ("mail~x", None, None)
    told.job("b").granted("w1").completed()
    tell(told, "batch", "mail~x", BatchEnded(2, 0, 0))
    (x,) = (await asked(running, told, "batches", BatchesPage, batch="x", queue="mail")).batches
    assert x.jobs == {"completed": 2}
    assert x.ended_at is not None


async def test_an_edited_input_is_the_one_that_is_shown(history: Histories, running: Running) -> None:
    told = history()
    told.job("a").submitted()
    tell(told, "job", "mail~a", JobEdited("mended", priority=1, input=seal(b'{"to":"b"}')))
    (job,) = (await asked(running, told, "job", JobsPage, id="a")).jobs
    assert (bytes(job.input), job.priority) == (b'{"to":"b"}', 1)


@pytest.mark.parametrize("batch_max", [1, 3])
async def test_batches_of_any_size_give_the_same_file(
    batch_max: int, history: Histories, running: Running, dump: Callable[[Path], str]
) -> None:
    told = history()
    tell(told, "queue", "mail", QueueDeclared(1, QueuePolicy(key_concurrency=1)), QueuePaused("night"))
    tell(told, "schedule", "mail~s", ScheduleDeclared(1, SPEC, seal(b"1")))
    for name in ("a", "b"):
        tell(told, "job", f"mail~{name}", JobSubmitted("t", seal(b"1"), batch="x", concurrency_key="k"))
        told.job(name).granted("w1")
    told.job("a").completed()
    tell(told, "batch", "mail~x", BatchSealed(2))
    tell(told, "operation", "mail~op", OperationPlanned(OperationVerb.RERUN, Filter(), "again", 1))
    tell(told, "queue", "mail", QueueResumed("day"))
    log = told.log()
    files: list[str] = []
    for name, size in (("one.db", 1_024), ("other.db", batch_max)):
        async with running(log, name, size) as runner:
            assert await runner.wait_for(len(told.records), 10)
        files.append(dump(runner.path))
    assert files[0] == files[1]


async def test_the_newest_due_times_are_kept_beside_all_that_was_done(
    history: Histories, running: Running, dump: Callable[[Path], str]
) -> None:
    told = history()
    tell(told, "schedule", "mail~s", ScheduleDeclared(1, SPEC, seal(b"1")), SchedulePaused("audit"))
    tell(told, "schedule", "mail~other", ScheduleDeclared(1, SPEC, seal(b"1")), ScheduleFired(1, "j", "due"))
    hour = 3_600_000_000
    for n in range(130):
        tell(told, "schedule", "mail~s", ScheduleFired(told.at + n * hour, f"j{n}", "due"))
    tell(told, "schedule", "mail~s", *(ScheduleSkipped(told.at + n, "late") for n in range(3)))
    (s,) = (await asked(running, told, "schedules", SchedulesPage, name="s", history=True)).schedules
    names = [change.event for change in s.history]
    assert names == ["schedule_skipped"] * 3 + ["schedule_fired"] * 97 + [
        "schedule_declared",
        "schedule_paused",
    ]
    assert b'"j33"' in bytes(s.history[99].data), "the oldest that is kept"
    assert (s.fired, s.skipped) == (130, 3), "what is forgotten was counted"
    told.add("schedule", "mail~other", (ScheduleFired(2, "k", "due"),), actor="writ:orchestrator")
    (other,) = (await asked(running, told, "schedules", SchedulesPage, name="other", history=True)).schedules
    assert (len(other.history), other.changed_by) == (3, "owner"), "a due time changes no schedule"
    log = told.log()
    files: list[str] = []
    for name, size in (("one.db", 1_024), ("other.db", 7)):
        async with running(log, name, size) as runner:
            assert await runner.wait_for(len(told.records), 10)
        files.append(dump(runner.path))
    assert files[0] == files[1]


async def test_jobs_are_found_by_what_they_belong_to(history: Histories, running: Running) -> None:
    told = history()

    def submit(key: str, **more: Any) -> None:
        tell(told, "job", key, JobSubmitted("t", seal(b"1"), **more))

    submit("mail~p")
    submit("mail~a", batch="x", parent="mail~p")
    submit("bills~b", batch="x", parent="mail~p", schedule="s")
    submit("mail~c", batch="xx", schedule="s")
    submit("mail~d", batch="x", schedule="s")
    told.job("a").granted("w1").completed()
    ends = (CancelRequested("sold"), JobCancelled("sold"))
    plan = OperationPlanned(OperationVerb.CANCEL, Filter(), "sold", 2)
    tell(told, "operation", "mail~op9", plan)
    tell(told, "job", "mail~c", *ends, cause="operation:mail~op9")
    tell(told, "job", "mail~d", *ends, cause="operation:mail~op9")

    async def found(**query: Any) -> list[str]:
        page = await asked(running, told, "jobs", JobsPage, **query)
        assert page.error is None
        return [job.id for job in page.jobs]

    assert await found(batch="x") == ["d", "b", "a"]
    assert await found(batch="x", queue="mail") == ["d", "a"]
    assert await found(batch="x", states=["completed", "pending"]) == ["b", "a"]
    assert await found(batch="x", task="other") == []
    assert await found(parent="mail~p") == ["b", "a"]
    assert await found(parent="bills~p") == []
    assert await found(schedule="s") == ["d", "c", "b"]
    assert await found(schedule="s", batch="x") == ["d", "b"]
    assert await found(operation="op9") == ["d", "c"]
    first = await asked(running, told, "jobs", JobsPage, batch="x", limit=2)
    assert [job.id for job in first.jobs] == ["d", "b"]
    assert await found(batch="x", limit=2, cursor=first.next) == ["a"]
    other = await asked(running, told, "jobs", JobsPage, batch="x", limit=3)
    assert other.next is None
    (done,) = [job for job in other.jobs if job.id == "a"]
    assert (done.ended_by, other.jobs[1].ended_by) == (done.seq, None)


async def test_a_queue_has_its_buckets_as_the_orchestrator_has_them(
    history: Histories, running: Running
) -> None:
    told = history()
    told.job("before").submitted().granted("w1")
    tell(told, "queue", "mail", QueueDeclared(1, QueuePolicy(rate_per_s=0.5, burst=2, retries_per_min=6)))
    tell(told, "queue", "bills", QueueDeclared(1, QueuePolicy(concurrency=1)))
    (bills, mail) = (await asked(running, told, "queues", QueuesPage)).queues
    assert (mail.grants, mail.retries) == (None, None)
    told.job("a").submitted().granted("w1").failed("boom")
    told.job("b").submitted().granted("w1")
    told.job("c", "bills").submitted().granted("w1").failed("boom")
    (bills, mail) = (await asked(running, told, "queues", QueuesPage, history=True)).queues
    state = Partition(0, 1)
    for stored in told.records:
        state.apply(decode(stored.body), stored.body)
    queue = state.queue("default.mail")
    assert queue.grants is not None
    assert queue.retries is not None
    assert (mail.grants.tokens, mail.retries.tokens) == (queue.grants.tokens, queue.retries.tokens)
    assert mail.grants.tokens < 1.1
    assert mail.grants.at == timestamp(queue.grants.at)
    assert mail.retries.at == timestamp(queue.retries.at)
    assert (bills.grants, bills.retries) == (None, None)
    assert [change.event for change in mail.history] == ["queue_declared"], (
        "a lease is no change of its queue"
    )
    assert mail.changed_at == mail.history[0].at
