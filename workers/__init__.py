"""Execution: the worker process and what a task sees of it."""

from .context import Context
from .errors import Cancelled, FailJob, LoadError, PolicyViolation, RetryAfter, TaskError, WorkerError
from .load import load
from .steps import (
    CallFailed,
    ChildFailed,
    NotDone,
    OutcomeUnknown,
    StepFailed,
    StepPolicy,
    StepRefused,
    ToolDenied,
    ToolFailed,
    WaitTimedOut,
)
from .tasks import Task, task
from .tools import Tool, tool
from .worker import Worker

__all__ = [
    "CallFailed",
    "Cancelled",
    "ChildFailed",
    "Context",
    "FailJob",
    "LoadError",
    "NotDone",
    "OutcomeUnknown",
    "PolicyViolation",
    "RetryAfter",
    "StepFailed",
    "StepPolicy",
    "StepRefused",
    "Task",
    "TaskError",
    "Tool",
    "ToolDenied",
    "ToolFailed",
    "WaitTimedOut",
    "Worker",
    "WorkerError",
    "load",
    "task",
    "tool",
]
