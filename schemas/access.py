"""Whether a principal may do something: the operations, the policy, and the decision with its rule.

The policy is one file of data, `access.toml`. Deciding is pure: the same principal, operation, resource and
time give the same decision, in the orchestrator, at the readers, at the broker's gate and in replay.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Final, NamedTuple

import msgspec

from .commands import CONTROL_VERBS, LEASE_VERBS
from .hosting import HOST_TENANT
from .principals import WHOLE_TENANT, Principal, PrincipalKind, Role, covers
from .rejections import Rejection, RejectionKind
from .stores import STORE_VERBS
from .subjects import NO_QUEUE
from .verbs import QUERY_VERBS

SUBMIT: Final = "submit"
OF_THE_NODE: Final = ("rebuild_view",)
"""What the API does on its machine, once it has asked whether the principal `can`."""

OPERATIONS: Final[dict[str, str]] = {
    SUBMIT: "submit",
    **dict.fromkeys(LEASE_VERBS, "lease"),
    **dict.fromkeys(CONTROL_VERBS, "control"),
    **dict.fromkeys(QUERY_VERBS, "query"),
    **dict.fromkeys(STORE_VERBS, "store"),
    **dict.fromkeys(OF_THE_NODE, "node"),
}
"""Every operation by its name, and the word of its subject: `writ.<word>.<tenant>.<principal>...`."""

ANY: Final = "*"
_EVERYBODY: Final = "everybody"
_RULES: Final = "rules"
_OWN: Final = "rules.oneself"


class PolicyFault(ValueError):
    """A policy file cannot be used; the message says what is wrong and where."""


class Policy(msgspec.Struct, frozen=True):
    """The policy, read. `lines` are operations by role and by the name of the line."""

    lines: dict[str, dict[str, frozenset[str]]]
    whole_tenant: frozenset[str]
    host: frozenset[str]
    oneself: frozenset[str]
    two_persons: frozenset[str]

    def rule(self, role: str, operation: str) -> str | None:
        """The name of the line by which a role allows an operation; None where none does."""
        for name, allowed in self.lines.get(role, {}).items():
            if operation in allowed or ANY in allowed:
                return f"{role}.{name}"
        return None

    def operations(self, role: Role) -> frozenset[str]:
        """All that a role allows."""
        return frozenset([each for each in OPERATIONS if self.rule(role, each) is not None])


class Resource(NamedTuple):
    """What an operation is about: a queue or a scope of a tenant, and the principal that it changes."""

    tenant: str
    queue: str = WHOLE_TENANT
    principal: str | None = None

    def __str__(self) -> str:
        return self.queue if self.principal is None else f"principal {self.principal}"


class Decision(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Whether something is allowed, by which rule, why, and until when (log time) that holds at most."""

    allowed: bool
    rule: str
    reason: str
    until: int | None = None


@cache
def built_in() -> Policy:
    """The policy that is shipped."""
    return read_policy(policy_text())


def policy_text() -> str:
    """The policy file as it is shipped."""
    return resources.files("writ.schemas").joinpath("access.toml").read_text("utf-8")


def read_policy(text: str) -> Policy:
    """A policy from its file. Raises PolicyFault, naming what is wrong."""
    try:
        found = msgspec.convert(tomllib.loads(text), dict[str, dict[str, list[str]]])
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise PolicyFault(f"the policy cannot be read: {error}") from None
    rest = found.pop(_RULES, {})
    known = {*Role, _EVERYBODY}
    for role, lines in found.items():
        if role not in known:
            raise PolicyFault(f"there is no role {role!r}; the roles are {', '.join(sorted(known))}")
        for name, operations in lines.items():
            for each in operations:
                if each != ANY and each not in OPERATIONS:
                    raise PolicyFault(f"{role}.{name} allows {each!r}, which is no operation")
    for name in rest.keys() - {"whole_tenant", "host", "oneself", "two_persons"}:
        raise PolicyFault(f"there is no line {_RULES}.{name}")
    for each in [*rest.get("whole_tenant", []), *rest.get("host", []), *rest.get("oneself", [])]:
        if each not in OPERATIONS:
            raise PolicyFault(f"{each!r} is no operation")
    for each in rest.get("two_persons", []):
        if each not in set(Role):
            raise PolicyFault(f"rules.two_persons names {each!r}, which is no role")
    return Policy(
        {role: {name: frozenset(ops) for name, ops in lines.items()} for role, lines in found.items()},
        frozenset(rest.get("whole_tenant", [])),
        frozenset(rest.get("host", [])),
        frozenset(rest.get("oneself", [])),
        frozenset(rest.get("two_persons", [])),
    )


