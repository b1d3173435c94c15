"""Principals: who they are, what they were granted, and the events that say so.

A principal belongs to one tenant, whose home shard holds its records: kind `principal`, its name the key. A
tenant is a record of kind `tenant`.

    tenant_created       the tenant exists; from here on nobody does anything in it without a grant
    principal_created    a person, service or worker is known by a name
    key_added            it may log in with an NKey; key_removed ends that
    token_issued         it may ask over HTTP with a token, of which only the SHA-256 is known; token_revoked
    session_started      it has logged in to the HTTP API with a browser; session_ended: it is logged out
    role_granted         it has a role in a scope, perhaps until a time; role_ungranted takes it away
    access_proposed      a role that takes two persons, or a role for a time, asked for
    access_declined      what was proposed shall not be; what is approved is told by role_granted
    principal_revoked    nothing is answered to it, whatever it holds; principal_restored ends that
    access_denied        it asked for what it may not do

A *scope* says for which queues a role counts: `*` the whole tenant, `billing/*` a folder (what a queue's name
has before a slash), `inv*` all queues that begin so, `invoices` one queue.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import replace

from .facts import Fact
from .ids import queue_of, token_fault
from .rejections import Rejection

WHOLE_TENANT: Final = "*"
KEYS_MAX: Final = 20
TOKENS_MAX: Final = 50
GRANTS_MAX: Final = 200
PROPOSALS_MAX: Final = 20
SESSIONS_MAX: Final = 20
SESSION_MAX_S: Final = 12 * 3_600
"""How long a session may last in all."""

ELEVATION_MAX_S: Final = 8 * 3_600
"""For how long at most a role may be had for a time."""


class PrincipalKind(StrEnum):
    """What stands behind a name."""

    PERSON = "person"
    SERVICE = "service"
    WORKER = "worker"
    SYSTEM = "system"
    """A part of Writ itself; none is ever created."""


class Role(StrEnum):
    """What may be granted. What each allows is in the policy, `access.toml`."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    WORKER = "worker"
    OPERATOR = "operator"
    APPROVER = "approver"
    RELEASER = "releaser"
    AUDITOR = "auditor"
    PRIVACY_OFFICER = "privacy_officer"
    ADMIN = "admin"
    OWNER = "owner"


class TenantCreated(Fact, frozen=True):
    """The tenant is governed from here on: what no grant allows is denied."""

    reason: str = ""


class PrincipalCreated(Fact, frozen=True):
    kind: PrincipalKind
    reason: str = ""


class KeyAdded(Fact, frozen=True):
    """`key` is the public NKey, 56 characters that begin with U."""

    key: str


class KeyRemoved(Fact, frozen=True):
    key: str
    reason: str


class TokenIssued(Fact, frozen=True):
    """`digest` is SHA-256 of the token in hex; the token itself stands nowhere. `until` is log time."""

    name: str
    digest: str
    until: int | None = None


class TokenRevoked(Fact, frozen=True):
    name: str
    reason: str


class SessionStarted(Fact, frozen=True):
    """`digest` is SHA-256 of the cookie's secret in hex; the secret stands nowhere. `until` is log time.

    `by` says how it has logged in; `token` is the API token that it showed, with which the session ends.
    """

    name: str
    digest: str
    until: int
    by: str
    token: str | None = None


class SessionEnded(Fact, frozen=True):
    name: str
    reason: str


class RoleGranted(Fact, frozen=True):
    """`rule` says what made it take effect. `proposed_by` is who asked, where another one approved.

    `proposal` is the number of what was proposed; `until` is log time.
    """

    role: Role
    scope: str
    reason: str
    rule: str
    until: int | None = None
    proposal: int | None = None
    proposed_by: str | None = None


class RoleUngranted(Fact, frozen=True):
    role: Role
    scope: str
    reason: str


class AccessProposed(Fact, frozen=True):
    """A grant that waits for a second person. With `for_s` the role is for so long from the approval on."""

    number: int
    role: Role
    scope: str
    reason: str
    rule: str
    until: int | None = None
    for_s: int | None = None


class AccessDeclined(Fact, frozen=True):
    number: int
    reason: str


class PrincipalRevoked(Fact, frozen=True):
    reason: str


class PrincipalRestored(Fact, frozen=True):
    reason: str


BROKER_RULES: Final = "broker."
"""Begins the rule of what the broker refused by itself, before anybody else was asked."""

HTTP_RULES: Final = "http."
"""Begins that of what the HTTP API refused by itself."""


class AccessDenied(Fact, frozen=True):
    """`rule` is what decided it. `count` is how often, since the record before, this was asked and denied."""

    operation: str
    resource: str
    why: Rejection
    rule: str
    count: int = 1


