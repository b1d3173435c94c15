"""A submit whose id is that of a job: the same one once more, or what is another job and refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from writ.schemas import bounds
from writ.schemas.events import CommandRejected
from writ.schemas.rejections import Rejection, RejectionKind

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any

ALIKE = b'{"id": "a", "task": "t", "input": {"b": 2,   "a": 1}}'
"""What says the same as the first one, in other bytes."""


async def refused(twin: Twin) -> list[Rejection]:
    found: list[Rejection] = []
    for event in await twin.events(CommandRejected):
        assert isinstance(event, CommandRejected)
        found += event.refused
    return found


@pytest.mark.parametrize("erasable", [False, True], ids=["plain", "sealed"])
async def test_the_same_is_the_same_job_and_another_input_is_refused(twin: Twin, erasable: bool) -> None:
    if erasable:
        await twin.ask("declare", policy={"erasable": True})
    job: dict[str, Any] = {"id": "a", "task": "t", "input": {"a": 1, "b": 2}}
    await twin.submit(job)
    await twin.submit(job)
    await twin.submit(ALIKE)
    await twin.settled()
    assert await refused(twin) == []
    for another in ({"input": {"a": 1, "b": 3}}, {"input": None}, {"task": "u"}):
        await twin.submit(job | another)
    await twin.submit([{"id": "b", "task": "t"}, job, job | {"input": 7}])
    await twin.settled()
    told = await refused(twin)
    assert [(each.kind, each.field) for each in told] == [(RejectionKind.CONFLICT, "id")] * 4
    assert told[-1].index == 2
    assert twin.job("b")
    assert await twin.story("a") == ["job_submitted"]
    await twin.check()


async def test_of_an_erased_input_nobody_can_tell_whether_it_was_another(twin: Twin) -> None:
    await twin.ask("declare", policy={"erasable": True})
    await twin.submit({"id": "a", "task": "t", "input": 1})
    await twin.settled()
    await twin.report("complete", *await twin.acquire(1), output=2)
    assert "error" not in await twin.ask("erase", id="a", reason="asked for")
    await twin.submit({"id": "a", "task": "t", "input": 2})
    await twin.settled()
    assert await refused(twin) == []


async def test_an_ended_job_is_known_by_its_input_too(twin: Twin) -> None:
    await twin.submit({"id": "a", "task": "t", "input": 1})
    await twin.settled()
    await twin.report("complete", *await twin.acquire(1), output=2)
    await twin.crash()
    await twin.start()
    await twin.submit({"id": "a", "task": "t", "input": 1})
    await twin.submit({"id": "a", "task": "t", "input": 2})
    await twin.settled()
    (one,) = await refused(twin)
    assert one.kind is RejectionKind.CONFLICT


async def test_a_job_that_was_edited_is_known_by_what_was_submitted(twin: Twin) -> None:
    await twin.submit({"id": "a", "task": "t", "input": 1})
    await twin.settled()
    assert "error" not in await twin.ask("edit", id="a", input=2, reason="mistyped")
    assert "error" not in await twin.ask("edit", id="a", input=3, reason="mistyped again")
    await twin.submit({"id": "a", "task": "t", "input": 1})
    await twin.settled()
    assert await refused(twin) == []
    await twin.submit({"id": "a", "task": "t", "input": 3})
    await twin.settled()
    assert len(await refused(twin)) == 1
    await twin.check()


async def test_what_a_cipher_of_the_submitter_has_made_is_not_compared(twin: Twin) -> None:
    for data in ("eA==", "eQ=="):
        await twin.submit({"id": "a", "task": "t", "input": {"writ.codec": "aes", "data": data}})
    await twin.settled()
    assert await refused(twin) == []


async def test_a_message_too_large_for_any_round_holds_up_nobody(twin: Twin) -> None:
    """The broker's own limit is below that, unless somebody raises it."""
    huge = msgspec.json.encode({"worker": "w", "name": "x" * bounds.BATCH_MAX_BYTES})
    answer = await twin.raw("acquire", huge)
    assert answer.error is not None
    assert answer.error.kind is RejectionKind.TOO_LARGE
    await twin.submit(b'[{"task":"%b"}]' % (b"x" * bounds.BATCH_MAX_BYTES))
    await twin.submit({"id": "behind", "task": "t"})
    await twin.settled()
    assert [each.kind for each in await refused(twin)] == [RejectionKind.TOO_LARGE] * 2
    assert twin.job("behind")
    await twin.check()
