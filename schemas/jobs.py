"""A job as its records tell it: what `lifecycle.evolve` folds."""

from __future__ import annotations

from typing import Final

import msgspec

from .errors import AttemptError
from .events import Approval, OnDead, OnParentEnd, OnTimeout, WaitReason
from .ids import split_job_key
from .policy import Limits, Retry
from .sealed import Sealed
from .states import DeadReason, State
from .steps import Compensation, RecordedStep, Reproduces

_SIGNAL_BYTES: Final = 100
"""More than a signal weighs beside its name and its data."""


class HeldLease(msgspec.Struct, frozen=True, gc=False):
    """The live lease of a running job; times are log time in microseconds.

    `noted` is how many events its holder has noted: steps, tool calls and usage. Of the tenant's budget
    `reserved_microusd` were set apart for it, and it has used `used_microusd`.
    """

    worker: str
    principal: str
    token: int
    granted_at: int
    expires_at: int
    started_at: int | None = None
    noted: int = 0
    reserved_microusd: int = 0
    used_microusd: int = 0

    @property
    def outstanding_microusd(self) -> int:
        """What is set apart for it and not used yet."""
        return max(0, self.reserved_microusd - self.used_microusd)


class Signal(msgspec.Struct, frozen=True, gc=False):
    """Data that came for a job from outside."""

    name: str
    data: Sealed
    seq: int

    @property
    def size_bytes(self) -> int:
        """About what it weighs in an answer."""
        return self.data.size_bytes + len(self.name) + _SIGNAL_BYTES


class Wait(msgspec.Struct, frozen=True, gc=False):
    """What a suspended job waits for, see `JobSuspended`; `since_at` is when the wait began."""

    reason: WaitReason
    on: tuple[str, ...]
    until: int | None
    on_timeout: OnTimeout
    since_at: int


class Reopened(msgspec.Struct, frozen=True, gc=False):
    """What opened a job's round, after the first: the record, the end that it answers, and by whom."""

    seq: int
    answers: int
    by: str
    event: str
    reason: str


class Job(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One job as its records tell it. Times are log time in microseconds.

    `attempt` counts grants in this round, `failures` and `lease_losses` what the policy counts. `since` is
    the sequence at which it entered its state, which orders a queue. `last_token` is the newest lease's,
    kept after the lease ended so that a repeated report is known. `round_at` and `round_due` are when this
    round was opened and when it was first due; `stood_us` is how long the round was suspended in all, and
    `signals` what came in it. `ended_by` is the newest terminal record,
    `approval` what is still to be asked for. `steps` are those recorded in this round and, after a redrive,
    those from before it; `tool_calls` counts the round's, without those that were denied. `compensation` is
    the end that waits for the steps to be undone, or did. `reserve_microusd` is what an attempt may cost.
    `process` is the release that it asks for, and
    `release` the digest of the one that its newest lease was for.
    `requires` are labels that its worker must have. `first_input` is the digest of the input that it was
    submitted with, where somebody has changed that since.
    """

    tenant: str
    key: str
    state: State
    task: str
    input: Sealed
    actor: str
    submitted_at: int
    due_at: int
    since: int
    priority: int
    retry: Retry
    limits: Limits
    policy: int
    fairness_key: str | None = None
    concurrency_key: str | None = None
    unique_key: str | None = None
    after: tuple[str, ...] = ()
    on_dead: OnDead = OnDead.DEAD_LETTER
    input_from: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    parent: str | None = None
    on_parent_end: OnParentEnd = OnParentEnd.CANCEL
    batch: str | None = None
    schedule: str | None = None
    approval: Approval | None = None
    tags: Sealed | None = None
    round: int = 1
    attempt: int = 0
    failures: int = 0
    lease_losses: int = 0
    records: int = 0
    round_at: int = 0
    round_due: int = 0
    lease: HeldLease | None = None
    wait: Wait | None = None
    stood_us: int = 0
    progress: Sealed | None = None
    signals: tuple[Signal, ...] = ()
    last_token: int = 0
    cancel: str | None = None
    output: Sealed | None = None
    error: AttemptError | None = None
    dead: DeadReason | None = None
    cause: str | None = None
    operation: str | None = None
    dropped: str | None = None
    reason: str | None = None
    finished_at: int | None = None
    ended_by: int = 0
    reopened: Reopened | None = None
    steps: tuple[RecordedStep, ...] = ()
    tool_calls: int = 0
    compensation: Compensation | None = None
    reproduces: Reproduces | None = None
    reserve_microusd: int | None = None
    process: str | None = None
    release: str | None = None
    trace: str | None = None
    requires: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    first_input: str | None = None

    @property
    def queue(self) -> str:
        return split_job_key(self.key)[0]

    @property
    def stops(self) -> str | None:
        """Why it is to end with its attempt: cancel was asked, and it does not undo what its steps did."""
        return None if self.compensation is not None else self.cancel

    @property
    def id(self) -> str:
        return split_job_key(self.key)[1]

    @property
    def pinned(self) -> str | None:
        """The release of its newest lease, by digest; what it asks for where it never had one."""
        if self.process is None or self.release is None:
            return self.process
        return f"{self.process.partition('@')[0]}@{self.release}"
