"""What is asked about principals and what they may do. All of it is sent to the queue `-`: the tenant's home.

A role that takes two persons is not granted but proposed, and so is what `elevate` asks for: another who
holds the role says `approve_access`, for the principal and the number in the answer.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Final, Literal

from msgspec import Meta

from .bounds import TOKEN_MAX_BYTES
from .forms import Answer, Command, Fence, Reason, Token
from .notes import DIGEST_PATTERN
from .principals import ELEVATION_MAX_S, Role

Scope = Annotated[str, Meta(min_length=1, max_length=TOKEN_MAX_BYTES)]
"""`*`, or a queue, or the beginning of queues' names with `*` behind it, as in `billing/*`."""

NKEY_PATTERN: Final = r"^U[A-Z2-7]{55}$(?!\n)"
PublicKey = Annotated[str, Meta(pattern=NKEY_PATTERN)]
"""A public NKey of a user."""

Digest = Annotated[str, Meta(pattern=DIGEST_PATTERN)]
"""SHA-256 in hex."""

BY_MAX_CHARS: Final = 1_000
"""Of how somebody has logged in: an issuer's address and a name there, at most."""

Until = Annotated[datetime.datetime, Meta(tz=True)] | None


class OfPrincipal(Command, frozen=True, kw_only=True):
    """Base of what is asked of one principal of the tenant, and why."""

    name: Token
    reason: Reason = "requested"


class CreatePrincipal(OfPrincipal, frozen=True, kw_only=True):
    """Makes a principal known, with no role; `key` is its first NKey."""

    kind: Literal["person", "service", "worker"] = "person"
    key: PublicKey | None = None


class AddKey(OfPrincipal, frozen=True, kw_only=True):
    """A principal may log in with a further NKey."""

    key: PublicKey


class RemoveKey(OfPrincipal, frozen=True, kw_only=True):
    """An NKey counts no more."""

    key: PublicKey


class IssueToken(OfPrincipal, frozen=True, kw_only=True):
    """A principal may ask over HTTP with a token. Whoever sends this makes it, and tells only its digest."""

    token: Token
    """What it is called."""

    digest: Digest
    until: Until = None


class RevokeToken(OfPrincipal, frozen=True, kw_only=True):
    """An API token counts no more."""

    token: Token


class StartSession(OfPrincipal, frozen=True, kw_only=True):
    """A principal has logged in to the HTTP API: said for itself alone, by the API that has seen it do so."""

    session: Token
    digest: Digest
    until: Annotated[datetime.datetime, Meta(tz=True)]
    by: Annotated[str, Meta(min_length=1, max_length=BY_MAX_CHARS)]
    token: Token | None = None
    """The API token that was shown; the session ends with it."""


class EndSession(OfPrincipal, frozen=True, kw_only=True):
    """A session counts no more."""

    session: Token


class GrantRole(OfPrincipal, frozen=True, kw_only=True):
    """Gives a principal a role in a scope; a role that takes two persons is proposed."""

    role: Role
    scope: Scope = "*"
    until: Until = None


class UngrantRole(OfPrincipal, frozen=True, kw_only=True):
    """Takes a role in a scope away, as it was granted."""

    role: Role
    scope: Scope = "*"


class Elevate(Command, frozen=True, kw_only=True):
    """Asks for a role for a time, for oneself: another who holds it approves, and then the time begins."""

    role: Role
    scope: Scope = "*"
    for_s: Annotated[int, Meta(ge=1, le=ELEVATION_MAX_S)] = 3_600
    reason: Reason


class ApproveAccess(OfPrincipal, frozen=True, kw_only=True):
    """Says yes to what was proposed for a principal: by a person other than who proposed and who gains."""

    number: Fence


class DeclineAccess(OfPrincipal, frozen=True, kw_only=True):
    """Says no to what was proposed for a principal, or takes back one's own proposal."""

    number: Fence


class RevokePrincipal(OfPrincipal, frozen=True, kw_only=True):
    """Nothing is answered to a principal any more, whatever it holds."""


class RestorePrincipal(OfPrincipal, frozen=True, kw_only=True):
    """A revoked principal is what it was."""


class NoteDenial(Command, frozen=True, kw_only=True):
    """What a reader denied, for the audit: sent by a part of Writ itself, and by nobody else."""

    tenant: Token
    principal: Token
    operation: Annotated[str, Meta(max_length=64)]
    resource: Annotated[str, Meta(max_length=TOKEN_MAX_BYTES)]
    rule: Annotated[str, Meta(max_length=64)]
    why: Annotated[str, Meta(max_length=1_000)]
    count: Annotated[int, Meta(ge=1)] = 1


class Granted(Answer, frozen=True):
    """`proposal` is the number of what waits for a second person; None where it took effect."""

    proposal: int | None = None


ACCESS_VERBS: Final[dict[str, type[Command]]] = {
    "create_principal": CreatePrincipal,
    "add_key": AddKey,
    "remove_key": RemoveKey,
    "issue_token": IssueToken,
    "revoke_token": RevokeToken,
    "start_session": StartSession,
    "end_session": EndSession,
    "grant": GrantRole,
    "ungrant": UngrantRole,
    "elevate": Elevate,
    "approve_access": ApproveAccess,
    "decline_access": DeclineAccess,
    "revoke_principal": RevokePrincipal,
    "restore_principal": RestorePrincipal,
}

ACCESS_ANSWERS: Final[dict[type[Command], type[Answer]]] = {GrantRole: Granted, Elevate: Granted}
