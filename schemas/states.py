"""Where a job can stand, and why it is dead."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a job stands. The last three are terminal."""

    SCHEDULED = "scheduled"
    PENDING = "pending"
    SUSPENDED = "suspended"
    RUNNING = "running"
    RETRYING = "retrying"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    DEAD = "dead"


class DeadReason(StrEnum):
    """Why a job was dead-lettered."""

    EXHAUSTED = "exhausted"
    NON_RETRYABLE = "non_retryable"
    POLICY = "policy"
    POISON = "poison"
    EXPIRED = "expired"
    JOB_TIMEOUT = "job_timeout"
    HISTORY_LIMIT = "history_limit"
    DEPENDENCY = "dependency"
    REJECTED = "rejected"
    WAIT_TIMEOUT = "wait_timeout"
