"""Deciding who gets and loses what: nobody gives more than they hold, the dangerous takes two persons."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence

from writ.schemas.access import OPERATIONS, Policy, Resource, allowed, built_in
from writ.schemas.bounds import SECOND_US
from writ.schemas.facts import Fact
from writ.schemas.granting import (
    AddKey,
    ApproveAccess,
    CreatePrincipal,
    DeclineAccess,
    Elevate,
    EndSession,
    GrantRole,
    IssueToken,
    OfPrincipal,
    RemoveKey,
    RestorePrincipal,
    RevokePrincipal,
    RevokeToken,
    StartSession,
    UngrantRole,
)
from writ.schemas.hosting import HOST_TENANT
from writ.schemas.lifecycle import micros
from writ.schemas.principals import (
    GRANTS_MAX,
    KEYS_MAX,
    PROPOSALS_MAX,
    SESSION_MAX_S,
    SESSIONS_MAX,
    TOKENS_MAX,
    AccessDeclined,
    AccessProposed,
    Grant,
    KeyAdded,
    KeyRemoved,
    Principal,
    PrincipalCreated,
    PrincipalKind,
    PrincipalRestored,
    PrincipalRevoked,
    Proposal,
    Role,
    RoleGranted,
    RoleUngranted,
    SessionEnded,
    SessionStarted,
    TokenIssued,
    TokenRevoked,
    scope_fault,
)
from writ.schemas.rejections import Rejection, RejectionKind

Outcome = tuple[Fact, ...] | Rejection
TWO_PERSONS = "rules.two_persons"
"""Why a grant waits."""

_OWN_NAMES = "writ:"
"""So begin the names under which Writ acts itself."""

NOBODY_ELSE = "nobody_else"
"""Why it took effect at once all the same: no other person could approve it."""


def _conflict(reason: str, field: str | None = None) -> Rejection:
    return Rejection(RejectionKind.CONFLICT, reason, field)


def _no(reason: str, rule: str, field: str | None = None) -> Rejection:
    return Rejection(RejectionKind.DENIED, f"{reason} [{rule}]", field)


def create(known: Principal | None, command: CreatePrincipal, keys: Iterable[Principal]) -> Outcome:
    """A new principal; nothing where it is known as just that. `keys` are all principals that have any."""
    kind = PrincipalKind(command.kind)
    if known is not None:
        if known.kind is kind and command.key in (None, *known.keys):
            return ()
        return _conflict(f"{command.name} is a {known.kind.value} already; choose another name", "name")
    created = PrincipalCreated(kind, command.reason)
    if command.key is None:
        return (created,)
    return taken(command.key, keys) or (created, KeyAdded(command.key))


def taken(key: str, others: Iterable[Principal]) -> Rejection | None:
    """Why a key cannot be given to somebody: it is another one's."""
    for other in others:
        if key in other.keys:
            return _conflict(f"the key {key} is {other.tenant}.{other.name}'s; each has its own", "key")
    return None


def _own_business(actor: Principal, known: Principal, now: int, policy: Policy) -> Rejection | None:
    """Why another may not give this principal a way to log in: it would be a way into its rights."""
    if actor.name == known.name:
        return None
    roles = [each.role for each in known.grants] + [each.role for each in known.proposals]
    high = [role for role in roles if role in policy.two_persons]
    if high:
        reason = (
            f"{known.name} has, or is to have, the role {high[0].value}: only itself adds what it logs in "
            "with; give it a key before the role"
        )
        return _no(reason, "deny.credentials")
    return _beyond_grants(actor, known.grants, known.tenant, now, policy)


def _beyond_grants(
    actor: Principal, grants: Iterable[Grant], tenant: str, now: int, policy: Policy
) -> Rejection | None:
    for grant in grants:
        fault = beyond(actor, grant.role, grant.scope, grant.until, tenant, now, policy)
        if fault is not None and grant.live(now):
            return fault
    return None


