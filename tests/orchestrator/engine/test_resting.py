"""A leader whose jobs leave its memory when they have ended: what is asked of them is answered as before."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from writ.orchestrator.engine import BEAT_S
from writ.orchestrator.following import LOOK_S
from writ.orchestrator.snapshots import Snapshots, recover
from writ.schemas.lifecycle import State

if TYPE_CHECKING:
    from .conftest import FullObjects, Tools, Twin
else:
    FullObjects = Tools = Twin = Any


class Resting:
    """A twin with snapshots; `rest` takes one and waits until the leader has taken notice."""

    def __init__(self, twin: Twin, objects: FullObjects) -> None:
        self.twin, self.objects = twin, objects
        self.snapshots = twin.snapshots = Snapshots(objects, 0)

    async def rest(self) -> None:
        state, at = await recover(self.twin.log, self.snapshots)
        await self.snapshots.put(state, at.epoch)
        await self.snapshots.prune()
        await self.twin.ask("pause_queue", queue="another")
        await self.twin.ask("resume_queue", queue="another")
        await asyncio.sleep(LOOK_S + 2 * BEAT_S)

    async def end(self, *ids: str, queue: str = "mail", **failed: Any) -> None:
        for each in ids:
            await self.twin.submit({"id": each, "task": "t", "input": {"of": each}}, queue)
        await self.twin.settled()
        leases = (await self.twin.ask("acquire", queue, worker="w1", count=len(ids), wait_s=0))["leases"]
        verb = "fail" if failed else "complete"
        reports = [{"id": one["id"], "token": one["token"], **failed} for one in leases]
        await self.twin.ask(verb, queue, worker="w1", reports=reports)
        await self.twin.settled()


@pytest.fixture
async def resting(twin: Twin, tools: Tools) -> Resting:
    found = Resting(twin, tools.objects())
    await twin.stop()
    await twin.start()
    return found


POLICY: dict[str, Any] = {"class": "policy", "type": "Bad"}


async def test_ended_jobs_leave_the_memory_of_their_leader(twin: Twin, resting: Resting) -> None:
    await resting.end("a", "b", "c")
    await twin.submit({"id": "waits", "task": "t"})
    await twin.settled()
    assert twin.engine is not None
    jobs = twin.engine.state.jobs
    assert (len(jobs.here), jobs.live) == (4, 1)
    await resting.rest()
    assert (len(jobs.here), jobs.live, len(jobs)) == (1, 1, 4)
    assert twin.job("a").state is State.COMPLETED
    await twin.check()


async def test_what_is_asked_of_a_job_that_rests(twin: Twin, resting: Resting) -> None:
    """The same id once more, a rerun, a redrive, a plan, a drop, a late report, an id to come after."""
    await resting.end("a", "b")
    await resting.end("x", "y", "z", **POLICY)
    await resting.rest()
    assert twin.engine is not None
    jobs = twin.engine.state.jobs
    assert not jobs.here
    await twin.submit({"id": "a", "task": "t"})
    await twin.settled()
    assert await twin.story("a") == ["job_submitted", "lease_granted", "job_completed"]
    late = await twin.ask("complete", worker="w1", reports=[{"id": "b", "token": 1}])
    assert late["refused"][0]["kind"] == "stale"
    assert "error" not in await twin.ask("rerun", id="b", reason="again")
    assert "error" not in await twin.ask("redrive", id="x", reason="mended")
    assert "error" not in await twin.ask("drop", id="y", reason="no more")
    assert (await twin.ask("cancel", id="a"))["error"]["reason"].startswith("already_finished")
    planned = await twin.ask("plan", verb="redrive", reason="all", filter={"states": ["dead"]})
    assert planned["matched"] == 1, "x is pending, y was dropped"
    await twin.submit({"id": "next", "task": "t", "after": ["mail~a", "mail~z"]})
    await twin.settled()
    assert twin.job("z").state is State.PENDING
    assert twin.job("next").state is State.SUSPENDED
    assert {job.id for job in jobs.here.values()} == {"b", "x", "y", "z", "next"}
    await twin.check()
    await resting.rest()
    assert {job.id for job in jobs.here.values()} == {"b", "x", "z", "next"}
    await twin.crash()
    await twin.start()
    await twin.check()


async def test_batches_parents_and_children_count_what_rests(twin: Twin, resting: Resting) -> None:
    await twin.submit({"id": "p", "task": "t", "batch": "m"})
    await twin.submit({"id": "c", "task": "t", "batch": "m", "parent": "mail~p"})
    await twin.settled()
    leases = await twin.acquire(2)
    await twin.report("complete", *[one for one in leases if one["id"] == "c"])
    await resting.rest()
    await twin.ask("seal_batch", batch="m", size=2)
    assert not [e for e in await twin.events() if type(e).__name__ == "BatchEnded"]
    await twin.report("complete", *[one for one in leases if one["id"] == "p"])
    await twin.settled()
    (ended,) = [e for e in await twin.events() if type(e).__name__ == "BatchEnded"]
    assert ended.completed == 2  # type: ignore[attr-defined]
    await twin.check()


async def test_a_block_that_rots_under_a_leader_costs_a_fold_and_no_answer(
    twin: Twin, resting: Resting
) -> None:
    """The leader steps back, throws the snapshots away, and leads again from the log."""
    await resting.end("a", "b")
    await resting.rest()
    (name,) = [each for each in resting.objects.kept if each.endswith(".ended")]
    content = bytearray(resting.objects.kept[name])
    content[len(content) // 2] ^= 1
    resting.objects.kept[name] = bytes(content)
    await twin.crash()
    engine = await twin.start()
    await twin.submit({"id": "a", "task": "t"})
    await asyncio.sleep(1)
    await engine.leading.wait()
    assert len(engine.state.jobs.here) == 2
    assert not [each for each in resting.objects.kept if each.endswith(".json")]
    await twin.submit({"id": "c", "task": "t"})
    await twin.settled()
    assert twin.job("a").state is State.COMPLETED
    assert twin.job("c").state is State.PENDING
    await twin.check()


async def test_a_block_that_cannot_be_read_keeps_jobs_in_memory_and_the_intake_is_purged(
    twin: Twin, resting: Resting
) -> None:
    """And they leave it as soon as it can."""
    await resting.end("a", "b")
    state, at = await recover(twin.log, resting.snapshots)
    await resting.snapshots.put(state, at.epoch)
    (name,) = [each for each in resting.objects.kept if each.endswith(".ended")]
    whole = resting.objects.kept[name]
    resting.objects.kept[name] = bytes([whole[0] ^ 1]) + whole[1:]
    await asyncio.sleep(LOOK_S + 2 * BEAT_S)
    assert twin.engine is not None
    assert len(twin.engine.state.jobs.here) == 2
    await twin.submit({"id": "c", "task": "t"})
    await asyncio.sleep(2 * BEAT_S)
    assert await twin.intake.first_seq() == await twin.intake.last_seq() + 1
    resting.objects.kept[name] = whole
    await asyncio.sleep(LOOK_S + 2 * BEAT_S)
    assert {job.id for job in twin.engine.state.jobs.here.values()} == {"c"}
    await twin.check()


async def test_a_pass_of_another_version_costs_a_fold_and_no_answer(
    twin: Twin, resting: Resting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During an upgrade each version knows its own snapshots alone, and deletes the other's: also those in
    which the jobs of a leader rest. It answers for them, goes on, and its next snapshots are its own."""
    await resting.end("a", "b")
    await resting.rest()
    assert twin.engine is not None
    assert not twin.engine.state.jobs.here
    ours = set(resting.objects.kept)
    with monkeypatch.context() as other:
        other.setattr("writ.orchestrator.snapshots.fold_version", lambda: "of another version")
        theirs = Snapshots(resting.objects, 0)
        state, at = await recover(twin.log, theirs)
        await theirs.put(state, at.epoch)
        await theirs.prune()
    assert not ours & set(resting.objects.kept), "what the leader's jobs rest in is gone"
    await twin.submit({"id": "a", "task": "t"})
    await twin.submit({"id": "c", "task": "t"})
    await asyncio.sleep(1)
    assert twin.engine is not None
    await twin.engine.leading.wait()
    await twin.settled()
    assert twin.job("a").state is State.COMPLETED
    assert twin.job("c").state is State.PENDING
    await twin.check()
    await resting.rest()
    assert len(twin.engine.state.jobs.here) == 1
    assert len(await resting.snapshots.titles()) == 1
    await twin.crash()
    await twin.start()
    await twin.check()


