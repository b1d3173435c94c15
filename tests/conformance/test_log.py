"""One behaviour for every log: the in-memory twin is held to what JetStream does on a real nats-server."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from writ.broker.log import PLAIN_MAX, JetStreamLog
from writ.broker.memory import MemoryLog
from writ.broker.ports import (
    Log,
    Message,
    NotStored,
    OutcomeUnknown,
    Stored,
    WrongLastSequence,
)
from writ.schemas import bounds
from writ.schemas.chain import Violation

if TYPE_CHECKING:
    from .conftest import JetStreamWire, Line, Wire

SIZES = (1, 2, PLAIN_MAX, PLAIN_MAX + 1, 50)


def messages(count: int, word: str = "a", kind: str = "job") -> list[Message]:
    return [
        Message(f"writ.log.0.default.{kind}.{word}~{i}", b'{"%s":%d}' % (word.encode(), i))
        for i in range(count)
    ]


async def read(log: Log, start: int = 1, subjects: Sequence[str] = ()) -> list[Stored]:
    return [stored async for part in log.read(start, subjects) for stored in part]


async def take(reader: AsyncIterator[list[Stored]], count: int) -> list[Stored]:
    """The next messages of a reader that follows, until there are so many."""
    got: list[Stored] = []
    while len(got) < count:
        got += await anext(reader)
    return got


def texts(stored: Sequence[Stored | Message]) -> list[bytes]:
    return [message.body for message in stored]


@pytest.mark.parametrize("size", SIZES)
async def test_what_is_appended_is_read_in_order(wire: Wire, size: int) -> None:
    log = await wire.log()
    assert (log.partition, log.epoch) == (0, 1)
    assert await log.last_seq() == 0
    assert await read(log) == []
    first, second = messages(size), messages(size, "b")
    await log.append(first, 0)
    assert await log.last_seq() == size
    await log.append(second, size)
    stored = await read(log)
    assert [s.seq for s in stored] == list(range(1, 2 * size + 1))
    assert [Message(s.subject, s.body) for s in stored] == first + second
    assert all(a.stored_us <= b.stored_us for a, b in pairwise(stored))
    assert stored[0].stored_us > 1_700_000_000_000_000


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("others", [1, 2, 3, 60])
async def test_behind_another_writer_nothing_is_stored(wire: Wire, size: int, others: int) -> None:
    """Also where the other wrote just as many records as would make a later one of ours fit."""
    log, other = await wire.log(), await wire.log()
    await log.append(messages(5), 0)
    theirs = messages(others, "theirs")
    await other.append(theirs, 5)
    with pytest.raises(WrongLastSequence):
        await log.append(messages(size, "ours"), 5)
    assert texts(await read(log, 6)) == texts(theirs)
    await log.append(messages(size, "ours"), 5 + others)
    assert await log.last_seq() == 5 + others + size


@pytest.mark.parametrize("size", SIZES)
async def test_ahead_of_the_log_nothing_is_stored(wire: Wire, size: int) -> None:
    log = await wire.log()
    await log.append(messages(2), 0)
    with pytest.raises(WrongLastSequence):
        await log.append(messages(size, "b"), 3)
    assert len(await read(log)) == 2
    await log.append(messages(size, "b"), 2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", [0, -1])
async def test_a_record_that_is_too_large_stores_nothing(wire: Wire, size: int, place: int) -> None:
    log = await wire.log()
    await log.append(messages(1), 0)
    batch = messages(size, "b")
    for body in (b"x" * (bounds.RECORD_MAX_BYTES + 1), b"x" * (bounds.MESSAGE_MAX_BYTES + 1)):
        batch[place] = Message(batch[place].subject, body)
        with pytest.raises(NotStored):
            await log.append(batch, 1)
    assert len(await read(log)) == 1
    batch[place] = Message(batch[place].subject, b"x" * (bounds.RECORD_MAX_BYTES - 1_024))
    await log.append(batch, 1)
    assert texts(await read(log, 2)) == texts(batch)


async def test_a_batch_of_a_thousand_is_stored_and_one_more_is_not(wire: Wire) -> None:
    log = await wire.log()
    whole = messages(bounds.BATCH_MAX_RECORDS)
    with pytest.raises(NotStored):
        await log.append([*whole, *messages(1, "b")], 0)
    assert await log.last_seq() == 0
    await log.append(whole, 0)
    assert texts(await read(log)) == texts(whole)


async def test_reading_starts_where_asked(wire: Wire) -> None:
    log = await wire.log()
    await log.append(messages(20), 0)
    assert [s.seq for s in await read(log, 15)] == list(range(15, 21))
    assert [s.seq for s in await read(log, 20)] == [20]
    assert await read(log, 21) == []
    assert len(await read(log, 0)) == 20


@pytest.mark.parametrize(
    ("subjects", "expected"),
    [
        (["writ.log.0.default.job.a~1"], [b'{"a":1}']),
        (["writ.log.0.*.worker.*"], [b'{"w":0}', b'{"w":1}']),
        (["writ.log.0.default.job.a~0", "writ.log.0.*.worker.w~1"], [b'{"a":0}', b'{"w":1}']),
        (["writ.log.0.default.>"], [b'{"a":0}', b'{"a":1}', b'{"a":2}', b'{"w":0}', b'{"w":1}']),
        (["writ.log.0.other.>"], []),
    ],
)
async def test_subjects_narrow_what_is_read(wire: Wire, subjects: list[str], expected: list[bytes]) -> None:
    log = await wire.log()
    await log.append(messages(3) + messages(2, "w", "worker"), 0)
    assert texts(await read(log, 1, subjects)) == expected
    assert texts(await read(log, 2, subjects)) == [b for b in expected if b != b'{"a":0}']


async def test_reading_ends_at_the_last_there_was(wire: Wire) -> None:
    log = await wire.log()
    await log.append(messages(100), 0)
    reader = log.read(1)
    got = list(await anext(reader))
    await log.append(messages(100, "b"), 100)
    async for part in reader:
        got += part
    assert texts(got) == texts(messages(100))


async def test_a_reader_follows_and_several_do_not_disturb_each_other(wire: Wire) -> None:
    log = await wire.log()
    await log.append(messages(10), 0)
    readers = [log.read(start, follow=True) for start in (1, 5, 11)]
    narrow = log.read(1, ["writ.log.0.*.worker.*"], follow=True)
    late = asyncio.create_task(take(narrow, 2))
    wanted = [asyncio.create_task(take(r, n)) for r, n in zip(readers, (15, 11, 5), strict=True)]
    await log.append(messages(1, "b"), 10)
    await log.append(messages(4, "c"), 11)
    every = messages(10) + messages(1, "b") + messages(4, "c")
    async with asyncio.timeout(20):
        for start, task in zip((1, 5, 11), wanted, strict=True):
            got = await task
            assert [s.seq for s in got] == list(range(start, 16))
            assert texts(got) == texts(every[start - 1 :])
        await log.append(messages(2, "w", "worker"), 15)
        assert [s.seq for s in await late] == [16, 17]
    for reader in (*readers, narrow):
        await reader.aclose()  # type: ignore[attr-defined]


# --- JetStream alone: what a broker in another process, on a network, adds ------------------------------


async def test_a_broken_subject_is_not_stored(jetstream: JetStreamWire) -> None:
    log = await jetstream.log()
    for size in SIZES:
        batch = messages(size)
        batch[-1] = Message("writ.log.0.default.worker.w\n", b"{}")
        with pytest.raises(NotStored):
            await log.append(batch, 0)
    assert await log.last_seq() == 0
    await log.append(messages(1), 0)


async def test_readers_leave_no_consumer_behind(jetstream: JetStreamWire) -> None:
    log = await jetstream.log()
    await log.append(messages(10), 0)
    assert len(await read(log)) == 10
    reader = log.read(1, follow=True)
    await anext(reader)
    context = await jetstream.context()
    assert len(await context.consumers_info("WRIT_LOG_0")) == 1
    await reader.aclose()  # type: ignore[attr-defined]
    assert await context.consumers_info("WRIT_LOG_0") == []


async def over(line: Line, jetstream: JetStreamWire, monkeypatch: pytest.MonkeyPatch) -> JetStreamLog:
    """A log at the end of a line that may lose answers, with little patience."""
    log = await JetStreamLog.open(await jetstream.link(await line.open()))
    monkeypatch.setattr("writ.broker.log.REQUEST_TIMEOUT_S", 0.5)
    return log


@pytest.mark.parametrize("size", SIZES)
async def test_an_unanswered_append_may_be_stored(
    jetstream: JetStreamWire, line: Line, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    log = await over(line, jetstream, monkeypatch)
    line.mute = True
    with pytest.raises(OutcomeUnknown):
        await log.append(messages(size), 0)
    line.mute = False
    line.cut()
    # Plain records go one after the other: only the first was on its way.
    whole = messages(1 if size <= PLAIN_MAX else size)
    assert texts(await read(await jetstream.log())) == texts(whole)
    monkeypatch.undo()
    assert texts(await read(log)) == texts(whole)


@pytest.mark.parametrize("size", SIZES)
async def test_an_unanswered_append_may_be_lost(
    jetstream: JetStreamWire, line: Line, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    log = await over(line, jetstream, monkeypatch)
    await log.append(messages(1), 0)
    line.deaf = True
    with pytest.raises(OutcomeUnknown):
        await log.append(messages(size, "b"), 1)
    line.deaf = False
    line.cut()
    assert texts(await read(await jetstream.log())) == texts(messages(1))
    monkeypatch.undo()
    assert texts(await read(log)) == texts(messages(1))
    await log.append(messages(size, "b"), 1)
    assert texts(await read(log, 2)) == texts(messages(size, "b"))


async def test_a_killed_broker_keeps_what_it_acknowledged_and_no_half_batch(
    jetstream: JetStreamWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcome of the append at hand is unknown, and reading tells what it was.

    Each writer has a connection of its own, which ends before the next server begins: what waits to be sent
    on one that comes back would be stored after all, and the writer go on as if nothing had been.
    """
    monkeypatch.setattr("writ.broker.log.REQUEST_TIMEOUT_S", 1)
    known: list[bytes] = []
    for number in range(8):
        size = (1, 3, 4, 40, 200, 2, 700, 5)[number]
        link = await jetstream.link()
        log = await JetStreamLog.open(link)
        sent: list[Message] = []

        async def write(
            log: JetStreamLog, begun: asyncio.Event, word: str, size: int = size, sent: list[Message] = sent
        ) -> None:
            for count in range(1_000_000):
                sent[:] = messages(size, f"{word}{count}")
                await log.append(sent, len(known))
                known.extend(texts(sent))
                begun.set()

        begun = asyncio.Event()
        writing = asyncio.create_task(write(log, begun, f"r{number}x"))
        waiting = asyncio.create_task(begun.wait())
        # On a busy machine no append may be answered in time: then none is known of this round.
        await asyncio.wait({writing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        await jetstream.broker.kill()
        with pytest.raises(OutcomeUnknown):
            await writing
        await link.close()
        await jetstream.start_again()
        found = texts(await read(await jetstream.log()))
        assert found[: len(known)] == known, "something acknowledged is gone"
        more = found[len(known) :]
        assert more == texts(sent)[: len(more)]
        if size > PLAIN_MAX:
            assert len(more) in (0, size), "a batch was stored in part"
        known[:] = found


async def test_a_reader_that_follows_outlives_the_broker_without_gap_or_double(
    jetstream: JetStreamWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("writ.broker.reader._HEARTBEAT_S", 0.2)
    monkeypatch.setattr("writ.broker.reader._SILENT_S", 0.6)
    log = await jetstream.log()
    reader = (await jetstream.log()).read(1, follow=True)
    narrow = (await jetstream.log()).read(1, ["writ.log.0.*.worker.*"], follow=True)
    got: list[Stored] = []
    few: list[Stored] = []
    at = 0
    async with asyncio.timeout(60):
        for number in range(3):
            batch = messages(30, f"a{number}") + messages(2, f"w{number}", "worker")
            writer = await jetstream.log() if number else log
            await writer.append(batch, at)
            at += len(batch)
            if number != 1:  # the second time it dies before the readers have seen anything new
                got += await take(reader, at - len(got))
                few += await take(narrow, 2 * (number + 1) - len(few))
            if number < 2:
                await jetstream.crash()
    assert [s.seq for s in got] == list(range(1, at + 1))
    assert [s.seq for s in few] == [31, 32, 63, 64, 95, 96]
    assert texts(got) == texts(await read(await jetstream.log()))
    for each in (reader, narrow):
        await each.aclose()  # type: ignore[attr-defined]


async def test_a_consumer_that_vanishes_is_made_again(
    jetstream: JetStreamWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("writ.broker.reader._SILENT_S", 0.5)
    log = await jetstream.log()
    await log.append(messages(5), 0)
    reader = log.read(1, follow=True)
    got = await take(reader, 5)
    context = await jetstream.context()
    (consumer,) = await context.consumers_info("WRIT_LOG_0")
    await context.delete_consumer("WRIT_LOG_0", consumer.name)
    await log.append(messages(5, "b"), 5)
    got += await take(reader, 5)
    assert [s.seq for s in got] == list(range(1, 11))
    await reader.aclose()  # type: ignore[attr-defined]


async def test_nonsense_in_a_reader_s_inbox_costs_it_nothing(jetstream: JetStreamWire) -> None:
    log = await jetstream.log()
    await log.append(messages(5), 0)
    reader = log.read(1, follow=True)
    got = await take(reader, 5)
    context = await jetstream.context()
    (consumer,) = await context.consumers_info("WRIT_LOG_0")
    link = await jetstream.link()
    inbox = consumer.config.deliver_subject
    assert inbox is not None
    await link.publish(inbox, b"", headers={"Nats-Last-Consumer": "nonsense"})
    await link.publish(inbox, b"nonsense")
    await link.flush()
    await log.append(messages(5, "b"), 5)
    got += await take(reader, 5)
    assert [s.seq for s in got] == list(range(1, 11))
    await reader.aclose()  # type: ignore[attr-defined]


LARGE = b"x" * (100 * 1024)
"""Of so large ones flow control keeps most at the broker."""


async def large(log: JetStreamLog, first: int, last: int) -> None:
    """Appends large messages until the log ends with `last`."""
    for seq in range(first, last + 1, 60):
        some = range(seq, min(seq + 60, last + 1))
        await log.append([Message(f"writ.log.0.default.job.q~{each}", LARGE) for each in some], seq - 1)


async def test_a_reader_that_dawdles_is_not_sent_the_whole_log(jetstream: JetStreamWire) -> None:
    """Flow control holds the broker back: what waits in memory for a slow reader is bounded."""
    total = 900
    await large(await jetstream.log(), 1, total)
    link = await jetstream.link()
    reader = JetStreamLog(link, 0, 1).read(1, follow=True)
    got = len(await anext(reader))
    context = await jetstream.context()
    delivered = -1
    while True:
        (consumer,) = await context.consumers_info("WRIT_LOG_0")
        await link.flush()  # whatever the broker had sent until now has arrived
        now = consumer.delivered.consumer_seq if consumer.delivered else 0
        if now == delivered:
            break
        delivered = now
        await asyncio.sleep(0.3)
    assert delivered < total * 3 // 4
    while got < total:
        got += len(await anext(reader))
    assert got == total
    await reader.aclose()  # type: ignore[attr-defined]


async def test_a_reading_goes_on_without_what_a_broker_lost_that_was_started_again(
    jetstream: JetStreamWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What went with the broker was acknowledged to nobody: the files are not damaged."""
    monkeypatch.setattr("writ.broker.reader._SILENT_S", 0.5)
    await large(await jetstream.log(), 1, 840)
    kept = jetstream.broker.directory.with_name("kept")
    await jetstream.broker.stop()
    shutil.copytree(jetstream.broker.directory, kept)
    await jetstream.start_again()
    await large(await jetstream.log(), 841, 900)

    link = await jetstream.link()
    reader = JetStreamLog(link, 0, 1).read(1)
    got = len(await anext(reader))
    await jetstream.broker.kill()
    shutil.rmtree(jetstream.broker.directory)
    shutil.copytree(kept, jetstream.broker.directory)
    await jetstream.start_again()
    async with asyncio.timeout(30):
        while not link.is_connected:  # noqa: ASYNC110 - the client tells nobody
            await asyncio.sleep(0.05)
        async for more in reader:
            got += len(more)
    assert got == 840


@pytest.mark.parametrize("subjects", [(), ("writ.log.0.*.job.*",)])
async def test_a_reading_ends_though_all_that_it_waits_for_is_let_go(
    jetstream: JetStreamWire, monkeypatch: pytest.MonkeyPatch, subjects: Sequence[str]
) -> None:
    monkeypatch.setattr("writ.broker.reader._HEARTBEAT_S", 0.2)
    log = await jetstream.log()
    await large(log, 1, 900)
    reader = JetStreamLog(await jetstream.link(), 0, 1).read(1, subjects)
    got = len(await anext(reader))
    await log.trim(900)
    async with asyncio.timeout(30):
        async for more in reader:
            got += len(more)
    assert got < 900


async def test_what_is_damaged_is_not_left_out_in_silence(
    jetstream: JetStreamWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("writ.broker.reader._HEARTBEAT_S", 0.2)
    await large(await jetstream.log(), 1, 240)
    await jetstream.broker.stop()
    block = min(jetstream.broker.directory.rglob("WRIT_LOG_0/msgs/*.blk"))
    content = block.read_bytes()
    at = content.index(b"q~20")
    block.write_bytes(content[: at + 1000] + b"y" + content[at + 1001 :])
    await jetstream.start_again()
    log = await jetstream.log()
    async with asyncio.timeout(30):
        assert len(await read(log, 1, ["writ.log.0.default.job.q~19"])) == 1
        with pytest.raises(OutcomeUnknown, match="has 1 more from 1 on"):
            await read(log, 1, ["writ.log.0.default.job.q~20"])
        with pytest.raises(Violation) as damage:
            await read(log, 1)
    assert damage.value.seq == 20


async def test_the_beginning_can_be_let_go(wire: Wire) -> None:
    """What is left keeps its sequences, a reader from before begins with it, and the log goes on after it."""
    log = await wire.log()
    assert isinstance(log, MemoryLog | JetStreamLog)
    assert await log.first_seq() == 1
    await log.append(messages(10), 0)
    assert await log.first_seq() == 1
    await log.trim(4)
    assert (await log.first_seq(), await log.last_seq()) == (5, 10)
    assert [s.seq for s in await read(log)] == [5, 6, 7, 8, 9, 10]
    await log.trim(4)
    assert await log.first_seq() == 5
    await log.trim(10)
    assert (await log.first_seq(), await log.last_seq()) == (11, 10)
    assert await read(log) == []
    await log.append(messages(2, "b"), 10)
    assert [s.seq for s in await read(log)] == [11, 12]
