"""Writ: an event-sourced control plane for jobs on NATS JetStream.

    from writ import Client, Worker, task

The names load at first use, so that `import writ` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from writ.broker.blocking import SyncClient
    from writ.broker.client import Client
    from writ.broker.connect import Target
    from writ.broker.errors import (
        JobCancelled,
        JobEnded,
        JobFailed,
        JobNotFound,
        NoAnswer,
        NoResponders,
        PermissionDenied,
        Refused,
        SubmitRefused,
        Unreachable,
        WritError,
    )
    from writ.broker.moving import FileBroken
    from writ.broker.results import JobHandle
    from writ.schemas.canaries import CanaryPolicy, Measure, OnFine, OnWorse
    from writ.schemas.commands import Approval, Command, Plan, SubmitJob
    from writ.schemas.errors import ErrorClass
    from writ.schemas.evaluations import Better, Dimension, Measured, Outcome
    from writ.schemas.events import (
        DeadReason,
        Filter,
        OnDead,
        OnParentEnd,
        OnTimeout,
        OperationVerb,
        WaitReason,
    )
    from writ.schemas.gates import Approvals, GateSpec, PolicyName, Window
    from writ.schemas.policy import (
        ClassRetry,
        Isolation,
        Limits,
        OnClash,
        OnExhausted,
        QueuePolicy,
        Retry,
        ToolPolicy,
    )
    from writ.schemas.principals import Role
    from writ.schemas.processes import Alias, Pinned
    from writ.schemas.queries import Query
    from writ.schemas.quotas import Budget, Period, Quotas
    from writ.schemas.rejections import RejectionKind
    from writ.schemas.schedules import Overlap, ScheduleSpec
    from writ.schemas.states import State
    from writ.schemas.steps import Reproduces
    from writ.schemas.stores import File
    from writ.schemas.tenants import TenantPolicy
    from writ.workers import Context, Worker, task, tool
    from writ.workers.errors import Cancelled, FailJob, PolicyViolation, RetryAfter
    from writ.workers.runner.limits import AttemptLimits
    from writ.workers.steps import (
        ChildFailed,
        NotDone,
        OutcomeUnknown,
        StepFailed,
        StepPolicy,
        ToolDenied,
        ToolFailed,
        WaitTimedOut,
    )
    from writ.workers.stores import FileMissing

    __version__: str

__all__ = [
    "Alias",
    "Approval",
    "Approvals",
    "AttemptLimits",
    "Better",
    "Budget",
    "CanaryPolicy",
    "Cancelled",
    "ChildFailed",
    "ClassRetry",
    "Client",
    "Command",
    "Context",
    "DeadReason",
    "Dimension",
    "ErrorClass",
    "FailJob",
    "File",
    "FileBroken",
    "FileMissing",
    "Filter",
    "GateSpec",
    "Isolation",
    "JobCancelled",
    "JobEnded",
    "JobFailed",
    "JobHandle",
    "JobNotFound",
    "Limits",
    "Measure",
    "Measured",
    "NoAnswer",
    "NoResponders",
    "NotDone",
    "OnClash",
    "OnDead",
    "OnExhausted",
    "OnFine",
    "OnParentEnd",
    "OnTimeout",
    "OnWorse",
    "OperationVerb",
    "Outcome",
    "OutcomeUnknown",
    "Overlap",
    "Period",
    "PermissionDenied",
    "Pinned",
    "Plan",
    "PolicyName",
    "PolicyViolation",
    "Query",
    "QueuePolicy",
    "Quotas",
    "Refused",
    "RejectionKind",
    "Reproduces",
    "Retry",
    "RetryAfter",
    "Role",
    "ScheduleSpec",
    "State",
    "StepFailed",
    "StepPolicy",
    "SubmitJob",
    "SubmitRefused",
    "SyncClient",
    "Target",
    "TenantPolicy",
    "ToolDenied",
    "ToolFailed",
    "ToolPolicy",
    "Unreachable",
    "WaitReason",
    "WaitTimedOut",
    "Window",
    "Worker",
    "WritError",
    "__version__",
    "task",
    "tool",
]

_ROOMS = {
    "writ.broker.blocking": ("SyncClient",),
    "writ.broker.client": ("Client",),
    "writ.broker.connect": ("Target",),
    "writ.broker.errors": (
        "JobCancelled",
        "JobEnded",
        "JobFailed",
        "JobNotFound",
        "NoAnswer",
        "NoResponders",
        "PermissionDenied",
        "Refused",
        "SubmitRefused",
        "Unreachable",
        "WritError",
    ),
    "writ.broker.moving": ("FileBroken",),
    "writ.broker.results": ("JobHandle",),
    "writ.schemas.canaries": ("CanaryPolicy", "Measure", "OnFine", "OnWorse"),
    "writ.schemas.commands": ("Approval", "Command", "Plan", "SubmitJob"),
    "writ.schemas.principals": ("Role",),
    "writ.schemas.queries": ("Query",),
    "writ.schemas.errors": ("ErrorClass",),
    "writ.schemas.events": (
        "DeadReason",
        "Filter",
        "OnDead",
        "OnParentEnd",
        "OnTimeout",
        "OperationVerb",
        "WaitReason",
    ),
    "writ.schemas.evaluations": ("Better", "Dimension", "Measured", "Outcome"),
    "writ.schemas.gates": ("Approvals", "GateSpec", "PolicyName", "Window"),
    "writ.schemas.policy": (
        "ClassRetry",
        "Isolation",
        "Limits",
        "OnClash",
        "OnExhausted",
        "QueuePolicy",
        "Retry",
        "ToolPolicy",
    ),
    "writ.schemas.processes": ("Alias", "Pinned"),
    "writ.schemas.quotas": ("Budget", "Period", "Quotas"),
    "writ.schemas.rejections": ("RejectionKind",),
    "writ.schemas.schedules": ("Overlap", "ScheduleSpec"),
    "writ.schemas.states": ("State",),
    "writ.schemas.steps": ("Reproduces",),
    "writ.schemas.stores": ("File",),
    "writ.schemas.tenants": ("TenantPolicy",),
    "writ.workers": ("Context", "Worker", "task", "tool"),
    "writ.workers.errors": ("Cancelled", "FailJob", "PolicyViolation", "RetryAfter"),
    "writ.workers.runner.limits": ("AttemptLimits",),
    "writ.workers.stores": ("FileMissing",),
    "writ.workers.steps": (
        "ChildFailed",
        "NotDone",
        "OutcomeUnknown",
        "StepFailed",
        "StepPolicy",
        "ToolDenied",
        "ToolFailed",
        "WaitTimedOut",
    ),
}
_HOMES = {name: module for module, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, from the room it lives in."""
    value: Any
    if name == "__version__":
        from importlib.metadata import version

        value = version("writ-orchestrator")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
