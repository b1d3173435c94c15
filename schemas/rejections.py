"""A refused command is data: a kind, a reason, and the field it is about."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class RejectionKind(StrEnum):
    """What a caller can branch on; the reason is for people."""

    MALFORMED = "malformed"
    """The message is not what the verb takes; `field` names the place."""

    TOO_LARGE = "too_large"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    """The job's state does not allow it."""

    DUPLICATE = "duplicate"
    """A live job has the same unique key, and stands for this submit: `job` is its key."""

    STALE = "stale"
    """The fencing token is not the live lease's: the work is void."""

    DENIED = "denied"
    """The principal may not do this; the reason ends with the rule that decided, in brackets."""

    TRY_LATER = "try_later"
    """Not a verdict: nothing was decided, ask again."""


class Rejection(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Why a command, or one element of it, was refused. `job` is the key of a job that stands in its way.

    `lanes` is how many the queue has, where the submit is of another one of them.
    """

    kind: RejectionKind
    reason: str
    field: str | None = None
    index: int | None = None
    job: str | None = None
    lanes: int | None = None
