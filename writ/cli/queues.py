"""`writ queue` and `writ batches`."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .output import (
    STATE_STYLES,
    Table,
    count,
    fields,
    next_steps,
    on_terminal,
    paint,
    print_json,
    state,
    when,
)
from .reach import connected
from .usage import CommandError

if TYPE_CHECKING:
    import msgspec

    from writ.broker.client import Client
    from writ.schemas.queries import BatchView, ChangeView, QueueView

_MODES = {"open": "green", "paused": "yellow", "draining": "magenta"}
_DONE = {"pause": "pause_queue", "drain": "drain_queue", "resume": "resume_queue"}


def queue(args: Namespace) -> int:
    """Lists them, shows one, or opens and closes one."""
    if args.verb == "list":
        return asyncio.run(_list(args))
    return asyncio.run(_show(args) if args.verb == "show" else _change(args))


async def all_queues(client: Client) -> list[QueueView]:
    """All queues, by name."""
    found: list[QueueView] = []
    cursor: str | None = None
    while True:
        page = await client.queues(limit=500, cursor=cursor)
        found += page.queues
        cursor = page.next
        if cursor is None:
            return found


async def _list(args: Namespace) -> int:
    async with connected(args) as client:
        found = await all_queues(client)
    if args.json:
        print_json(found)
        return 0
    if not found:
        print("no queues yet: one comes with its first job, or with `writ apply`")
        return 0
    names = ["pending", "running", "retrying", "suspended", "dead"]
    table = Table(["queue", "mode", "version", *names, "slots", "rate"], ["queue"], [*names, "version"])
    for each in found:
        policy = each.policy
        table.add(
            each.queue,
            (each.mode.value, _MODES[each.mode.value]),
            str(each.version),
            *(str(each.jobs.get(name, 0)) for name in names),
            str(policy.concurrency or ""),
            f"{policy.rate_per_s:g}/s" if policy.rate_per_s else "",
        )
    table.print()
    if on_terminal():
        print(f"\n{count(len(found), 'queue')}")
    next_steps(f"writ queue show {found[0].queue}")
    return 0


async def _one(client: Client, name: str) -> QueueView:
    found = (await client.queues(name, history=True)).queues
    if not found:
        raise CommandError(f"no queue {name}: it has no jobs, and nobody declared it", ["writ queue list"])
    return found[0]


async def _show(args: Namespace) -> int:
    async with connected(args) as client:
        view = await _one(client, args.queue)
    if args.json:
        print_json(view)
        return 0
    mode = paint(view.mode.value, _MODES[view.mode.value])
    print(f"queue {paint(view.queue, 'bold')} is {mode}{f': {view.reason}' if view.reason else ''}\n")
    counts = [f"{view.jobs[name]:,} {state(name)}" for name in STATE_STYLES if view.jobs.get(name)]
    by_key = ", ".join(f"{key} {number}" for key, number in view.running_by_key.items())
    origin = f"version {view.version}" if view.version else "the built-in one"
    fields(
        [
            ("jobs", ", ".join(counts) or "none"),
            ("running by key", by_key),
            ("policy", origin),
            *[(f"  {name}", shown(value)) for name, value in flat(view.policy).items()],
        ]
    )
    if view.history:
        print(f"\n{paint('History', 'bold')}")
        show_history(view.history)
    return 0


def show_history(history: Sequence[ChangeView]) -> None:
    """What was done, newest first."""
    import msgspec

    table = Table(["seq", "at", "by", "event", "reason"], ["by", "reason"], ["seq"])
    for change in history:
        data = msgspec.json.decode(change.data, type=dict[str, Any])
        version = f" (version {data['version']})" if "version" in data else ""
        reason = str(data.get("reason", ""))
        table.add(str(change.seq), when(change.at), change.actor, f"{change.event}{version}", reason)
    table.print()


def flat(value: msgspec.Struct, path: str = "") -> dict[str, Any]:
    """A document's fields by dotted name, all of them; a nested one's fields singly."""
    import msgspec

    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(type(value)):
        here: Any = getattr(value, field.name)
        name = f"{path}{field.encode_name}"
        if isinstance(here, msgspec.Struct):
            found |= flat(here, f"{name}.")
        else:
            found[name] = msgspec.to_builtins(here)
    return found


def shown(value: Any) -> str:
    """A field's value in words."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    import msgspec

    return msgspec.json.encode(value).decode()


async def _change(args: Namespace) -> int:
    async with connected(args) as client:
        await getattr(client, _DONE[args.verb])(args.queue, args.reason)
        found = (await client.queues(args.queue)).queues
    if args.json:
        print_json(found[0] if found else None)
    elif found:
        print(f"queue {args.queue} is {paint(found[0].mode.value, _MODES[found[0].mode.value])}")
        next_steps(f"writ queue show {args.queue}")
    else:
        print(f"queue {args.queue} is open")
    return 0


# --- batches --------------------------------------------------------------------------------------------


def batches(args: Namespace) -> int:
    """Groups of jobs and how far they are."""
    return asyncio.run(_batches(args))


async def _batches(args: Namespace) -> int:
    found: list[BatchView] = []
    async with connected(args) as client:
        cursor: str | None = None
        while True:
            page = await client.batches(args.batch, args.queue, limit=500, cursor=cursor)
            found += page.batches
            cursor = page.next
            if cursor is None:
                break
    if args.json:
        print_json(found)
        return 0
    if not found:
        print("no batches")
        return 0
    ends = ["completed", "dead", "cancelled"]
    table = Table(
        ["batch", "queue", "size", "open", *ends, "ended"], ["batch", "queue"], ["size", "open", *ends]
    )
    for each in found:
        live = sum(each.jobs.values()) - sum(each.jobs.get(name, 0) for name in ends)
        table.add(
            each.batch,
            each.queue,
            str(each.size or ""),
            str(live),
            *(str(each.jobs.get(name, 0)) for name in ends),
            (when(each.ended_at), "dim"),
        )
    table.print()
    return 0
