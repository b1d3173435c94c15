"""Two partitions in virtual time: jobs that rest on jobs of the other one, by recorded messages alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from writ.broker.archive import Archive
from writ.broker.memory import MemoryLog
from writ.broker.objects import MemoryObjects
from writ.broker.ports import Message
from writ.broker.vault import Vault
from writ.orchestrator.access_desk import Founder
from writ.orchestrator.backups import copy_logs
from writ.orchestrator.replay.verify import verify
from writ.orchestrator.state import Partition
from writ.schemas import bounds
from writ.schemas.canaries import CanaryJudged
from writ.schemas.codec import decode
from writ.schemas.events import type_names
from writ.schemas.ids import shard_of
from writ.schemas.lifecycle import Job, State
from writ.schemas.links import (
    LINK_EVENTS,
    UNHEARD_OF_S,
    JobAsked,
    JobTold,
    MessageAccepted,
    MessageSent,
    MessageSettled,
    PartitionOpened,
    partition_of,
)
from writ.schemas.principals import Role
from writ.schemas.processes import Process
from writ.schemas.steps import UsageRecorded
from writ.schemas.tenants import TenantDeclared

if TYPE_CHECKING:
    from .conftest import Tools, Twin
else:
    Tools = Twin = Any

QUEUES = "bills", "mail"
"""A queue of partition 0 and one of partition 1."""


class Pair:
    """Two partitions of one broker."""

    def __init__(self, first: Twin, second: Twin) -> None:
        self.twins = first, second
        first.others.append(second.log)
        second.others.append(first.log)

    def of(self, queue: str) -> Twin:
        return self.twins[partition_of(shard_of("default", queue), 2)]

    async def start(self) -> None:
        for twin in self.twins:
            await twin.start()

    async def submit(self, queue: str, **job: Any) -> None:
        await self.twins[0].submit({"task": "send"} | job, queue)
        await self.settled()

    async def settled(self) -> None:
        for twin in self.twins:
            await twin.settled()

    async def ask(self, verb: str, queue: str, **fields: Any) -> dict[str, Any]:
        answer = await self.twins[0].ask(verb, queue, **fields)
        await self.settled()
        return answer

    async def acquire(self, queue: str) -> dict[str, Any]:
        """The one lease that a queue has to give."""
        answer = await self.ask("acquire", queue, worker="w1", count=5)
        (lease,) = answer.get("leases", [])
        held: dict[str, Any] = lease
        return held

    async def complete(self, queue: str, **report: Any) -> None:
        lease = await self.acquire(queue)
        held = {"id": lease["id"], "token": lease["token"], **report}
        assert "refused" not in await self.ask("complete", queue, worker="w1", reports=[held])

    async def fail(self, queue: str) -> None:
        lease = await self.acquire(queue)
        held = {"id": lease["id"], "token": lease["token"], "class": "policy", "type": "No", "text": ""}
        assert "refused" not in await self.ask("fail", queue, worker="w1", reports=[held])

    def job(self, queue: str, job_id: str) -> Job:
        return self.of(queue).job(job_id, queue)

    def state(self, queue: str, job_id: str) -> State:
        return self.job(queue, job_id).state

    async def said(self) -> list[list[str]]:
        """The link events of both logs."""
        return [[type_names[type(e)] for e in await twin.events(*LINK_EVENTS)] for twin in self.twins]

    async def check(self) -> None:
        """Both remember what their logs tell, and every message was accepted once, in order, and settled."""
        for twin, other in (self.twins, self.twins[::-1]):
            await twin.check()
            sent = [
                (record.epoch, record.seq, index, event.content)
                for record in await twin.records()
                for index, event in enumerate(record.events)
                if isinstance(event, MessageSent)
            ]
            accepted = [
                (e.message.epoch, e.message.seq, e.message.index, e.content)
                for e in await other.events(MessageAccepted)
                if isinstance(e, MessageAccepted)
            ]
            assert accepted == sent
            settled = [e.message for e in await twin.events(MessageSettled) if isinstance(e, MessageSettled)]
            assert [(m.epoch, m.seq, m.index) for m in settled[-1:]] == [s[:3] for s in sent[-1:]]

    async def crash(self) -> None:
        for twin in self.twins:
            await twin.crash()


@pytest.fixture
async def pair(snapshot: Callable[[Partition], dict[str, Any]], twin: Twin) -> AsyncIterator[Pair]:
    await twin.stop()
    fresh = type(twin)
    first = fresh(snapshot)
    pair = Pair(first, fresh(snapshot, 1, first))
    await pair.start()
    yield pair
    for each in pair.twins:
        await each.stop()


HERE, THERE = QUEUES


async def test_each_partition_decides_on_its_own_queues(pair: Pair) -> None:
    await pair.submit(HERE, id="a")
    await pair.submit(THERE, id="b")
    for queue, twin in zip(QUEUES, pair.twins, strict=True):
        assert [type(e) for e in (await twin.records())[0].events] == [PartitionOpened]
        assert twin.engine is not None
        assert {job.queue for job in twin.engine.state.jobs.values()} == {queue}
        await pair.complete(queue)
    assert await pair.said() == [[], []]
    await pair.check()


async def test_a_job_comes_after_one_of_another_partition_and_gets_its_output(pair: Pair) -> None:
    await pair.submit(HERE, id="first")
    await pair.submit(
        THERE, id="then", after=["bills~first"], input={"x": 1}, input_from={"sum": "bills~first"}
    )
    assert pair.state(THERE, "then") is State.SUSPENDED
    await pair.complete(HERE, output=[1, 2])
    assert pair.state(THERE, "then") is State.PENDING
    assert (await pair.acquire(THERE))["input"] == {"x": 1, "sum": [1, 2]}
    assert await pair.said() == [
        ["message_accepted", "message_sent", "message_settled"],
        ["message_sent", "message_settled", "message_accepted"],
    ]
    await pair.check()


async def test_a_backup_has_what_a_partition_heard_of_another_in_both_logs(
    pair: Pair, tmp_path: Path
) -> None:
    """The first log ended sooner when it was looked at than when the second was."""
    await pair.submit(HERE, id="first")
    seen = await pair.twins[0].log.last_seq()
    await pair.submit(THERE, id="then", after=["bills~first"])
    await pair.complete(HERE)
    await pair.settled()
    await pair.submit(HERE, id="later")

    class Earlier(MemoryLog):
        looks = 0

        async def last_seq(self) -> int:
            self.looks += 1
            return seen if self.looks == 1 else await super().last_seq()

    lives: list[Any] = [Earlier(0), MemoryLog(1)]
    for live, twin in zip(lives, pair.twins, strict=True):
        async for part in twin.log.read():
            await live.append([Message(each.subject, each.body) for each in part], part[0].seq - 1)
    archives = [Archive(MemoryObjects(), number) for number in range(2)]
    (first, second), added = await copy_logs(tmp_path, lives, tmp_path, archives)
    sent = [
        record.seq
        async for part in pair.twins[0].log.read()
        for record in (decode(message.body) for message in part)
        if any(isinstance(event, MessageSent) for event in record.events)
    ]
    whole = await pair.twins[0].log.last_seq()
    assert (sent[-1] <= first.last < whole, second.last) == (True, await pair.twins[1].log.last_seq())
    assert added == first.last + second.last


async def test_what_ended_before_it_was_asked_for_is_told(pair: Pair) -> None:
    await pair.submit(HERE, id="first")
    await pair.complete(HERE)
    await pair.submit(THERE, id="then", after=["bills~first"])
    assert pair.state(THERE, "then") is State.PENDING
    await pair.submit(THERE, id="also", after=["bills~first"])
    assert pair.state(THERE, "also") is State.PENDING, "known already: nobody is asked again"
    assert len([e for e in (await pair.said())[1] if e == "message_sent"]) == 1
    await pair.check()


@pytest.mark.parametrize(
    ("on_dead", "state"),
    [
        ("dead_letter", State.DEAD),
        ("cancel", State.CANCELLED),
        ("suspend", State.SUSPENDED),
        ("run", State.PENDING),
    ],
)
async def test_the_death_of_one_elsewhere_is_met_as_on_dead_says(
    pair: Pair, on_dead: str, state: State
) -> None:
    await pair.submit(HERE, id="first")
    await pair.submit(THERE, id="then", after=["bills~first"], on_dead=on_dead)
    await pair.fail(HERE)
    assert pair.state(THERE, "then") is state
    await pair.check()


async def test_one_elsewhere_that_is_redriven_and_completes_releases_who_waits(pair: Pair) -> None:
    await pair.submit(HERE, id="first")
    await pair.submit(THERE, id="then", after=["bills~first"], on_dead="suspend")
    await pair.fail(HERE)
    await pair.ask("redrive", HERE, id="first", reason="fixed")
    await pair.submit(THERE, id="later", after=["bills~first"])
    assert pair.state(THERE, "later") is State.SUSPENDED, "it is open again, and that was told"
    await pair.complete(HERE)
    assert (pair.state(THERE, "then"), pair.state(THERE, "later")) == (State.PENDING, State.PENDING)
    await pair.check()


async def test_a_job_that_nobody_ever_submitted_counts_as_dead_after_a_while(pair: Pair) -> None:
    await pair.submit(THERE, id="then", after=["bills~typo"])
    await asyncio.sleep(UNHEARD_OF_S - 1)
    assert pair.state(THERE, "then") is State.SUSPENDED
    await asyncio.sleep(2)
    job = pair.job(THERE, "then")
    assert (job.state, job.reason) == (
        State.DEAD,
        "bills~typo, which it comes after, is nowhere to be found; on_dead is dead_letter",
    )
    await pair.check()


async def test_a_submit_that_is_late_in_the_other_partition_is_waited_for(pair: Pair) -> None:
    await pair.submit(THERE, id="then", after=["bills~first"])
    await asyncio.sleep(UNHEARD_OF_S / 2)
    await pair.submit(HERE, id="first")
    await asyncio.sleep(UNHEARD_OF_S)
    assert pair.state(THERE, "then") is State.SUSPENDED
    await pair.complete(HERE)
    assert pair.state(THERE, "then") is State.PENDING
    await pair.check()


async def test_the_death_of_one_at_its_grant_is_told(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grant to one that waited is decided last in a round: what it ends must be noticed all the same."""
    await pair.submit(HERE, id="first", delay_s=5)
    await pair.submit(THERE, id="then", after=["bills~first"], on_dead="cancel")
    waiting = asyncio.create_task(pair.twins[0].ask("acquire", HERE, worker="w1", count=1, wait_s=10))
    monkeypatch.setattr(bounds, "HISTORY_MAX_RECORDS", 1)
    assert "leases" not in await waiting
    assert pair.state(HERE, "first") is State.DEAD
    assert pair.state(THERE, "then") is State.CANCELLED
    await pair.check()


