"""Who may do what, at the orchestrator: denied by default, nobody gives more than they hold, two persons."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from writ.orchestrator.access_desk import Founder
from writ.schemas.events import CommandRejected, JobSubmitted, LeaseGranted, RejectionsFolded
from writ.schemas.principals import AccessDenied, PrincipalRevoked, Role, RoleGranted

if TYPE_CHECKING:
    from .conftest import Tools, Twin
else:
    Tools = Twin = Any

KEYS = ["U" + letter * 55 for letter in "ABCDEFG"]


@pytest.fixture
async def governed(twin: Twin) -> Twin:
    """A twin whose tenant has an owner, and nobody else."""
    await twin.stop()
    twin.founders = (Founder("default", "owner", KEYS[0], (Role.OWNER,)),)
    await twin.start()
    return twin


async def do(twin: Twin, who: str, verb: str, **fields: Any) -> dict[str, Any]:
    """What is asked about principals is asked of the queue `-`; its answer."""
    return await twin.ask(verb, queue="-", who=who, **fields)


async def make(twin: Twin, name: str, *roles: tuple[str, str], kind: str = "person") -> None:
    """A principal with roles in scopes, by the owner."""
    assert "error" not in await do(twin, "owner", "create_principal", name=name, kind=kind)
    for role, scope in roles:
        assert "error" not in await do(twin, "owner", "grant", name=name, role=role, scope=scope)


def why(answer: dict[str, Any]) -> str:
    """The rule of a denial, from the end of its reason."""
    assert answer["error"]["kind"] == "denied", answer
    return str(answer["error"]["reason"]).rpartition("[")[2].rstrip("]")


async def test_nobody_may_do_anything_before_it_is_granted(governed: Twin) -> None:
    twin = governed
    await twin.submit({"task": "send", "id": "a"})
    await twin.settled()
    assert why(await twin.ask("cancel", who="mallory", id="a")) == "deny.unknown"
    await make(twin, "bob")
    assert why(await twin.ask("cancel", who="bob", id="a")) == "deny.default"
    assert "error" not in await do(twin, "owner", "grant", name="bob", role="operator", scope="post")
    denied = await twin.ask("cancel", who="bob", id="a")
    assert why(denied) == "deny.scope"
    assert denied["error"]["reason"].startswith("bob may not cancel on mail: operator.jobs allows it in post")
    assert "error" not in await do(twin, "owner", "grant", name="bob", role="operator", scope="ma*")
    assert "error" not in await twin.ask("cancel", who="bob", id="a")
    (first, second, third) = await twin.events(AccessDenied)
    assert isinstance(first, AccessDenied)
    assert (first.operation, first.resource, first.rule) == ("cancel", "mail", "deny.unknown")
    assert [second.rule, third.rule] == ["deny.default", "deny.scope"]  # type: ignore[attr-defined]
    await twin.check()


async def test_what_is_malformed_is_denied_before_it_is_explained(governed: Twin) -> None:
    assert why(await governed.ask("cancel", who="mallory", nonsense=1)) == "deny.unknown"
    assert (await governed.ask("cancel", who="owner", nonsense=1))["error"]["kind"] == "malformed"
    assert (await governed.ask("note_denial", who="owner"))["error"]["kind"] == "malformed"


async def test_repeats_of_a_denial_are_one_record_with_their_count(governed: Twin) -> None:
    twin = governed
    for _ in range(500):
        assert why(await twin.ask("cancel", who="mallory", id="a")) == "deny.unknown"
    await asyncio.sleep(11)
    assert [e.count for e in await twin.events(AccessDenied)] == [1, 499]  # type: ignore[attr-defined]
    await twin.check()


async def test_who_hands_over_tells_first_what_it_counted(governed: Twin) -> None:
    twin = governed
    for _ in range(50):
        assert why(await twin.ask("cancel", who="mallory", id="a")) == "deny.unknown"
    await twin.stop()
    assert [e.count for e in await twin.events(AccessDenied)] == [1, 49]  # type: ignore[attr-defined]
    await twin.start()
    await asyncio.sleep(11)
    assert [e.count for e in await twin.events(AccessDenied)] == [1, 49]  # type: ignore[attr-defined]
    await twin.check()


async def test_what_readers_denied_beyond_the_budget_is_told_of_later(governed: Twin) -> None:
    """Or whoever spends its budget for refusals before would read what it may not without a trace."""
    twin = governed
    for number in range(100):
        about = {"operation": "jobs", "resource": f"q{number % 60}", "rule": "deny.scope", "why": "no"}
        body = json.dumps({"tenant": "default", "principal": "bob", "count": 3, **about}).encode()
        await twin.hub.request("_writ", "views", "note_denial", "-", body, "control")
    at_once = await twin.events(AccessDenied)
    assert len(at_once) < 100
    await asyncio.sleep(11)
    told = [e for e in await twin.events(AccessDenied) if isinstance(e, AccessDenied)]
    assert len(told) > len(at_once)
    assert sum(e.count for e in told) == 300
    assert {e.resource for e in told} == {f"q{number}" for number in range(60)}
    await twin.check()


async def test_a_submit_that_may_not_be_becomes_no_job(governed: Twin) -> None:
    twin = governed
    await make(twin, "bob", ("submitter", "mail"))
    await twin.submit({"task": "send", "id": "own"}, who="bob")
    await twin.submit({"task": "send", "id": "no"}, who="mallory")
    await twin.submit({"task": "send", "id": "no"}, queue="post", who="bob")
    await twin.submit({"task": "send", "id": "secret"}, queue="post")
    other = {"task": "send", "after": ["post~secret"], "input": {}, "input_from": {"x": "post~secret"}}
    await twin.submit([{"task": "send", "id": "beside"}, other | {"id": "no"}], who="bob")
    await twin.settled()
    submitted = [r.key for r in await twin.records() if isinstance(r.events[0], JobSubmitted)]
    assert submitted == ["mail~own", "post~secret", "mail~beside"]
    told = [(r.actor, e) for r in await twin.records() for e in r.events]
    assert [(who, e.resource) for who, e in told if isinstance(e, AccessDenied)] == [
        ("mallory", "mail"),
        ("bob", "post"),
    ]
    ((who, rejected),) = [(who, e) for who, e in told if isinstance(e, CommandRejected)]
    (refused,) = rejected.refused
    assert (who, refused.kind, refused.index) == ("bob", "denied", 1)
    assert refused.reason.startswith("bob may not job on post")
    await twin.check()


async def test_a_flood_of_denied_submits_is_folded_and_passed(governed: Twin) -> None:
    twin = governed
    for _ in range(300):
        await twin.submit({"task": "send"}, who="mallory")
    await twin.submit({"task": "send", "id": "behind"})
    await twin.settled()
    singly = len(await twin.events(AccessDenied))
    folded = sum(e.count for e in await twin.events(RejectionsFolded))  # type: ignore[attr-defined]
    assert singly < 100
    assert singly + folded == 300
    assert twin.job("behind").state == "pending"
    await twin.check()


async def test_nobody_gives_more_than_they_hold(governed: Twin) -> None:
    twin = governed
    await make(twin, "ann", ("admin", "billing/*"))
    await make(twin, "bob")
    grant = {"name": "bob", "role": "operator"}
    assert why(await do(twin, "ann", "grant", **grant)) == "deny.scope"
    assert why(await do(twin, "ann", "grant", **grant, scope="mail")) == "deny.scope"
    assert (
        why(await do(twin, "ann", "grant", name="bob", role="privacy_officer", scope="billing/a"))
        == "deny.beyond"
    )
    assert why(await do(twin, "ann", "grant", name="ann", role="owner", scope="billing/*")) == "deny.beyond"
    assert why(await do(twin, "bob", "grant", name="bob", role="viewer")) == "deny.default"
    assert "error" not in await do(twin, "ann", "grant", **grant, scope="billing/invoices")
    until = "2026-02-01T00:00:00Z"
    await make(twin, "eve")
    await do(twin, "owner", "grant", name="eve", role="admin", scope="*", until=until)
    await do(twin, "ann", "approve_access", name="eve", number=1)
    late = await do(twin, "eve", "grant", **grant, scope="post")
    assert late["error"]["kind"] in {"denied", "conflict"}
    await twin.check()


async def test_the_dangerous_takes_two_persons_and_none_of_them_gains(governed: Twin) -> None:
    twin = governed
    await make(twin, "ann", ("owner", "*"))  # nobody else can approve it: that stands in the record
    granted = (await twin.events(RoleGranted))[-1]
    assert (granted.role, granted.rule) == (Role.OWNER, "nobody_else")  # type: ignore[attr-defined]
    await make(twin, "bob")
    proposed = await do(twin, "owner", "grant", name="bob", role="admin")
    assert proposed["proposal"] == 1
    assert (await do(twin, "owner", "grant", name="bob", role="admin"))["error"]["kind"] == "conflict"
    assert why(await do(twin, "owner", "approve_access", name="bob", number=1)) == "deny.self"
    assert why(await do(twin, "bob", "approve_access", name="bob", number=1)) == "deny.default"
    assert why(await do(twin, "owner", "grant", name="owner", role="admin")) == "deny.self"
    assert why(await do(twin, "bob", "create_principal", name="x")) == "deny.default"
    assert "error" not in await do(twin, "ann", "approve_access", name="bob", number=1)
    assert "error" not in await do(twin, "bob", "create_principal", name="x")
    granted = (await twin.events(RoleGranted))[-1]
    assert (granted.proposed_by, granted.proposal) == ("owner", 1)  # type: ignore[attr-defined]
    # Who holds such a role adds its own credentials: others would log in as it, and be the second person.
    assert why(await do(twin, "owner", "add_key", name="bob", key=KEYS[1])) == "deny.credentials"
    token = {"token": "t", "digest": "ab" * 32}
    assert why(await do(twin, "owner", "issue_token", name="bob", **token)) == "deny.credentials"
    assert "error" not in await do(twin, "bob", "issue_token", name="bob", **token)
    await twin.check()


async def test_a_role_for_a_time_begins_with_its_approval_and_ends(governed: Twin) -> None:
    twin = governed
    await make(twin, "ann", ("operator", "*"), ("admin", "*"))
    await make(twin, "bob")
    asked = await do(twin, "bob", "elevate", role="operator", for_s=60, reason="on call")
    assert asked["proposal"] == 1
    assert why(await twin.ask("pause_queue", who="bob")) == "deny.default"
    await asyncio.sleep(600)
    assert "error" not in await do(twin, "ann", "approve_access", name="bob", number=1)
    assert "error" not in await twin.ask("pause_queue", who="bob")
    await asyncio.sleep(59)
    assert "error" not in await twin.ask("resume_queue", who="bob")
    await asyncio.sleep(2)
    assert why(await twin.ask("pause_queue", who="bob")) == "deny.expired"
    await twin.check()


async def test_a_revoked_worker_that_waits_is_given_nothing(governed: Twin) -> None:
    twin = governed
    await make(twin, "robot", ("worker", "mail"), kind="worker")
    waiting = asyncio.create_task(twin.acquire(wait_s=30))
    await twin.settled()
    assert "error" not in await do(twin, "owner", "revoke_principal", name="robot", reason="stolen")
    assert [type(e) for e in await twin.events(PrincipalRevoked)] == [PrincipalRevoked]
    await twin.submit()
    assert await waiting == []
    assert await twin.events(LeaseGranted) == []
    assert why(await twin.ask("acquire", worker="w1")) == "deny.revoked"
    assert "error" not in await do(twin, "owner", "restore_principal", name="robot")
    assert len(await twin.acquire()) == 1
    await twin.check()


async def test_the_last_owner_stays(governed: Twin) -> None:
    twin = governed
    refused = await do(twin, "owner", "revoke_principal", name="owner")
    assert "last owner" in refused["error"]["reason"]
    refused = await do(twin, "owner", "ungrant", name="owner", role="owner")
    assert "last owner" in refused["error"]["reason"]
    await make(twin, "ann", ("owner", "*"))
    assert "error" not in await do(twin, "ann", "revoke_principal", name="owner")
    assert why(await twin.ask("pause_queue", who="owner")) == "deny.revoked"


async def test_a_grant_that_was_not_stored_allows_nothing(governed: Twin, tools: Tools) -> None:
    twin = governed
    await make(twin, "bob")
    twin.log.script.extend(tools.full(1))
    answer = await do(twin, "owner", "grant", name="bob", role="operator")
    assert answer["error"]["kind"] == "try_later"
    assert why(await twin.ask("pause_queue", who="bob")) == "deny.default"
    await twin.check()


async def test_another_leader_knows_the_same(governed: Twin) -> None:
    twin = governed
    await make(twin, "bob", ("operator", "mail"))
    await twin.crash()
    engine = await twin.start()
    assert "error" not in await twin.ask("pause_queue", who="bob")
    assert len([r for r in await twin.records() if r.cause == "founding"]) == 2
    assert engine.state.principals["default.owner"].keys == (KEYS[0],)


async def test_another_tenant_is_nobodys(governed: Twin) -> None:
    """The broker pins tenant and name; a tenant that the log does not know has nobody in it."""
    answer = await governed.hub.request("other", "owner", "pause_queue", "mail", b"{}", "control")
    assert b"deny.unknown" in answer