def beyond(
    actor: Principal,
    role: Role,
    scope: str,
    until: int | None,
    tenant: str,
    now: int,
    policy: Policy | None = None,
) -> Rejection | None:
    """Why a role in a scope, until a time, is more than somebody holds; None where it is not."""
    policy = policy or built_in()
    for operation in OPERATIONS:
        if policy.rule(role, operation) is None:
            continue
        if operation in policy.whole_tenant and scope != "*":
            continue  # the grant would not allow it either
        if operation in policy.host and tenant != HOST_TENANT:
            continue  # nor here
        decision = allowed(actor, operation, Resource(tenant, scope), now, policy)
        if not decision.allowed:
            reason = (
                f"{actor.name} may not {operation} in {scope} itself, which {role.value} allows: "
                "nobody gives more than they hold"
            )
            return _no(reason, "deny.beyond", "role")
        if decision.until is not None and (until is None or until > decision.until):
            reason = f"{actor.name} may {operation} for a time only, and {role.value} is to last longer"
            return _no(reason, "deny.beyond", "until")
    return None


def add_key(
    actor: Principal, known: Principal, command: AddKey, keys: Iterable[Principal], now: int
) -> Outcome:
    """A further key; nothing where it has that one."""
    if command.key in known.keys:
        return ()
    if len(known.keys) >= KEYS_MAX:
        return _conflict(f"{known.name} has {len(known.keys)} keys; at most {KEYS_MAX} are held", "key")
    fault = taken(command.key, keys) or _own_business(actor, known, now, built_in())
    return fault or (KeyAdded(command.key),)


def remove_key(known: Principal, command: RemoveKey) -> Outcome:
    if command.key not in known.keys:
        return Rejection(RejectionKind.NOT_FOUND, f"{known.name} has no key {command.key}", "key")
    return (KeyRemoved(command.key, command.reason),)


def issue_token(actor: Principal, known: Principal, command: IssueToken, now: int) -> Outcome:
    """A further API token; nothing where it has just that."""
    until = _micros(command.until)
    for token in known.tokens:
        if token.name == command.token:
            if (token.digest, token.until) == (command.digest, until):
                return ()
            return _conflict(f"{known.name} has a token {token.name}; choose another name", "token")
    if len(known.tokens) >= TOKENS_MAX:
        return _conflict(f"{known.name} has {len(known.tokens)} tokens; at most {TOKENS_MAX} are held")
    fault = _past(until, now) or _own_business(actor, known, now, built_in())
    return fault or (TokenIssued(command.token, command.digest, until),)


def revoke_token(known: Principal, command: RevokeToken) -> Outcome:
    if command.token not in [token.name for token in known.tokens]:
        return Rejection(RejectionKind.NOT_FOUND, f"{known.name} has no token {command.token}", "token")
    ended = [
        SessionEnded(each.name, f"its token {command.token} counts no more")
        for each in known.sessions
        if each.token == command.token
    ]
    return (TokenRevoked(command.token, command.reason), *ended)


def start_session(actor: Principal, known: Principal, command: StartSession, now: int) -> Outcome:
    """A further session; nothing where it is known. It lasts no longer than sessions may, nor than its token.

    Where too many are open, the oldest end.
    """
    if actor.name != known.name and actor.kind is not PrincipalKind.SYSTEM:
        return _no(f"{actor.name} cannot log in as {known.name}: a session is one's own", "deny.credentials")
    until = micros(command.until.timestamp())
    if command.token is not None:
        shown = next((each for each in known.tokens if each.name == command.token), None)
        if shown is None or (shown.until is not None and shown.until <= now):
            reason = f"{known.name} has no token {command.token} that counts; show one that does"
            return Rejection(RejectionKind.NOT_FOUND, reason, "token")
        until = until if shown.until is None else min(until, shown.until)
    until = min(until, now + SESSION_MAX_S * SECOND_US)
    for each in known.sessions:
        if each.name == command.session:
            if each.digest == command.digest:
                return ()
            return _conflict(f"{known.name} has a session {command.session}; choose another name", "session")
    open_ = [each for each in known.sessions if now < each.until]
    ended = [
        SessionEnded(each.name, f"{SESSIONS_MAX} newer ones are open")
        for each in open_[: max(0, len(open_) + 1 - SESSIONS_MAX)]
    ]
    started = SessionStarted(command.session, command.digest, until, command.by, command.token)
    return _past(until, now) or (started, *ended)


def end_session(known: Principal, command: EndSession) -> Outcome:
    if command.session not in [each.name for each in known.sessions]:
        reason = f"{known.name} has no session {command.session}"
        return Rejection(RejectionKind.NOT_FOUND, reason, "session")
    return (SessionEnded(command.session, command.reason),)


