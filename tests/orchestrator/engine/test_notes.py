"""Notes of running attempts: fenced by the token, stored once, and gathered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from writ.schemas.steps import StepIntended

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any

BEGUN = {"note": "step_intended", "step": 1, "name": "pay", "params": "ab" * 32}
DONE = {"note": "step_done", "step": 1, "result": 7}


async def running(twin: Twin, job_id: str = "a") -> dict[str, Any]:
    await twin.submit({"task": "t", "id": job_id})
    (lease,) = await twin.acquire(wait_s=1)
    return dict(lease)


def noted(lease: dict[str, Any], *notes: dict[str, Any], first: int = 1) -> dict[str, Any]:
    return {"id": lease["id"], "token": lease["token"], "first": first, "notes": notes}


async def test_notes_sent_again_are_stored_once(twin: Twin) -> None:
    """As after an answer that was lost; what is new behind them is stored."""
    lease = await running(twin)
    for notes in ((BEGUN,), (BEGUN,), (BEGUN, DONE), (BEGUN, DONE)):
        assert "refused" not in await twin.ask("note", worker="w1", reports=[noted(lease, *notes)])
    story = await twin.story("a")
    assert story[-2:] == ["step_intended", "step_done"]
    assert twin.job("a").steps[0].result is not None
    await twin.check()


async def test_notes_of_several_attempts_are_a_record_each(twin: Twin) -> None:
    leases = [await running(twin, job_id) for job_id in ("a", "b")]
    before = len(await twin.records())
    reports = [noted(lease, BEGUN, DONE) for lease in leases]
    await twin.ask("note", worker="w1", reports=reports)
    assert len(await twin.records()) == before + 2
    assert (await twin.story("b"))[-1] == "step_intended+step_done"


async def test_a_step_of_a_stale_attempt_is_refused_before_it_runs(twin: Twin) -> None:
    old = await running(twin)
    await twin.report("release", old)
    (new,) = await twin.acquire(wait_s=1)
    answer = await twin.ask("note", worker="w1", reports=[noted(old, BEGUN), noted(new, BEGUN)])
    assert [(each["index"], each["kind"]) for each in answer["refused"]] == [(0, "stale")]
    assert [event.token for event in await twin.events(StepIntended)] == [new["token"]]  # type: ignore[attr-defined]


async def test_a_later_attempt_is_given_the_recorded_steps(twin: Twin) -> None:
    old = await running(twin)
    await twin.ask("note", worker="w1", reports=[noted(old, BEGUN, DONE)])
    await twin.report("release", old)
    (new,) = await twin.acquire(wait_s=1)
    assert new["steps"] == 1
    answer = await twin.ask("recall", worker="w1", id="a", token=new["token"])
    assert answer["total"] == 1
    assert (answer["steps"][0]["name"], answer["steps"][0]["result"]) == ("pay", 7)
    void = await twin.ask("recall", worker="w1", id="a", token=old["token"])
    assert void["error"]["kind"] == "stale"
