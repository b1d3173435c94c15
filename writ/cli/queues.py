"""`writ queue`, and how what governs jobs is shown."""

from __future__ import annotations

import asyncio
import datetime
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from .fetch import pages, workers_of
from .output import (
    STATE_STYLES,
    Table,
    ago,
    count,
    fields,
    next_steps,
    on_terminal,
    paint,
    print_json,
    state,
    took,
    when,
)
from .reach import connected
from .timeline import wrapped
from .usage import CommandError
from .watching import Shown, rows, watch

if TYPE_CHECKING:
    import msgspec

    from writ.broker.client import Client
    from writ.schemas.buckets import Bucket
    from writ.schemas.lists import QueueTraffic, WorkerView
    from writ.schemas.policy import QueuePolicy
    from writ.schemas.queries import BucketView, ChangeView, DemandView, QueueView

_RECENT_MIN: Final = 15
"""What went through a queue is told of so many minutes."""

_MODES = {"open": "green", "paused": "yellow", "draining": "magenta"}
_UNKNOWN = ", ahead of time: it never had a job or a policy, so look whether that is its name"
_DONE = {"pause": "pause_queue", "drain": "drain_queue", "resume": "resume_queue"}


def queue(args: Namespace) -> int:
    """Lists them, shows one, or opens and closes one."""
    if args.verb == "list":
        return watch(args, _look) if args.watch else asyncio.run(_list(args))
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


async def _traffic(client: Client) -> dict[str, QueueTraffic]:
    """What went through each queue lately."""
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=_RECENT_MIN)
    found, _ = await pages(lambda place: client.traffic(since=since, **place), "queues", None)
    return {each.queue: each for each in found}


async def _list(args: Namespace) -> int:
    async with connected(args) as client:
        found = sorted(await all_queues(client), key=lambda each: each.queue)
        traffic = await _traffic(client)
    if args.json:
        import msgspec

        print_json([msgspec.structs.asdict(each) | {"traffic": traffic.get(each.queue)} for each in found])
        return 0
    if not found:
        print("no queues yet: one comes with its first job, or with `writ apply`")
        return 0
    _table(found, traffic).print()
    if on_terminal():
        print(f"\n{count(len(found), 'queue')}")
    next_steps(f"writ queue show {found[0].queue}")
    return 0


async def _look(client: Client) -> Shown:
    found = await all_queues(client)
    return rows(_table(found, await _traffic(client)), count(len(found), "queue"), names=(0,))


def _table(found: Sequence[QueueView], traffic: Mapping[str, QueueTraffic]) -> Table:
    names = ["pending", "running", "retrying", "suspended", "dead"]
    flow = ["oldest", "per min", "wait p95"]
    table = Table(
        ["queue", "mode", "version", *names, "slots", "rate", *flow], ["queue"], [*names, "version", *flow]
    )
    for each in found:
        policy = each.policy
        table.add(
            each.queue,
            (each.mode.value, _MODES[each.mode.value]),
            str(each.version),
            *(str(each.jobs.get(name, 0)) for name in names),
            str(policy.concurrency or ""),
            f"{policy.rate_per_s:g}/s" if policy.rate_per_s else "",
            *_flow(traffic.get(each.queue)),
        )
    return table


def _flow(traffic: QueueTraffic | None) -> tuple[str, str, str]:
    """How old the oldest pending job is, how many were completed a minute, and how long jobs waited."""
    if traffic is None:
        return "", "", ""
    completed = f"{traffic.completed / _RECENT_MIN:.3g}" if traffic.completed else ""
    return ago(traffic.oldest_at), completed, took(traffic.waits.p95_s)


async def _one(client: Client, name: str) -> QueueView:
    found = (await client.queues(name, history=True)).queues
    if not found:
        raise CommandError(f"no queue {name}: it has no jobs, and nobody declared it", ["writ queue list"])
    return found[0]


async def _show(args: Namespace) -> int:
    async with connected(args) as client:
        view = await _one(client, args.queue)
        lanes = await lanes_of_queue(client, view)
        workers = await workers_of(client, args.queue) if view.demands else None
    if args.json:
        import msgspec

        print_json(msgspec.structs.asdict(view) | {"lanes": lanes} if lanes else view)
        return 0
    mode = paint(view.mode.value, _MODES[view.mode.value])
    print(f"queue {paint(view.queue, 'bold')} is {mode}{f': {view.reason}' if view.reason else ''}\n")
    jobs = Counter[str]()
    for each in (view, *lanes):
        jobs.update(each.jobs)
    counts = [f"{jobs[name]:,} {state(name)}" for name in STATE_STYLES if jobs.get(name)]
    by_key = ", ".join(f"{key} {number}" for key, number in view.running_by_key.items())
    origin = f"version {view.version}" if view.version else "the built-in one"
    fields(
        [
            ("jobs", ", ".join(counts) or "none"),
            ("running by key", by_key),
            *[("demanded", _demanded(each, workers)) for each in view.demands],
            ("rate", _level(view.grants, view.policy.rate_per_s, view.policy.burst)),
            ("retry budget", _level(view.retries, *_budget(view.policy))),
            ("policy", origin),
            *[(f"  {name}", shown(value)) for name, value in flat(view.policy).items()],
        ]
    )
    if lanes:
        itself = "not in a lane: what names none, and has no unique_key"
        print(f"\n{paint('Lanes', 'bold')}, and the queue itself ({itself})")
        _table([*lanes, view], {}).print()
    show_history(view.history, args.history)
    return 0