async def test_cancel_goes_down_the_tree_into_the_other_partition(pair: Pair) -> None:
    await pair.submit(HERE, id="parent")
    await pair.submit(THERE, id="child", parent="bills~parent")
    await pair.submit(THERE, id="free", parent="bills~parent", on_parent_end="abandon")
    await pair.submit(HERE, id="grandchild", parent="mail~child")
    await pair.ask("cancel", HERE, id="parent", reason="no more")
    assert pair.state(THERE, "child") is State.CANCELLED
    assert pair.state(HERE, "grandchild") is State.CANCELLED
    assert pair.state(THERE, "free") is State.PENDING
    assert pair.job(THERE, "child").reason == "its parent bills~parent is cancelled"
    await pair.check()


async def test_the_child_of_a_parent_that_is_nowhere_is_cancelled(pair: Pair) -> None:
    await pair.submit(THERE, id="child", parent="bills~typo")
    await asyncio.sleep(UNHEARD_OF_S + 1)
    assert pair.job(THERE, "child").reason == "its parent bills~typo is nowhere to be found"
    await pair.check()


async def test_children_taken_in_after_the_end_of_a_parent_elsewhere_are_jobs(pair: Pair) -> None:
    await pair.submit(HERE, id="done")
    await pair.complete(HERE)
    await pair.submit(HERE, id="dead")
    await pair.fail(HERE)
    for turn in "unheard", "known":
        await pair.submit(THERE, id=f"{turn}-c", parent="bills~done")
        await pair.submit(THERE, id=f"{turn}-d", parent="bills~dead")
        await pair.submit(THERE, id=f"{turn}-free", parent="bills~dead", on_parent_end="abandon")
        states = [pair.state(THERE, f"{turn}-{one}") for one in ("c", "d", "free")]
        assert states == [State.PENDING, State.CANCELLED, State.PENDING]
    assert await pair.of(THERE).story("known-d", THERE) == ["job_submitted+cancel_requested+job_cancelled"]
    await pair.check()