def grant(
    actor: Principal, known: Principal, command: GrantRole, others: Iterable[Principal], now: int
) -> Outcome:
    """A role, or the proposal of one. `others` are the tenant's principals."""
    until = _micros(command.until)
    fault = _grantable(known, command.scope) or _past(until, now)
    fault = fault or beyond(actor, command.role, command.scope, until, known.tenant, now)
    if fault is not None:
        return fault
    for held in known.grants:
        if (held.role, held.scope, held.until) == (command.role, command.scope, until):
            return ()
    rule = "grant"
    if command.role in built_in().two_persons:
        if known.name == actor.name:
            return _no(f"{actor.name} cannot give itself {command.role.value}", "deny.self", "name")
        approvers = _approvers(others, command.role, command.scope, until, now, {actor.name, known.name})
        if approvers:
            return _proposed(known, command.role, command.scope, command.reason, until, None)
        rule = NOBODY_ELSE
    return (RoleGranted(command.role, command.scope, command.reason, rule, until),)


def ungrant(known: Principal, command: UngrantRole, others: Iterable[Principal], now: int) -> Outcome:
    """Takes a role away; the last owner stays one."""
    if (command.role, command.scope) not in [(held.role, held.scope) for held in known.grants]:
        reason = f"{known.name} was not granted {command.role.value} in {command.scope}"
        return Rejection(RejectionKind.CONFLICT, reason, "role")  # the principal, who is asked for, is there
    if command.role is Role.OWNER and command.scope == "*":
        fault = _last_owner(known, others, now)
        if fault is not None:
            return fault
    return (RoleUngranted(command.role, command.scope, command.reason),)


def elevate(known: Principal, command: Elevate) -> Outcome:
    """Proposes a role for a time, for whoever asks."""
    return _grantable(known, command.scope) or _proposed(
        known, command.role, command.scope, command.reason, None, command.for_s
    )


def _proposed(
    known: Principal, role: Role, scope: str, reason: str, until: int | None, for_s: int | None
) -> Outcome:
    for each in known.proposals:
        if (each.role, each.scope, each.until, each.for_s) == (role, scope, until, for_s):
            return _conflict(f"that is proposed already, as number {each.number}; another person approves")
    if len(known.proposals) >= PROPOSALS_MAX:
        return _conflict(f"{len(known.proposals)} proposals wait for {known.name}; decide on some first")
    return (AccessProposed(known.proposed + 1, role, scope, reason, TWO_PERSONS, until, for_s),)


def approve(actor: Principal, known: Principal, command: ApproveAccess, now: int) -> Outcome:
    """What was proposed takes effect; an elevation's time begins."""
    proposal = known.proposal(command.number)
    if proposal is None:
        return _no_proposal(known, command.number)
    if actor.name in (proposal.proposed_by, known.name):
        reason = f"{actor.name} proposed this or gains by it; another person approves"
        return _no(reason, "deny.self")
    if actor.kind is not PrincipalKind.PERSON:
        return _no(f"{actor.name} is a {actor.kind.value}; a person approves", TWO_PERSONS)
    until = proposal.until if proposal.for_s is None else now + proposal.for_s * SECOND_US
    fault = _past(until, now) or beyond(actor, proposal.role, proposal.scope, until, known.tenant, now)
    return fault or (
        RoleGranted(
            proposal.role,
            proposal.scope,
            proposal.reason,
            TWO_PERSONS,
            until,
            proposal.number,
            proposal.proposed_by,
        ),
    )


def decline(known: Principal, command: DeclineAccess) -> Outcome:
    if known.proposal(command.number) is None:
        return _no_proposal(known, command.number)
    return (AccessDeclined(command.number, command.reason),)


def revoke(known: Principal, command: RevokePrincipal, others: Iterable[Principal], now: int) -> Outcome:
    """Nothing where it is revoked; the last owner cannot be. Restored, it has to log in again."""
    if known.revoked is not None:
        return ()
    ended = [SessionEnded(each.name, f"{known.name} is revoked") for each in known.sessions]
    return _last_owner(known, others, now) or (PrincipalRevoked(command.reason), *ended)


