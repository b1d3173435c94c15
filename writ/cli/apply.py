"""`writ apply`: tenant, queues, schedules and prices as a TOML file says them."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .declared import HELP, Declared, read
from .output import paint, print_json
from .queues import all_queues, flat, lanes_of_queue, shown
from .reach import connected
from .schedules import all_schedules
from .usage import UsageError

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.schemas.policy import QueuePolicy
    from writ.schemas.prices import Price, PricePolicy
    from writ.schemas.queries import QueueView

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
class Change:
    """One table of the file against what is declared; `fields` are those that differ, old and new.

    `change` is new, changed or unchanged; absent for what only the log declares, or pruned.
    """

    kind: str
    name: str
    queue: str
    change: str
    fields: dict[str, tuple[Any, Any]]
    price: PricePolicy | None = None
    version: int | None = None
    """Of the policy that was compared with: nothing that came meanwhile is overwritten."""

    pruned: QueuePolicy | None = None
    """What a queue that the file does not name is given: the built-in policy, with the lanes that it has."""


def apply(args: Namespace) -> int:
    """Shows what differs, and declares it; a bad file is a usage error, and nothing of it is declared."""
    declared = read(args.file)
    if declared.alerts:
        reason = f"{args.file}: alerts are looked at by replay --what-if, and declared nowhere"
        raise UsageError(reason, [f"writ replay --what-if {args.file}"])
    if args.reason is None:
        args.reason = f"applied {'a file' if args.file == '-' else args.file}"[:1_000]
    return asyncio.run(_apply(args, declared))


# --- against what is declared ---------------------------------------------------------------------------


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {n: (old.get(n), new.get(n)) for n in {**old, **new} if old.get(n) != new.get(n)}


async def _compared(client: Client, declared: Declared) -> list[Change]:
    import msgspec

    from writ.schemas.policy import QueuePolicy
    from writ.schemas.schedules import ScheduleSpec

    changes = await _compared_tenant(client, declared)
    for name, policy in declared.queues.items():
        page = await client.queues(name)
        known = page.queues[0] if page.queues and page.queues[0].version else None
        old = QueuePolicy() if known is None else known.policy
        fields = _differing(flat(old), flat(policy))
        if known is not None and not fields:
            fields = await _lanes_behind(client, known)
        change = "new" if known is None else "changed" if fields else "unchanged"
        version = 0 if known is None else known.version
        changes.append(Change("queue", name, name, change, fields, version=version))
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
    return changes + await _compared_prices(client, declared)


async def _lanes_behind(client: Client, queue: QueueView) -> dict[str, tuple[Any, Any]]:
    """Lanes whose policy is not their queue's, as it was declared in a part of them alone."""
    alike = [each for each in await lanes_of_queue(client, queue) if each.policy == queue.policy]
    lanes = queue.policy.lanes
    return {} if lanes == 1 or len(alike) == lanes else {"lanes with this policy": (len(alike), lanes)}


async def _compared_tenant(client: Client, declared: Declared) -> list[Change]:
    if declared.tenant is None:
        return []
    known = await client.tenant()
    fields = _differing(flat(known.policy), flat(declared.tenant))
    change = "new" if not known.version else "changed" if fields else "unchanged"
    return [Change("tenant", client.target.tenant, "", change, fields)]


async def _compared_prices(client: Client, declared: Declared) -> list[Change]:
    """Each price of the file against the one that holds at its time, which is now if it names none."""
    from writ.schemas.prices import Prices

    now = time.time_ns() // 1_000
    changes: list[Change] = []
    for model, prices in declared.prices.items():
        table = Prices(0, (await client.prices(model)).table)
        for given in prices:
            price = given.price(model, now)
            known = table.price(model, price.from_at)
            was = {} if known is None else _dollars(known)
            fields = _differing(was, _dollars(price))
            change = "new" if known is None else "changed" if fields else "unchanged"
            changes.append(Change("price", model, "", change, fields, given))
    return changes


def _dollars(price: Price) -> dict[str, Any]:
    return {"input $/M": price.input_microusd / 1e6, "output $/M": price.output_microusd / 1e6}


async def _unnamed(client: Client, declared: Declared, prune: bool) -> list[Change]:
    """What is declared in the log and not in the file. The built-in policy is as good as none."""
    from writ.schemas.ids import queue_of
    from writ.schemas.policy import QueuePolicy

    change = "pruned" if prune else "absent"
    changes: list[Change] = []
    for queue in await all_queues(client):
        if queue.queue not in declared.queues and queue_of(queue.queue) == queue.queue:
            fields = _differing(flat(queue.policy), flat(QueuePolicy(lanes=queue.policy.lanes)))
            if fields:
                differing = fields if prune else {}
                found = Change("queue", queue.queue, queue.queue, change, differing, version=queue.version)
                found.pruned = QueuePolicy(lanes=queue.policy.lanes) if prune else None
                changes.append(found)
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
                raise UsageError(f"{args.file}: {change.kind}s.{change.name}: {error}", HELP) from error
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

    if change.price is not None:
        given, got = change.price.microusd
        await client.set_price(change.name, given, got, reason, from_=change.price.from_)
    elif change.kind == "tenant":
        assert declared.tenant is not None
        await client.declare_tenant(declared.tenant, reason)
    elif change.kind == "queue":
        policy = change.pruned if change.pruned is not None else declared.queues[change.name]
        await client.declare_queue(change.name, policy, reason, version=change.version)
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
