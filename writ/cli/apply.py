"""`writ apply`: queues and schedules as a TOML file says them."""

from __future__ import annotations

import asyncio
import sys
import tomllib
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .output import paint, print_json
from .queues import all_queues, flat, shown
from .reach import connected
from .schedules import all_schedules
from .usage import UsageError, nearest

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.schemas.policy import QueuePolicy
    from writ.schemas.schedules import ScheduleSpec

T = TypeVar("T", bound="QueuePolicy | ScheduleSpec")
_TABLES: Final = ("queues", "schedules")
_HELP: Final = ["writ apply --help            (shows a file)"]
_MARKS: Final = {
    "new": ("+", "green"),
    "changed": ("~", "yellow"),
    "unchanged": ("=", "dim"),
    "absent": ("?", "dim"),
    "pruned": ("-", "red"),
}
_LEFT: Final = {
    ("absent", "queue"): "declared, and not in the file: left alone; --prune gives it the built-in policy",
    ("absent", "schedule"): "declared, and not in the file: left alone; --prune deletes it",
    ("pruned", "queue"): "not in the file: the built-in policy again",
    ("pruned", "schedule"): "not in the file: deleted; the jobs that it started go on",
}
"""What becomes of what the file does not name."""


@dataclass
class Declared:
    """What the file says."""

    queues: dict[str, QueuePolicy] = field(default_factory=dict[str, "QueuePolicy"])
    schedules: dict[str, tuple[str, ScheduleSpec, bytes]] = field(
        default_factory=dict[str, "tuple[str, ScheduleSpec, bytes]"]
    )


@dataclass
class Change:
    """One table of the file against what is declared; `fields` are those that differ, old and new.

    `change` is new, changed or unchanged; absent for what only the log declares, or pruned.
    """

    kind: str
    name: str
    queue: str
    change: str
    fields: dict[str, tuple[Any, Any]]


def apply(args: Namespace) -> int:
    """Shows what differs, and declares it; a bad file is a usage error, and nothing of it is declared."""
    declared = read(args.file)
    if args.reason is None:
        args.reason = f"applied {'a file' if args.file == '-' else args.file}"[:1_000]
    return asyncio.run(_apply(args, declared))


# --- the file -------------------------------------------------------------------------------------------


def read(name: str) -> Declared:
    """The file's tables, each checked. Raises UsageError, which names the table and the field."""
    try:
        if name == "-":
            text = sys.stdin.read()
        else:
            with open(name, encoding="utf-8") as file:
                text = file.read()
        document = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}", _HELP) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} is not TOML: {error}", _HELP) from error
    declared = Declared()
    for table, content in document.items():
        if table not in _TABLES or not isinstance(content, dict):
            meant = nearest(table, _TABLES)
            hint = f"; did you mean {meant}?" if meant and meant != table else ""
            raise UsageError(f"{name}: {table} is not a table of queues or schedules{hint}", _HELP)
    for queue, table in document.get("queues", {}).items():
        declared.queues[queue] = _queue(name, queue, table)
    for schedule, table in document.get("schedules", {}).items():
        declared.schedules[schedule] = _schedule(name, schedule, table)
    if not declared.queues and not declared.schedules:
        raise UsageError(f"{name} holds no [queues.NAME] and no [schedules.NAME]", _HELP)
    return declared


def _queue(file: str, name: str, table: Any) -> QueuePolicy:
    from writ.schemas.ids import token_fault
    from writ.schemas.policy import QueuePolicy

    where = f"{file}: queues.{name}"
    fault = token_fault(name, "queue")
    if fault is not None:
        raise UsageError(f"{where}: {fault}", _HELP)
    return _converted(where, table, QueuePolicy)


def _schedule(file: str, name: str, table: Any) -> tuple[str, ScheduleSpec, bytes]:
    import msgspec

    from writ.schemas.ids import token_fault
    from writ.schemas.schedules import ScheduleSpec, spec_fault

    where = f"{file}: schedules.{name}"
    if not isinstance(table, dict):
        raise UsageError(f"{where} is not a table", _HELP)
    rest: dict[str, Any] = dict(table)  # pyright: ignore[reportUnknownArgumentType]
    queue = rest.pop("queue", None)
    if not isinstance(queue, str):
        raise UsageError(f"{where}.queue: the queue in which it starts jobs is missing", _HELP)
    for value, what in ((name, "schedule"), (queue, "queue")):
        fault = token_fault(value, what)
        if fault is not None:
            raise UsageError(f"{where}: {fault}", _HELP)
    content = msgspec.json.encode(rest.pop("input", None))
    spec = _converted(where, rest, ScheduleSpec)
    wrong = spec_fault(spec)
    if wrong is not None:
        raise UsageError(f"{where}.{wrong.field}: {wrong.reason}", _HELP)
    return queue, spec, content


