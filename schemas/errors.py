"""Errors of attempts: the class decides what happens next."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from .sealed import Sealed


class ErrorClass(StrEnum):
    """What kind of failure ended an attempt."""

    SYSTEM = "system"
    APPLICATION = "application"
    TIMEOUT = "timeout"
    LEASE_LOST = "lease_lost"
    POLICY = "policy"
    CANCELLED = "cancelled"
    POISON = "poison"


class AttemptError(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The error of one attempt as the log keeps it: class and type in clear, text sealed.

    `type` is the exception's name, `text` a JSON string: the message, with a bounded traceback.
    """

    class_: ErrorClass = msgspec.field(name="class")
    type: Annotated[str, Meta(max_length=256)]
    text: Sealed | None = None
