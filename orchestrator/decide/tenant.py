"""Deciding which tenants there are, and what governs one."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from writ.schemas.bounds import TENANTS_MAX
from writ.schemas.commands import DeclareTenant
from writ.schemas.events import Fact
from writ.schemas.hosting import HOSTED, CreateTenant
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.principals import (
    KeyAdded,
    Principal,
    PrincipalCreated,
    PrincipalKind,
    Role,
    RoleGranted,
    TenantCreated,
)
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.tenants import Tenant, TenantDeclared

from .access import taken

Founding = tuple[tuple[Fact, ...], tuple[Fact, ...]]
"""The events of a new tenant, and those of its first owner."""


def create(
    known: Collection[str], owner: Principal | None, command: CreateTenant, everybody: Iterable[Principal]
) -> Founding | Rejection | None:
    """A new tenant and its owner; None where that tenant has that owner with that key already.

    `known` are the tenants that there are, `owner` the principal of that name in it.
    """
    name = command.name
    if name == SYSTEM_TENANT:
        return Rejection(RejectionKind.CONFLICT, f"{name} is Writ's own; choose another name", "name")
    if name in known:
        if owner is not None and command.key in owner.keys:
            return None
        return Rejection(RejectionKind.CONFLICT, f"there is a tenant {name}; choose another name", "name")
    if len(known) >= TENANTS_MAX:
        reason = f"there are {len(known)} tenants; at most {TENANTS_MAX} are held"
        return Rejection(RejectionKind.TOO_LARGE, reason, "name")
    clash = taken(command.key, everybody)
    if clash is not None:
        return clash
    grant = RoleGranted(Role.OWNER, "*", command.reason, HOSTED)
    first = (PrincipalCreated(PrincipalKind.PERSON, command.reason), KeyAdded(command.key), grant)
    return (TenantCreated(command.reason),), first


def declare_tenant(tenant: Tenant, command: DeclareTenant) -> tuple[Fact, ...]:
    """The next version of a tenant's policy; nothing to store where it says the same."""
    if tenant.version and tenant.policy == command.policy:
        return ()
    return (TenantDeclared(tenant.version + 1, command.policy, command.reason),)
