"""What attempts note, and what their jobs end in, is decided again as it was; forgeries of it are found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from tests.forensics.forged import forge
from writ.orchestrator.access_desk import Founder
from writ.orchestrator.replay.history import read_entry
from writ.orchestrator.replay.stretch import Stretch, stretch_of
from writ.orchestrator.replay.verify import verify_stretch
from writ.schemas.events import Fact, JobDeadLettered
from writ.schemas.principals import AccessDenied, AccessProposed, Role, RoleGranted
from writ.schemas.records import Record
from writ.schemas.steps import CompensationDue, StepCompensated, StepDone, ToolCalled, UsageRecorded

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any

DIGEST = "0" * 64


async def note(twin: Twin, lease: dict[str, Any], first: int, *notes: dict[str, Any]) -> None:
    report = {"id": lease["id"], "token": lease["token"], "first": first, "notes": list(notes)}
    answer = await twin.ask("note", worker="w1", reports=[report])
    assert not answer.get("refused"), answer


def intended(step: int, name: str) -> dict[str, Any]:
    return {"note": "step_intended", "step": step, "name": name, "params": DIGEST, "compensable": True}


async def told(twin: Twin) -> Stretch:
    """A job that takes two steps, calls tools, uses tokens, fails for good, and undoes what it did."""
    policy = {"tools": {"deny": ["danger.*"]}, "retry": {"non_retryable_types": ["Broken"]}}
    assert "error" not in await twin.ask("declare", policy=policy)
    price = await twin.ask("set_price", model="m", input_microusd=2_000_000, output_microusd=5_000_000)
    assert "error" not in price
    await twin.submit({"task": "send", "id": "a"})
    await twin.settled()
    (lease,) = await twin.acquire()
    call = {"note": "tool_called", "schema": "1", "params": {"to": "a"}, "digest": DIGEST, "policy": 1}
    denied = {"tool": "danger.zone", "outcome": "denied", "rule": "deny lists danger.*"}
    await note(
        twin, lease, 1, intended(1, "book"), {**call, "tool": "mail.send", "outcome": "done", "step": 1}
    )
    await note(twin, lease, 3, {"note": "step_done", "step": 1, "result": {"ticket": 7}}, {**call, **denied})
    used = {"note": "usage_recorded", "model": "m", "input_tokens": 3, "output_tokens": 1}
    await note(twin, lease, 5, used, intended(2, "pay"), {"note": "step_done", "step": 2})
    failure = {"class": "application", "type": "Broken", "text": "no"}
    assert not (await twin.report("fail", lease, **failure)).get("refused")
    (undoing,) = await twin.acquire()
    await note(
        twin, undoing, 1, {"note": "step_compensated", "step": 2}, {"note": "step_compensated", "step": 1}
    )
    assert not (await twin.report("complete", undoing, output=None)).get("refused")
    return await stretch_of(twin.log)


def holding(stretch: Stretch, kind: type[Fact]) -> tuple[Record, int, Any]:
    """The first record with such an event, the event's index, and the event."""
    for record in map(read_entry, stretch.entries):
        for index, event in enumerate(record.events):
            if isinstance(event, kind):
                return record, index, event
    raise AssertionError(f"no {kind.__name__}")


async def test_notes_and_what_is_undone_are_decided_again(twin: Twin) -> None:
    stretch = await told(twin)
    report = verify_stretch(stretch)
    assert report.ok, report.lines()
    assert report.unrecorded == {}
    record, _, dead = holding(stretch, JobDeadLettered)
    assert (record.seq, dead.reason) == (stretch.last, "non_retryable")


async def test_forged_notes_are_found(twin: Twin) -> None:
    stretch = await told(twin)
    forgeries: list[tuple[type[Fact], dict[str, Any], str]] = [
        (UsageRecorded, {"cost_microusd": 1}, "cost_microusd"),
        (UsageRecorded, {"prices": 9}, "prices"),
        (StepDone, {"step": 2}, "step"),
        (StepCompensated, {"step": 1}, "compensated already"),
        (ToolCalled, {"tool": "danger.zone"}, "deny lists danger.*"),
        (CompensationDue, {"rule": "because"}, "rule"),
        (JobDeadLettered, {"rule": "because"}, "rule"),
    ]
    for kind, changes, words in forgeries:
        record, index, event = holding(stretch, kind)
        events = (*record.events[:index], replace(event, **changes), *record.events[index + 1 :])
        faults = verify_stretch(forge(stretch, record.seq, events)).faults
        assert faults, f"{kind.__name__} with {changes}"
        assert (faults[0].seq, faults[0].rule) == (record.seq, "decision")
        assert words in faults[0].reason


async def test_forged_grants_and_denials_are_found(twin: Twin) -> None:
    await twin.stop()
    twin.founders = (Founder("default", "owner", "U" + "A" * 55, (Role.OWNER,)),)
    await twin.start()

    async def ask(who: str, verb: str, **fields: Any) -> dict[str, Any]:
        return await twin.ask(verb, queue="-", who=who, **fields)

    for name in ("ann", "bob"):
        await ask("owner", "create_principal", name=name)
    await ask("owner", "grant", name="ann", role="admin")
    await ask("ann", "grant", name="bob", role="viewer", scope="mail")
    await ask("bob", "elevate", role="operator", for_s=60, reason="on call")
    await ask("ann", "approve_access", name="bob", number=1)
    await twin.ask("declare", who="bob", policy={})
    stretch = await stretch_of(twin.log)
    report = verify_stretch(stretch)
    assert report.ok, report.lines()
    assert report.unrecorded == {}
    forgeries: list[tuple[type[Fact], int, dict[str, Any], str]] = [
        (RoleGranted, 1, {"rule": "grant"}, "rule"),
        (RoleGranted, 2, {"role": Role.PRIVACY_OFFICER}, "nobody gives more"),
        (RoleGranted, 3, {"until": None}, "until"),
        (RoleGranted, 3, {"proposed_by": "owner"}, "proposed_by"),
        (AccessProposed, 0, {"number": 2}, "number"),
        (AccessDenied, 0, {"rule": "deny.revoked"}, "deny.default"),
    ]
    for kind, which, changes, words in forgeries:
        found = [
            (record, index)
            for record in map(read_entry, stretch.entries)
            for index, event in enumerate(record.events)
            if isinstance(event, kind)
        ]
        record, index = found[which]
        event = replace(record.events[index], **changes)
        events = (*record.events[:index], event, *record.events[index + 1 :])
        faults = verify_stretch(forge(stretch, record.seq, events)).faults
        assert faults, (kind, changes)
        assert words in faults[0].reason, (kind, changes)
