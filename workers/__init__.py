"""Execution: the worker process and what a task sees of it."""

from .context import Context
from .errors import Cancelled, FailJob, LoadError, PolicyViolation, RetryAfter, TaskError, WorkerError
from .load import load
from .tasks import Task, task
from .worker import Worker

__all__ = [
    "Cancelled",
    "Context",
    "FailJob",
    "LoadError",
    "PolicyViolation",
    "RetryAfter",
    "Task",
    "TaskError",
    "Worker",
    "WorkerError",
    "load",
    "task",
]
