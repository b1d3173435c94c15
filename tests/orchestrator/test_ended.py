"""Jobs that rest in parts are found again as they were; what is not as it was written is noticed."""

from __future__ import annotations

import random

import msgspec
import pytest
from msgspec.structs import replace

from writ.broker.objects import MemoryObjects
from writ.orchestrator.deadlines import Deadlines
from writ.orchestrator.ended import BLOCK_ROWS, Ended, SnapshotDamaged, add
from writ.orchestrator.jobs import Jobs
from writ.orchestrator.kept import Title, lines, restore
from writ.orchestrator.links import Links
from writ.orchestrator.ready import Ready
from writ.orchestrator.relations import Relations
from writ.orchestrator.shards import Shards
from writ.orchestrator.state import Partition
from writ.schemas.lifecycle import Job, State
from writ.schemas.policy import DEFAULT_LIMITS, DEFAULT_RETRY
from writ.schemas.sealed import Sealed, seal

ENDS = (State.COMPLETED, State.DEAD, State.CANCELLED)


def job(number: int, state: State = State.COMPLETED, sealed: bool = False, round_: int = 1) -> Job:
    content = Sealed("k1", "ab" * 32, cipher=b"secret") if sealed else seal(b'{"n":%d}' % number)
    return Job(
        *("default", f"mail~j{number}", state, "send", content, "owner", 1, 1, 1, 3),
        retry=DEFAULT_RETRY,
        limits=DEFAULT_LIMITS,
        policy=0,
        round=round_,
    )


def place(job_: Job) -> str:
    return f"{job_.tenant}.{job_.key}"


def places(*jobs: Job) -> dict[str, Job]:
    return {place(each): each for each in jobs}


async def test_every_job_is_found_in_the_newest_part_that_has_it() -> None:
    """Parts of all sizes come and are merged, and some jobs end again and again."""
    objects, ended, rng = MemoryObjects(), Ended(), random.Random(7)
    told: dict[str, Job] = {}
    for number in range(40):
        new = places(
            *[
                job(rng.randrange(2_000), rng.choice(ENDS), rng.random() < 0.1, number)
                for _ in range(rng.choice((1, 5, BLOCK_ROWS, 200)))
            ]
        )
        ended = await add(objects, f"{number}", new, ended)
        told |= new
    assert len(ended.parts) < 16
    again = await Ended.open(objects, [each.part for each in ended.parts])
    for found in (ended, again):
        assert {where: found.get(where) for where in told} == told
        assert found.get("default.mail~j2000") is None
        assert len(found) == len(told)
        for states in ((State.DEAD,), ENDS):
            wanted = {where: each for where, each in told.items() if each.state in states}
            assert places(*found.walk(states)) == wanted
            assert sum(1 for _ in found.walk(states)) == len(wanted)
            sealed = {where: each for where, each in wanted.items() if each.input.key == "k1"}
            assert places(*found.walk(states, sealed=True)) == sealed
    assert await add(objects, "none", {}, ended) is ended


async def test_a_part_that_is_not_as_it_was_written_is_noticed() -> None:
    objects = MemoryObjects()
    one = job(1)
    ended = await add(objects, "a", places(one), Ended())
    whole = dict(objects.kept)
    for name, content in whole.items():
        for at in (0, len(content) // 2, len(content) - 1):
            objects.kept = whole | {
                name: content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
            }
            with pytest.raises(SnapshotDamaged, match=r"of ended jobs a holds other bytes"):
                (await Ended.open(objects, [each.part for each in ended.parts])).get(place(one))


async def test_memory_comes_before_what_rests() -> None:
    objects, jobs = MemoryObjects(), Jobs()
    for number in range(5):
        jobs.put(place(job(number)), job(number))
    jobs.put(place(job(9)), job(9, State.PENDING))
    assert (jobs.live, len(jobs), len(jobs.ended())) == (1, 6, 5)
    jobs.rest_on(await add(objects, "a", jobs.ended(), jobs.resting))
    again = job(3, State.PENDING, round_=2)
    jobs.put(place(again), again)
    for some in jobs.that_rest(lambda where, _: where != place(job(4))):
        jobs.forget(some)
    assert set(jobs.here) == {place(job(number)) for number in (3, 4, 9)}
    assert (jobs.live, len(jobs)) == (2, 6)
    assert jobs[place(again)] == again
    assert jobs[place(job(1))] == job(1)
    assert dict(jobs) == places(*map(job, (0, 1, 2, 4)), again, job(9, State.PENDING))
    assert places(*jobs.walk([State.COMPLETED])) == places(*map(job, (0, 1, 2, 4)))
    missing = job(77)
    assert place(missing) not in jobs
    jobs.put(place(missing), missing)
    assert jobs[place(missing)] == missing
    jobs.put(place(missing), None)
    with pytest.raises(KeyError):
        jobs[place(missing)]


DERIVED = {
    Partition: {
        *("number", "epoch", "seq", "prev", "jobs", "running", "deadlines", "schedule_deadlines"),
        *("access_changes", "access_at", "relations", "links", "seals", "usage"),
    },
    Links: {"number", "unheard_of", "shards"},
    Shards: {"number"},
    Relations: set[str](),
}
"""What a snapshot need not keep as it is declared: told by its title, or from the jobs, or kept apart."""


def test_whatever_a_state_has_is_kept_or_derived() -> None:
    """A new field of a state is declared in its class, or it is lost by a start from a snapshot."""
    for owner in (Partition(0, 1), Links(0), Shards(0), Relations()):
        kept = set(type(owner).__annotations__)
        own = {name for name in vars(owner) if not name.startswith("_")}
        assert own == kept | DERIVED[type(owner)], type(owner)


def test_a_line_for_each_live_job_brings_its_place_in_all_indexes() -> None:
    state = Partition(0, 1)
    one = replace(job(1, State.PENDING), batch="m", fairness_key="x")
    state.put(place(one), one)
    state.take_turns("default.mail", {"x": 7})
    told = list(lines(state))
    title = Title(0, 1, 5, "ab", "", _digest(told), 0)
    found = restore(title, 1, told, Ended())
    assert list(lines(found)) == told
    assert found.pending_in("default.mail") == 1
    assert found.relations.tally("default.mail~m") == {State.PENDING: 1}
    assert isinstance(found.ready("default.mail"), Ready)
    assert isinstance(found.deadlines, Deadlines)
    assert (found.seq, found.prev) == (5, "ab")
    with pytest.raises(SnapshotDamaged, match="cannot be read"):
        restore(title, 1, [b"[]\n", *told], Ended())
    with pytest.raises(SnapshotDamaged, match="other bytes"):
        restore(title, 1, [*told, msgspec.json.encode(job(2)) + b"\n"], Ended())


def _digest(parts: list[bytes]) -> str:
    import hashlib

    return hashlib.sha256(b"".join(parts)).hexdigest()
