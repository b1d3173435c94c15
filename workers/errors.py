"""What a task can raise to steer what happens next, and what is wrong with a worker's own set-up."""

from __future__ import annotations

from writ.schemas.bounds import SECONDS_MAX


class FailJob(Exception):
    """The job shall not be tried again: it becomes a dead letter with reason `policy`.

    Raise it, or a subclass whose name says why; the name is kept as the error's type.
    """


class PolicyViolation(FailJob):
    """A rule forbids what the job asks for."""


class RetryAfter(Exception):
    """The attempt failed; try again in `seconds` at the earliest, or later where the policy says later."""

    def __init__(self, seconds: float, message: str = "") -> None:
        if not 0 <= seconds <= SECONDS_MAX:
            raise ValueError(f"RetryAfter takes seconds from 0 to {SECONDS_MAX:,}, not {seconds!r}")
        super().__init__(message or f"asked to be tried again in {seconds:g} s")
        self.seconds = seconds


class Cancelled(Exception):
    """The task ended its work because the job is cancelled."""


class WorkerError(Exception):
    """A worker cannot be set up or go on."""


class LevelLacking(WorkerError):
    """This machine lacks what a level of isolation wants; the message says what to do."""


class TaskError(WorkerError):
    """A function cannot be a task; the message names the parameter and what to do."""


class LoadError(WorkerError):
    """Tasks cannot be loaded from where they were said to be."""