def allowed(
    principal: Principal | None,
    operation: str,
    resource: Resource,
    now: int,
    policy: Policy | None = None,
) -> Decision:
    """Whether a principal may do an operation to a resource at log time `now`. None is one that is not known.

    Denied by default. The rule is the policy's line that allows it, or `deny.<why>`.
    """
    policy = policy or built_in()
    if principal is None:
        return Decision(False, "deny.unknown", "nobody of that name is known in this tenant")
    if principal.revoked is not None:
        return Decision(False, "deny.revoked", f"{principal.name} is revoked: {principal.revoked}")
    if principal.tenant != resource.tenant:
        return Decision(False, "deny.tenant", f"{principal.name} is of tenant {principal.tenant}")
    if principal.kind is PrincipalKind.SYSTEM:
        return Decision(True, "system", "a part of Writ itself")
    if operation in policy.host and resource.tenant != HOST_TENANT:
        return Decision(False, "deny.host", f"that is for the people of the node, in tenant {HOST_TENANT}")
    rule = policy.rule(_EVERYBODY, operation)
    if rule is not None:
        return Decision(True, rule, "allowed to everybody that is known")
    if operation in policy.oneself and resource.principal == principal.name:
        return Decision(True, _OWN, "about oneself")
    whole = resource.queue == NO_QUEUE or operation in policy.whole_tenant
    return _by_grants(principal, operation, WHOLE_TENANT if whole else resource.queue, now, policy)


def _by_grants(principal: Principal, operation: str, asked: str, now: int, policy: Policy) -> Decision:
    """The decision by the grants: of those that allow it the one that lasts longest."""
    best: Decision | None = None
    over: str | None = None
    elsewhere: str | None = None
    for grant in principal.grants:
        rule = policy.rule(grant.role, operation)
        if rule is None:
            continue
        if not covers(grant.scope, asked):
            elsewhere = f"{rule} allows it in {grant.scope} alone, not in {asked}"
        elif not grant.live(now):
            over = f"the grant of {grant.role} in {grant.scope} is over"
        elif best is None or (best.until is not None and (grant.until is None or grant.until > best.until)):
            best = Decision(True, rule, f"{grant.role} in {grant.scope}", grant.until)
    if best is not None:
        return best
    if over is not None:
        return Decision(False, "deny.expired", over)
    if elsewhere is not None:
        return Decision(False, "deny.scope", elsewhere)
    if operation not in OPERATIONS:
        return Decision(False, "deny.operation", f"there is no operation {operation!r}")
    roles = [role for role in Role if policy.rule(role, operation) is not None]
    return Decision(
        False, "deny.default", f"no role of {principal.name} allows {operation}; {', '.join(roles)} would"
    )


def denied(principal: str, operation: str, resource: Resource, decision: Decision) -> Rejection:
    """A denial as it is answered: principal, operation, resource, why, and the rule in brackets."""
    reason = f"{principal} may not {operation} on {resource}: {decision.reason} [{decision.rule}]"
    return Rejection(RejectionKind.DENIED, reason)


def rule_in(denial: Rejection) -> str:
    """The rule that a denial names at its end, in brackets."""
    return denial.reason.rpartition("[")[2].removesuffix("]")
