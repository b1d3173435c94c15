"""What the orchestrator and the views need of the wire, as protocols.

JetStream fulfils them in `log.py` and `intake.py`; the in-memory twin in `memory.py`. One conformance suite
(`tests/conformance/`) holds both to the same behaviour.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from writ.schemas.upgrading import Member


class Message(NamedTuple):
    """A body for a subject."""

    subject: str
    body: bytes


class Stored(NamedTuple):
    """A message as the broker keeps it; `stored_us` is the broker's own time of storing, UTC microseconds."""

    seq: int
    subject: str
    body: bytes
    stored_us: int


class AppendFailed(Exception):
    """An append did not succeed, or nobody knows."""


class WrongLastSequence(AppendFailed):
    """Another writer has extended the log: nothing of this append was stored."""


class NotStored(AppendFailed):
    """The broker refused to store it, as it is full or the message too large: surely nothing was stored."""


class OutcomeUnknown(AppendFailed):
    """No answer: all, a part (of plain publishes) or nothing may have been stored. Read back."""


class Log(Protocol):
    """One totally ordered log. Sequences start at 1 and have no gaps."""

    @property
    def partition(self) -> int: ...

    @property
    def epoch(self) -> int:
        """Of this incarnation of the log; greater than that of any log before it in its place."""
        ...

    async def last_seq(self) -> int:
        """The sequence of the newest record as the broker knows it now, 0 where there is none.

        Raises OutcomeUnknown where the broker does not answer; so do the reads below.
        """
        ...

    async def append(self, messages: Sequence[Message], after: int, *, whole: bool = False) -> None:
        """Stores all messages directly after sequence `after`, which must be the log's last.

        Returns when the broker has them on disk. A few messages may go one by one: then a failure can leave a
        prefix of them stored, as OutcomeUnknown says, unless they are asked to be stored `whole`. Raises
        AppendFailed's subclasses.
        """
        ...

    def read(
        self, start: int = 1, subjects: Sequence[str] = (), *, follow: bool = False
    ) -> AsyncIterator[list[Stored]]:
        """Messages in order from sequence `start`, in lists as they come.

        Ends at what was the last sequence when it began, unless `follow`: then it waits for more until
        closed.
        `subjects` narrows to those that match any of the patterns.
        """
        ...


Shards = Collection[int] | None
"""Which of the 256 shards; None for all of them."""


class Intake(Protocol):
    """The stream of submits, read in order from a position and purged behind it."""

    @property
    def epoch(self) -> int: ...

    async def last_seq(self) -> int:
        """The sequence of the newest submit, also of one purged; 0 where there was none."""
        ...

    def read(
        self, start: int, shards: Shards = None, tenant: str | None = None
    ) -> AsyncIterator[list[Stored]]:
        """Submits of the shards, and of one `tenant` or all, from sequence `start` on, until closed.

        Sequences may have gaps.
        """
        ...

    async def mark(self, shard: int, tenant: str, body: bytes) -> None:
        """Puts a message behind all submits of a tenant to a shard that are there; read as they are.

        Raises OutcomeUnknown where it may not be there; more than one does no harm.
        """
        ...

    async def purge(self, up_to: int, shards: Shards = None, tenant: str | None = None) -> None:
        """Forgets the submits of the shards, and of one `tenant` or all, up to and including `up_to`."""
        ...

    async def first_seq(self) -> int:
        """The sequence of the oldest submit that is still there; one after the last where none is."""
        ...

    async def waiting(self, tenant: str) -> int:
        """How many messages of a tenant are stored and not forgotten yet."""
        ...

    async def take_of(
        self, tenants: Collection[str] | None, kept_out: Mapping[str, int] | None = None
    ) -> None:
        """Stores submits of these tenants alone from here on; of all where it is None, as at first.

        It changes nothing where it is so already. `kept_out` is what `kept_out` tells until the next call.
        """
        ...

    async def kept_out(self) -> Mapping[str, int]:
        """The tenants that a leader, which may be gone, keeps out, and since when in microseconds UTC.

        Raises OutcomeUnknown.
        """
        ...

    async def erase(self, seq: int) -> None:
        """Forgets one submit, and overwrites its bytes wherever they are kept. Nothing where it is gone."""
        ...


Answer = Callable[[bytes], None]
"""Sends the answer to a request; never blocks, and a lost requester is no error."""

Serve = Callable[[str, bytes, Answer], None]
"""Takes a request: its mapped subject, its body and how to answer."""


class Requests(Protocol):
    """Requests of workers and operators, and the beat by which leaders know each other."""

    async def serve(self, handler: Serve, shards: Shards = None) -> None:
        """Hands every lease and control request of the shards to `handler` until `stop`; those of no others.

        Returns when they reach this host. Raises ConnectionError.
        """
        ...

    async def stop(self) -> None: ...

    async def who(self, partition: int) -> str | None:
        """The leader that answers now; None where nobody does."""
        ...

    async def beat(self, partition: int, leader: str) -> None:
        """Says that `leader` leads; from the first beat to `stop`, `who` is answered with it."""
        ...

    async def announce(self, partition: int) -> None:
        """Says to all who wait for an answer that another leads now: what is not answered, they ask again."""
        ...

    async def resign(self, partition: int) -> None:
        """Says that nobody leads any more: who stands by need not wait for the silence."""
        ...

    async def attend(self, partition: int, member: Member, written: Callable[[], int]) -> None:
        """Has `roll` find this orchestrator; `written` is the version of records of its log as it is then."""
        ...

    async def roll(self, partition: int) -> tuple[Member, ...]:
        """All orchestrators of the partition that answer soon, in their order. Raises ConnectionError."""
        ...

    async def hear(self, partition: int, heard: Callable[[str], None]) -> None:
        """Calls `heard` with the name in each beat of the partition's leader, "" where one has resigned."""
        ...
