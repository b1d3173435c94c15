"""Releases at the engine: which one a grant gives, what stops one, and that it is decided again alike."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from writ.schemas.events import LeaseGranted
from writ.schemas.processes import (
    PromotionBlocked,
    PromotionProposed,
    ReleaseFrozen,
    ReleasePromoted,
    ReleaseRevoked,
    ReleaseRolledBack,
)
from writ.schemas.schedules import ScheduleSkipped

if TYPE_CHECKING:
    from .conftest import Twin

KEY = f"U{'A' * 55}"
A, B, C = "a" * 64, "b" * 64, "c" * 64
RACES = 1_000


async def told(twin: Twin, verb: str, process: str = "inv", who: str = "owner", **fields: Any) -> Any:
    """A verb about a process, which must not be refused."""
    answer = await twin.ask(verb, "-", who, process=process, **fields)
    assert "error" not in answer, answer
    return answer


async def refused(twin: Twin, verb: str, process: str = "inv", who: str = "owner", **fields: Any) -> str:
    answer = await twin.ask(verb, "-", who, process=process, **fields)
    reason: str = answer["error"]["reason"]
    return reason


async def published(twin: Twin, *digests: str, process: str = "inv") -> None:
    """Releases 1.0.0, 2.0.0, ..."""
    for number, digest in enumerate(digests, 1):
        await told(
            twin,
            "publish_release",
            process,
            version=f"{number}.0.0",
            digest=digest,
            size_bytes=9,
            key=KEY,
        )


async def job(twin: Twin, id: str, process: str, **more: Any) -> None:
    await twin.submit({"task": "send", "id": id, "process": process, **more})
    await twin.settled()


async def granted(twin: Twin, *releases: str, count: int = 10) -> dict[str, str | None]:
    """Which jobs a worker that holds these releases gets, and of which release."""
    leases = await twin.acquire(count, releases=list(releases))
    return {lease["id"]: lease.get("release") for lease in leases}


async def test_a_digest_is_fixed_and_an_alias_is_looked_up_at_the_grant(twin: Twin) -> None:
    await published(twin, A, B)
    await told(twin, "promote_release", release="1.0.0")
    await job(twin, "fixed", "inv@1.0.0")
    await job(twin, "live", "inv@live")
    assert twin.job("fixed").process == f"inv@{A}"
    await told(twin, "promote_release", release="2.0.0")
    assert await granted(twin, A, B) == {"fixed": A, "live": B}
    assert twin.job("live").release == B
    await twin.check()


async def test_a_job_goes_to_a_worker_that_holds_its_release_and_to_no_other(twin: Twin) -> None:
    await published(twin, A, B)
    await told(twin, "promote_release", release=A)
    await job(twin, "one", "inv@live")
    await twin.submit({"task": "send", "id": "plain"})
    await twin.settled()
    assert await granted(twin, B) == {"plain": None}
    assert await granted(twin) == {}
    assert await granted(twin, B, A) == {"one": A}
    await twin.check()


async def test_the_narrowest_scope_counts(twin: Twin) -> None:
    await published(twin, A, B, C)
    await told(twin, "promote_release", release=A)
    await told(twin, "promote_release", release=B, scope="bills/*")
    await told(twin, "promote_release", release=C, scope="bills/eu")
    for queue, digest in (("mail", A), ("bills/us", B), ("bills/eu", C)):
        await twin.submit({"task": "send", "id": "x", "process": "inv@live"}, queue)
        await twin.settled()
        answer = await twin.ask("acquire", queue, worker="w1", releases=[A, B, C])
        assert [lease["release"] for lease in answer["leases"]] == [digest]
    await twin.check()


@pytest.mark.parametrize(("pinned", "after"), [("stay", B), ("move", A)])
async def test_a_rollback_moves_what_has_not_begun_and_by_policy_what_has(
    twin: Twin, pinned: str, after: str
) -> None:
    await published(twin, A, B)
    await told(twin, "promote_release", release=A)
    await told(twin, "promote_release", release=B)
    await job(twin, "begun", "inv@live")
    (lease,) = await twin.acquire(releases=[B])
    step = {"note": "step_intended", "step": 1, "name": "pay", "params": "ab" * 32}
    report = {"id": "begun", "token": lease["token"], "first": 1, "notes": [step]}
    await twin.ask("note", worker="w1", reports=[report])
    assert twin.job("begun").steps
    await job(twin, "fixed", f"inv@{B}")
    await job(twin, "waits", "inv@live")
    await told(twin, "rollback_release", pinned=pinned, reason="wrong totals")
    await twin.report("release", lease)
    assert await granted(twin, A, B) == {"begun": after, "fixed": B, "waits": A}
    assert len(await twin.events(ReleaseRolledBack)) == 1
    await twin.check()


async def test_no_lease_for_what_is_frozen_or_revoked_and_it_goes_on_where_it_may(twin: Twin) -> None:
    await published(twin, A, B)
    await told(twin, "promote_release", release=A)
    await job(twin, "one", "inv@live")
    for fields in ({"release": "1.0.0"}, {}):
        await told(twin, "freeze_release", reason="looked at", **fields)
        assert await granted(twin, A, B) == {}
        waiting = asyncio.create_task(twin.acquire(1, 20.0, releases=[A]))
        await twin.settled()
        await told(twin, "unfreeze_release", **fields)
        (lease,) = await waiting  # at once: it is not left to a time-out
        await twin.report("release", lease)
    await told(twin, "revoke_release", release=A, reason="a leak")
    assert await granted(twin, A, B) == {}
    assert "revoked" in await refused(twin, "promote_release", release=A)
    await told(twin, "promote_release", release=B)
    assert await granted(twin, A, B) == {"one": B}
    assert len(await twin.events(ReleaseFrozen, ReleaseRevoked)) == 3
    await twin.check()


async def test_a_canary_takes_its_part_of_the_jobs_and_the_same_ones_each_time(twin: Twin) -> None:
    await published(twin, A, B)
    await told(twin, "promote_release", release=A)
    await told(twin, "start_canary", release=B, percent=20, keys=["acme"], reason="a look")
    jobs = [{"task": "send", "id": f"j{n}", "process": "inv@live"} for n in range(400)]
    await twin.submit([*jobs, {"task": "send", "id": "k", "process": "inv@live", "fairness_key": "acme"}])
    await twin.settled()
    first = await twin.acquire(500, releases=[A, B])
    got = {lease["id"]: lease["release"] for lease in first}
    assert got["k"] == B
    assert 40 <= sum(release == B for release in got.values()) <= 120
    await twin.report("release", *first)
    assert await granted(twin, A, B, count=500) == got
    await told(twin, "end_canary")
    await job(twin, "late", "inv@live", fairness_key="acme")
    assert await granted(twin, A, B) == {"late": A}
    await twin.check()


async def test_a_promotion_racing_a_freeze_loses_a_thousand_times(twin: Twin) -> None:
    """Must hold: whichever comes first, once both are answered nobody gets a lease of the frozen release."""
    draw = random.Random(11)

    async def race(number: int) -> None:
        name = f"p{number}"
        await published(twin, A, B, process=name)
        await told(twin, "promote_release", name, release=A)
        await job(twin, name, f"{name}@live")
        asked = [
            twin.ask("promote_release", "-", "owner", process=name, release=B),
            twin.ask("freeze_release", "-", "operator", process=name, release=B, reason="stop"),
            twin.ask("acquire", worker="w1", count=1, releases=[B]),
        ]
        draw.shuffle(asked)
        await asyncio.gather(*asked)

    for begin in range(0, RACES, 50):
        await asyncio.gather(*[race(number) for number in range(begin, begin + 50)])
    assert await granted(twin, B, count=500) == {}, "none of those that wait is given it afterwards"
    frozen: dict[str, int] = {}
    promoted, blocked, before = 0, 0, 0
    for record in await twin.records():
        for event in record.events:
            if isinstance(event, ReleaseFrozen):
                frozen[record.key] = record.seq
            elif isinstance(event, ReleasePromoted) and event.digest == B:
                assert record.key not in frozen, "promoted after the freeze"
                promoted += 1
            elif isinstance(event, PromotionBlocked):
                assert record.key in frozen
                blocked += 1
            elif isinstance(event, LeaseGranted) and event.release == B:
                name = record.key.partition("~")[2]
                assert name not in frozen, "a lease after the freeze"
                before += 1
    assert promoted + blocked == RACES == len(frozen)
    assert min(promoted, blocked) > RACES / 10, "both orders came"
    assert before > RACES / 50, "some leases were in time"
    await twin.check()


# --- gates ----------------------------------------------------------------------------------------------


def measured(score: float, *more: tuple[str, float], items: int = 100) -> list[dict[str, Any]]:
    """Scores of five repeats against a baseline of 1; of less there is a drop."""
    whole, dimensions = [[1.0] * 5] * items, [("accuracy", score), *more]
    return [
        {"dimension": {"name": name}, "candidate": [[value] * 5] * items, "baseline": whole}
        for name, value in dimensions
    ]


def evaluated(**other: Any) -> Any:
    """The fields of an evaluation of `B` that went well, or of one that differs."""
    usual = {"release": B, "data": "golden", "data_version": "d" * 64, "measured": measured(1.0)}
    return {**usual, **other}


async def gated(twin: Twin, **spec: Any) -> None:
    answer = await twin.ask("declare_gate", "-", "owner", name="g", gate=spec)
    assert "error" not in answer, answer


async def test_no_data_is_not_success_and_an_evaluation_lets_it_through(twin: Twin) -> None:
    await published(twin, A, B)
    await gated(twin, process="inv", evaluations=["golden"])
    assert "no data is not success" in await refused(twin, "promote_release", release=B)
    told_ = await told(twin, "record_evaluation", **evaluated(measured=measured(1.0, items=2)))
    assert told_["position"] > 0
    assert "inconclusive" in await refused(twin, "promote_release", release=B)
    await told(twin, "record_evaluation", **evaluated(release=A))
    assert "inconclusive" in await refused(twin, "promote_release", release=B), "of another release"
    await told(twin, "record_evaluation", **evaluated())
    answer = await told(twin, "promote_release", release=B)
    assert [check["outcome"] for check in answer["checks"]] == ["pass", "pass"]
    (event,) = await twin.events(ReleasePromoted)
    assert isinstance(event, ReleasePromoted)
    assert event.checks[1].version == 1
    assert f"data golden {'d' * 64}" in event.checks[1].inputs
    await twin.check()


async def test_an_evaluation_of_which_a_part_failed_or_that_is_empty_is_no_pass(twin: Twin) -> None:
    await published(twin, A, B)
    await gated(twin, evaluations=["golden"])
    for scores, outcome in (
        (measured(1.0, ("tone", 0.5)), "fail"),
        (measured(1.0, items=0), "inconclusive"),
    ):
        await told(twin, "record_evaluation", **evaluated(measured=scores))
        assert f"golden: {outcome}" in await refused(twin, "promote_release", release=B)
    twice = measured(1.0, ("accuracy", 1.0))
    assert "scored once" in await refused(twin, "record_evaluation", **evaluated(measured=twice))
    await twin.check()


async def test_a_forbidden_tool_blocks_hard_whatever_the_scores(twin: Twin) -> None:
    await published(twin, A, B)
    await gated(twin, evaluations=["golden"], policies=["forbidden_tools"])
    await told(twin, "record_evaluation", **evaluated())
    await told(twin, "record_policy_check", release=B, check="forbidden_tools", found=["mail.send"])
    assert "found 1" in await refused(twin, "promote_release", release=B, override=True, reason="now")
    await told(twin, "record_policy_check", release=B, check="forbidden_tools")
    await told(twin, "promote_release", release=B)
    await twin.check()


async def test_an_override_takes_a_second_person_and_holds_to_freezes(twin: Twin) -> None:
    await published(twin, A, B)
    await gated(twin, evaluations=["golden"])
    answer = await told(twin, "promote_release", release=B, override=True, reason="the fix is urgent")
    assert answer["proposal"] == 1
    assert twin.engine is not None
    assert twin.engine.state.processes["default.inv"].pointer("live", "*") is None
    assert "another person" in await refused(twin, "approve_promotion", number=1)
    await told(twin, "freeze_release", release=B, reason="wait")
    assert "frozen" in await refused(twin, "approve_promotion", who="second", number=1)
    await told(twin, "unfreeze_release", release=B)
    await told(twin, "approve_promotion", who="second", number=1)
    (event,) = await twin.events(ReleasePromoted)
    assert isinstance(event, ReleasePromoted)
    assert (event.proposed_by, event.overrides) == ("owner", 1)
    assert len(await twin.events(PromotionProposed)) == 1
    await twin.check()


async def test_a_gate_of_a_folder_cannot_be_gone_around_by_a_wider_scope(twin: Twin) -> None:
    await published(twin, A)
    await gated(twin, scope="bills/*", drills=["restore"])
    await told(twin, "promote_release", release=A, scope="mail")
    for scope in ("*", "bills/*", "bills/eu"):
        assert "never run" in await refused(twin, "promote_release", release=A, scope=scope)
    await told(twin, "record_drill", release=A, drill="restore", outcome="pass", reason="took 3 min")
    await told(twin, "promote_release", release=A)
    answer = await twin.ask("remove_gate", "-", "owner", name="g")
    assert "error" not in answer
    await twin.check()


# --- schedules ------------------------------------------------------------------------------------------


async def test_jobs_of_a_schedule_look_their_alias_up_at_the_grant_or_keep_a_digest(twin: Twin) -> None:
    await published(twin, A, B)
    await told(twin, "promote_release", release=A)
    for name, process in (("follows", "inv@live"), ("stays", "inv@1.0.0")):
        spec = {"task": "send", "every_s": 60, "process": process, "overlap": "allow"}
        assert "error" not in await twin.ask("declare_schedule", name=name, spec=spec)
    await asyncio.sleep(61)
    await told(twin, "promote_release", release=B)
    first = await granted(twin, A, B)
    assert {id_.split("-")[0]: release for id_, release in first.items()} == {"follows": B, "stays": A}
    await told(twin, "rollback_release", reason="wrong totals")
    await asyncio.sleep(60)
    assert set((await granted(twin, A, B)).values()) == {A}
    await twin.check()


async def test_a_schedule_waits_out_a_freeze_and_skips_what_is_revoked(twin: Twin) -> None:
    await published(twin, A)
    spec = {"task": "send", "every_s": 60, "process": f"inv@{A}", "overlap": "allow"}
    assert "error" not in await twin.ask("declare_schedule", name="s", spec=spec)
    await told(twin, "freeze_release", release=A, reason="looked at")
    await asyncio.sleep(61)
    assert await granted(twin, A) == {}
    await told(twin, "unfreeze_release", release=A)
    assert len(await granted(twin, A)) == 1
    await told(twin, "revoke_release", release=A, reason="a leak")
    await asyncio.sleep(60)
    (skipped,) = await twin.events(ScheduleSkipped)
    assert isinstance(skipped, ScheduleSkipped)
    assert "revoked: a leak" in skipped.rule
    for process, why in (("inv@9.9.9", "no such release"), ("nix@live", "publish it first")):
        answer = await twin.ask("declare_schedule", name="t", spec=spec | {"process": process})
        assert why in answer["error"]["reason"]
    await twin.check()


# --- what is refused ------------------------------------------------------------------------------------


async def test_a_version_is_given_once_and_what_does_not_exist_is_said(twin: Twin) -> None:
    await published(twin, A)
    again = await twin.ask(
        "publish_release", "-", "owner", process="inv", version="1.0.0", digest=A, size_bytes=9, key=KEY
    )
    assert "error" not in again, "the same once more changes nothing"
    other = await refused(twin, "publish_release", version="1.0.0", digest=B, size_bytes=9, key=KEY)
    assert "the next version" in other
    assert "no release 9.0.0" in await refused(twin, "promote_release", release="9.0.0")
    assert "points at nothing" in await refused(twin, "rollback_release")
    await twin.submit({"task": "send", "id": "x", "process": "inv@9.0.0"})
    await twin.settled()
    assert twin.engine is not None
    assert twin.engine.state.job("default", "mail", "x") is None
    await twin.check()