PRINCIPAL_EVENTS: Final[tuple[type[Fact], ...]] = (
    TenantCreated,
    PrincipalCreated,
    KeyAdded,
    KeyRemoved,
    TokenIssued,
    TokenRevoked,
    SessionStarted,
    SessionEnded,
    RoleGranted,
    RoleUngranted,
    AccessProposed,
    AccessDeclined,
    PrincipalRevoked,
    PrincipalRestored,
    AccessDenied,
)


class Grant(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A role in a scope. `at` and `until` are log time; it counts before `until`."""

    role: Role
    scope: str
    granted_by: str
    at: int
    reason: str
    until: int | None = None
    proposed_by: str | None = None

    def live(self, now: int) -> bool:
        return self.until is None or now < self.until


class Token(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An API token: its name, SHA-256 of it in hex, and until when (log time) it counts."""

    name: str
    digest: str
    at: int
    until: int | None = None


class Session(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A session of the HTTP API, from a log-in until a time; `token` is the API token it was opened with."""

    name: str
    digest: str
    at: int
    until: int
    by: str
    token: str | None = None


class Proposal(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A grant that waits for a second person."""

    number: int
    role: Role
    scope: str
    proposed_by: str
    at: int
    reason: str
    until: int | None = None
    for_s: int | None = None


class Principal(msgspec.Struct, frozen=True, omit_defaults=True):
    """A principal as its records tell it. `revoked` says why it is answered nothing, None while it is."""

    tenant: str
    name: str
    kind: PrincipalKind
    created_at: int = 0
    created_by: str = ""
    keys: tuple[str, ...] = ()
    tokens: tuple[Token, ...] = ()
    grants: tuple[Grant, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    proposed: int = 0
    """How many were ever proposed."""

    revoked: str | None = None
    sessions: tuple[Session, ...] = ()
    version: int = 0
    """How many events made it what it is."""

    def proposal(self, number: int) -> Proposal | None:
        return next((each for each in self.proposals if each.number == number), None)


def scope_fault(scope: str) -> str | None:
    """Why a text is no scope; None where it is one."""
    if scope == WHOLE_TENANT:
        return None
    fault = token_fault(scope.removesuffix("*"), "scope")
    return None if fault is None else f"{fault}; a scope is a queue, a folder as billing/*, or * for all"


def covers(scope: str, asked: str) -> bool:
    """Whether a scope holds all of what is asked: a queue, a lane as part of its queue, or another scope."""
    if scope.endswith("*"):
        return asked.startswith(scope[:-1])
    return scope == queue_of(asked)


def evolve_principal(
    principal: Principal | None, event: Fact, tenant: str, name: str, actor: str, at: int
) -> Principal | None:
    """The principal after one of the events of its aggregate; what was refused to it changes nothing."""
    if isinstance(event, PrincipalCreated):
        return Principal(tenant, name, event.kind, at, actor, version=1)
    if principal is None:
        return None
    changed = _changed(principal, event, actor, at)
    return changed if changed is principal else replace(changed, version=principal.version + 1)


def _changed(principal: Principal, event: Fact, actor: str, at: int) -> Principal:
    match event:
        case KeyAdded(key=key):
            return replace(principal, keys=(*principal.keys, key))
        case KeyRemoved(key=key):
            return replace(principal, keys=tuple([k for k in principal.keys if k != key]))
        case TokenIssued():
            token = Token(event.name, event.digest, at, event.until)
            return replace(principal, tokens=(*principal.tokens, token))
        case TokenRevoked():
            return replace(principal, tokens=tuple([t for t in principal.tokens if t.name != event.name]))
        case SessionStarted():
            session = Session(event.name, event.digest, at, event.until, event.by, event.token)
            open_ = tuple([each for each in principal.sessions if at < each.until])
            return replace(principal, sessions=(*open_, session))
        case SessionEnded():
            left = tuple([each for each in principal.sessions if each.name != event.name])
            return replace(principal, sessions=left)
        case RoleGranted():
            grant = Grant(
                event.role, event.scope, actor, at, event.reason, event.until, event.proposed_by
            )  # of one role in one scope the newest counts
            kept = tuple([g for g in principal.grants if (g.role, g.scope) != (grant.role, grant.scope)])
            waiting = tuple([p for p in principal.proposals if p.number != event.proposal])
            return replace(principal, grants=(*kept, grant), proposals=waiting)
        case RoleUngranted():
            kept = tuple([g for g in principal.grants if (g.role, g.scope) != (event.role, event.scope)])
            return replace(principal, grants=kept)
        case AccessProposed():
            proposal = Proposal(
                event.number, event.role, event.scope, actor, at, event.reason, event.until, event.for_s
            )
            waiting = (*principal.proposals, proposal)
            return replace(principal, proposals=waiting, proposed=event.number)
        case AccessDeclined():
            waiting = tuple([p for p in principal.proposals if p.number != event.number])
            return replace(principal, proposals=waiting)
        case PrincipalRevoked():
            return replace(principal, revoked=event.reason)
        case PrincipalRestored():
            return replace(principal, revoked=None)
        case _:
            return principal
