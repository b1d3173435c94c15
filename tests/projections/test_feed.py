"""A log is read once for all that follow it together, and nobody waits for the slowest for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from writ.projections.feed import Batch, Feeds, Follower, Halted
from writ.schemas.chain import Position

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.histories.builder import Histories, ListLog
    from tests.projections.conftest import Until


@asynccontextmanager
async def feeding(log: ListLog, **bounds: Any) -> AsyncGenerator[Feeds]:
    feeds = Feeds(log, **bounds)
    try:
        with feeds.hurried():
            yield feeds
    finally:
        await feeds.close()


def count_reads(log: ListLog) -> list[int]:
    """Where each reading of the log begins, as they come."""
    begins: list[int] = []
    read = log.read

    def counted(start: int = 1, subjects: Sequence[str] = (), *, follow: bool = False) -> AsyncIterator[Any]:
        begins.append(start)
        return read(start, subjects, follow=follow)

    log.read = counted  # type: ignore[method-assign]
    return begins


async def take(follower: Follower, until: int, limit: int = 50) -> list[Batch]:
    batches: list[Batch] = []
    while follower.at.seq < until:
        batches.append(await follower.next(limit))
    return batches


def records(batches: list[Batch]) -> list[int]:
    return [record.seq for batch in batches for record in batch.records]


async def test_followers_share_one_reading_and_the_very_records(history: Histories) -> None:
    told = history.wander(3, 300)
    log = told.log(chunk_max=40)
    begins = count_reads(log)
    last = len(told.records)
    async with feeding(log, window=100) as feeds:
        followers = [await feeds.follow(Position()) for _ in range(3)]
        taken = await asyncio.gather(*[take(each, last, 7 * n) for n, each in enumerate(followers, 1)])
        assert feeds.readings == 1
        assert begins == [1]
        for batches in taken:
            assert records(batches) == list(range(1, last + 1))
        (first, *others) = [[record for batch in batches for record in batch.records] for batches in taken]
        assert all(a is b for other in others for a, b in zip(first, other, strict=True))
        for each in followers:
            each.leave()
        assert feeds.readings == 0


async def test_what_came_together_is_handed_out_as_one_batch(history: Histories) -> None:
    """Each view stores a transaction for each batch that it is handed."""
    told = history.wander(3, 1_500)
    last = len(told.records)
    assert last > 1_024, "more than is decoded in one go"
    log = history.log([], chunk_max=100 * last)
    async with feeding(log) as feeds:
        followers = [await feeds.follow(Position()) for _ in range(2)]
        log.stored[:] = told.records
        taken = await asyncio.gather(*[take(each, last, last) for each in followers])
        assert [len(batches) for batches in taken] == [1, 1]


async def test_one_that_starts_far_behind_reads_for_itself_until_it_is_near(history: Histories) -> None:
    told = history.wander(3, 400)
    log = told.log(chunk_max=40)
    begins = count_reads(log)
    last = len(told.records)
    async with feeding(log, window=50) as feeds:
        ahead = await feeds.follow(Position())
        batches = await take(ahead, last)
        behind = await feeds.follow(Position())
        assert records(await take(behind, last)) == list(range(1, last + 1))
        assert begins == [1, 1]
        told.job("new").submitted()
        log.stored[:] = told.records
        log.grew()
        both = await asyncio.gather(ahead.next(9), behind.next(9))
        assert [batch.records[-1].seq for batch in both] == [last + 1] * 2
        told.job("newer").submitted()
        log.stored[:] = told.records
        log.grew()
        both = await asyncio.gather(ahead.next(9), behind.next(9))
        assert feeds.readings == 1, "they meet again"
        assert both[0].records[0] is both[1].records[0]
        assert batches[-1].end.seq == last


async def test_one_that_holds_the_others_up_loses_its_place_and_misses_nothing(history: Histories) -> None:
    told = history.wander(3, 400)
    log = told.log(chunk_max=40)
    last = len(told.records)
    async with feeding(log, window=50, stall_s=0.02) as feeds:
        slow, quick = await feeds.follow(Position()), await feeds.follow(Position())
        first = await slow.next(1)
        assert records(await take(quick, last)) == list(range(1, last + 1)), "though the slow one stands"
        assert slow.at.seq == 1
        rest = await take(slow, last)
        assert records([first, *rest]) == list(range(1, last + 1))


async def test_a_reading_waits_for_the_slowest_as_long_as_nobody_has_to(
    history: Histories, until: Until
) -> None:
    """Else the reading of a long log would be repeated for each of its views."""
    told = history.wander(3, 400)
    log = told.log(chunk_max=40)
    begins = count_reads(log)
    last = len(told.records)
    async with feeding(log, window=50, stall_s=0.02) as feeds:
        alone = await feeds.follow(Position())
        await alone.next(1)
        await asyncio.sleep(0.1)  # five times what would cost it its place
        assert records(await take(alone, last)) == list(range(2, last + 1))
        assert begins == [1]


@pytest.mark.parametrize("at", [5, 30, 200])
async def test_each_is_told_of_a_fault_when_it_comes_there(at: int, history: Histories) -> None:
    told = history.wander(3, 300)
    spoiled = told.records[at - 1]._replace(body=told.records[at - 1].body.replace(b'"at":', b'"at":1'))
    log = history.log([*told.records[: at - 1], spoiled, *told.records[at:]], chunk_max=40)
    async with feeding(log, window=50, stall_s=0.05) as feeds:
        followers = [await feeds.follow(Position()) for _ in range(2)]
        for follower in followers:  # an edited record is found by the one behind it
            with pytest.raises(Halted, match=f"record {at + 1}: its prev is"):
                await take(follower, 10_000)
            assert follower.at.seq == at
            follower.leave()


async def test_who_knows_another_log_is_told_and_the_others_go_on(history: Histories) -> None:
    told = history.wander(3, 300)
    log = told.log(chunk_max=40)
    last = len(told.records)
    async with feeding(log, window=100) as feeds:
        sound = await feeds.follow(Position())
        other = await feeds.follow(Position(1, 50, "0" * 64))
        assert records(await take(sound, 20, limit=5)) == list(range(1, 21))
        taking = asyncio.create_task(take(sound, last))
        with pytest.raises(Halted, match="record 50 of the log is another"):
            await other.next(5)
        other.leave()
        assert records(await taking) == list(range(21, last + 1))


async def test_a_log_that_becomes_shorter_is_noticed_though_it_brings_nothing(history: Histories) -> None:
    told = history.wander(3, 100)
    log = told.log()
    last = len(told.records)
    async with feeding(log, quiet_s=0.02) as feeds:
        follower = await feeds.follow(Position())
        await take(follower, last)
        del log.stored[60:]
        with pytest.raises(Halted, match=f"the log ends at record 60, before the view's position {last}"):
            await follower.next(1)
        with pytest.raises(Halted, match="ends at record 60"):
            await feeds.follow(follower.at)


async def test_a_log_that_cannot_be_read_for_a_while_is_read_on(history: Histories) -> None:
    told = history.wander(3, 100)
    log = told.log(chunk_max=10)
    last = len(told.records)
    read = log.read
    breaks = [30, 70]

    async def breaking(
        start: int = 1, subjects: Sequence[str] = (), *, follow: bool = False
    ) -> AsyncIterator[Any]:
        async for stored in read(start, subjects, follow=follow):
            yield stored
            if breaks and stored[-1].seq >= breaks[0]:
                breaks.pop(0)
                raise ConnectionError("the broker is away")

    log.read = breaking  # type: ignore[method-assign]
    async with feeding(log) as feeds:
        follower = await feeds.follow(Position())
        assert records(await take(follower, last)) == list(range(1, last + 1))
        assert not breaks
