"""Versions of our own records as a whole: what each brought, and how a log is raised from one to the next.

A log is written in one version at a time. A leader that could write a newer one goes on with the older until
the log is raised, which is recorded, and refused while any orchestrator is there that reads less: until then
each of them, and each older Writ that is started again, can take over.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .facts import Fact
from .forms import Command, Reason

RECORDS: Final = 2
"""The newest version, which this Writ reads and can write, as all before it."""

BROUGHT: Final[dict[int, dict[str, int]]] = {2: {"leader_elected": 2, "records_raised": 1}}
"""Of each version behind the first, the event types with the versions of theirs that are written from it on.

A type that is not named here is written by every version, as its first.
"""

LOGICS: Final[dict[int, int]] = {1: 1, 2: 1}
"""The logic that decides in a log of each version."""


@cache
def written(version: int) -> dict[str, int]:
    """The event types that were brought up to a version of records, and which version of theirs it writes."""
    found: dict[str, int] = {}
    for each in range(2, version + 1):
        found |= BROUGHT[each]
    return found


@cache
def not_yet(version: int) -> frozenset[str]:
    """The event types that a version of records does not know."""
    later = {name for each, types in BROUGHT.items() if each > version for name, v in types.items() if v == 1}
    return frozenset(later)


class Member(msgspec.Struct, frozen=True, gc=False, array_like=True, order=True):
    """An orchestrator that takes part, by its name, and the newest version of records that it reads."""

    name: str
    reads: int


class RecordsRaised(Fact, frozen=True):
    """From here on records are written in a newer version: all `members` that were there read it."""

    version: int
    previous: int
    members: tuple[Member, ...]
    reason: str


class RaiseRecords(Command, frozen=True, kw_only=True):
    """Has records written in `version` from here on, for good: no older Writ can lead the log again.

    Refused while an orchestrator is there that does not read them, and where they are of a newer one already.
    """

    version: Annotated[int, Meta(ge=1)] = RECORDS
    reason: Reason = "requested"


class CountedRaise(Command, frozen=True, kw_only=True):
    """The same once it is known who takes part, and what each of them reads."""

    asked: RaiseRecords
    members: tuple[Member, ...]


UPGRADE_VERBS: Final[dict[str, type[Command]]] = {"raise_records": RaiseRecords}
