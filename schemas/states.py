"""Where a job can stand."""

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
