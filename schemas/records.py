"""The record: one transition of one aggregate, one message of the log."""

from __future__ import annotations

import msgspec

from .events import Fact
from .upgrading import LOGICS, RECORDS

LOGIC = LOGICS[RECORDS]
"""Version of the deciding code. It is raised where `decide` would answer the same command otherwise."""

GENESIS = "0" * 64
"""`prev` of a log's first record."""


class Source(msgspec.Struct, frozen=True, gc=False, array_like=True, order=True):
    """Where in the intake a submit stood: intake epoch, stream sequence, index in the array."""

    epoch: int
    seq: int
    index: int


NO_SOURCE = Source(0, 0, 0)
"""Before the first submit."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record in code. `at` is log time, UTC microseconds since 1970, and never goes backwards.

    `prev` is SHA-256 in hex over the body bytes of the log's previous record. `actor` is the principal
    that caused it, or `writ:<component>`; `vouched` says whether its name was proved by a signature, and is
    None for the system's own records.
    `cause` is the verb of the command, or `record:<seq>` for what a timer set by that record did.
    """

    epoch: int
    seq: int
    tenant: str
    kind: str
    key: str
    at: int
    actor: str
    events: tuple[Fact, ...]
    prev: str = ""
    cause: str | None = None
    vouched: bool | None = None
    source: Source | None = None
    trace: str | None = None
    logic: int = LOGIC
