"""Changing the policy of a queue: a form of its schema, what would be otherwise, and the command for that."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from writ.broker.errors import Refused
from writ.cli.queues import flat
from writ.http.problems import Fault
from writ.schemas.faults import explain_fault
from writ.schemas.ids import token_fault
from writ.schemas.policy import QueuePolicy
from writ.schemas.rejections import RejectionKind

from .forms import Field, leaves_of, typed_of, value_of
from .governing import changed
from .visit import Elsewhere, Page, Visit, link

_SCHEMA: Final = msgspec.json.schema(QueuePolicy)
FIELDS: Final = leaves_of(_SCHEMA)
_PREFIX: Final = "in."
_OWN: Final = "queue"
"""The group of the fields that stand in no other one."""


class Group(NamedTuple):
    """Fields that belong together: what they are about, and what the schema says of them."""

    name: str
    about: str
    fields: list[Field]


def groups() -> list[Group]:
    """The fields of a policy, by the part of it that they are in."""
    parts = {
        name.lower().removesuffix("policy"): str(each.get("description", ""))
        for name, each in _SCHEMA["$defs"].items()
    }
    found = {_OWN: Group(_OWN, parts[_OWN], [])}
    for field in FIELDS:
        path, dot, _ = field.name.rpartition(".")
        name = path if dot else _OWN
        found.setdefault(name, Group(name, parts.get(name, ""), [])).fields.append(field)
    return list(found.values())


async def form(visit: Visit) -> Page:
    """What is declared, to be changed; what is as built in is left empty."""
    policy, version = await _declared(visit)
    return _form(visit, version, _texts(policy), {})


def _form(visit: Visit, version: int, typed: dict[str, str], faults: dict[str, str], note: str = "") -> Page:
    shows = {"queue": visit.path["queue"], "groups": groups(), "typed": typed, "faults": faults}
    return Page("policy.html", shows | {"version": version, "note": note}, status=422 if faults else 200)


async def _declared(visit: Visit) -> tuple[QueuePolicy, int]:
    """The policy that holds and its version. Raises Fault where this person may not change it."""
    name = visit.path["queue"]
    fault = token_fault(name, "queue")
    if fault is not None:
        raise Fault(422, fault, "queue")
    if not await visit.may(["declare"], name):
        raise Fault(403, f"to declare the policy of queue {name} takes a role that you do not hold there")
    page = await visit.client.queues(name)
    return (page.queues[0].policy, page.queues[0].version) if page.queues else (QueuePolicy(), 0)


def _texts(policy: QueuePolicy) -> dict[str, str]:
    """The fields of a policy that are not as built in, as they are typed."""
    built_in = flat(QueuePolicy())
    return {name: typed_of(value) for name, value in flat(policy).items() if value != built_in[name]}


async def change(visit: Visit) -> Page:
    """What the form would change, to be confirmed; the form again where something in it is wrong."""
    now, version = await _declared(visit)
    typed = {field.name: visit.one(_PREFIX + field.name) or "" for field in FIELDS}
    faults: dict[str, str] = {}
    policy = _policy_of(typed, faults)
    if policy is None or faults:
        return _form(visit, version, typed, faults)
    differences = changed(now, policy)
    if not differences:
        return _form(visit, version, typed, faults, "Nothing in the form differs from what holds.")
    return _confirmation(visit, policy, version, differences)


def _confirmation(
    visit: Visit, policy: QueuePolicy, version: int, differences: list[Any], stale: str = ""
) -> Page:
    shows: dict[str, Any] = {"queue": visit.path["queue"], "version": version, "differences": differences}
    body = msgspec.json.encode(policy).decode()
    return Page("policy-change.html", shows | {"policy": body, "stale": stale}, status=409 if stale else 200)


def _policy_of(typed: dict[str, str], faults: dict[str, str]) -> QueuePolicy | None:
    """The policy that was typed; what is wrong goes into `faults`, by field."""
    found: dict[str, Any] = {}
    for field in FIELDS:
        if not typed[field.name]:
            continue
        *path, name = field.name.split(".")
        place = found
        for each in path:
            place = place.setdefault(each, {})
        try:
            place[name] = value_of(field, typed[field.name])
        except ValueError as error:
            faults[field.name] = str(error)
    try:
        return msgspec.convert(found, QueuePolicy)
    except msgspec.ValidationError as error:
        path_, reason = explain_fault(error, msgspec.json.encode(found), QueuePolicy)
        faults.setdefault(path_ or "", reason)
        return None


async def declare(visit: Visit) -> Page | Elsewhere:
    """Declares the policy that was confirmed, unless another one was declared meanwhile."""
    now, newest = await _declared(visit)
    name, reason, given = visit.path["queue"], visit.given("reason"), visit.given("version")
    if not reason:
        raise Fault(422, "say why: the reason is kept with the policy", "reason")
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise Fault(422, f"version is the one that you looked at; {given!r} is none", "version")
    try:
        policy = msgspec.json.decode(visit.given("policy"), type=QueuePolicy)
    except msgspec.MsgspecError as error:
        raise Fault(422, f"this is no policy: {error}", "policy") from error
    try:
        seen = await visit.client.declare_queue(name, policy, reason, version=int(given))
    except Refused as error:
        if error.kind is RejectionKind.CONFLICT and error.rejection.field == "version":
            return _confirmation(visit, policy, newest, changed(now, policy), error.rejection.reason)
        raise
    return Elsewhere(link("queues", name, seen=seen or None))
