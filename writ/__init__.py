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
    from writ.schemas.policy import Retry
    from writ.workers import Context, Worker, task

    __version__: str

__all__ = ["Client", "Context", "Retry", "SyncClient", "Worker", "__version__", "task"]

_HOMES = {
    "Client": "writ.broker.client",
    "Context": "writ.workers",
    "Retry": "writ.schemas.policy",
    "SyncClient": "writ.broker.blocking",
    "Worker": "writ.workers",
    "task": "writ.workers",
}


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