async def test_a_child_opened_again_outlives_the_end_of_its_parent(pair: Pair) -> None:
    await pair.submit(HERE, id="parent")
    await pair.submit(THERE, id="child", parent="bills~parent")
    await pair.ask("cancel", HERE, id="parent", reason="no more")
    await asyncio.sleep(1)
    await pair.ask("rerun", THERE, id="child", reason="wanted")
    await pair.crash()
    await pair.start()
    await pair.settled()
    assert pair.state(THERE, "child") is State.PENDING
    await pair.check()


async def test_a_release_and_what_its_canary_proves_are_known_in_both_partitions(pair: Pair) -> None:
    """Each judges by its own jobs, at half the level; the tenant's home decides, and all are told."""
    a, b = "a" * 64, "b" * 64
    home = pair.of("-")
    far = next(queue for queue in QUEUES if pair.of(queue) is not home)
    away = pair.of(far)

    async def told(verb: str, **fields: Any) -> None:
        assert "error" not in await pair.ask(verb, "-", process="inv", **fields)

    async def process() -> tuple[Process | None, Process | None]:
        await pair.settled()
        known = [one.engine.state.processes.get("default.inv") for one in (home, away) if one.engine]
        return known[0], known[1]

    for number, digest in enumerate((a, b), 1):
        key = f"U{'A' * 55}"
        await told("publish_release", version=f"{number}.0.0", digest=digest, size_bytes=9, key=key)
    await told("promote_release", release=a)
    told_of = await process()
    assert told_of[1] is not None
    assert told_of[1].releases.keys() == {a, b}
    policy = {"minimum": 5, "on_worse": "freeze"}
    await told("start_canary", release=b, keys=["new"], policy=policy, reason="a look")
    for number in range(60):
        side = {"fairness_key": "new"} if number % 2 else {}
        await pair.submit(far, id=f"j{number}", process="inv@live", retry={"max_attempts": 1}, **side)
    answer = await pair.ask("acquire", far, worker="w1", count=60, releases=[a, b])
    failed = {"class": "application", "type": "Wrong", "text": "no"}
    for lease in answer["leases"]:
        report = {"id": lease["id"], "token": lease["token"]}
        if lease["release"] == b:
            await pair.ask("fail", far, worker="w1", reports=[report | failed])
        else:
            await pair.ask("complete", far, worker="w1", reports=[report])
    (judged,) = await home.events(CanaryJudged)
    assert isinstance(judged, CanaryJudged)
    assert (judged.found.partition, judged.found.level) == (away.log.partition, 0.025)
    for each in await process():
        assert each is not None
        assert (each.canaries, each.releases[b].frozen is None) == ((), False)
    for one in pair.twins:
        assert one.engine is not None
        assert not one.engine.state.watches
        assert not one.engine.state.findings
    await pair.check()


