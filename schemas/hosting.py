"""What the people of a node ask of its tenants: which there are, and what each may use.

All of it is asked in the host tenant, whose owners run the node, of the queue `-`: its home.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .forms import Answer, Command, Reason, Token
from .granting import PublicKey
from .quotas import NO_QUOTAS, Quotas

HOST_TENANT: Final = "default"
"""The tenant that each node has, in which others are made and given their quotas."""


HOSTED: Final = "create_tenant"
"""The cause of the records that make a tenant and its first owner."""


class CreateTenant(Command, frozen=True, kw_only=True):
    """Makes a tenant, whose first principal is an `owner` that logs in with the NKey `key`."""

    name: Token
    owner: Token = "owner"
    key: PublicKey
    reason: Reason = "requested"


class SetQuotas(Command, frozen=True, kw_only=True):
    """What tenant `name` may use from here on; what is left out is without limit.

    Refused where `version`, if given, is not that of the quotas that hold.
    """

    name: Token
    quotas: Quotas
    version: Annotated[int, Meta(ge=0)] | None = None
    reason: Reason = "requested"


class ListTenants(Command, frozen=True):
    """Asks which tenants there are, and what they use."""


class Used(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What of its quotas a tenant uses now: see `Quotas`. Money is in micro-dollars.

    `spent_microusd` in the period of its budget, which began at log time `since`; `reserved_microusd` for
    attempts that run.
    """

    jobs: int = 0
    input_bytes: int = 0
    workers: int = 0
    spent_microusd: int = 0
    reserved_microusd: int = 0
    since: int = 0


class HostedTenant(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A tenant as the host sees it; `created` is the record that made it, `version` that of its quotas."""

    name: str
    created: int
    principals: int
    version: int = 0
    quotas: Quotas = NO_QUOTAS
    used: Used = Used()


class TenantsTold(Answer, frozen=True):
    """All tenants by name."""

    tenants: tuple[HostedTenant, ...] = ()


HOSTING_VERBS: Final[dict[str, type[Command]]] = {
    HOSTED: CreateTenant,
    "set_quotas": SetQuotas,
    "list_tenants": ListTenants,
}

HOSTING_ANSWERS: Final[dict[type[Command], type[Answer]]] = {ListTenants: TenantsTold}
