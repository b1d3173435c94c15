"""What a worker is, and what it holds of each queue."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from writ.schemas.commands import Held, WorkerAbout
from writ.schemas.policy import Isolation

from .hands import Outbox
from .redaction import Redactor
from .run import Run

if TYPE_CHECKING:
    from .children import Errands


@dataclass(frozen=True, slots=True)
class Post:
    """Who works for whom: a worker of a principal, on queues, with so many slots. Times are in seconds.

    `isolation` is how it keeps attempts apart, `releases` are the digests of those that it holds, and
    `labels` what jobs may demand of it.
    """

    tenant: str
    principal: str
    worker: str
    queues: tuple[str, ...]
    concurrency: int
    wait_s: float = 5.0
    drain_s: float = 25.0
    about: WorkerAbout | None = None
    weights: Mapping[str, int] = field(default_factory=dict[str, int])
    isolation: Isolation = Isolation.NONE
    releases: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True)
class Counts:
    """What a worker has done since its start. `stale` counts reports that changed nothing."""

    acquired: int = 0
    completed: int = 0
    failed: int = 0
    released: int = 0
    suspended: int = 0
    lost: int = 0
    stale: int = 0


class Line:
    """What the keeper has of one queue. Runs in hand are known by their fencing tokens."""

    def __init__(self, queue: str, tenant: str, weight: float = 1, redactor: Redactor | None = None) -> None:
        self.queue = queue
        self.tenant = tenant
        self.weight = weight
        self.turn = 0.0
        """How many leases it was asked for by its weight; the queue with the least has the next turn."""

        self.held: dict[int, Run] = {}
        self._over: dict[int, int] = {}
        """Tokens held no more, each with the newest acquire at the time: an older one may yet tell of it."""

        self._asked = 0
        self._open: dict[int, None] = {}
        self.completed: deque[Run] = deque()
        self.failed: deque[Run] = deque()
        self.given_back: deque[Run] = deque()
        self.asleep: dict[str, deque[Run]] = {"suspend": deque(), "snooze": deque()}
        self.sending = {"complete": 0, "fail": 0, "release": 0, "suspend": 0, "snooze": 0}
        self.outbox: Outbox
        """Where runs go that have noted something; there from the keeper's start on."""

        self.errands: Errands
        """What user code has the keeper do; there as long."""

        self.redactor = redactor or Redactor()
        """The secrets that the worker knows."""

        self.noting: dict[int, Run] = {}
        self.sending_notes = 0
        self.polls = 0
        self.hot = False
        """The last acquire brought all that it asked for."""
        self.missed = False
        """An acquire was not answered, and what it may have brought is not asked for yet."""

        self.greeted = False
        """It was asked for once, without waiting."""

        self.resting = False
        self.pause_s = 0.0
        self.beat: asyncio.TimerHandle | None = None
        self.beating = False
        self.unheard = False
        """The last beat was not answered."""

    def opened(self) -> int:
        """An acquire goes out. What `closed` is told when its answer was dealt with, or cannot come."""
        self._asked += 1
        self._open[self._asked] = None
        return self._asked

    def closed(self, asked: int) -> None:
        del self._open[asked]
        oldest = next(iter(self._open), self._asked + 1)
        while self._over and self._over[token := next(iter(self._over))] < oldest:
            del self._over[token]

    def is_new(self, token: int) -> bool:
        """Whether a lease is none that was held before: two answers may tell of one."""
        return token not in self.held and token not in self._over

    def drop(self, token: int) -> None:
        """A lease is over, or given back."""
        if self.held.pop(token, None) is not None and self._open:
            self._over[token] = self._asked

    def waiting_reports(self, verb: str) -> deque[Run]:
        waiting = {"complete": self.completed, "fail": self.failed, **self.asleep}
        return waiting.get(verb, self.given_back)


def held(runs: Iterable[Run]) -> tuple[Held, ...]:
    return tuple([Held(run.lease.id, run.lease.token) for run in runs])


def heard(runs: Iterable[Run]) -> tuple[Held, ...]:
    """The same with the newest signal that each has had."""
    return tuple([Held(run.lease.id, run.lease.token, run.heard[-1].seq if run.heard else 0) for run in runs])
