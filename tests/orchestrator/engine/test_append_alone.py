"""A restore appends to a log that nobody else writes, also while a cluster has no leader for its stream."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.orchestrator.engine.conftest import ScriptedLog, full, unknown
from writ.broker.memory import MemoryLog
from writ.broker.ports import Message, NotStored, OutcomeUnknown, WrongLastSequence
from writ.orchestrator.restoring import append_alone

ROW = [Message(f"writ.log.0.default.job.q~{n}", b"%d" % n) for n in range(3)]


async def stored(log: ScriptedLog) -> list[bytes]:
    return [message.body async for some in log.read() for message in some]


@pytest.mark.parametrize("part", [0, 1, None], ids=["nothing", "a part", "all"])
async def test_what_was_not_answered_is_stored_once(part: int | None) -> None:
    log = ScriptedLog(MemoryLog())
    await append_alone(log, ROW[:1], 0)
    log.script += [unknown(part), unknown(0)]
    await append_alone(log, ROW[1:], 1)
    assert await stored(log) == [b"0", b"1", b"2"]


async def test_what_comes_late_is_stored_once() -> None:
    log = ScriptedLog(MemoryLog())

    async def late(inner: MemoryLog, messages: Sequence[Message], after: int, _whole: bool) -> None:
        await inner.append(messages, after)  # of the try before this one, after the look at the log's end
        raise WrongLastSequence("the log ends elsewhere")

    log.script += [unknown(0), late]
    await append_alone(log, ROW, 0)
    assert await stored(log) == [b"0", b"1", b"2"]


async def test_who_finds_another_writer_or_no_room_ends() -> None:
    log = ScriptedLog(MemoryLog())
    await log.append(ROW[:2], 0)
    with pytest.raises(WrongLastSequence):
        await append_alone(log, ROW, 0)
    log.script += full()
    with pytest.raises(NotStored):
        await append_alone(log, ROW[2:], 2)


async def test_a_broker_that_stays_silent_is_given_up() -> None:
    log = ScriptedLog(MemoryLog())
    log.script += [unknown(0)] * 1_000
    with pytest.raises(OutcomeUnknown):
        await append_alone(log, ROW, 0)
    assert log.script, "it has an end"