def _converted(where: str, table: Any, kind: type[T]) -> T:
    import msgspec

    from writ.schemas.faults import explain_fault

    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        path, reason = explain_fault(error, msgspec.json.encode(table), kind)
        known = [each.encode_name for each in msgspec.structs.fields(kind)]
        meant = nearest(path, known) if path and "unknown field" in reason else None
        hint = f"; did you mean {meant}?" if meant else ""
        raise UsageError(f"{where}{f'.{path}' if path else ''}: {reason}{hint}", _HELP) from error


# --- against what is declared ---------------------------------------------------------------------------


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {n: (old.get(n), new.get(n)) for n in {**old, **new} if old.get(n) != new.get(n)}


async def _compared(client: Client, declared: Declared) -> list[Change]:
    import msgspec

    from writ.schemas.policy import QueuePolicy
    from writ.schemas.schedules import ScheduleSpec

    changes: list[Change] = []
    for name, policy in declared.queues.items():
        page = await client.queues(name)
        known = page.queues[0] if page.queues and page.queues[0].version else None
        old = QueuePolicy() if known is None else known.policy
        fields = _differing(flat(old), flat(policy))
        change = "new" if known is None else "changed" if fields else "unchanged"
        changes.append(Change("queue", name, name, change, fields))
    for name, (queue, spec, content) in declared.schedules.items():
        found = (await client.schedules(name, queue, times=0)).schedules
        was: dict[str, Any] = {}
        if found:
            was = {**flat(found[0].spec), "input": msgspec.json.decode(found[0].input)}
        now = {**flat(spec), "input": msgspec.json.decode(content)}
        if not found:
            was = {**flat(ScheduleSpec(task="")), "input": None}
        fields = _differing(was, now)
        change = "new" if not found else "changed" if fields else "unchanged"
        changes.append(Change("schedule", name, queue, change, fields))
    return changes


async def _unnamed(client: Client, declared: Declared, prune: bool) -> list[Change]:
    """What is declared in the log and not in the file. The built-in policy is as good as none."""
    from writ.schemas.policy import QueuePolicy

    change = "pruned" if prune else "absent"
    changes: list[Change] = []
    for queue in await all_queues(client):
        if queue.queue not in declared.queues:
            fields = _differing(flat(queue.policy), flat(QueuePolicy()))
            if fields:
                changes.append(Change("queue", queue.queue, queue.queue, change, fields if prune else {}))
    for each in await all_schedules(client, times=0):
        named = declared.schedules.get(each.name)
        if named is None or named[0] != each.queue:
            changes.append(Change("schedule", each.name, each.queue, change, {}))
    return changes


async def _apply(args: Namespace, declared: Declared) -> int:
    from writ.broker.errors import Refused

    async with connected(args) as client:
        named = await _compared(client, declared)
        changes = [*named, *await _unnamed(client, declared, args.prune)]
        if not args.json:
            for change in changes:
                _show(change)
        differs = [change for change in changes if change.change in ("new", "changed", "pruned")]
        for change in () if args.dry_run else differs:
            try:
                await _carry_out(client, declared, change, args.reason)
            except Refused as error:
                raise UsageError(f"{args.file}: {change.kind}s.{change.name}: {error}", _HELP) from error
    if args.json:
        print_json([_document(change, args.dry_run) for change in changes])
        return 0
    pruned = sum(change.change == "pruned" for change in differs)
    if not differs:
        print("nothing to change")
    else:
        would = "would be " if args.dry_run else ""
        more = f", {pruned} {would}pruned" if pruned else ""
        print(f"\n{len(differs) - pruned} of {len(named)} {would}declared{more}")
    return 0


async def _carry_out(client: Client, declared: Declared, change: Change, reason: str) -> None:
    import msgspec

    from writ.schemas.policy import QueuePolicy

    if change.kind == "queue":
        policy = QueuePolicy() if change.change == "pruned" else declared.queues[change.name]
        await client.declare_queue(change.name, policy, reason)
    elif change.change == "pruned":
        await client.delete_schedule(change.queue, change.name, reason)
    else:
        queue, spec, content = declared.schedules[change.name]
        await client.declare_schedule(queue, change.name, spec, msgspec.Raw(content), reason)


def _show(change: Change) -> None:
    mark, style = _MARKS[change.change]
    of = f" of queue {change.queue}" if change.kind == "schedule" else ""
    words = _LEFT.get((change.change, change.kind), change.change)
    print(f"{paint(mark, style)} {change.kind} {paint(change.name, 'bold')}{of}: {words}")
    for name, (old, new) in change.fields.items():
        print(f"    {name}: {paint(shown(old) or 'none', 'dim')} -> {shown(new)}")


def _document(change: Change, dry_run: bool) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "name": change.name,
        "queue": change.queue,
        "change": change.change,
        "fields": {name: {"old": old, "new": new} for name, (old, new) in change.fields.items()},
        "declared": change.change in ("new", "changed") and not dry_run,
        "pruned": change.change == "pruned" and not dry_run,
    }