async def test_a_parent_waits_for_children_in_both_partitions(pair: Pair) -> None:
    await pair.submit(HERE, id="parent")
    lease = await pair.acquire(HERE)
    await pair.submit(THERE, id="one", parent="bills~parent")
    await pair.submit(HERE, id="two", parent="bills~parent")
    held = {"worker": "w1", "id": "parent", "token": lease["token"], "reason": "child"}
    await pair.ask("suspend", HERE, **held, children=["mail~one", "bills~two"])
    assert pair.state(HERE, "parent") is State.SUSPENDED
    await pair.complete(HERE)
    assert pair.state(HERE, "parent") is State.SUSPENDED
    await pair.complete(THERE)
    assert pair.state(HERE, "parent") is State.PENDING
    await pair.check()


async def test_of_a_child_elsewhere_it_is_told_so_and_later_how_it_ended(pair: Pair) -> None:
    await pair.submit(HERE, id="parent")
    children = ["mail~one", "mail~never"]

    async def wait_for(children: list[str], lease: Any) -> dict[str, Any]:
        held = {"worker": "w1", "id": "parent", "token": lease["token"]}
        seen = (await pair.ask("recall", HERE, **held, after=0, children=children))["children"]
        await pair.ask("suspend", HERE, **held, reason="child", children=children)
        return {child["key"]: child for child in seen}

    lease = await pair.acquire(HERE)
    await pair.submit(THERE, id="one", parent="bills~parent")
    seen = await wait_for(children, lease)
    assert seen == {key: {"key": key, "afar": True} for key in children}
    await pair.complete(THERE, output=7)
    await asyncio.sleep(2 * UNHEARD_OF_S)  # nothing more comes of what never came
    lease = await pair.acquire(HERE)
    seen = await wait_for(children, lease)
    assert (seen["mail~one"]["state"], seen["mail~one"]["output"]) == ("completed", 7)
    assert seen["mail~never"]["state"] == "dead"
    assert "refused" in seen["mail~never"]["why"]
    await pair.check()


