"""A tenant's quotas and budget: never passed, told of at 80 and 100 percent, and all of it decided again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from writ.orchestrator.access_desk import Founder
from writ.schemas.events import AttemptFailed, CommandRejected, JobDeadLettered, LeaseGranted
from writ.schemas.principals import Role
from writ.schemas.quotas import BudgetReached, Period, QuotasSet

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any

DAY_S = 86_400
HALF_HOUR_S = 1_800
OWNER, OTHER = "U" + "A" * 55, "U" + "B" * 55


async def allow(twin: Twin, **quotas: Any) -> None:
    answer = await twin.ask("set_quotas", queue="-", who="owner", name="default", quotas=quotas)
    assert "error" not in answer, answer


async def governed(twin: Twin) -> None:
    """Has the twin begin anew with an owner of the host, as a node has."""
    await twin.stop()
    twin.founders = (Founder("default", "owner", OWNER, (Role.OWNER,)),)
    await twin.start()
    for name, role in (("robot", "worker"), ("robot", "operator")):
        await twin.ask("create_principal", queue="-", who="owner", name=name, kind="worker")
        answer = await twin.ask("grant", queue="-", who="owner", name=name, role=role)
        assert "error" not in answer


@pytest.fixture
async def host(twin: Twin) -> Twin:
    """A twin with a price, under which 1,000 tokens of `m` cost a thousand micro-dollars."""
    await governed(twin)
    answer = await twin.ask(
        "set_price", queue="-", who="owner", model="m", input_microusd=1_000_000, output_microusd=0
    )
    assert "error" not in answer
    return twin


async def use(twin: Twin, lease: dict[str, Any], tokens: int, first: int = 1) -> dict[str, Any]:
    note = {"note": "usage_recorded", "model": "m", "input_tokens": tokens}
    report = {"id": lease["id"], "token": lease["token"], "first": first, "notes": [note]}
    return await twin.ask("note", worker="w1", reports=[report])


async def refusals(twin: Twin) -> list[str]:
    found = await twin.events(CommandRejected)
    return [why.reason for event in found for why in event.refused]  # type: ignore[attr-defined]


BUDGET = {"limit_microusd": 10_000, "reserve_microusd": 1_000}


async def test_jobs_beyond_a_quota_are_refused_with_rule_limit_and_value(host: Twin) -> None:
    await allow(host, jobs=3)
    await host.submit([{"task": "send", "id": f"j{n}"} for n in range(5)])
    await host.settled()
    said = "the tenant is at its limit: it has 3 jobs that have not ended; its quota is 3 [quota.jobs]"
    assert await refusals(host) == [said, said]
    (lease, *_) = await host.acquire(3)
    await host.report("complete", lease, output=None)
    await host.submit({"task": "send", "id": "later"})
    await host.settled()
    assert host.job("later").state == "pending"
    # An ended job is opened again within the quota alone.
    answer = await host.ask("rerun", id=lease["id"])
    assert answer["error"]["reason"] == said
    await host.check()


async def test_bytes_of_inputs_are_counted_while_their_jobs_live(host: Twin) -> None:
    await allow(host, input_bytes=100)
    for name in "ab":
        await host.submit({"task": "send", "id": name, "input": "x" * 48})
    await host.submit({"task": "send", "id": "c", "input": 1})
    await host.settled()
    assert [
        "and this one 1; its quota is 100 [quota.input_bytes]" in why for why in await refusals(host)
    ] == [True]
    larger = await host.ask("edit", id="a", input="x" * 49)
    assert "its quota is 100 [quota.input_bytes]" in larger["error"]["reason"]
    assert "error" not in await host.ask("edit", id="a", input="x" * 40)
    assert "error" not in await host.ask("cancel", id="b")
    assert (await host.ask("get_tenant", queue="-", who="owner"))["used"]["input_bytes"] == 42
    await host.check()


async def test_the_rate_of_submits_is_a_bucket_over_all_queues_of_the_tenant(host: Twin) -> None:
    await allow(host, submits_per_s=2, submits_burst=3)
    for queue in ("mail", "post", "mail", "post", "mail"):
        await host.submit({"task": "send"}, queue)
    await host.settled()
    assert len(await refusals(host)) == 2
    assert "its rate of 2 submits a second, with a burst of 3, has 0.000 tokens" in (await refusals(host))[0]
    await asyncio.sleep(1)
    for _ in range(3):
        await host.submit({"task": "send"})
    await host.settled()
    assert len(await refusals(host)) == 3
    await host.check()


async def test_no_more_workers_hold_leases_than_may(host: Twin) -> None:
    await allow(host, workers=2)
    await host.submit([{"task": "send", "id": f"j{n}"} for n in range(6)])
    await host.settled()
    (first,) = await host.acquire(1, worker="w1")
    (second,) = await host.acquire(1, worker="w2")
    waiting = asyncio.create_task(host.acquire(1, 30, worker="w3"))
    await host.settled()
    assert not waiting.done()
    assert len(await host.acquire(1, worker="w2")) == 1, "who holds a lease may have another"
    await host.report("complete", first, worker="w1", output=None)
    assert len(await waiting) == 1, "a seat is free"
    assert second["token"]
    await host.check()


async def test_a_budget_is_reserved_before_the_start_and_settled_by_what_is_used(host: Twin) -> None:
    await allow(host, budget=BUDGET | {"limit_microusd": 2_500})
    await host.submit([{"task": "send", "id": name} for name in "abc"])
    await host.submit({"task": "send", "id": "d", "reserve_microusd": 700})
    await host.settled()
    leases = await host.acquire(10)
    assert [lease["id"] for lease in leases] == ["a", "b"], "the third would pass it"
    granted = await host.events(LeaseGranted)
    assert [event.reserved_microusd for event in granted] == [1_000, 1_000]  # type: ignore[attr-defined]
    await use(host, leases[0], 300)
    await host.report("complete", leases[0], output=None)
    told = await host.ask("get_tenant", queue="-", who="owner")
    assert (told["used"]["spent_microusd"], told["used"]["reserved_microusd"]) == (300, 1_000)
    (third,) = await host.acquire(10)
    assert third["id"] == "c", "in their order: the cheaper one is behind it"
    await host.check()


async def test_80_percent_warn_and_100_stop_until_the_budget_is_raised(host: Twin) -> None:
    await allow(host, budget=BUDGET)
    await host.submit([{"task": "send", "id": f"j{n}"} for n in range(12)])
    await host.settled()
    for _ in range(10):
        (lease,) = await host.acquire()
        await use(host, lease, 1_000)
        await host.report("complete", lease, output=None)
    told = [(event.percent, event.spent_microusd) for event in await host.events(BudgetReached)]  # type: ignore[attr-defined]
    assert told == [(80, 8_000), (100, 10_000)]
    held = asyncio.create_task(host.acquire(1, 60))
    await host.submit({"task": "send", "id": "refused"})
    await host.settled()
    assert not held.done()
    (why,) = await refusals(host)
    assert (
        "of its budget of $0.01 a day $0.01 are spent, and an attempt reserves $0.001 [quota.budget]" in why
    )
    await allow(host, budget=BUDGET | {"limit_microusd": 11_000})
    assert [lease["id"] for lease in await held] == ["j10"]
    await host.check()


@pytest.mark.parametrize("twin", [DAY_S - HALF_HOUR_S], indirect=True)
async def test_what_was_spent_counts_for_its_period_alone(host: Twin) -> None:
    await allow(host, budget=BUDGET | {"limit_microusd": 1_000})
    await host.submit([{"task": "send", "id": name, "job_timeout_s": 9e6} for name in "ab"])
    await host.settled()
    (lease,) = await host.acquire()
    await use(host, lease, 1_000)
    await host.report("complete", lease, output=None)
    held = asyncio.create_task(host.acquire(1, 60))
    await asyncio.sleep(61)
    assert await held == []
    await asyncio.sleep(HALF_HOUR_S - 90)
    held = asyncio.create_task(host.acquire(1, 60))
    assert [lease["id"] for lease in await held] == ["b"], "it waited for midnight"
    assert len(await host.events(BudgetReached)) == 1
    await host.check()


async def test_an_attempt_that_uses_more_than_there_is_ends_as_a_policy_failure(host: Twin) -> None:
    await allow(host, budget=BUDGET | {"limit_microusd": 3_000})
    await host.submit([{"task": "send", "id": name} for name in "ab"])
    await host.settled()
    (one, other) = await host.acquire(2)
    await use(host, one, 1_900)  # more than reserved, and the budget has it
    assert host.job("a").state == "running"
    answer = await use(host, one, 200, first=2)
    assert "refused" not in answer
    assert host.job("a").state == "dead"
    (failed,) = await host.events(AttemptFailed)
    (dead,) = await host.events(JobDeadLettered)
    assert (failed.error.class_, failed.error.type) == ("policy", "BudgetExceeded")  # type: ignore[attr-defined]
    assert "the attempt reserved $0.001 and used $0.0021" in dead.rule  # type: ignore[attr-defined]
    assert (await host.report("complete", one, output=None))["refused"][0]["kind"] == "stale"
    assert not (await use(host, other, 900)).get("refused"), "what it reserved is still its own"
    await host.check()


async def test_a_change_of_leader_forgets_nothing(host: Twin) -> None:
    await allow(host, budget=BUDGET | {"limit_microusd": 1_000}, jobs=2)
    await host.submit([{"task": "send", "id": name} for name in "ab"])
    await host.settled()
    (lease,) = await host.acquire(2)
    await use(host, lease, 1_000)
    await host.report("complete", lease, output=None)
    await host.stop()
    await host.start()
    assert await host.acquire(2) == []
    assert (await host.ask("get_tenant", queue="-", who="owner"))["used"]["spent_microusd"] == 1_000
    await host.check()


async def test_operations_wait_for_room(host: Twin) -> None:
    await host.submit([{"task": "send", "id": f"j{n}"} for n in range(4)])
    await host.settled()
    for lease in await host.acquire(4):
        await host.report("complete", lease, output=None)
    await allow(host, jobs=2)
    await host.ask("plan", verb="rerun", filter={}, reason="again")
    await host.settled()
    leases = await host.acquire(9)
    assert [lease["id"] for lease in leases] == ["j0", "j1"]
    for lease in leases:
        await host.report("complete", lease, output=None)
    assert [lease["id"] for lease in await host.acquire(9)] == ["j2", "j3"]
    await host.check()


async def test_a_schedule_skips_what_the_tenant_may_not_have(host: Twin) -> None:
    await allow(host, jobs=0)
    spec = {"task": "send", "every_s": 60}
    answer = await host.ask("declare_schedule", who="owner", name="s", spec=spec)
    assert "error" not in answer
    await asyncio.sleep(61)
    (skipped,) = [r for r in await host.records() if r.kind == "schedule" and r.cause == "schedule"]
    assert "[quota.jobs]" in repr(skipped.events)
    await host.check()


async def test_only_the_host_makes_tenants_and_sets_quotas(host: Twin) -> None:
    made = await host.ask("create_tenant", queue="-", who="owner", name="acme", key=OTHER)
    assert "error" not in made
    again = await host.ask("create_tenant", queue="-", who="owner", name="acme", key=OTHER)
    assert "error" not in again, "the same once more changes nothing"
    verbs: dict[str, dict[str, Any]] = {
        "create_tenant": {"name": "other", "key": "U" + "C" * 55},
        "set_quotas": {"name": "acme", "quotas": {}},
        "list_tenants": {},
    }
    for verb, fields in verbs.items():
        body = msgspec.json.encode(fields)
        answer = await host.hub.request("acme", "owner", verb, "-", body, "control")
        assert b"[deny.host]" in answer
    # An owner there gives the owner's role, though its own does not reach the host's operations.
    for verb, fields in (
        ("create_principal", {"name": "bob", "key": "U" + "C" * 55}),
        ("grant", {"name": "bob", "role": "owner"}),
    ):
        body = msgspec.json.encode(fields)
        assert b"error" not in await host.hub.request("acme", "owner", verb, "-", body, "control")
    told = (await host.ask("list_tenants", queue="-", who="owner"))["tenants"]
    assert [(each["name"], each["principals"]) for each in told] == [("acme", 2), ("default", 2)]
    await host.check()


async def test_quotas_of_another_version_are_not_overwritten(host: Twin) -> None:
    await allow(host, jobs=3)
    fields = {"name": "default", "quotas": {"jobs": 9}}
    answer = await host.ask("set_quotas", queue="-", who="owner", version=0, **fields)
    assert answer["error"]["field"] == "version"
    assert "error" not in await host.ask("set_quotas", queue="-", who="owner", version=1, **fields)
    assert [event.version for event in await host.events(QuotasSet)] == [1, 2]  # type: ignore[attr-defined]
    await host.check()


def test_periods_begin_at_midnight_of_utc_and_on_the_first() -> None:
    at = 1_767_225_600_000_000 + 45 * DAY_S * 1_000_000 + 5  # 2026-02-15
    assert Period.DAY.begin(at) == at - 5
    assert Period.DAY.end(at) == at - 5 + DAY_S * 1_000_000
    assert Period.MONTH.begin(at) == 1_767_225_600_000_000 + 31 * DAY_S * 1_000_000
    assert Period.MONTH.end(at) == 1_767_225_600_000_000 + 59 * DAY_S * 1_000_000
    assert (Period.NEVER.begin(at), Period.NEVER.end(at)) == (0, None)
