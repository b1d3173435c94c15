"""Which function runs each command. It is loaded when the command runs, and not before."""

from __future__ import annotations

from argparse import Namespace
from importlib import import_module
from typing import Final

from .principals import COMMANDS as OF_PRINCIPALS

_CONTROL: Final = "terminate", "rerun", "drop", "pause", "resume", "approve", "reject", "signal", "edit"

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "up": ("nodes", "up"),
    "down": ("nodes", "down"),
    "status": ("nodes", "status"),
    "broker": ("brokers", "broker"),
    "orchestrator": ("orchestrating", "orchestrator"),
    "views": ("views", "views"),
    "archive": ("archive", "archive"),
    "backup": ("backups", "backup"),
    "restore": ("backups", "restore"),
    "env": ("variables", "env"),
    "demo": ("demo", "demo"),
    "worker": ("work", "worker"),
    "dev": ("dev", "dev"),
    "init": ("projects", "init"),
    "lock": ("projects", "lock"),
    "run": ("projects", "run"),
    "publish": ("releases", "publish"),
    "release": ("releases", "release"),
    "gate": ("releases", "gate"),
    "evaluate": ("evaluations", "evaluate"),
    "submit": ("submit", "submit"),
    "jobs": ("jobs", "jobs"),
    "job": ("jobs", "job"),
    "cancel": ("bulk", "cancel"),
    **dict.fromkeys(_CONTROL, ("control", "control")),
    "dlq": ("dead", "run"),
    "queue": ("queues", "queue"),
    "schedule": ("schedules", "schedule"),
    "operation": ("bulk", "operation"),
    "batch": ("batches", "batch"),
    "apply": ("apply", "apply"),
    "price": ("prices", "price"),
    "tenant": ("tenants", "tenant"),
    "upgrade": ("upgrading", "upgrade"),
    "partitions": ("partitions", "partitions"),
    "asset": ("assets", "asset"),
    "file": ("files", "file"),
    "memory": ("files", "memory"),
    "erase": ("keeping", "erase"),
    "hold": ("keeping", "hold"),
    "audit": ("audits", "audit"),
    **dict.fromkeys(("attempts", "tools"), ("lists", "run")),
    "workers": ("fleet", "workers"),
    "cost": ("lists", "cost"),
    "explain": ("past", "explain"),
    "replay": ("past", "replay"),
    "reproduce": ("reproduce", "reproduce"),
    "login": ("contexts", "login"),
    "context": ("contexts", "context"),
    "policy": ("access", "policy"),
    **dict.fromkeys(OF_PRINCIPALS, ("access", "run")),
}
"""The module of this package, and the function of it that takes the options and gives the exit code."""


def run(parsed: Namespace) -> int:
    """Runs the command; its exit code."""
    module, name = COMMANDS[parsed.command]
    code: int = getattr(import_module(f".{module}", __package__), name)(parsed)
    return code