async def test_waiting_for_children_that_have_ended_goes_on_at_once(twin: Twin) -> None:
    await twin.submit({"task": "send", "id": "parent"})
    await twin.settled()
    (lease,) = await twin.acquire()
    await twin.submit({"task": "send", "id": "child", "parent": "mail~parent"})
    await twin.settled()
    (child,) = await twin.acquire()
    await twin.report("complete", child)
    held = {"worker": "w1", "id": "parent", "token": lease["token"], "reason": "child"}
    unknown = await twin.ask("suspend", **held, children=["mail~none"])
    assert "there is no job mail~none to wait for" in str(unknown)
    assert "names them there" in str(await twin.ask("suspend", **held))
    await twin.ask("suspend", **held, children=["mail~child"])
    assert twin.job("parent").state is State.PENDING
    assert (await twin.story("parent"))[-1] == "job_suspended+job_resumed"
    await twin.check()


@pytest.mark.parametrize("crashed", [0, 1, None])
@pytest.mark.parametrize("appends", range(12))
async def test_every_message_is_accepted_once_whatever_crashes_when(
    pair: Pair, tools: Tools, appends: int, crashed: int | None
) -> None:
    """One or both engines vanish at their nth append, which the broker stores or not."""
    for number, twin in enumerate(pair.twins):
        if crashed in (number, None):
            twin.log.script.append(tools.unknown(None if (appends + number) % 2 else 0))
    await pair.submit(HERE, id="first")
    await pair.submit(THERE, id="then", after=["bills~first"], on_dead="suspend")
    for _ in range(appends):
        await asyncio.sleep(0)
    for number, twin in enumerate(pair.twins):
        if crashed in (number, None):
            await twin.crash()
    for number, twin in enumerate(pair.twins):
        if crashed in (number, None):
            await twin.start()
    await asyncio.sleep(5)
    await pair.complete(HERE)
    await asyncio.sleep(5)
    assert pair.state(THERE, "then") is State.PENDING
    contents = [
        type(e.content)
        for twin in pair.twins
        for e in await twin.events(MessageAccepted)
        if isinstance(e, MessageAccepted)
    ]
    assert sorted(c.__name__ for c in contents) == [JobAsked.__name__, JobTold.__name__]
    await pair.check()


