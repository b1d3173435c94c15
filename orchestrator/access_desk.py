"""What is asked about principals: who is known, what they hold, and who may change that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from writ.schemas import commands, granting
from writ.schemas.access import Resource
from writ.schemas.commands import Answer
from writ.schemas.facts import Fact
from writ.schemas.granting import OfPrincipal
from writ.schemas.principals import (
    AccessDenied,
    AccessProposed,
    KeyAdded,
    Principal,
    PrincipalCreated,
    PrincipalKind,
    Role,
    RoleGranted,
    TenantCreated,
)
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.subjects import Addressed

from .consequences import ORCHESTRATOR
from .decide import access
from .messages import Asked
from .office import Office, encode
from .round import Round
from .state import Partition

FOUNDED: Final = "founding"
"""The cause of what a node records of those it was set up with, before its first command."""


class Founder(NamedTuple):
    """A principal that the node was set up with: its roles are for the whole tenant."""

    tenant: str
    name: str
    key: str
    roles: tuple[Role, ...]
    kind: PrincipalKind = PrincipalKind.PERSON


class Change(NamedTuple):
    """What a change of a principal is decided from: by whom, of whom, who is in the tenant, when."""

    actor: Principal
    known: Principal
    others: Sequence[Principal]
    now: int
    everybody: Sequence[Principal]


_DECIDED: Final[dict[type[commands.Command], Callable[[Change, Any], access.Outcome]]] = {
    granting.AddKey: lambda at, c: access.add_key(at.actor, at.known, c, at.everybody, at.now),
    granting.RemoveKey: lambda at, c: access.remove_key(at.known, c),
    granting.IssueToken: lambda at, c: access.issue_token(at.actor, at.known, c, at.now),
    granting.RevokeToken: lambda at, c: access.revoke_token(at.known, c),
    granting.StartSession: lambda at, c: access.start_session(at.actor, at.known, c, at.now),
    granting.EndSession: lambda at, c: access.end_session(at.known, c),
    granting.GrantRole: lambda at, c: access.grant(at.actor, at.known, c, at.others, at.now),
    granting.UngrantRole: lambda at, c: access.ungrant(at.known, c, at.others, at.now),
    granting.Elevate: lambda at, c: access.elevate(at.known, c),
    granting.ApproveAccess: lambda at, c: access.approve(at.actor, at.known, c, at.now),
    granting.DeclineAccess: lambda at, c: access.decline(at.known, c),
    granting.RevokePrincipal: lambda at, c: access.revoke(at.known, c, at.others, at.now),
    granting.RestorePrincipal: lambda at, c: access.restore(at.actor, at.known, c, at.now),
}


def decide(
    state: Partition, tenant: str, actor: str, name: str, command: commands.Command, now: int
) -> access.Outcome:
    """What comes of a command about principal `name`, asked by `actor`, at log time `now`.

    In a log without tenants whoever asks is taken for a part of Writ: nobody there is governed.
    """
    known = state.principals.get(f"{tenant}.{name}")
    everybody = tuple(state.principals.values())
    if isinstance(command, granting.CreatePrincipal):
        return access.create(known, command, everybody)
    if known is None:
        return Rejection(RejectionKind.NOT_FOUND, f"there is no principal {name}", "name")
    asking = state.principals.get(f"{tenant}.{actor}") or Principal(tenant, actor, PrincipalKind.SYSTEM)
    others = [each for each in everybody if each.tenant == tenant]
    return _DECIDED[type(command)](Change(asking, known, others, now, everybody), command)


class AccessDesk:
    """Each command is one decision on one principal, recorded under the name of who asked."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._state = office.state
        self.verbs: dict[type[commands.Command], Callable[[Round, Asked, Any], None]] = {
            granting.CreatePrincipal: self._change,
            granting.NoteDenial: self._note_denial,
            **dict.fromkeys(_DECIDED, self._change),
        }

    def found(self, round_: Round, founders: Sequence[Founder]) -> None:
        """Makes tenants and principals known that the node was set up with; what is known stays as it is.

        A key is added where it is new: whoever has the node's directory has that principal.
        """
        for founder in founders:
            tenant, name = founder.tenant, founder.name
            if tenant not in self._state.governed:
                self._system(round_, tenant, "tenant", tenant, (TenantCreated("the node was set up"),))
            known = self._state.principals.get(f"{tenant}.{name}")
            if self._state.links.home_of_tenant(tenant) != self._state.number:
                continue  # told of by the tenant's home, as every change of it
            if known is None:
                grants = [RoleGranted(role, "*", "the node was set up", FOUNDED) for role in founder.roles]
                created = PrincipalCreated(founder.kind, "the node was set up")
                events = (created, KeyAdded(founder.key), *grants)
                self._system(round_, tenant, "principal", name, events)
            elif founder.key not in known.keys:
                self._system(round_, tenant, "principal", name, (KeyAdded(founder.key),))

    @staticmethod
    def _system(round_: Round, tenant: str, kind: str, key: str, events: tuple[Fact, ...]) -> None:
        round_.record(tenant, kind, key, events, actor=ORCHESTRATOR, cause=FOUNDED)

    def _change(self, round_: Round, asked: Asked, command: OfPrincipal | granting.Elevate) -> None:
        tenant, actor, _, _ = asked.address
        name = command.name if isinstance(command, OfPrincipal) else actor
        outcome = decide(self._state, tenant, actor, name, command, round_.now)
        if not isinstance(outcome, Rejection):
            known = self._state.principals.get(f"{tenant}.{name}")
            everybody = tuple(self._state.principals.values())
            outcome = access.forbids(known, command, outcome, everybody, round_.now) or outcome
        if isinstance(outcome, Rejection):
            if outcome.kind is RejectionKind.DENIED:
                self._office.deny(round_, asked, Resource(tenant, principal=name), outcome)
            else:
                self._office.refuse(round_, asked, outcome)
            return
        self._office.record(round_, asked, "principal", name, outcome)
        answer = Answer(None, round_.position)
        if isinstance(command, granting.GrantRole | granting.Elevate):
            number = next((each.number for each in outcome if isinstance(each, AccessProposed)), None)
            answer = granting.Granted(None, round_.position, number)
        round_.answer(asked.send, encode(answer), verdict_only=not outcome)

    def _note_denial(self, round_: Round, asked: Asked, command: granting.NoteDenial) -> None:
        """Records what a reader denied, under the name of whom it was denied to; beyond the budget, later."""
        who = Addressed(command.tenant, command.principal, command.operation, "")
        why = Rejection(RejectionKind.DENIED, command.why)
        event = AccessDenied(command.operation, command.resource, why, command.rule, command.count)
        if self._office.may_refuse(who, round_.now):
            self._office.note(round_, who, event, command.operation)
        else:
            self._office.denials.put_off(who, command.resource, command.rule, why, command.count, round_.now)
        round_.answer(asked.send, encode(Answer(None, round_.position)))
