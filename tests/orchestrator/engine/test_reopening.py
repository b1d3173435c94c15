"""Redrive and rerun whose message comes twice, or too late: the shipped engine in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from writ.schemas.lifecycle import State

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any


async def died(twin: Twin) -> int:
    """Job `a` runs and dies; the sequence of the record that ended it."""
    (lease,) = await twin.acquire()
    answer = await twin.report("fail", lease, **{"class": "policy", "type": "Bad", "text": ""})
    assert "refused" not in answer
    return twin.job("a").ended_by


async def dead(twin: Twin) -> int:
    await twin.submit({"task": "send", "id": "a"})
    await twin.settled()
    return await died(twin)


async def refused(twin: Twin, verb: str, **fields: Any) -> tuple[str, str, str]:
    """Kind, field and reason of a refusal, which leaves the job as it was."""
    before = twin.job("a")
    error = (await twin.ask(verb, id="a", **fields))["error"]
    assert twin.job("a") == before
    return error["kind"], error["field"], error["reason"]


@pytest.mark.parametrize("verb", ["redrive", "rerun"])
async def test_a_doubled_message_opens_one_round(twin: Twin, verb: str) -> None:
    end = await dead(twin)
    command: dict[str, Any] = {"id": "a", "reason": "mended", "answers": end}
    assert "error" not in await twin.ask(verb, **command)
    stored = len(await twin.records())
    assert "error" not in await twin.ask(verb, **command), "while the round it opened is live"
    later = await died(twin)
    assert later > end
    assert "error" not in await twin.ask(verb, **command), "when that round has ended as well"
    await twin.crash()
    await twin.start()
    assert "error" not in await twin.ask(verb, **command), (
        "and under another leader, who knows it from the log"
    )
    told = [r.events for r in (await twin.records())[stored:] if r.key == "mail~a"]
    assert len(told) == 2, "the lease and its end alone"
    assert (twin.job("a").round, twin.job("a").state) == (2, State.DEAD)
    command["answers"] = later
    assert "error" not in await twin.ask(verb, **command), "the next decision is one"
    assert twin.job("a").round == 3
    await twin.check()


async def test_another_decision_about_an_answered_end_is_refused_with_both_sequences(twin: Twin) -> None:
    end = await dead(twin)
    await twin.ask("redrive", who="ann", id="a", reason="mended", answers=end)
    opened = twin.job("a").reopened
    assert opened is not None
    said = f"answers record {end}, which record {opened.seq} has answered: job_redriven by ann, mended"
    for verb, who, reason in (
        ("redrive", "bob", "mended"),
        ("redrive", "ann", "mended again"),
        ("rerun", "ann", "mended"),
    ):
        kind, field, words = await refused(twin, verb, who=who, reason=reason, answers=end)
        assert (kind, field) == ("conflict", "answers")
        assert said in words


async def test_an_end_that_is_not_the_newest_is_refused_with_both_sequences(twin: Twin) -> None:
    first = await dead(twin)
    await twin.ask("redrive", id="a", answers=first)
    second = await died(twin)
    await twin.ask("redrive", id="a", answers=second)
    third = await died(twin)
    _, _, words = await refused(twin, "redrive", answers=first)
    assert f"answers record {first}, but the newest end of the job is record {third}" in words
    await twin.ask("redrive", id="a", answers=third)
    _, _, words = await refused(twin, "redrive", answers=second)
    assert (
        f"answers record {second}, but the job is pending in round 4; its newest end is record {third}"
        in words
    )


async def test_without_answers_every_message_is_a_decision(twin: Twin) -> None:
    end = await dead(twin)
    await twin.ask("redrive", id="a")
    assert (await refused(twin, "redrive"))[0] == "conflict"
    await died(twin)
    assert "error" not in await twin.ask("redrive", id="a")
    assert twin.job("a").round == 3
    assert (await twin.ask("redrive", id="b", answers=end))["error"]["kind"] == "not_found"


async def test_a_step_that_was_not_recorded_is_refused_by_name(twin: Twin) -> None:
    await dead(twin)
    kind, field, words = await refused(twin, "rerun", from_step="extract")
    assert (kind, field) == ("not_found", "from_step")
    assert words == "the job has no step 'extract' to run from; its recorded steps: none"
    await twin.ask("rerun", id="a")
    assert (await refused(twin, "rerun", from_step="extract"))[:2] == ("conflict", "id"), "it has not ended"