async def test_a_question_cut_off_from_its_job_is_asked_by_the_next_leader(pair: Pair, tools: Tools) -> None:
    """The broker has the job's record and not the message behind it when the leader goes away."""
    await pair.submit(HERE, id="first")
    there = pair.of(THERE)
    there.log.script.append(tools.unknown(1, after_s=60))
    await pair.submit(THERE, id="then", after=["bills~first"])
    assert await pair.said() == [[], []]
    await there.crash()
    await there.start()
    await pair.settled()
    await pair.complete(HERE)
    assert pair.state(THERE, "then") is State.PENDING
    await pair.check()


async def test_an_answer_cut_off_from_its_job_is_told_by_the_next_leader(pair: Pair, tools: Tools) -> None:
    await pair.submit(HERE, id="first")
    await pair.submit(THERE, id="then", after=["bills~first"])
    here = pair.of(HERE)
    lease = await pair.acquire(HERE)
    here.log.script.append(tools.unknown(1, after_s=60))
    held = {"id": "first", "token": lease["token"]}
    asking = asyncio.create_task(pair.ask("complete", HERE, worker="w1", reports=[held]))
    await pair.settled()
    await here.crash()
    asking.cancel()
    await here.start()
    await pair.settled()
    assert pair.state(HERE, "first") is State.COMPLETED
    assert pair.state(THERE, "then") is State.PENDING
    await pair.check()


async def test_what_was_accepted_is_not_accepted_again_when_it_is_read_again(pair: Pair) -> None:
    """A leader that waits to hear what became of its own message reads the other log from further back."""
    await pair.submit(HERE, id="first")
    await pair.submit(THERE, id="then", after=["bills~first"])
    await pair.of(THERE).crash()
    await pair.complete(HERE)
    await pair.of(HERE).crash()
    await pair.start()
    await pair.settled()
    assert pair.state(THERE, "then") is State.PENDING
    await pair.check()


async def test_a_log_that_is_one_of_two_is_not_led_as_the_only_one(pair: Pair) -> None:
    first = pair.twins[0]
    await first.stop()
    first.others.clear()
    engine = first.stand()
    with pytest.raises(ValueError, match="is one of 2, and this node is set up for 1"):
        await first.running.pop()[1]
    assert not engine.leading.is_set()
    first.others.append(pair.twins[1].log)
    await first.start()


# --- what holds for a tenant --------------------------------------------------------------------------------


def state_of(twin: Twin) -> Partition:
    assert twin.engine is not None
    state: Partition = twin.engine.state
    return state


async def govern(pair: Pair, prices: int) -> None:
    for number in range(prices):
        await pair.ask("set_price", "-", model=f"m{number}", input_microusd=number, output_microusd=1)
    await pair.ask("declare_tenant", "-", policy={"archive_after_s": 60, "erasable": True})


async def test_prices_and_the_policy_of_a_tenant_reach_every_partition(pair: Pair) -> None:
    await govern(pair, 3)
    first, second = (state_of(twin) for twin in pair.twins)
    assert first.prices == second.prices
    assert first.prices["default"].version == len(first.prices["default"].table) == 3
    assert first.tenants == second.tenants
    for queue in QUEUES:
        await pair.submit(queue, id="a")
        assert pair.job(queue, "a").input.key != "none", "the tenant's policy seals in both"
        lease = await pair.acquire(queue)
        used = {"note": "usage_recorded", "model": "m2", "input_tokens": 1_000_000}
        noted = {"id": "a", "token": lease["token"], "first": 1, "notes": [used]}
        await pair.ask("note", queue, worker="w1", reports=[noted])
        (usage,) = await pair.of(queue).events(UsageRecorded)
        assert isinstance(usage, UsageRecorded)
        assert (usage.cost_microusd, usage.prices) == (2, 3)
    for twin in pair.twins:
        report = await verify(twin.log)
        assert report.ok, report.lines()
    await pair.check()


