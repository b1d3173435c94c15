"""Deciding what governs a tenant."""

from __future__ import annotations

from writ.schemas.commands import DeclareTenant
from writ.schemas.events import Fact
from writ.schemas.tenants import Tenant, TenantDeclared


def declare_tenant(tenant: Tenant, command: DeclareTenant) -> tuple[Fact, ...]:
    """The next version of a tenant's policy; nothing to store where it says the same."""
    if tenant.version and tenant.policy == command.policy:
        return ()
    return (TenantDeclared(tenant.version + 1, command.policy, command.reason),)
