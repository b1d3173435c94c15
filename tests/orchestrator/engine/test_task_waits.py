"""What a task that waits is told: that it was approved, how its children stand, what was said before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any


async def running(twin: Twin, job_id: str = "a", **more: Any) -> dict[str, Any]:
    await twin.submit({"task": "t", "id": job_id, **more})
    (lease,) = await twin.acquire(wait_s=1)
    return dict(lease)


def held(lease: dict[str, Any]) -> dict[str, Any]:
    return {"worker": "w1", "id": lease["id"], "token": lease["token"]}


async def seen(twin: Twin, lease: dict[str, Any], *children: str) -> list[dict[str, Any]]:
    answer = await twin.ask("recall", **held(lease), children=list(children))
    found: list[dict[str, Any]] = answer["children"]
    return found


@pytest.mark.parametrize("data", [{}, {"data": {"up_to": 5}}])
async def test_a_task_that_asked_is_given_the_yes_also_one_without_data(
    twin: Twin, data: dict[str, Any]
) -> None:
    lease = await running(twin)
    await twin.ask("suspend", **held(lease), reason="approval", asks="pay 7?")
    assert twin.job("a").wait is not None
    assert "error" not in await twin.ask("approve", id="a", reason="fine", **data)
    (again,) = await twin.acquire(wait_s=1)
    ((came),) = again["signals"]
    assert (came["name"], came["data"]) == ("approval", data.get("data"))
    await twin.check()


async def test_what_was_said_of_progress_reaches_the_next_attempt(twin: Twin) -> None:
    lease = await running(twin)
    assert "progress" not in lease
    await twin.ask("progress", **held(lease), progress={"details": 7})
    await twin.report("release", lease)
    (again,) = await twin.acquire(wait_s=1)
    assert again["progress"] == {"details": 7}
    await twin.check()


async def test_a_worker_is_told_how_the_children_of_its_job_stand_and_of_no_others(twin: Twin) -> None:
    parent = await running(twin, "parent")
    done = await running(twin, "done", parent="mail~parent")
    await twin.report("complete", done, output={"x": 1})
    dead = await running(twin, "dead", parent="mail~parent", retry={"max_attempts": 1})
    await twin.report("fail", dead, **{"class": "application", "type": "Broken", "text": "no luck"})
    await running(twin, "busy", parent="mail~parent")
    await running(twin, "foreign")
    keys = [f"mail~{name}" for name in ("done", "dead", "busy", "foreign", "nobody")]
    told = await seen(twin, parent, *keys)
    assert [each["key"] for each in told] == keys
    assert [each.get("state") for each in told] == ["completed", "dead", "running", None, None]
    assert told[0]["output"] == {"x": 1}
    assert "Broken: no luck" in told[1]["why"]
    stale = await twin.ask("recall", worker="w1", id="parent", token=1, children=keys)
    assert stale["error"]["kind"] == "stale"


async def test_outputs_without_room_in_an_answer_are_said_to_be_left_out(twin: Twin) -> None:
    parent = await running(twin, "parent")
    names = [f"c{number}" for number in range(4)]
    for name in names:
        child = await running(twin, name, parent="mail~parent")
        await twin.report("complete", child, output="x" * 250_000)
    told = await seen(twin, parent, *[f"mail~{name}" for name in names])
    assert [each.get("cut", False) for each in told] == [False, False, True, True]
    (alone,) = await seen(twin, parent, "mail~c3")
    assert alone["output"] == "x" * 250_000
