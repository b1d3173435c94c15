"""Shards move between partitions in virtual time, and partitions come to be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest

from writ.orchestrator.access_desk import Founder
from writ.orchestrator.replay.verify import verify
from writ.orchestrator.state import Partition
from writ.schemas.bounds import SHARDS
from writ.schemas.codec import decode
from writ.schemas.events import CommandRejected, LeaderElected
from writ.schemas.ids import queue_in, shard_of
from writ.schemas.lifecycle import State
from writ.schemas.links import MessageSent, PartitionOpened
from writ.schemas.principals import Role
from writ.schemas.shards import OfShard, ShardKept, ShardMoved
from writ.schemas.subjects import NO_QUEUE

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any

SHARD = 8
"""In partition 0 where there are two, and where there are four."""
QUEUE = queue_in("default", SHARD)
OTHER = queue_in("default", SHARD + 1)
FOUNDER = Founder("default", "owner", "U" + "A" * 55, (Role.OWNER,))


class Several:
    """Some partitions of one broker; more may come."""

    def __init__(self, fresh: Callable[[int, Twin | None], Twin], count: int) -> None:
        self.twins: list[Twin] = []
        self._fresh = fresh
        self.grow(count)

    def grow(self, to: int) -> None:
        """So many from the next start of each on."""
        while len(self.twins) < to:
            twin = self._fresh(len(self.twins), self.twins[0] if self.twins else None)
            for other in self.twins:
                other.others.append(twin.log)
                twin.others.append(other.log)
            self.twins.append(twin)

    def look(self) -> None:
        """Engines that start from now on look for the logs of others."""
        for twin in self.twins:
            twin.looks = True

    async def start(self, *which: int) -> None:
        for number in which or range(len(self.twins)):
            await self.twins[number].start()

    async def submit(self, queue: str, *ids: str, tenant: str = "default") -> None:
        for id_ in ids:
            await self.twins[0].intake.submit(
                tenant, "owner", queue, b'{"task":"t","id":"%s"}' % id_.encode()
            )

    async def move(self, to: int, shard: int = SHARD) -> dict[str, Any]:
        name = queue_in("default", shard)
        return await self.twins[0].ask("move_shard", queue=name, who="owner", to=to)

    def state(self, number: int) -> Partition:
        engine = self.twins[number].engine
        assert engine is not None
        return engine.state

    def where(self, queue: str, tenant: str = "default") -> dict[int, list[str]]:
        """In which partitions a queue's jobs are, in the order in which they were taken in."""
        found: dict[int, list[str]] = {}
        for number in range(len(self.twins)):
            jobs = [j for j in self.state(number).jobs.values() if (j.tenant, j.queue) == (tenant, queue)]
            if jobs:
                found[number] = [job.id for job in sorted(jobs, key=lambda job: job.since)]
        return found

    async def said(self, *by: int) -> list[OfShard]:
        twins = [self.twins[number] for number in by] or self.twins
        events = [e for twin in twins for e in await twin.events(MessageSent)]
        return [e.content for e in events if isinstance(e, MessageSent) and isinstance(e.content, OfShard)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - what it watches has no event
                await asyncio.sleep(0.05)

    async def moved(self, to: int) -> None:
        """Until every partition has heard where the shard is."""
        await self.until(lambda: set(self.owners()) == {to})

    async def decided(self) -> None:
        """Until no shard is on its way, and every submit before that is dealt with."""
        shards = [self.state(number).links.shards for number in range(len(self.twins))]
        await self.until(lambda: not any(each.offers or each.awaited for each in shards))
        await asyncio.sleep(5)

    async def taken(self, queue: str, number: int, *ids: str) -> None:
        """Until a queue's jobs are these, all of one partition."""
        await self.until(lambda: self.where(queue) == {number: [*ids]})

    def owners(self) -> list[int]:
        """Who holds the shard, as each partition has it."""
        return [self.state(number).links.shards.owner(SHARD) for number in range(len(self.twins))]

    async def crash(self) -> None:
        for twin in self.twins:
            await twin.crash()

    async def check(self) -> None:
        """Each remembers what its log tells, decided again alike, and nobody waits for a shard."""
        for twin in self.twins:
            await twin.check()
            assert twin.engine is not None
            assert not twin.engine.state.links.shards.awaited
            assert not twin.engine.state.links.shards.offers


@pytest.fixture
async def several(
    snapshot: Callable[[Partition], dict[str, Any]], twin: Twin
) -> AsyncIterator[Callable[[int], Several]]:
    await twin.stop()
    kind, made = type(twin), list[Several]()

    def fresh(number: int, first: Twin | None) -> Twin:
        return kind(snapshot, number, first)

    def some(count: int) -> Several:
        made.append(Several(fresh, count))
        return made[-1]

    yield some
    for each in made:
        await each.crash()


async def test_a_shard_that_holds_nothing_moves_and_takes_its_submits_along(
    several: Callable[[int], Several],
) -> None:
    two = several(2)
    await two.start()
    await two.submit(OTHER, "here")
    parked = asyncio.create_task(two.twins[0].ask("acquire", queue=QUEUE, worker="w", count=5, wait_s=30))
    await two.twins[0].settled()
    assert "error" not in await two.move(1)
    await two.moved(1)
    assert not (await asyncio.wait_for(parked, 5)).get("leases"), "who waited there is sent to ask again"
    await two.submit(QUEUE, "a", "b", "c")
    await two.taken(QUEUE, 1, "a", "b", "c")
    answer = await two.twins[0].ask("acquire", queue=QUEUE, worker="w", count=5)
    assert [lease["id"] for lease in answer["leases"]] == ["a", "b", "c"]
    told = await two.twins[0].ask("list_shards", queue=NO_QUEUE, who="owner")
    assert told["shards"][SHARD] == 1
    assert [s for s in range(SHARDS) if told["shards"][s] != s % 2] == [SHARD]
    assert (await two.move(1))["error"]["reason"] == f"shard {SHARD} is in partition 1 already"
    await two.check()


async def test_it_moves_back_and_forth_while_it_holds_nothing(several: Callable[[int], Several]) -> None:
    two = several(2)
    await two.start()
    for to in (1, 0, 1, 0):
        assert "error" not in await two.move(to)
        await two.moved(to)
        await two.submit(OTHER, f"n{to}")
    await two.submit(QUEUE, "a")
    await two.taken(QUEUE, 0, "a")
    assert two.state(0).links.shards.placed[SHARD].term == 4
    await two.check()


async def test_what_was_refused_before_the_mark_is_not_refused_again(
    several: Callable[[int], Several], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the holder ended before it had the intake forget that."""
    two = several(2)
    await two.start()

    async def forgets_nothing(*_: object) -> None: ...

    monkeypatch.setattr(two.twins[0].intake, "purge", forgets_nothing)
    assert "error" not in await two.move(1)
    await two.twins[0].intake.submit("default", "owner", QUEUE, b"{]")
    await two.moved(1)
    await two.submit(QUEUE, "a")
    await two.taken(QUEUE, 1, "a")
    assert [len(await twin.events(CommandRejected)) for twin in two.twins] == [1, 0]
    await two.check()


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("used", [False, True])
async def test_no_mark_stays_in_the_intake(
    several: Callable[[int], Several], used: bool, crash: bool
) -> None:
    """Whether the shard moves or is kept, and where nobody submits anything more: a backup waits for that."""
    two = several(2)
    await two.start()
    await two.submit(OTHER, "before")
    assert "error" not in await two.move(1)
    if used:
        await two.submit(QUEUE, "a")
    await two.decided()
    assert set(two.owners()) == {0 if used else 1}
    intake = two.twins[0].intake
    assert await intake.last_seq() > 1 + used, "there was a mark"
    if crash:
        await two.crash()
        await two.start()
        await two.decided()
    assert await intake.first_seq() == await intake.last_seq() + 1
    await two.check()


async def test_two_that_hand_over_to_each_other_do_not_wait_for_ever(
    several: Callable[[int], Several],
) -> None:
    two = several(2)
    await two.start()
    answers = await asyncio.gather(two.move(1), two.move(0, SHARD + 1))
    assert not [each for each in answers if "error" in each]
    await two.until(lambda: all(two.state(n).links.shards.owner(SHARD + 1) == 0 for n in (0, 1)))
    await two.moved(1)
    await two.submit(QUEUE, "a")
    await two.submit(OTHER, "b")
    await two.taken(QUEUE, 1, "a")
    await two.taken(OTHER, 0, "b")
    await two.check()


async def test_who_stands_still_forgets_nothing_of_what_is_anothers(
    several: Callable[[int], Several],
) -> None:
    """A receiver that begins anew while it waits for a shard has the intake forget its own submits alone."""
    two = several(2)
    await two.start()
    await two.twins[1].crash()
    theirs = queue_in("default", SHARD + 2)
    assert "error" not in await two.move(1)
    await two.twins[0].crash()
    await two.submit(theirs, "h")
    await two.submit(OTHER, "x")
    shards = two.state(1).links.shards
    await two.start(1)
    await two.until(lambda: two.state(1).links.shards.stands_still and two.where(OTHER) == {1: ["x"]})
    await two.twins[1].crash()
    await two.start(1)
    await asyncio.sleep(5)
    await two.start(0)
    await two.taken(theirs, 0, "h")
    await two.moved(1)
    assert shards is not two.state(1).links.shards
    await two.check()


async def test_one_in_use_stays(several: Callable[[int], Several]) -> None:
    two = several(2)
    await two.start()
    await two.submit(QUEUE, "a")
    await two.taken(QUEUE, 0, "a")
    refused = (await two.move(1))["error"]
    assert refused["kind"] == "conflict"
    assert "in use since record" in refused["reason"]
    assert two.owners() == [0, 0]
    await two.check()


async def test_one_that_comes_into_use_on_its_way_stays_and_its_receiver_goes_on(
    several: Callable[[int], Several],
) -> None:
    two = several(2)
    await two.start()
    assert "error" not in await two.move(1)
    await two.submit(QUEUE, "a")  # ahead of the mark, which comes with the holder's next look
    await two.submit(OTHER, "held-up")
    await two.decided()
    assert isinstance((await two.said(0))[-1], ShardKept)
    await two.taken(OTHER, 1, "held-up")
    assert two.where(QUEUE) == {0: ["a"]}
    await two.check()


async def test_whoever_waits_for_a_job_of_the_shard_keeps_it_there(several: Callable[[int], Several]) -> None:
    two = several(2)
    await two.start()
    body = b'{"task":"t","id":"then","after":["%s~first"]}' % QUEUE.encode()
    await two.twins[0].intake.submit("default", "owner", OTHER, body)
    await two.until(lambda: f"default.{QUEUE}~first" in two.state(0).links.watched)
    assert "error" not in await two.move(1)
    await two.decided()
    assert two.owners() == [0, 0]
    await two.submit(QUEUE, "first")
    await two.taken(QUEUE, 0, "first")
    await two.check()


@pytest.mark.parametrize("who", ["holder", "receiver", "both"])
async def test_a_crash_at_any_moment_is_gone_on_from(several: Callable[[int], Several], who: str) -> None:
    """At each moment of a move, with submits before, during and after it."""
    numbers = {"holder": [0], "receiver": [1], "both": [0, 1]}[who]
    seen: set[int] = set()
    for moment in range(60):
        two = several(2)
        await two.start()
        await two.submit(OTHER, "x0")
        asking = asyncio.create_task(two.move(1))
        for _ in range(moment):
            await asyncio.sleep(0 if moment < 40 else 0.02)
        await two.submit(OTHER, "x1")
        for number in numbers:
            await two.twins[number].crash()
        seen.add(len(await two.said()))
        await two.start(*numbers)
        asking.cancel()
        if not await two.said():
            assert "error" not in await two.move(1)
        await two.moved(1)
        await two.submit(QUEUE, "a", "b")
        await two.submit(OTHER, "x2")
        await two.taken(QUEUE, 1, "a", "b")
        await two.taken(OTHER, 1, "x0", "x1", "x2")
        await two.check()
        await two.crash()
    assert len(seen) >= 3, f"it was interrupted after {seen} messages alone"


async def test_submits_on_their_way_are_dealt_with_by_one_of_the_two(
    several: Callable[[int], Several],
) -> None:
    """At each moment another one comes, to a queue that was never used before."""
    ends: set[type[OfShard]] = set()
    for moment in range(0, 120, 3):
        two = several(2)
        await two.start()
        assert "error" not in await two.move(1)
        for number in range(moment):
            await asyncio.sleep(0 if number < 60 else 0.02)
        await two.submit(QUEUE, "a", "b", "c")
        await two.decided()
        assert [*two.where(QUEUE).values()] == [["a", "b", "c"]]
        where = next(iter(two.where(QUEUE)))
        assert two.owners() == [where, where]
        ends.add(type((await two.said(0))[-1]))
        await two.check()
        await two.crash()
    assert ends == {ShardMoved, ShardKept}


async def test_each_tenants_submits_have_a_mark_of_their_own(several: Callable[[int], Several]) -> None:
    two = several(2)
    for twin in two.twins:
        twin.founders = (FOUNDER,)
    await two.start()
    home = two.twins[0]
    made = await home.ask("create_tenant", queue=NO_QUEUE, who="owner", name="acme", key="U" + "B" * 55)
    assert "error" not in made
    await two.until(lambda: all("acme" in two.state(number).governed for number in (0, 1)))
    theirs, elsewhere = queue_in("acme", SHARD), queue_in("acme", SHARD + 1)
    await two.submit(elsewhere, "y0", tenant="acme")
    assert "error" not in await two.move(1)
    await two.moved(1)
    moved = next(each for each in await two.said() if isinstance(each, ShardMoved))
    assert set(moved.cuts) == {"acme", "default"}
    await two.submit(theirs, "a", "b", tenant="acme")
    await two.submit(QUEUE, "c")
    await two.until(lambda: two.where(theirs, "acme") == {1: ["a", "b"]} and two.where(QUEUE) == {1: ["c"]})
    home_shard = shard_of("acme", NO_QUEUE)
    owner = two.state(0).links.shards.owner(home_shard)
    refused = await two.move(1 - owner, home_shard)
    assert "is the home of tenant acme" in refused["error"]["reason"]
    await two.check()


async def test_a_leader_that_sees_more_logs_is_elected_once_more_and_says_so(
    several: Callable[[int], Several],
) -> None:
    some = several(2)
    some.look()
    await some.start()
    await some.submit(QUEUE, "a")
    await some.taken(QUEUE, 0, "a")
    some.grow(4)
    some.look()
    await some.start(2, 3)
    await some.submit(QUEUE, "b")
    await some.until(lambda: all(some.state(number).links.partitions == 4 for number in range(4)))
    await some.submit(QUEUE, "c")
    await some.taken(QUEUE, 0, "a", "b", "c")
    for twin in some.twins[:2]:
        assert await twin.events(PartitionOpened) == [PartitionOpened(2), PartitionOpened(4, 2)], (
            "in its own log"
        )
        elected = [e.previous for e in await twin.events(LeaderElected) if isinstance(e, LeaderElected)]
        assert elected == [None, "engine-0"], "by itself, as nobody stood by"
    assert "error" not in await some.move(3, 12)
    await some.until(lambda: some.state(3).links.shards.owner(12) == 3)
    await some.decided()
    await some.check()


@pytest.mark.parametrize("began", [1, 2])
async def test_more_partitions_come_and_take_what_holds_nothing(
    several: Callable[[int], Several], began: int
) -> None:
    some = several(began)
    await some.start()
    await some.submit(QUEUE, "a")
    await some.taken(QUEUE, 0, "a")
    for twin in some.twins:
        await twin.stop()
    some.grow(4)
    await some.start()
    assert [state.links.partitions for state in map(some.state, range(4))] == [4] * 4
    assert some.owners() == [0] * 4, "nothing has moved by that"
    await some.submit(QUEUE, "b")
    await some.taken(QUEUE, 0, "a", "b")
    free = 12
    held = some.state(0).links.shards.owner(free)
    assert held == free % began
    queue = queue_in("default", free)
    assert "error" not in await some.move(3, free)
    await some.until(lambda: all(some.state(n).links.shards.owner(free) == 3 for n in range(4)))
    await some.submit(queue, "c")
    await some.taken(queue, 3, "c")
    opened = [await twin.events(PartitionOpened) for twin in some.twins]
    assert opened[3] == [PartitionOpened(4, began)]
    assert opened[0][-1] == PartitionOpened(4, began)
    await some.check()
    # Whoever knows of fewer does not lead.
    await some.twins[0].crash()
    some.twins[0].others.pop()
    engine = some.twins[0].stand()
    (_, task) = some.twins[0].running.pop()
    with pytest.raises(ValueError, match="is one of 4"):
        await asyncio.wait_for(task, 60)
    assert not engine.leading.is_set()


async def test_whoever_asks_is_answered_by_who_holds_the_shard_by_now(
    several: Callable[[int], Several],
) -> None:
    """A third partition waits for a job of a shard that has moved, with word of that still on its way."""
    three = several(3)
    await three.start()
    shard = 9  # in partition 0
    first, then = queue_in("default", shard), queue_in("default", 11)
    await three.twins[2].crash()
    assert "error" not in await three.move(1, shard)
    await three.until(lambda: three.state(0).links.shards.owner(shard) == 1)
    await three.submit(first, "first")
    await three.taken(first, 1, "first")
    body = b'{"task":"t","id":"then","after":["%s~first"]}' % first.encode()
    await three.twins[0].intake.submit("default", "owner", then, body)
    await three.start(2)
    await three.until(lambda: three.state(2).links.shards.owner(shard) == 1)
    lease = (await three.twins[0].ask("acquire", queue=first, worker="w", count=1))["leases"][0]
    report = {"id": lease["id"], "token": lease["token"]}
    assert "refused" not in await three.twins[0].ask("complete", queue=first, worker="w", reports=[report])
    await three.until(lambda: {j.state for j in three.state(2).jobs.values()} == {State.PENDING})
    await three.check()


async def test_what_is_said_of_shards_is_held_against_the_log(several: Callable[[int], Several]) -> None:
    two = several(2)
    await two.start()
    await two.move(1)
    await two.moved(1)
    report = await verify(two.twins[0].log)
    assert report.ok
    assert [decode(m.body).seq async for part in two.twins[0].log.read() for m in part]
