"""One behaviour for every intake: read in order from a position, purged behind it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from writ.broker.ports import Intake, Stored
from writ.broker.streams import api, look_at
from writ.schemas import bounds
from writ.schemas.ids import shard_of
from writ.schemas.subjects import SUBMIT_STORED, SUBMIT_STREAM, parse_served

if TYPE_CHECKING:
    from .conftest import JetStreamWire, Wire


async def take(intake: Intake, start: int, count: int) -> list[Stored]:
    """So many submits from a sequence on."""
    reader = intake.read(start)
    got = await more(reader, count)
    await reader.aclose()  # type: ignore[attr-defined]
    return got


async def more(reader: AsyncIterator[list[Stored]], count: int) -> list[Stored]:
    got: list[Stored] = []
    async with asyncio.timeout(20):
        while len(got) < count:
            got += await anext(reader)
    return got


async def fill(wire: Wire, count: int, first: int = 1) -> None:
    for number in range(first, first + count):
        await wire.submit(b"%d" % number, f"q{number % 3}")


async def test_submits_are_read_in_order_from_any_place(wire: Wire) -> None:
    intake = await wire.intake()
    await fill(wire, 12)
    got = await take(intake, 1, 12)
    assert [(s.seq, s.body) for s in got] == [(i, b"%d" % i) for i in range(1, 13)]
    assert parse_served(got[4].subject) == ("default", "owner", "submit", "q2")
    assert [s.seq for s in await take(intake, 7, 6)] == list(range(7, 13))
    assert intake.epoch == 1


async def test_a_reader_waits_for_what_comes(wire: Wire) -> None:
    intake = await wire.intake()
    reader = intake.read(1)
    taking = asyncio.create_task(more(reader, 3))
    await fill(wire, 3)
    assert [s.seq for s in await taking] == [1, 2, 3]
    beyond = asyncio.create_task(take(intake, 5, 2))
    await fill(wire, 3, 4)
    assert [s.seq for s in await beyond] == [5, 6]
    await reader.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("up_to", "left"), [(0, 1), (1, 2), (7, 8), (9, 10)])
async def test_purging_forgets_what_is_behind_and_nothing_else(wire: Wire, up_to: int, left: int) -> None:
    intake = await wire.intake()
    await fill(wire, 10)
    await intake.purge(up_to)
    for start in {1, max(up_to, 1), left}:
        assert [s.seq for s in await take(intake, start, 11 - left)] == list(range(left, 11))
    await intake.purge(up_to)
    assert len(await take(intake, 1, 11 - left)) == 11 - left


@pytest.mark.parametrize("up_to", [10, 13])
async def test_numbers_go_on_behind_what_was_purged(wire: Wire, up_to: int) -> None:
    intake = await wire.intake()
    await fill(wire, 10)
    await intake.purge(up_to)
    await fill(wire, 2, 11)
    assert [s.body for s in await take(intake, 1, 2)] == [b"11", b"12"]
    assert [s.seq for s in await take(intake, up_to + 1, 2)] == [up_to + 1, up_to + 2]


async def test_a_reader_passes_over_what_is_purged_under_it(wire: Wire) -> None:
    intake = await wire.intake()
    await fill(wire, 5)
    reader = intake.read(1)
    assert len(await more(reader, 5)) == 5
    await intake.purge(5)
    await fill(wire, 3, 6)
    assert [s.seq for s in await more(reader, 3)] == [6, 7, 8]
    await reader.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("tenant", [None, "default"])
async def test_what_an_earlier_reader_left_behind_the_position_is_purged_in_every_shard(
    wire: Wire, tenant: str | None
) -> None:
    """Also where nothing of a shard is read again; and nothing of the shards of others."""
    intake = await wire.intake()
    for queue in ("a", "c", "b"):
        await wire.submit(b"some", queue)
    ours = frozenset(shard_of("default", queue) for queue in "ab")
    reader = intake.read(3, ours, tenant)
    assert [each.seq for each in await more(reader, 1)] == [3]
    await intake.purge(3, ours, tenant)
    assert [each.seq for each in await take(intake, 1, 1)] == [2]
    await reader.aclose()  # type: ignore[attr-defined]


async def test_one_submit_can_be_erased(wire: Wire) -> None:
    """What stands around it is read as before; erasing it again, or what never was, is nothing."""
    intake = await wire.intake()
    await fill(wire, 5)
    assert await intake.first_seq() == 1
    for _ in range(2):
        await intake.erase(3)
    await intake.erase(99)
    assert [s.seq for s in await take(intake, 1, 4)] == [1, 2, 4, 5]
    await intake.erase(1)
    assert await intake.first_seq() == 2
    await intake.purge(5)
    assert await intake.first_seq() == 6


async def test_an_erased_submit_is_in_no_file_where_a_purged_one_still_is(jetstream: JetStreamWire) -> None:
    """Which is why content that may be erased is not left to the purge."""

    def files_hold(text: bytes) -> bool:
        files = [path for path in jetstream.broker.directory.rglob("*") if path.is_file()]
        return any(text in path.read_bytes() for path in files)

    intake = await jetstream.intake()
    for body in (b"purged-secret", b"erased-secret", b"kept"):
        await jetstream.submit(body)
    await intake.erase(2)
    await intake.purge(2)
    assert files_hold(b"kept")
    assert files_hold(b"purged-secret")
    assert not files_hold(b"erased-secret")
    await jetstream.crash()
    assert not files_hold(b"erased-secret")


async def test_of_one_principal_in_one_queue_so_many_wait_and_no_more(wire: Wire) -> None:
    intake = await wire.intake()
    most = bounds.SUBMITS_WAITING_MAX
    stored = await asyncio.gather(*[wire.submit(b"%d" % number) for number in range(most)])
    assert all(stored)
    assert not await wire.submit(b"one too many")
    assert await wire.submit(b"elsewhere", "q1")
    await intake.purge(2)
    assert [await wire.submit(b"%d" % number) for number in range(3)] == [True, True, False]
    got = await take(intake, 1, most + 1)
    assert [s.seq for s in got] == list(range(3, most + 4)), "what is refused takes no place"


@pytest.mark.parametrize("many", [False, True])
async def test_an_intake_of_an_earlier_version_is_limited_and_loses_nothing(
    jetstream: JetStreamWire, many: bool
) -> None:
    """A server deletes what is above a limit that it is given: where so much waits, it is given none yet."""
    link = await jetstream.link()
    earlier = {
        "name": SUBMIT_STREAM,
        "subjects": [SUBMIT_STORED],
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "metadata": {"writ.epoch": "1", "writ.format": "1"},
    }
    await api(link, f"STREAM.CREATE.{SUBMIT_STREAM}", earlier)
    most = bounds.SUBMITS_WAITING_MAX
    count = most + 1 if many else most // 2
    assert all(await asyncio.gather(*[jetstream.submit(b"%d" % number) for number in range(count)]))
    sending = True
    came: list[bool] = []

    async def go_on() -> None:
        while sending:
            came.append(await jetstream.submit(b"meanwhile", f"q{len(came)}"))

    going_on = asyncio.create_task(go_on())
    intake = await jetstream.intake()
    sending = False
    await going_on
    got = await take(intake, 1, count + sum(came))
    assert [s.seq for s in got] == list(range(1, count + sum(came) + 1))
    config = (await api(link, f"STREAM.INFO.{SUBMIT_STREAM}"))["config"]
    assert config["max_msgs"] == -1
    if many:
        assert config["max_msgs_per_subject"] == -1
        await intake.purge(count)  # and at the next start it is
        await jetstream.intake()
        config = (await api(link, f"STREAM.INFO.{SUBMIT_STREAM}"))["config"]
    assert (config["max_msgs_per_subject"], config["discard_new_per_subject"]) == (most, True)


async def test_an_intake_that_was_left_shut_is_opened(jetstream: JetStreamWire) -> None:
    await jetstream.intake()
    link = await jetstream.link()
    config = (await api(link, f"STREAM.INFO.{SUBMIT_STREAM}"))["config"]
    await api(link, f"STREAM.UPDATE.{SUBMIT_STREAM}", config | {"max_msgs": 1})
    assert [await jetstream.submit(b"1"), await jetstream.submit(b"2")] == [True, False]
    await jetstream.intake()
    assert await jetstream.submit(b"3")


async def test_of_whom_nothing_is_taken_what_was_stored_is_read_and_nothing_more_comes(wire: Wire) -> None:
    intake = await wire.intake()
    for tenant in ("acme", "default", "acme"):
        assert await wire.submit(b"before", tenant=tenant)
    assert [await intake.waiting(tenant) for tenant in ("acme", "default", "zeta")] == [2, 1, 0]
    assert await intake.kept_out() == {}
    await intake.take_of({"default", "zeta"}, {"acme": 1_700_000_000_000_000})
    assert await (await wire.intake()).kept_out() == {"acme": 1_700_000_000_000_000}
    await intake.take_of({"default", "zeta"}, {"acme": 7, "loud": 8})
    assert await intake.kept_out() == {"acme": 7, "loud": 8}
    assert [await wire.submit(b"out", tenant=tenant) for tenant in ("acme", "default", "zeta")] == [
        False,
        True,
        True,
    ]
    reader = intake.read(1, None, "acme")
    assert [s.seq for s in await more(reader, 2)] == [1, 3]
    await intake.purge(1, None, "acme")
    assert await intake.waiting("acme") == 1
    await intake.take_of({"acme", "default"})
    assert await intake.kept_out() == {}
    assert [await wire.submit(b"in", tenant=tenant) for tenant in ("acme", "default", "zeta")] == [
        True,
        True,
        False,
    ]
    assert [s.seq for s in await more(reader, 1)] == [6]
    await intake.take_of(None)
    assert [await wire.submit(b"all", tenant=tenant) for tenant in ("acme", "default", "zeta")] == [True] * 3
    assert [s.seq for s in await more(reader, 1)] == [8]
    await reader.aclose()  # type: ignore[attr-defined]
    await intake.take_of(())
    assert not await wire.submit(b"nobody")


async def test_what_is_stored_while_tenants_are_kept_out_and_taken_in_is_stored_once(
    jetstream: JetStreamWire,
) -> None:
    """A server that is given other subjects takes on both for a moment, and would store a message twice."""
    intake = await jetstream.intake()
    sending = await jetstream.link()
    many = {"default", *[f"tenant-{number}" for number in range(500)]}
    subject = f"writ.shard.{shard_of('default', 'mail')}.submit.default.owner.mail"
    changing = True
    stored: list[bytes] = []

    async def ask() -> None:
        for number in itertools.takewhile(lambda _: changing, itertools.count()):
            if await jetstream.submit(b"asked-%d" % number, "q"):
                stored.append(b"asked-%d" % number)

    async def pour() -> None:
        for number in itertools.takewhile(lambda _: changing, itertools.count()):
            await sending.publish(subject, b"poured-%d" % number)
            if number % 10 == 0:  # no faster than the broker stores them
                await asyncio.sleep(0.01)

    senders = [asyncio.create_task(ask()), asyncio.create_task(pour())]
    for tenants in (many, many - {"tenant-0"}, many, None) * 2:
        await intake.take_of(tenants)
    changing = False
    await asyncio.gather(*senders)
    await sending.flush()
    while not await jetstream.submit(b"last", "q"):
        pass
    got = [s.body for s in await take(intake, 1, await intake.last_seq())]
    assert len(got) == len(set(got))
    assert set(stored) <= set(got)
    assert any(body.startswith(b"poured") for body in got)


async def test_an_intake_that_a_leader_left_is_no_stranger(jetstream: JetStreamWire) -> None:
    """Who was kept out is until the next leader comes, and no alarm is raised for that."""
    intake = await jetstream.intake()
    link = await jetstream.link()
    before = await look_at(link, [SUBMIT_STREAM])
    await intake.take_of({"acme"}, {"default": 7})
    await jetstream.crash()
    again = await jetstream.intake()
    assert await again.kept_out() == {"default": 7}
    assert await look_at(link, [SUBMIT_STREAM]) == before
    assert not await jetstream.submit(b"1")
    config = (await api(link, f"STREAM.INFO.{SUBMIT_STREAM}"))["config"]
    await api(link, f"STREAM.UPDATE.{SUBMIT_STREAM}", config | {"max_msgs": 1})  # in the midst of a change
    await again.take_of(None)
    assert [await jetstream.submit(b"1"), await jetstream.submit(b"2")] == [True, True]
    await api(link, f"STREAM.UPDATE.{SUBMIT_STREAM}", config | {"subjects": ["writ.shard.1.submit.>"]})
    assert await look_at(link, [SUBMIT_STREAM]) != before, "that was nobody of ours"