async def test_a_long_fold_leaves_snapshots_behind(twin: Twin, resting: Resting) -> None:
    """So the memory of a fold of all history is that of its live jobs."""
    for number in range(10):
        await resting.end(f"a{number}", f"b{number}")
    await resting.snapshots.clear()
    state, at = await recover(twin.log, resting.snapshots, stride=10)
    assert at.seq == await twin.log.last_seq()
    assert len(state.jobs) == 20
    assert len(state.jobs.here) < 10
    assert len(await resting.snapshots.titles()) == at.seq // 10
    await resting.snapshots.prune()
    await twin.crash()
    await twin.start()
    await twin.check()


async def test_a_bound_on_live_jobs_refuses_submits_until_some_have_ended(
    twin: Twin, resting: Resting
) -> None:
    twin.live_max = 2
    await twin.crash()
    await twin.start()
    for each in "abc":
        await twin.submit({"id": each, "task": "t"})
    await twin.settled()
    (refused,) = [e for e in await twin.events() if type(e).__name__ == "CommandRejected"]
    assert "has 2 jobs that have not ended, and takes at most 2" in refused.refused[0].reason  # type: ignore[attr-defined]
    (lease,) = await twin.acquire()
    await twin.report("complete", lease)
    await twin.submit({"id": "d", "task": "t"})
    await twin.settled()
    assert twin.job("d").state is State.PENDING
    assert twin.engine is not None
    assert twin.engine.state.job("default", "mail", "c") is None
    await twin.check()
