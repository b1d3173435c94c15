"""What governs a whole tenant, where a queue says nothing else."""

from __future__ import annotations

from typing import Final

import msgspec

from .facts import Fact
from .policy import QueuePolicy, Seconds

TENANT_KEY: Final = "policy"
"""The key of a tenant's policy, an aggregate of kind `tenant`."""


class TenantPolicy(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """What holds in each queue of a tenant whose own policy leaves it open; see `QueuePolicy`.

    A default here never changes: old records leave defaults out.
    """

    archive_after_s: Seconds | None = None
    erasable: bool = False


class TenantDeclared(Fact, frozen=True):
    """A tenant's policy; `version` is the next one."""

    version: int
    policy: TenantPolicy
    reason: str = ""


class Tenant(msgspec.Struct, frozen=True, gc=False):
    """A tenant's policy and its version; 0 where nobody declared one."""

    version: int = 0
    policy: TenantPolicy = TenantPolicy()

    def archive_after_s(self, queue: QueuePolicy) -> float | None:
        """How long the history of ended jobs stays in the log of a queue with this policy."""
        own = queue.archive_after_s
        return self.policy.archive_after_s if own is None else own

    def erasable(self, queue: QueuePolicy) -> bool:
        """Whether new jobs of a queue with this policy are sealed."""
        return self.policy.erasable if queue.erasable is None else queue.erasable


UNDECLARED: Final = Tenant()


def evolve_tenant(tenant: Tenant | None, event: Fact) -> Tenant:
    """The tenant after one of its own events."""
    if not isinstance(event, TenantDeclared):
        raise ValueError(f"{type(event).__name__} is no event of a tenant")
    return Tenant(event.version, event.policy)