async def test_a_drained_worker_is_given_nothing_in_any_partition(pair: Pair) -> None:
    await pair.ask("drain_worker", "-", worker="w1", reason="kernel update")
    for queue in QUEUES:
        await pair.submit(queue, id="a")
        assert "leases" not in await pair.ask("acquire", queue, worker="w1")
    await pair.ask("undrain_worker", "-", worker="w1")
    for queue in QUEUES:
        await pair.acquire(queue)
    for twin in pair.twins:
        report = await verify(twin.log)
        assert report.ok, report.lines()
    await pair.check()


@pytest.mark.parametrize("crashed", [0, 1, None])
async def test_what_a_tenant_was_given_is_told_once_whoever_crashes(pair: Pair, crashed: int | None) -> None:
    """And the version behind it alone, when there is one."""
    home = pair.of("-")
    other = next(twin for twin in pair.twins if twin is not home)
    await other.crash()
    await home.ask("set_price", "-", model="small", input_microusd=5, output_microusd=1)
    await home.settled()
    if crashed != 1:
        await home.crash()
        await home.start()
    await other.start()
    if crashed != 0:
        await other.crash()
        await other.start()
    await pair.settled()
    assert state_of(pair.twins[1]).prices == state_of(pair.twins[0]).prices != {}
    told = [e for twin in pair.twins for e in await twin.events(MessageSent)]
    assert len(told) == 1
    await pair.ask("set_price", "-", model="small", input_microusd=6, output_microusd=1)
    assert state_of(pair.twins[1]).prices == state_of(pair.twins[0]).prices
    await pair.check()


async def test_a_price_cut_off_from_its_message_is_told_by_the_next_leader(pair: Pair, tools: Tools) -> None:
    home = pair.of("-")
    home.log.script.append(tools.unknown(1, after_s=60))
    price = {"model": "small", "input_microusd": 5, "output_microusd": 1}
    asking = asyncio.create_task(pair.ask("set_price", "-", **price))
    await pair.settled()
    assert await pair.said() == [[], []]
    await home.crash()
    asking.cancel()
    await home.start()
    await pair.settled()
    assert state_of(pair.twins[1]).prices == state_of(pair.twins[0]).prices != {}
    await pair.check()


async def test_a_long_table_is_told_in_parts_and_holds_when_it_is_whole(pair: Pair) -> None:
    count = 450
    await govern(pair, count)
    first, second = (state_of(twin).prices["default"] for twin in pair.twins)
    assert first == second
    assert len(second.table) == second.version == count


async def test_a_queue_overrides_its_tenant(pair: Pair) -> None:
    await govern(pair, 0)
    await pair.ask("declare", HERE, policy={"erasable": False, "archive_after_s": 5})
    state = state_of(pair.of(HERE))
    assert (state.erasable("default", HERE), state.archive_after_s("default", HERE)) == (False, 5)
    assert (state.erasable("default", "other"), state.archive_after_s("default", "other")) == (True, 60)
    assert (state.erasable("another", "other"), state.archive_after_s("another", "other")) == (False, None)
    await pair.submit(HERE, id="a")
    assert pair.job(HERE, "a").input.key == "none"
    await govern(pair, 0)
    declared = [event for twin in pair.twins for event in await twin.events(TenantDeclared)]
    assert len(declared) == 1, "what holds already is not declared again"


