"""Workers told apart by labels, and workers that are drained."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from writ.orchestrator.replay.history import Entry
from writ.orchestrator.replay.verify import Verifier
from writ.schemas.codec import decode, digest, encode
from writ.schemas.events import JobSubmitted, LeaseGranted, WorkerSeen
from writ.schemas.fleet import WorkerDrained, WorkerUndrained, meets
from writ.schemas.records import GENESIS

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any

GPU, BOTH = {"gpu": "true"}, {"gpu": "true", "zone": "a"}


def ids(leases: list[dict[str, Any]]) -> list[str]:
    return [lease["id"] for lease in leases]


async def forged(twin: Twin, **fields: Any) -> list[str]:
    """What verification says of the log with other fields in its first lease, and its chain made anew."""
    verifier, prev, done = Verifier(twin.log.epoch, 0), GENESIS, False
    async for some in twin.log.read():
        for stored in some:
            record = decode(stored.body)
            last = record.events[-1]
            if isinstance(last, LeaseGranted) and not done:
                record = replace(record, events=(*record.events[:-1], replace(last, **fields)))
                done = True
            body = encode(record, prev)
            prev = digest(body)
            verifier.take(Entry(stored.seq, stored.subject, body))
    return verifier.report().lines()


async def submit(twin: Twin, *jobs: tuple[str, dict[str, str]], **more: Any) -> None:
    await twin.submit([{"task": "t", "id": job_id, "requires": needs, **more} for job_id, needs in jobs])
    await twin.settled()


async def test_a_job_goes_to_a_worker_that_has_all_its_labels(twin: Twin) -> None:
    """Must hold: version labels and pinning: a job may demand worker labels."""
    await submit(twin, ("both", BOTH), ("gpu", GPU), ("any", {}), ("other", {"gpu": "false"}))
    assert ids(await twin.acquire(count=9)) == ["any"]
    assert ids(await twin.acquire(count=9, labels=GPU)) == ["gpu"]
    assert ids(await twin.acquire(count=9, labels=BOTH | {"more": "1"})) == ["both"]
    assert ids(await twin.acquire(count=9, labels=BOTH)) == []
    granted = [event.labels for event in await twin.events(LeaseGranted) if isinstance(event, LeaseGranted)]
    assert granted == [{}, GPU, BOTH | {"more": "1"}], "the labels are told where they decided"
    assert twin.job("other").requires == {"gpu": "false"}
    await twin.check()


async def test_who_waits_with_the_labels_gets_the_job_that_demands_them(twin: Twin) -> None:
    plain = asyncio.create_task(twin.acquire(count=9, wait_s=20, worker="plain"))
    await twin.settled()
    able = asyncio.create_task(twin.acquire(count=9, wait_s=20, worker="able", labels=GPU))
    await twin.settled()
    await submit(twin, ("a", GPU))
    assert ids(await able) == ["a"]
    await submit(twin, ("b", {}))
    assert ids(await plain) == ["b"]
    await twin.check()


async def test_a_queue_may_demand_labels_of_the_worker_of_each_job(twin: Twin) -> None:
    await twin.ask("declare", policy={"requires": {"zone": "a"}})
    await submit(twin, ("a", GPU), ("b", {"zone": "b"}))
    (first, second) = [e for e in await twin.events(JobSubmitted) if isinstance(e, JobSubmitted)]
    assert (first.requires, second.requires) == (BOTH, {"zone": "a"}), "what the queue says goes before"
    assert ids(await twin.acquire(count=9, labels=GPU)) == []
    assert ids(await twin.acquire(count=9, labels=BOTH)) == ["a", "b"]
    await twin.check()


async def test_a_grant_to_a_worker_without_the_labels_is_found(twin: Twin) -> None:
    """Verification judges it: the labels are in the record, and so is what the job demands."""
    await submit(twin, ("a", GPU))
    await twin.acquire(labels=GPU)
    for labels, words in (({}, "no labels"), ({"gpu": "false"}, "gpu=false")):
        found = await forged(twin, labels=labels)
        assert any(f"demands gpu=true of its worker, which has {words}" in line for line in found), found


async def test_the_order_is_that_of_a_plain_line_whoever_asks(twin: Twin) -> None:
    """By chance: what a worker is given is what a look at all pending jobs, in their order, gives it."""
    rng, number = random.Random(5), 0
    kinds: list[dict[str, str]] = [{}, GPU, BOTH, {"zone": "a"}]
    assert twin.engine is not None
    for _ in range(60):
        for _ in range(rng.randint(0, 3)):
            number += 1
            fair = {} if rng.random() < 0.5 else {"fairness_key": "k"}
            await submit(twin, (f"j{number}", rng.choice(kinds)), priority=rng.randint(1, 2), **fair)
        labels, count = rng.choice(kinds), rng.randint(1, 3)
        state = twin.engine.state
        waiting = [
            job for job in state.jobs.values() if job.state == "pending" and meets(labels, job.requires)
        ]
        wanted = sorted(waiting, key=lambda job: (job.priority, job.since))
        got = [twin.job(job_id) for job_id in ids(await twin.acquire(count=count, labels=labels))]
        assert len(got) == min(count, len(waiting)), "nobody who could be served is left out"
        assert [job.priority for job in got] == [job.priority for job in wanted[:count]]
        for key in (None, "k"):
            mine = [job.id for job in got if job.fairness_key == key]
            first = [job.id for job in wanted if job.fairness_key == key]
            assert mine == first[: len(mine)], "first in first out"
    await twin.check()


async def test_a_drained_worker_is_given_no_lease_and_finishes_what_it_holds(twin: Twin) -> None:
    """Must hold: drain one: an event with who and why, no lease from there on, what it holds it finishes."""
    await submit(twin, ("a", {}), ("b", {}))
    held = await twin.acquire(worker="w1")
    waiting = asyncio.create_task(twin.acquire(worker="w2", count=9, wait_s=30))
    assert ids(await waiting) == ["b"]
    waiting = asyncio.create_task(twin.acquire(worker="w1", wait_s=60))
    await twin.settled()
    assert "error" not in await twin.ask("drain_worker", "-", who="ann", worker="w1", reason="kernel update")
    assert "error" not in await twin.ask("drain_worker", "-", who="bob", worker="w1", reason="again")
    (drained,) = [r for r in await twin.records() if isinstance(r.events[0], WorkerDrained)]
    assert (drained.kind, drained.key, drained.actor) == ("worker", "w1", "ann")
    assert drained.events == (WorkerDrained("kernel update"),)
    await submit(twin, ("c", {}))
    assert not waiting.done(), "also one that waits is given nothing"
    assert await twin.acquire(worker="w1") == []
    assert "refused" not in await twin.report("complete", *held)
    await twin.ask("undrain_worker", "-", who="ann", worker="w1", reason="updated")
    await twin.ask("undrain_worker", "-", who="ann", worker="nobody")
    assert await twin.events(WorkerUndrained) == [WorkerUndrained("updated")]
    await submit(twin, ("d", {}))
    assert ids(await waiting) == ["c"], "it is served again"
    await twin.check()


async def test_a_change_of_leader_forgets_no_drain(twin: Twin) -> None:
    await twin.ask("drain_worker", "-", worker="w1")
    await twin.crash()
    await twin.start()
    await submit(twin, ("a", {}))
    assert await twin.acquire(worker="w1") == []
    assert ids(await twin.acquire(worker="w2")) == ["a"]
    await twin.check()


async def test_a_grant_to_a_drained_worker_is_found(twin: Twin) -> None:
    await twin.ask("drain_worker", "-", worker="w1")
    await submit(twin, ("a", {}))
    await twin.acquire(worker="w2")
    found = await forged(twin, worker="w1")
    assert any("worker w1 is drained" in line for line in found), found


async def test_a_worker_tells_its_labels_and_queues(twin: Twin) -> None:
    about = {"host": "vm-1", "version": "0.1.0", "slots": 10, "queues": ["mail", "news"]}
    await twin.acquire(about=about, labels=GPU)
    await twin.acquire(about=about, labels=BOTH)
    seen = [WorkerSeen("vm-1", "0.1.0", 10, {}, labels, ("mail", "news")) for labels in (GPU, BOTH)]
    assert await twin.events(WorkerSeen) == seen


async def test_a_lease_of_a_strict_queue_says_so_and_how_long_its_acquire_had_waited(twin: Twin) -> None:
    await submit(twin, ("a", {}))
    (loose,) = await twin.acquire()
    assert "strict" not in loose
    await twin.ask("declare", policy={"strict_lease": True})
    asking = asyncio.create_task(twin.acquire(wait_s=20))
    await twin.settled()
    await asyncio.sleep(3)
    await submit(twin, ("b", {}))
    (late,) = await asking
    await submit(twin, ("c", {}))
    (prompt,) = await twin.acquire(wait_s=20)
    assert (late["strict"], prompt["strict"]) == (True, True)
    assert late["parked_s"] == pytest.approx(3, abs=0.01)
    assert prompt.get("parked_s", 0.0) == 0.0
    await twin.check()
