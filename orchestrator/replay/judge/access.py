"""Decisions on principals, made again: whether who asked was allowed to, and what came of it."""

from __future__ import annotations

import datetime
from typing import Final

from writ.schemas import granting, hosting
from writ.schemas.access import Resource, allowed
from writ.schemas.commands import CONTROL_VERBS, Command
from writ.schemas.facts import Fact
from writ.schemas.hosting import HOSTED
from writ.schemas.principals import (
    BROKER_RULES,
    HTTP_RULES,
    AccessDeclined,
    AccessDenied,
    AccessProposed,
    KeyAdded,
    KeyRemoved,
    PrincipalCreated,
    PrincipalRestored,
    PrincipalRevoked,
    RoleGranted,
    RoleUngranted,
    SessionEnded,
    SessionStarted,
    TokenIssued,
    TokenRevoked,
)
from writ.schemas.records import Record
from writ.schemas.rejections import Rejection
from writ.schemas.verbs import QUERY_VERBS

from ...access_desk import FOUNDED, decide
from ...consequences import ORCHESTRATOR
from ...decide.access import proposal_scope
from ...decide.tenant import create
from ...state import Partition, address
from .differs import Differs, Unrecorded, accepted, need

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def changes(record: Record) -> bool:
    """Whether a record of a principal changes it, and does not tell of what was refused to it."""
    return _command(record) is not None


def founded(state: Partition, record: Record) -> tuple[Fact, ...]:
    """A tenant, or who a node was set up with, which is the node's word. Raises Differs where it is known."""
    if record.cause == HOSTED:
        return _hosted(state, record)
    need(record.actor == ORCHESTRATOR and record.cause == FOUNDED, "only a node's set-up makes a tenant")
    if record.kind == "tenant":
        need(record.key not in state.governed, f"tenant {record.key} was created before")
    elif not isinstance(record.events[0], KeyAdded):
        known = address(record.tenant, record.key) in state.principals
        need(not known, f"principal {record.key} was known before")
    return record.events


def _hosted(state: Partition, record: Record) -> tuple[Fact, ...]:
    """A tenant that somebody of the host made, or its first owner, whose record is the next."""
    need(may_host(state, record), f"{record.actor} may not {HOSTED}")
    if record.kind == "tenant":
        need(record.key not in state.governed, f"tenant {record.key} was created before")
        return record.events
    key = next((each.key for each in record.events if isinstance(each, KeyAdded)), "")
    last = record.events[-1]
    reason = last.reason if isinstance(last, RoleGranted) else ""
    command = hosting.CreateTenant(name=record.tenant, owner=record.key, key=key, reason=reason)
    others = [name for name in state.governed if name != record.tenant]
    mine = [each for each in state.principals.values() if each.tenant == record.tenant]
    need(not mine, f"tenant {record.tenant} has principals already")
    outcome = create(others, None, command, tuple(state.principals.values()))
    if isinstance(outcome, Rejection) or outcome is None:
        raise Differs("decided again the tenant is refused")
    return outcome[1]


def may_host(state: Partition, record: Record) -> bool:
    """Whether the actor of a record about a tenant may do that, as one of the host's."""
    own, dot, name = record.actor.rpartition(".")
    tenant = own if dot else record.tenant
    decision = allowed(
        state.principals.get(address(tenant, name)), record.cause or "", Resource(tenant), record.at
    )
    return decision.allowed or not state.governed


def denied(state: Partition, record: Record, event: AccessDenied) -> None:
    """What the orchestrator denied of a queue. Raises Differs, or Unrecorded for what others decided.

    The broker decides by what it was told, the HTTP API by what it was shown, readers as of their view;
    repeats are told of later, and what was refused of a change of a principal depends on the message, which
    is not recorded.
    """
    own = record.cause == event.operation and event.operation not in QUERY_VERBS
    if (
        not own
        or event.rule.startswith((BROKER_RULES, HTTP_RULES))
        or " " in event.resource
        or event.count > 1
    ):
        raise Unrecorded
    actor = state.principals.get(address(record.tenant, record.actor))
    decision = allowed(actor, event.operation, Resource(record.tenant, event.resource), record.at)
    need(not decision.allowed, f"{record.actor} may {event.operation} on {event.resource} [{decision.rule}]")
    need(decision.rule == event.rule, f"it was denied by {event.rule}; decided again by {decision.rule}")


