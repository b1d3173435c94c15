"""What askers are answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from writ.broker.memory import MemoryIntake
from writ.broker.ports import OutcomeUnknown
from writ.projections.queries import Queries
from writ.projections.shown import timestamp
from writ.schemas.events import JobDropped, JobSubmitted, JobSuspended, WaitReason
from writ.schemas.lifecycle import Job
from writ.schemas.queries import DeadPage, JobsPage, NodeStatus, RecordsPage
from writ.schemas.sealed import Sealed, seal

if TYPE_CHECKING:
    from tests.histories.builder import Histories, History, ListLog
    from tests.projections.conftest import Running


class Asker:
    """Asks as a principal of a tenant."""

    def __init__(self, queries: Queries, log: ListLog, intake: MemoryIntake) -> None:
        self.queries = queries
        self.log = log
        self.intake = intake

    async def raw(self, verb: str, tenant: str = "default", **query: Any) -> bytes:
        return await self.queries.answer(f"writ.query.{tenant}.owner.{verb}", msgspec.json.encode(query))

    async def jobs(self, verb: str = "jobs", tenant: str = "default", **query: Any) -> JobsPage:
        return msgspec.json.decode(await self.raw(verb, tenant, **query), type=JobsPage)

    async def records(self, **query: Any) -> RecordsPage:
        return msgspec.json.decode(await self.raw("records", **query), type=RecordsPage)

    async def status(self, tenant: str = "default") -> NodeStatus:
        return msgspec.json.decode(await self.raw("status", tenant), type=NodeStatus)


Asking = Callable[..., AbstractAsyncContextManager[Asker]]


@pytest.fixture
def asking(running: Running) -> Asking:
    @asynccontextmanager
    async def ask(
        told: History, log: ListLog | None = None, who: Callable[[int], Awaitable[str | None]] | None = None
    ) -> AsyncGenerator[Asker]:
        log = log or told.log()
        async with running(log) as runner:
            intake = MemoryIntake()
            queries = Queries([runner], log, intake, "0.1.0", lambda: ["the disk is slow"], who)
            try:
                yield Asker(queries, log, intake)
            finally:
                await queries.close()

    return ask


async def test_jobs_come_newest_first_in_pages_that_miss_and_repeat_nothing(
    history: Histories, asking: Asking
) -> None:
    told = history.wander(4, 600, 30)
    opened = {key: seq for seq, key in _submits(told)}
    newest = sorted(told.jobs.values(), key=lambda job: -opened[job.key])
    middle, late = newest[len(newest) // 2].submitted_at, newest[len(newest) // 4].submitted_at
    cause = next(job.cause for job in newest if job.state == "dead")
    async with asking(told) as asker:
        asked: list[tuple[dict[str, Any], list[Job]]] = [
            ({}, newest),
            ({"queue": "mail"}, [j for j in newest if j.queue == "mail"]),
            ({"states": ["dead", "running"]}, [j for j in newest if j.state in ("dead", "running")]),
            ({"task": "mail.sort"}, [j for j in newest if j.task == "mail.sort"]),
            (
                {"task": "mail.sort", "queue": "bills", "states": ["cancelled"]},
                [j for j in newest if (j.task, j.queue, j.state) == ("mail.sort", "bills", "cancelled")],
            ),
            ({"error_class": "poison"}, [j for j in newest if j.error and j.error.class_ == "poison"]),
            (
                {"error_class": "application", "queue": "mail", "states": ["completed", "dead"]},
                [
                    j
                    for j in newest
                    if j.error and (j.error.class_, j.queue) == ("application", "mail")
                    if j.state in ("completed", "dead")
                ],
            ),
            ({"actor": "owner", "task": "mail.send"}, [j for j in newest if j.task == "mail.send"]),
            ({"actor": "other"}, []),
            (
                {"since": timestamp(middle), "until": timestamp(late), "queue": "bills"},
                [j for j in newest if middle <= j.submitted_at < late and j.queue == "bills"],
            ),
            ({"cause": cause}, [j for j in newest if j.state == "dead" and j.cause == cause]),
        ]
        for query, wanted in asked:
            found: list[tuple[str, str]] = []
            cursor: str | None = None
            while True:
                page = await asker.jobs(limit=7, cursor=cursor, **query)
                assert page.error is None
                assert page.position == len(told.records)
                found += [(job.queue, job.id) for job in page.jobs]
                cursor = page.next
                if cursor is None:
                    break
                assert len(page.jobs) == 7
            assert found == [(job.queue, job.id) for job in wanted]


def _submits(told: History) -> list[tuple[int, str]]:
    return [
        (stored.seq, stored.subject.split(".")[-1])
        for stored in told.records
        if b'"job_submitted"' in stored.body
    ]


async def test_a_job_has_its_contents_and_its_last_error(history: Histories, asking: Asking) -> None:
    told = history()
    told.submitted().granted("w1").failed("mailbox is full").at_due().granted("w2").completed()
    told.job("a", "bills").submitted().granted("w3")
    async with asking(told) as asker:
        page = await asker.jobs("job", id="a", queue="mail")
        (job,) = page.jobs
        assert bytes(job.input) == b'{"to":"a@example.com"}'
        assert bytes(job.output) == b'"sent"'
        assert job.error is not None
        assert (job.error.class_, job.error.text) == ("application", "mailbox is full")
        assert (job.state, job.attempt, job.failures, job.seq) == ("completed", 2, 1, 6)
        assert job.submitted_at == "2026-01-01T00:00:00.000000Z"
        assert job.finished_at is not None
        both = await asker.jobs("job", id="a")
        assert [(j.queue, j.worker) for j in both.jobs] == [("bills", "w3"), ("mail", None)]
        assert (await asker.jobs("job", id="b")).jobs == ()


async def test_another_tenant_sees_nothing(history: Histories, asking: Asking) -> None:
    told = history()
    told.elected().submitted().granted("w1")
    async with asking(told) as asker:
        assert (await asker.jobs(tenant="other")).jobs == ()
        assert (await asker.jobs("job", tenant="other", id="a")).jobs == ()
        answer = await asker.raw("records", tenant="other", id="a", queue="mail", context=True)
        assert msgspec.json.decode(answer, type=RecordsPage).records == ()
        assert (await asker.status("other")).jobs == {}


async def test_records_are_the_stored_bytes_in_pages(history: Histories, asking: Asking) -> None:
    told = history()
    told.elected().submitted().granted("w1")
    told.job("b").submitted().granted("w1")
    told.job().renewed().started()
    told.beat("w1", "mail~b").barrier().resumed()
    told.job().completed()
    told.elected("node-2")
    own = [s for s in told.records if s.subject.endswith("job.mail~a")]
    moving = [told.records[seq - 1] for seq in (2, 3, 6, 7, 10, 11)]
    async with asking(told) as asker:
        for context, wanted in ((False, own), (True, moving)):
            seen: list[tuple[int, str, bytes]] = []
            after = 0
            while True:
                page = await asker.records(id="a", queue="mail", context=context, limit=2, after=after)
                seen += [(r.seq, r.subject, bytes(r.record)) for r in page.records]
                if not page.more:
                    break
                after = page.records[-1].seq
            assert seen == [(s.seq, s.subject, s.body) for s in wanted]


async def test_pages_stay_below_what_the_broker_carries(history: Histories, asking: Asking) -> None:
    told = history()
    large = b'"%s"' % (b"x" * (256 * 1024 - 2))
    for number in range(5):
        told.job(str(number)).submitted(content=large).granted().completed(large)
    told.job("5").submitted(content=large).granted().failed("e" * 9_000).at_due().granted().completed(large)
    async with asking(told) as asker:
        seen = 0
        cursor: str | None = None
        while True:
            answer = await asker.raw("jobs", cursor=cursor)
            assert len(answer) <= 900 * 1024
            page = msgspec.json.decode(answer, type=JobsPage)
            seen += len(page.jobs)
            cursor = page.next
            if cursor is None:
                break
        assert seen == 6
        after = count = 0
        while True:
            answer = await asker.raw("records", id="0", queue="mail", after=after)
            assert len(answer) <= 900 * 1024
            records = msgspec.json.decode(answer, type=RecordsPage)
            count += len(records.records)
            after = records.records[-1].seq
            if not records.more:
                break
        assert count == 3


async def test_an_answer_tells_of_all_that_was_stored_before_the_question(
    history: Histories, asking: Asking
) -> None:
    told = history()
    told.submitted()
    log = told.log()
    async with asking(told, log) as asker:
        for number in range(20):
            told.job(str(number)).submitted()
            log.stored[:] = told.records
            log.grew()
            pages = await asyncio.gather(*[asker.jobs() for _ in range(8)])
            assert {len(page.jobs) for page in pages} == {number + 2}
        assert log.looked_up <= 20 * 2 + 1


async def test_a_position_that_the_log_has_not_reached_is_refused(history: Histories, asking: Asking) -> None:
    told = history.wander(2, 10)
    async with asking(told) as asker:
        page = await asker.jobs(min_position=10_000)
        assert page.error is not None
        assert (page.error.kind, page.error.field) == ("conflict", "min_position")
        last = len(told.records)
        assert f"10000 is beyond the log, whose last record is {last}" in page.error.reason
        assert (await asker.jobs(min_position=3)).error is None
        assert (await asker.jobs(min_position=last)).error is None


async def test_the_records_of_a_log_come_in_order_from_where_a_reader_stopped(
    history: Histories, asking: Asking
) -> None:
    told = history.wander(6, 200, 30)
    own = [each for each in told.records if ".default." in each.subject]
    names = {seq: subject.split(".")[-2:] for seq, subject in ((each.seq, each.subject) for each in own)}
    queue, _, job_id = next(key for kind, key in names.values() if kind == "job").partition("~")
    wanted: list[tuple[dict[str, str], list[int]]] = [
        ({}, list(names)),
        ({"kind": "job"}, [seq for seq, (kind, _) in names.items() if kind == "job"]),
        (
            {"queue": queue},
            [s for s, (_, key) in names.items() if key == queue or key[: len(queue) + 1] == f"{queue}~"],
        ),
        ({"queue": queue, "id": job_id}, [s for s, (_, key) in names.items() if key == f"{queue}~{job_id}"]),
    ]
    async with asking(told) as asker:
        for query, seqs in wanted:
            found: list[int] = []
            page = RecordsPage(more=True)
            while page.more:
                after = found[-1] if found else 0
                page = msgspec.json.decode(
                    await asker.raw("log", after=after, limit=7, **query), type=RecordsPage
                )
                assert (page.error, page.position) == (None, len(told.records))
                found += [each.seq for each in page.records]
            assert found == seqs
        refusals: list[dict[str, Any]] = [{"after": len(told.records) + 1}, {"id": job_id}]
        for asked in refusals:
            refused = msgspec.json.decode(await asker.raw("log", **asked), type=RecordsPage)
            assert refused.error is not None
            assert refused.error.kind == "conflict"


async def test_a_halted_view_says_why_in_the_status(history: Histories, asking: Asking) -> None:
    told = history.wander(2, 10)
    log = history.log([*told.records[:5], *told.records[6:]])
    async with asking(told, log) as asker:
        page = await asker.jobs()
        assert page.error is not None
        assert page.error.kind == "try_later"
        assert "halted: record 6" in page.error.reason
        (view,) = (await asker.status()).views
        assert (view.name, view.position, view.lag) == ("jobs", 5, 5)
        assert view.halted is not None


async def test_a_question_that_cannot_be_answered_is_answered_all_the_same(
    history: Histories, asking: Asking
) -> None:
    async with asking(history().elected()) as asker:
        await asker.queries.close()
        page = await asker.jobs()
        assert page.error is not None
        assert page.error.kind == "try_later"


async def test_status_has_leader_counts_and_warnings(history: Histories, asking: Asking) -> None:
    told = history()
    told.elected("node-1").elected("node-2", "node-1")
    told.submitted().granted().completed()
    told.job("b").submitted()
    async with asking(told) as asker:
        await asker.jobs()
        status = await asker.status()
        (partition,) = status.partitions
        assert (partition.partition, partition.epoch, partition.leader, partition.last_seq) == (
            0,
            1,
            "node-2",
            6,
        )
        assert status.jobs == {"completed": 1, "pending": 1}
        assert status.warnings == ("the disk is slow",)
        assert status.version == "0.1.0"


async def test_status_tells_who_is_kept_out_and_others_of_themselves_alone(
    history: Histories, asking: Asking
) -> None:
    told = history()
    told.elected("node-1")
    loud = {f"t{number}": 10_000_000 + number for number in range(7)}
    async with asking(told) as asker:
        assert (await asker.status()).kept_out == ()
        await asker.intake.take_of({"default"}, loud | {"acme": 1})
        status = await asker.status()
        assert [each.tenant for each in status.kept_out] == ["acme", *loud]
        assert status.kept_out[1].since == "1970-01-01T00:00:10.000000Z"
        assert len(status.warnings) == 1 + 5, "a few in words"
        assert (
            "tenant acme is kept out since 1970-01-01T00:00:00.000001Z: 10,000 or more" in status.warnings[1]
        )
        assert [each.tenant for each in (await asker.status("acme")).kept_out] == ["acme"]
        assert (await asker.status("quiet")).kept_out == ()
        assert (await asker.status("quiet")).warnings == ("the disk is slow",)


async def test_a_status_says_so_where_the_intake_does_not_tell_whom_it_keeps_out(
    history: Histories, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_: MemoryIntake) -> dict[str, int]:
        raise OutcomeUnknown("the broker does not answer")

    monkeypatch.setattr(MemoryIntake, "kept_out", silent)
    told = history()
    told.elected("node-1")
    async with asking(told) as asker:
        status = await asker.status()
        assert status.warnings[1] == "who is kept out of the intake is not known: the broker does not answer"
        assert status.partitions[0].last_seq == 1


@pytest.mark.parametrize("leads", ["node-2", None])
async def test_status_tells_who_leads_now(history: Histories, asking: Asking, leads: str | None) -> None:
    """An engine that was elected and stepped back at once, as its clock is off, leads nothing."""

    async def who(partition: int) -> str | None:
        assert partition == 0
        return leads

    async with asking(history().elected("node-1"), who=who) as asker:
        await asker.jobs()
        assert [each.leader for each in (await asker.status()).partitions] == [leads]


@pytest.mark.parametrize(
    ("verb", "body", "field"),
    [
        ("jobs", b'{"limit":0}', "limit"),
        ("jobs", b'{"states":["gone"]}', "states[0]"),
        ("jobs", b'{"colour":1}', "colour"),
        ("jobs", b'{"cursor":"x"}', "cursor"),
        ("job", b"{}", "id"),
        ("job", b'{"id":"a.b"}', "id"),
        ("records", b'{"id":"a","queue":"*"}', "queue"),
        ("status", b"{", None),
        ("jobs", b'{"queue":"\xff"}', None),
        ("drop", b"{}", "verb"),
    ],
)
async def test_what_is_malformed_is_refused_by_name(
    verb: str, body: bytes, field: str | None, history: Histories, asking: Asking
) -> None:
    async with asking(history().elected()) as asker:
        answer = await asker.queries.answer(f"writ.query.default.owner.{verb}", body)
        page = msgspec.json.decode(answer, type=JobsPage)
        assert page.error is not None
        assert (page.error.kind, page.error.field) == ("malformed", field)


async def test_jobs_are_found_by_their_tags(history: Histories, asking: Asking) -> None:
    told = history()
    for name, tags in (("a", b'{"customer":"acme","day":"1"}'), ("b", b'{"customer":"acme"}'), ("c", b"{}")):
        told.job(name).add(JobSubmitted("t", seal(b"1"), tags=seal(tags)))
    sealed = Sealed("key-7", "d", cipher=b"secret")
    told.job("d").add(JobSubmitted("t", seal(b"1"), tags=sealed))
    told.job("a").granted("w1").completed()

    async with asking(told) as asker:

        async def found(**query: Any) -> list[str]:
            page = await asker.jobs(**query)
            assert page.error is None
            return [job.id for job in page.jobs]

        assert await found(tags={"customer": "acme"}) == ["b", "a"]
        assert await found(tags={"customer": "acme", "day": "1"}) == ["a"]
        assert await found(tags={"customer": "acme"}, states=["pending"]) == ["b"]
        assert await found(tags={"customer": "ac"}) == []
        assert [job.tags for job in (await asker.jobs()).jobs] == [
            {}, {}, {"customer": "acme"}, {"customer": "acme", "day": "1"}
        ]  # fmt: skip


async def test_jobs_are_found_by_what_they_wait_for(history: Histories, asking: Asking) -> None:
    told = history()
    for name, queue, reason in (
        ("a", "mail", "approval"),
        ("b", "bills", "approval"),
        ("c", "mail", "paused"),
    ):
        job = told.job(name, queue).add(JobSubmitted("t", seal(b"1")))
        job.add(JobSuspended(WaitReason(reason), "a person is asked"))
    told.job("d").add(JobSubmitted("t", seal(b"1")))
    async with asking(told) as asker:

        async def found(**query: Any) -> list[str]:
            return [job.id for job in (await asker.jobs(waits_for="approval", **query)).jobs]

        assert await found() == ["b", "a"]
        assert await found(queue="mail") == ["a"]
        assert await found(actor="owner", task="t") == ["b", "a"]
        assert await found(states=["pending"]) == []


@pytest.mark.parametrize("seed", [4, 8])
async def test_dead_letters_are_counted_by_cause(seed: int, history: Histories, asking: Asking) -> None:
    told = history.wander(seed, 500, 30)
    dead = [job for job in told.jobs.values() if job.state == "dead"]
    told.add("job", dead[0].key, (JobDropped("customer left"),), actor="owner")
    opened = {key: seq for seq, key in _submits(told)}
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in dead[1:]:
        groups.setdefault((job.queue, job.cause or ""), []).append(job)
    counted = [
        (queue, cause, len(jobs), max(jobs, key=lambda job: opened[job.key]).id)
        for (queue, cause), jobs in sorted(groups.items())
    ]
    async with asking(told) as asker:

        async def all_of(**filters: Any) -> list[tuple[str, str, int, str]]:
            found: list[tuple[str, str, int, str]] = []
            cursor: str | None = None
            while not found or cursor is not None:
                answer = await asker.raw("dead", limit=2, cursor=cursor, **filters)
                page = msgspec.json.decode(answer, type=DeadPage)
                assert page.error is None
                found += [(each.queue, each.cause, each.count, each.newest.id) for each in page.causes]
                cursor = page.next
            return found

        assert await all_of() == counted
        largest = sorted(counted, key=lambda each: (-each[2], *each[:2]))
        assert largest != counted, "the order tells them apart"
        assert await all_of(largest=True) == largest
        queue, cause, count, _ = counted[-1]
        assert await all_of(largest=True, queue=queue) == [each for each in largest if each[0] == queue]
        page = msgspec.json.decode(await asker.raw("dead", queue=queue, cause=cause), type=DeadPage)
        assert [each.count for each in page.causes] == [count]
        assert msgspec.json.decode(await asker.raw("dead", task="other"), type=DeadPage).causes == ()