def restore(actor: Principal, known: Principal, command: RestorePrincipal, now: int) -> Outcome:
    """Nothing where it is not revoked. Whoever restores must hold all that comes back."""
    if known.revoked is None:
        return ()
    fault = _beyond_grants(actor, known.grants, known.tenant, now, built_in())
    return fault or (PrincipalRestored(command.reason),)


def proposal_scope(known: Principal | None, number: int) -> str:
    """The scope that a proposal is about; the whole tenant where there is none."""
    found: Proposal | None = None if known is None else known.proposal(number)
    return "*" if found is None else found.scope


def _no_proposal(known: Principal, number: int) -> Rejection:
    reason = f"nothing is proposed for {known.name} as number {number}"
    return Rejection(RejectionKind.NOT_FOUND, reason, "number")


def _grantable(known: Principal, scope: str) -> Rejection | None:
    fault = scope_fault(scope)
    if fault is not None:
        return Rejection(RejectionKind.MALFORMED, fault, "scope")
    if len(known.grants) >= GRANTS_MAX:
        return _conflict(f"{known.name} has {len(known.grants)} grants; at most {GRANTS_MAX} are held")
    return None


def _past(until: int | None, now: int) -> Rejection | None:
    if until is None or until > now:
        return None
    return _conflict("until is past already; give a later time", "until")


def _micros(until: datetime.datetime | None) -> int | None:
    return None if until is None else micros(until.timestamp())


def _approvers(
    others: Iterable[Principal], role: Role, scope: str, until: int | None, now: int, but: set[str]
) -> list[str]:
    """Who could approve: persons that hold the role and may approve it."""
    return [
        each.name
        for each in others
        if each.name not in but
        and each.kind is PrincipalKind.PERSON
        and allowed(each, "approve_access", Resource(each.tenant, scope), now).allowed
        and beyond(each, role, scope, until, each.tenant, now) is None
    ]


def forbids(
    known: Principal | None,
    command: OfPrincipal | Elevate,
    events: Iterable[Fact],
    everybody: Sequence[Principal],
    now: int,
) -> Rejection | None:
    """Why what was decided must not be, by rules that came later: records from before them may hold it.

    No name is taken for Writ's own, no secret is two principals', and nobody shuts out the last owner.
    """
    if known is None:
        return own_name(command.name, "name") if isinstance(command, CreatePrincipal) else None
    for event in events:
        if isinstance(event, TokenIssued | SessionStarted) and _has_secret(everybody, known, event.digest):
            return _conflict("the digest is that of another principal's; make a secret of your own", "digest")
        if isinstance(event, KeyRemoved) and len(known.keys) == 1:
            last = _last_owner(known, [each for each in everybody if each.tenant == known.tenant], now)
            if last is not None:
                reason = (
                    f"{event.key} is the only key of {known.name}, the tenant's last owner; add another one"
                )
                return _conflict(reason, "key")
        if isinstance(event, RoleGranted) and event.until is not None:
            held = next((g for g in known.grants if (g.role, g.scope) == (event.role, event.scope)), None)
            if held is not None and (held.until is None or held.until > event.until):
                return _conflict(
                    f"{known.name} is {event.role.value} in {event.scope} already, and for longer", "until"
                )
    return None


def own_name(name: str, field: str) -> Rejection | None:
    """Why nobody may have a name: what acts under it would be taken for Writ itself, in the audit as well."""
    if not name.startswith(_OWN_NAMES):
        return None
    return _conflict(f"{name} begins with {_OWN_NAMES}, as names of Writ's own do; choose another", field)


def _has_secret(everybody: Iterable[Principal], but: Principal, digest: str) -> bool:
    """Whether a token or session of another principal has a digest."""
    return any(
        digest in [*[each.digest for each in other.tokens], *[each.digest for each in other.sessions]]
        for other in everybody
        if (other.tenant, other.name) != (but.tenant, but.name)
    )


def _last_owner(known: Principal, others: Iterable[Principal], now: int) -> Rejection | None:
    """Why an owner must stay: nobody else could let anybody in again."""

    def owns(principal: Principal) -> bool:
        return principal.revoked is None and any(
            grant.role is Role.OWNER and grant.scope == "*" and grant.until is None
            for grant in principal.grants
        )

    if not owns(known) or any(owns(each) for each in others if each.name != known.name):
        return None
    return _conflict(f"{known.name} is the last owner of the tenant; make another one first", "name")