async def lanes_of_queue(client: Client, view: QueueView) -> list[QueueView]:
    """The lanes of a queue, those that are declared by now."""
    from writ.schemas.ids import lanes_of, queue_of

    names = lanes_of(view.queue, view.policy.lanes) if queue_of(view.queue) == view.queue else ()
    pages = [await client.queues(name) for name in names]
    return [each for page in pages for each in page.queues if each.version]


def _demanded(demand: DemandView, workers: Sequence[WorkerView] | None) -> str:
    """What pending jobs demand of their worker, and whether any has it."""
    from writ.schemas.fleet import label_words, meets

    words = f"{label_words(demand.requires)} by {count(demand.pending, 'pending job')}"
    if workers is None:
        return words
    able = [each for each in workers if meets(each.labels, demand.requires)]
    if able and all(each.drained is not None for each in able):
        return f"{words}; {paint('all workers that have it are drained', 'yellow')}"
    has = f"{count(len(able), 'worker')} with it" if able else paint("no worker has it", "red")
    return f"{words}; {has}"


def _budget(policy: QueuePolicy) -> tuple[float | None, int]:
    """The retry budget as a rate and a burst."""
    per_min = policy.retries_per_min
    return (None, 0) if per_min is None else (per_min / 60, per_min)


def _level(bucket: BucketView | None, per_s: float | None, burst: int) -> str:
    """How many tokens a bucket holds now."""
    if bucket is None or per_s is None:
        return ""
    tokens = bucket_of(bucket).level(time.time_ns() // 1_000, per_s, burst)
    return f"{tokens:.3g} of {burst} tokens, {per_s:g} more a second"


def bucket_of(view: BucketView) -> Bucket:
    """The bucket that a view shows."""
    import datetime

    from writ.schemas.buckets import Bucket
    from writ.schemas.schedules import log_time

    return Bucket(view.tokens, log_time(datetime.datetime.fromisoformat(view.at)))


def show_history(history: Sequence[ChangeView], most: int) -> None:
    """What happened, newest first: two lines each on a terminal, one in a pipe."""
    import msgspec

    from writ.orchestrator.replay.text import governing_words
    from writ.schemas.events import EVENT_TYPES

    if history and most:
        print(f"\n{paint('History', 'bold')}")
    for change in history[:most]:
        words = governing_words(
            msgspec.json.decode(change.data, type=EVENT_TYPES[change.event]), change.actor
        )
        head = f"{paint(f'#{change.seq}'.rjust(8), 'dim')}  {when(change.at):>6}  "
        if on_terminal():
            print(f"{head}{paint(change.event, 'bold')}")
            for line in wrapped(words, 18):
                print(paint(line, "dim"))
        else:
            print(f"{head}{change.event:<19}  {words}")
    if most and len(history) > most:
        print(paint(f"{'':>18}{len(history) - most} older ones: --history {len(history)}", "dim"))


def flat(value: msgspec.Struct, path: str = "") -> dict[str, Any]:
    """A document's fields by dotted name, all of them; a nested one's fields singly."""
    import msgspec

    found: dict[str, Any] = {}
    for attribute, encoded in _names_of(type(value)):
        here: Any = getattr(value, attribute)
        name = f"{path}{encoded}"
        if isinstance(here, msgspec.Struct):
            found |= flat(here, f"{name}.")
        else:
            found[name] = msgspec.to_builtins(here)
    return found


@cache
def _names_of(kind: type[msgspec.Struct]) -> list[tuple[str, str]]:
    """The fields of a struct, in Python and in JSON: to find them out takes longer than to read them."""
    import msgspec

    return [(field.name, field.encode_name) for field in msgspec.structs.fields(kind)]


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
        client.min_position = await getattr(client, _DONE[args.verb])(args.queue, args.reason)
        found = (await client.queues(args.queue)).queues
    if args.json:
        print_json(found[0] if found else None)
    elif found:
        mode = found[0].mode.value
        empty = "" if found[0].version or sum(found[0].jobs.values()) else _UNKNOWN
        print(f"queue {args.queue} is {paint(mode, _MODES[mode])}{empty}")
        next_steps(*(["writ queue list"] if empty else []), f"writ queue show {args.queue}")
    else:
        print(f"queue {args.queue} is open")
    return 0