async def test_each_partition_erases_its_own_though_they_share_a_vault(pair: Pair) -> None:
    """What one of them still needs, the other does not destroy."""
    vault = Vault()
    for twin in pair.twins:
        await twin.crash()
        twin.keys = vault
    await pair.start()
    for queue in QUEUES:
        await pair.submit(queue, id="a", data_subject="Jane")
    await pair.complete(HERE, output={"for": "Jane"})
    refused = await pair.ask("erase", THERE, data_subject="Jane", reason="asked")
    assert "has not ended" in str(refused) or "is pending" in str(refused)
    assert (await pair.ask("erase", HERE, data_subject="Jane", reason="asked"))["jobs"] == 1
    assert vault.open(pair.job(HERE, "a").input) is None
    assert vault.open(pair.job(THERE, "a").input) is not None
    await pair.complete(THERE)
    erased = await pair.ask("erase", THERE, data_subject="Jane", reason="asked")
    assert (erased["jobs"], len(erased["beside"])) == (1, 1)
    assert vault.open(pair.job(THERE, "a").input) is None
    await pair.check()


# --- who may do what, and how much ------------------------------------------------------------------------


async def begin_governed(pair: Pair) -> None:
    """Both partitions have an owner of the host from their first record on."""
    for twin in pair.twins:
        await twin.stop()
        twin.founders = (Founder("default", "owner", "U" + "A" * 55, (Role.OWNER,)),)
        await twin.start()
    await pair.settled()


async def by_owner(pair: Pair, verb: str, **fields: Any) -> dict[str, Any]:
    answer = await pair.twins[0].ask(verb, queue="-", who="owner", **fields)
    await pair.settled()
    return answer


async def test_grants_count_in_every_partition_and_so_does_their_end(pair: Pair) -> None:
    await begin_governed(pair)
    for queue in QUEUES:
        await pair.twins[0].submit({"task": "send", "id": "a"}, queue)
    await pair.settled()
    assert [pair.state(queue, "a") for queue in QUEUES] == ["pending", "pending"]
    await by_owner(pair, "create_principal", name="bob")
    for queue in QUEUES:
        answer = await pair.twins[0].ask("pause", queue, who="bob", id="a")
        assert answer["error"]["reason"].endswith("[deny.default]")
    await by_owner(pair, "grant", name="bob", role="operator")
    for queue in QUEUES:
        assert "error" not in await pair.twins[0].ask("pause", queue, who="bob", id="a")
    await by_owner(pair, "revoke_principal", name="bob")
    for queue in QUEUES:
        answer = await pair.twins[0].ask("resume", queue, who="bob", id="a")
        assert answer["error"]["reason"].endswith("[deny.revoked]")
    first, second = (state_of(twin) for twin in pair.twins)
    assert first.principals == second.principals
    await pair.check()


async def test_tenants_and_their_quotas_reach_every_partition_which_takes_its_part(pair: Pair) -> None:
    await begin_governed(pair)
    made = await by_owner(pair, "create_tenant", name="acme", key="U" + "B" * 55)
    assert "error" not in made
    assert "error" not in await by_owner(pair, "set_quotas", name="acme", quotas={"jobs": 5})
    first, second = (state_of(twin) for twin in pair.twins)
    assert set(first.governed) == set(second.governed) == {"acme", "default"}
    assert first.principals == second.principals
    assert sorted(state.accounts["acme"].limits.jobs or 0 for state in (first, second)) == [2, 3]
    intake = pair.twins[0].intake
    for queue in ("bills", "mail", "post", "north", "south"):
        for _ in range(5):
            await intake.submit("acme", "owner", queue, b'{"task": "t"}')
    await asyncio.sleep(5)
    assert [state.usage.of("acme").jobs for state in (first, second)] == [
        state.accounts["acme"].limits.jobs for state in (first, second)
    ]
    # What nobody adopted is known again to the next leader, and told.
    await pair.twins[0].stop()
    await by_owner(pair, "create_principal", name="late")
    await pair.twins[0].start()
    await asyncio.sleep(5)
    assert "default.late" in state_of(pair.twins[0]).principals
    await pair.check()
