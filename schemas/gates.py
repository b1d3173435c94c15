"""Gates: what must be true of a release before an alias points at it.

A gate is declared for a process, or for all (`*`), and for a scope; all gates that match a promotion hold, so
a folder may ask for more than the tenant does. It belongs to the tenant: kind `gate`, its name the key.

    gate_declared    the gate's template, as its next version; gate_removed ends it
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .facts import Fact
from .principals import Role
from .processes import NAME_PATTERN, Alias, Scope

GATES_MAX: Final = 200
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_Time = Annotated[str, Meta(pattern=r"^(?:[01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)")]
_Name = Annotated[str, Meta(min_length=1, max_length=128)]
_Names = Annotated[tuple[_Name, ...], Meta(max_length=20)]


class PolicyName(StrEnum):
    """A check that blocks hard: nobody overrides it."""

    FORBIDDEN_TOOLS = "forbidden_tools"
    LEAKED_SECRETS = "leaked_secrets"
    OVER_BUDGET = "over_budget"


class Approvals(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """So many persons who hold `role` in the scope must have said yes; who published it does not count."""

    count: Annotated[int, Meta(ge=1, le=20)] = 1
    role: Role = Role.APPROVER


class Window(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """When nothing is promoted: on these days from `start` until before `end`, by the clock of `tz`."""

    days: Annotated[tuple[str, ...], Meta(min_length=1, max_length=7)] = DAYS
    start: _Time = "00:00"
    end: _Time | None = None
    """The end of the day where it is left out."""

    tz: Annotated[str, Meta(max_length=64)] = "UTC"
    reason: Annotated[str, Meta(max_length=200)] = ""


class GateSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A gate's template. `evaluations` names data sets that must have been passed; `drills` likewise.

    `max_age_s` is how old an evaluation or a drill may be. Whoever holds `override` in the scope may ask for
    a promotion against the gate, and another one who does may approve it; never against `policies`.
    """

    process: Annotated[str, Meta(pattern=rf"^(?:\*|{NAME_PATTERN})$(?!\n)")] = "*"
    scope: Scope = "*"
    aliases: Annotated[tuple[Alias, ...], Meta(min_length=1)] = (Alias.LIVE,)
    evaluations: _Names = ()
    policies: Annotated[tuple[PolicyName, ...], Meta(max_length=3)] = ()
    approvals: Approvals | None = None
    freeze_windows: Annotated[tuple[Window, ...], Meta(max_length=50)] = ()
    drills: _Names = ()
    max_age_s: Annotated[int, Meta(ge=1)] | None = None
    override: Role = Role.OWNER


class GateDeclared(Fact, frozen=True):
    """`version` grows by one with each; `gate` is whole, not a difference."""

    version: int
    gate: GateSpec
    reason: str = ""


class GateRemoved(Fact, frozen=True):
    version: int
    reason: str


GATE_EVENTS: Final[tuple[type[Fact], ...]] = (GateDeclared, GateRemoved)


class Gate(msgspec.Struct, frozen=True):
    """A gate and its version. One that was removed has no `spec`, and keeps its version."""

    version: int
    spec: GateSpec | None


def evolve_gate(event: Fact) -> Gate:
    """The gate after one of its own events."""
    match event:
        case GateDeclared(version=version, gate=spec):
            return Gate(version, spec)
        case GateRemoved(version=version):
            return Gate(version, None)
        case _:
            raise ValueError(f"{type(event).__name__} is no event of a gate")
