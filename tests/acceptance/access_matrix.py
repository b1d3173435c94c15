"""The hand-written matrix of who may do what, read; and a harmless message for each operation."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from writ.schemas.principals import Role

SHOP: Final = "shop"
"""The queue of the grants that are not for the whole tenant."""

BANK: Final = "bank"
TENANT: Final = "*"
_READ: Final = tomllib.loads((Path(__file__).parent / "access_matrix.toml").read_text(encoding="utf-8"))
ROLES: Final = tuple([Role(word) for word in _READ["roles"].split()])
TWO_PERSONS: Final = frozenset(_READ["two_persons"])
ONESELF: Final = frozenset(_READ["oneself"])
OPERATIONS: Final = tuple(_READ["cells"])


class Cell(NamedTuple):
    """One role, granted in a scope, asks for one operation in a queue."""

    role: Role
    scope: str
    operation: str
    queue: str
    allowed: bool


def cells() -> Iterator[Cell]:
    """All cells: each role and operation, in both scopes, in the queue of the grant and in another one."""
    for operation, row in _READ["cells"].items():
        letters = row.split()
        assert len(letters) == len(ROLES), operation
        for role, letter in zip(ROLES, letters, strict=True):
            yield Cell(role, TENANT, operation, SHOP, letter != ".")
            yield Cell(role, SHOP, operation, SHOP, letter in "Q*")
            yield Cell(role, SHOP, operation, BANK, letter == "*")


_KEY: Final = "U" + "A" * 55
_JOB: Final = {"id": "none"}
_NAMED: Final = {"name": "nobody"}
_RELEASE: Final = {"process": "tried"}
_RELEASED: Final = _RELEASE | {"release": "none"}
_HELD: Final = {"worker": "w", "leases": [{"id": "none", "token": 1}]}
_REPORT: Final = {"worker": "w", "id": "none", "token": 1}
_FILE: Final = {"sha256": "0" * 64}
_MEMORY: Final = {"agent": "tried"}
_TOKENS: Final = {"note": "usage_recorded", "model": "m", "input_tokens": 1}
MESSAGES: Final[dict[str, dict[str, Any]]] = {
    "acquire": {"worker": "w"},
    "withdraw": {"worker": "w"},
    **dict.fromkeys(("renew", "start", "release"), _HELD),
    "complete": {"worker": "w", "reports": [{"id": "none", "token": 1}]},
    "fail": {"worker": "w", "reports": [{"id": "none", "token": 1, "class": "system", "type": "E"}]},
    "snooze": _REPORT | {"delay_s": 1},
    "suspend": _REPORT | {"reason": "approval"},
    "progress": _REPORT | {"progress": 1},
    "note": {"worker": "w", "reports": [{"id": "none", "token": 1, "first": 1, "notes": [_TOKENS]}]},
    "recall": _REPORT,
    "read_asset": _REPORT | {"name": "none"},
    "put_part": {"upload": "tried", "number": 0, "data": "dHJpZWQ="},
    "put_file": {"file": {"sha256": "0" * 64, "size_bytes": 1}},
    **dict.fromkeys(("find_file", "get_part", "drop_file"), _FILE),
    "list_files": {},
    **dict.fromkeys(("read_memory", "write_memory", "forget_memory", "list_memory"), _MEMORY),
    "set_asset": {"name": "tried", "value": "dHJpZWQ="},
    **dict.fromkeys(("remove_asset", "get_asset"), _NAMED),
    **dict.fromkeys(("cancel", "terminate", "redrive", "drop", "rerun", "pause", "resume"), _JOB),
    **dict.fromkeys(("approve", "reject", "edit", "erase", "records", "job"), _JOB),
    "signal": _JOB | {"name": "s"},
    "plan": {"verb": "cancel", "dry_run": True},
    "seal_batch": {"batch": "b", "size": 7},
    "declare": {"policy": {}},
    "declare_schedule": {"name": "s", "spec": {"task": "t", "cron": "0 3 * * *"}},
    **dict.fromkeys(("delete_schedule", "pause_schedule", "resume_schedule", "trigger_schedule"), _NAMED),
    "backfill_schedule": _NAMED | {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"},
    "set_price": {"model": "m", "input_microusd": 1, "output_microusd": 2, "from": "2026-01-01T00:00:00Z"},
    "declare_tenant": {"policy": {}},
    "create_tenant": {"name": "default", "key": _KEY},
    "set_quotas": {"name": "nobody", "quotas": {}},
    "raise_records": {"version": 1},
    "move_shard": {"to": 0},
    "publish_release": _RELEASE | {"version": "1.0.0", "digest": "0" * 64, "size_bytes": 1, "key": _KEY},
    "keep_package": {"digest": "0" * 64, "size_bytes": 9, "data": ""},
    "package": {"digest": "0" * 64},
    **dict.fromkeys(("promote_release", "revoke_release", "start_canary", "approve_release"), _RELEASED),
    "check_gates": _RELEASED,
    **dict.fromkeys(("rollback_release", "freeze_release", "unfreeze_release", "end_canary"), _RELEASE),
    "approve_promotion": _RELEASE | {"number": 1},
    "record_evaluation": _RELEASED
    | {
        "data": "d",
        "data_version": "0" * 64,
        "measured": [{"dimension": {"name": "a"}, "candidate": [[1.0]]}],
    },
    "record_drill": _RELEASED | {"drill": "d", "outcome": "pass"},
    "record_policy_check": _RELEASED | {"check": "over_budget"},
    "declare_gate": {"name": "nobodys", "gate": {"process": "nothing"}},
    "remove_gate": {"name": "none"},
    "drain_worker": {"worker": "w"},
    "undrain_worker": {"worker": "w"},
    "rebuild_view": {"name": "cost"},
    "place_hold": {"name": "h", "filter": {}},
    "lift_hold": {"name": "h"},
    "create_principal": _NAMED | {"name": "created"},
    **dict.fromkeys(("add_key", "remove_key"), _NAMED | {"key": _KEY}),
    "issue_token": _NAMED | {"token": "t", "digest": "0" * 64},
    "revoke_token": _NAMED | {"token": "t"},
    "start_session": _NAMED
    | {"session": "s", "digest": "0" * 64, "until": "2100-01-01T00:00:00Z", "by": "tried"},
    "end_session": _NAMED | {"session": "s"},
    **dict.fromkeys(("grant", "ungrant"), _NAMED | {"role": "viewer"}),
    "elevate": {"role": "viewer", "reason": "tried"},
    "approve_access": {"name": "asker"},
    "decline_access": {"name": "asker"},
    **dict.fromkeys(("revoke_principal", "restore_principal"), _NAMED),
    "can": {"operation": "jobs"},
    "consistency": {"old": 1, "new": 1},
    "prove": {"id": "tried"},
}
_QUEUED: Final = frozenset(
    {
        *("jobs", "job", "dead", "records", "queues", "schedules", "operations", "batches", "holds"),
        *("audit", "prove", "package", "attempts", "traffic", "cost", "tool_calls"),
    }
)
"""Queries that say in their body which queue they are about."""


_SCOPED: Final = (
    *("promote_release", "approve_promotion", "rollback_release", "start_canary", "end_canary"),
    *("approve_release", "check_gates"),
)
"""Commands that say in their body which queues they are about."""


def message(cell: Cell, number: int) -> dict[str, Any]:
    """What is sent. `number` tells repeats apart, and is the proposal that is decided on."""
    body = dict(MESSAGES.get(cell.operation, {}))
    if cell.operation in _QUEUED:
        body["queue"] = cell.queue
    if cell.operation in {"grant", "ungrant", "elevate", *_SCOPED}:
        body["scope"] = cell.queue
    if cell.operation == "elevate":
        body["for_s"] = 100 + number
    if cell.operation in {"approve_access", "decline_access"}:
        body["number"] = number
    return body