def decided_again(state: Partition, record: Record) -> tuple[Fact, ...]:
    """What deciding again gives in the place of a record that changes a principal. Raises Differs."""
    command = _command(record)
    assert command is not None
    if record.cause in (FOUNDED, HOSTED):
        return founded(state, record)
    need(CONTROL_VERBS.get(record.cause or "") is type(command), f"it does not follow from {record.cause}")
    tenant, name = record.tenant, record.key
    if state.governed:
        scope = "*"
        if isinstance(command, granting.GrantRole | granting.UngrantRole | granting.Elevate):
            scope = command.scope
        elif isinstance(command, granting.ApproveAccess | granting.DeclineAccess):
            scope = proposal_scope(state.principals.get(address(tenant, name)), command.number)
        actor = state.principals.get(address(tenant, record.actor))
        decision = allowed(actor, record.cause or "", Resource(tenant, scope, name), record.at)
        need(decision.allowed, f"{record.actor} may not {record.cause}: {decision.reason} [{decision.rule}]")
    return accepted(decide(state, tenant, record.actor, name, command, record.at))


def _command(record: Record) -> Command | None:
    """The command that a record answers, as far as its events tell it."""
    name = record.key
    match record.events[0]:
        case PrincipalCreated(kind=kind, reason=reason):
            key = next((each.key for each in record.events if isinstance(each, KeyAdded)), None)
            return granting.CreatePrincipal(name=name, kind=kind.value, key=key, reason=reason)  # type: ignore[arg-type]
        case KeyAdded(key=key):
            return granting.AddKey(name=name, key=key)
        case KeyRemoved(key=key, reason=reason):
            return granting.RemoveKey(name=name, key=key, reason=reason)
        case TokenIssued(name=token, digest=digest, until=until):
            return granting.IssueToken(name=name, token=token, digest=digest, until=_time(until))
        case TokenRevoked(name=token, reason=reason):
            return granting.RevokeToken(name=name, token=token, reason=reason)
        case SessionStarted(name=session, digest=digest, until=until, by=by, token=shown):
            return granting.StartSession(
                name=name, session=session, digest=digest, until=_EPOCH + _since(until), by=by, token=shown
            )
        case SessionEnded(name=session, reason=reason):
            return granting.EndSession(name=name, session=session, reason=reason)
        case RoleGranted(proposal=int(number)):
            return granting.ApproveAccess(name=name, number=number)
        case RoleGranted(role=role, scope=scope, reason=reason, until=until):
            return granting.GrantRole(name=name, role=role, scope=scope, until=_time(until), reason=reason)
        case RoleUngranted(role=role, scope=scope, reason=reason):
            return granting.UngrantRole(name=name, role=role, scope=scope, reason=reason)
        case AccessProposed(role=role, scope=scope, reason=reason, for_s=int(for_s)):
            return granting.Elevate(role=role, scope=scope, for_s=for_s, reason=reason)
        case AccessProposed(role=role, scope=scope, reason=reason, until=until):
            return granting.GrantRole(name=name, role=role, scope=scope, until=_time(until), reason=reason)
        case AccessDeclined(number=number, reason=reason):
            return granting.DeclineAccess(name=name, number=number, reason=reason)
        case PrincipalRevoked(reason=reason):
            return granting.RevokePrincipal(name=name, reason=reason)
        case PrincipalRestored(reason=reason):
            return granting.RestorePrincipal(name=name, reason=reason)
        case _:
            return None


def _time(until: int | None) -> datetime.datetime | None:
    return None if until is None else _EPOCH + _since(until)


def _since(at: int) -> datetime.timedelta:
    return datetime.timedelta(microseconds=at)
