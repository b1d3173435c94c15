"""One job as the checker sees it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from writ.schemas import events as e
from writ.schemas.policy import Limits, Retry
from writ.schemas.records import Record
from writ.schemas.steps import CompensationDue, StepIntended

from .loop import SECOND_US

TERMINAL: Final = frozenset({"completed", "cancelled", "dead"})
SYSTEM: Final = "writ:orchestrator"
BY_OPERATION: Final = "operation:"
"""How the cause of a record begins that an operation made."""


class Wrong(Exception):
    """A record that must not stand in the log."""


def us(seconds: float) -> int:
    return round(seconds * SECOND_US)


def need(holds: object, why: str) -> None:
    if not holds:
        raise Wrong(why)


class Waits(NamedTuple):
    """What a suspended job waits for, and from when on."""

    reason: str
    on: tuple[str, ...]
    until: int | None
    on_timeout: str
    since_at: int


class Rules(NamedTuple):
    """A retry policy as it holds for one error class."""

    max_attempts: int
    initial_interval_s: float
    backoff: float
    max_interval_s: float

    @classmethod
    def of(cls, policy: Retry, class_: str) -> Rules:
        over: Any = dict(policy.per_class).get(class_)  # type: ignore[call-overload]
        picked = [getattr(over, field, None) for field in cls._fields]
        return cls(
            *(getattr(policy, f) if p is None else p for f, p in zip(cls._fields, picked, strict=True))
        )


class StepTally:
    """One step of a job by its records; `token` is that of the attempt which began it last."""

    __slots__ = ("name", "passed", "seq", "state", "token", "undoable", "unknown")

    def __init__(self, event: StepIntended, record: Record) -> None:
        self.name, self.unknown, self.undoable = event.name, event.on_unknown, event.compensable
        self.token, self.seq = event.token, record.seq
        self.state = "open"
        self.passed = False

    @property
    def owes(self) -> bool:
        return self.undoable and self.state in ("open", "done")


class Tally:
    """One job by its records. Times are log time in microseconds, `base_us` is true time."""

    __slots__ = (
        "asks", "attempt", "base_us", "calls", "cancel", "cancel_seq", "dead", "dropped", "due_at",
        "ended_at", "ended_by", "error", "excused", "expires_at", "failures", "given", "granted_at",
        "key", "last_token", "limits", "losses", "opened", "operation", "output", "owes", "permanent",
        "principal", "priority", "queue",
        "reason", "records", "retry", "round", "round_at", "round_due", "signals", "since", "source",
        "started", "state", "steps", "stood", "task", "tenant", "token", "undoes", "wait", "worker",
    )  # fmt: skip

    def __init__(self, key: str, record: Record, event: e.JobSubmitted) -> None:
        due_at = record.at if event.due_at is None else event.due_at
        self.key = key
        self.queue = key.partition("~")[0]
        """With the tenant, as `<tenant>.<queue>`."""
        self.tenant = record.tenant
        self.given = event
        """The submit: keys, relations, and all else that never changes."""
        self.task = event.task
        self.retry: Retry = event.retry
        self.limits: Limits = event.limits
        self.priority = event.priority
        self.state = "scheduled" if due_at > record.at else "pending"
        self.due_at = self.round_due = due_at
        self.round_at = record.at
        self.since = self.opened = record.seq
        """`opened` is the record that opened the round."""
        self.source = record.source
        self.round = 1
        self.attempt = self.failures = self.losses = self.records = 0
        self.stood = 0
        self.token = self.last_token = 0
        self.worker = self.principal = ""
        self.granted_at = self.expires_at = self.base_us = 0
        self.started = False
        self.wait: Waits | None = None
        self.asks: dict[str, Any] | None = None
        """The approval that its submit asks for, until it is asked."""
        self.signals: list[tuple[str, int, bytes]] = []
        self.excused = False
        """An operator had it go on though its attempts were used up."""
        self.owes = ""
        """What the record at hand must still say the consequence of: failed, lost, cancel, wake."""
        self.cancel: str | None = None
        self.cancel_seq = 0
        self.error: Any = None
        self.permanent = False
        self.output: bytes | None = None
        self.dead: str | None = None
        self.dropped: str | None = None
        self.operation: str | None = None
        self.reason: str | None = None
        self.ended_by = self.ended_at = 0
        self.steps: list[StepTally] = []
        self.calls = 0
        self.undoes: CompensationDue | None = None
        """The end that waits for its steps to be undone."""

    @property
    def live(self) -> bool:
        return self.state not in TERMINAL

    @property
    def deadline(self) -> int:
        return self.round_due + self.stood + us(self.limits.job_timeout_s)

    @property
    def expiry(self) -> int | None:
        """When it is too late for its first start."""
        most_s = self.limits.expires_in_s
        return (
            None if self.attempt or most_s is None or self.undoes else self.round_at + self.stood + us(most_s)
        )

    def overdue(self, at: int) -> str | None:
        """What should have happened to the job by itself before `at`, and has not."""
        if not self.live:
            return None
        if self.wait is not None:
            return "its wait is over" if self.wait.until is not None and self.wait.until < at else None
        if self.deadline < at:
            return "job_timeout_s is over"
        if self.token:
            if self.expires_at < at:
                return "its lease is over"
            return (
                "attempt_timeout_s is over"
                if self.granted_at + us(self.limits.attempt_timeout_s) < at
                else None
            )
        if self.expiry is not None and self.expiry < at:
            return "expires_in_s is over"
        return "it is due" if self.state in ("scheduled", "retrying") and self.due_at < at else None

    def exhausted(self) -> bool:
        """Whether the failures counted so far are all that the policy allows after the last error."""
        most = Rules.of(self.retry, self.error.class_).max_attempts
        return bool(most) and self.failures >= most

    def stands(self, at: int) -> None:
        """Its wait ends, or begins anew, at log time `at`: the time spent in it does not count."""
        if self.wait is not None:
            self.stood += at - self.wait.since_at
            self.wait = None

    def reopen(self, record: Record, operation: str | None) -> None:
        """A new round."""
        self.state, self.since, self.opened, self.round = "pending", record.seq, record.seq, self.round + 1
        self.round_at = self.round_due = self.due_at = record.at
        self.attempt = self.failures = self.losses = self.stood = 0
        self.cancel = self.error = self.dead = self.dropped = self.reason = self.output = None
        self.operation = operation
        self.excused = False
        self.signals = []
        self.calls = 0
        self.undoes = None
