"""`writ audit`, `attempts`, `workers`, `cost` and `tools`: what happened, who worked, what it cost."""

from __future__ import annotations

import asyncio
import datetime
from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .fetch import RECENT_S, pages
from .moments import span
from .output import Table, count, next_steps, on_terminal, one_line, print_json, took, when
from .reach import connected
from .releases import found_release, named_release
from .watching import Shown, rows, watch

if TYPE_CHECKING:
    from writ.broker.client import Client

_ENDS: Final = {
    "live": "cyan",
    "completed": "green",
    "done": "green",
    "failed": "red",
    "expired": "yellow",
    "denied": "magenta",
}


class Listing(NamedTuple):
    """A command that lists: how it asks for a page, where the page has its rows, and how they are shown."""

    ask: Callable[[Client, Namespace, dict[str, Any]], Awaitable[Any]]
    field: str
    table: Callable[[Sequence[Any]], Table]
    noun: str
    names: tuple[int, ...]
    none: str


def run(args: Namespace) -> int:
    """The listing of the command."""
    verb = getattr(args, "verb", None)
    listing = LISTINGS[f"{args.command} {verb}" if verb else args.command]
    span(args)
    if args.watch:
        return watch(args, lambda client: _look(client, args, listing))
    return asyncio.run(_list(args, listing))


async def _rows(client: Client, args: Namespace, listing: Listing) -> tuple[list[Any], bool]:
    return await pages(lambda place: listing.ask(client, args, place), listing.field, args.limit)


async def _list(args: Namespace, listing: Listing) -> int:
    async with connected(args) as client:
        found, more = await _rows(client, args, listing)
    if args.json:
        print_json(found)
        return 0
    if not found:
        print(listing.none)
        return 0
    listing.table(found).print()
    if on_terminal():
        print(f"\n{count(len(found), listing.noun)}{', and there are more: --limit' if more else ''}")
    return 0


async def _look(client: Client, args: Namespace, listing: Listing) -> Shown:
    found, _ = await _rows(client, args, listing)
    shown = rows(listing.table(found), count(len(found), listing.noun), listing.names)
    # A pipe gets what happened in the order in which it did.
    return shown if listing.field == "workers" else Shown(shown.table, shown.foot, [*shown.lines][::-1])


def _given(args: Namespace, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(args, name)) is not None}


# --- what happened --------------------------------------------------------------------------------------


async def _audit(client: Client, args: Namespace, place: dict[str, Any]) -> Any:
    named = _given(args, "actor", "queue", "job", "verb_of", "since", "until")
    if "verb_of" in named:
        named["verb"] = named.pop("verb_of")
    if args.refused or args.done:
        named["refused"] = args.refused
    return await client.audit(**named, **place)


def _acts(found: Sequence[Any]) -> Table:
    table = Table(
        ["seq", "at", "actor", "verb", "queue", "about", "end", "reason"], ["about", "reason"], ["seq"]
    )
    for act in found:
        end = (act.refused.value, "red") if act.refused else ("done", "green")
        own = act.kind == "queue" or (act.kind == "principal" and act.refused is not None)
        about = act.job or ("" if own else act.key)
        reason = one_line(act.reason or "", 200)
        table.add(
            str(act.seq), (when(act.at), "dim"), act.actor, act.verb, act.queue or "", about, end, reason
        )
    return table


async def _attempts(client: Client, args: Namespace, place: dict[str, Any]) -> Any:
    named = _given(args, "job", "queue", "worker", "outcome", "since", "until")
    if args.error is not None:
        named["error_class"] = args.error
    return await client.attempts(**named, **place)


def _tries(found: Sequence[Any]) -> Table:
    columns = ["seq", "job", "queue", "attempt", "worker", "granted", "took", "outcome", "error"]
    table = Table(columns, ["job", "queue", "worker", "error"], ["seq", "attempt", "took"])
    for each in found:
        error = f"{each.error_class} {each.error_type}" if each.error_class else ""
        table.add(
            *(str(each.seq), each.job, each.queue, str(each.attempt), each.worker),
            *((when(each.granted_at), "dim"), _between(each.granted_at, each.ended_at)),
            *((each.outcome.value, _ENDS.get(each.outcome.value, "default")), (error, "red")),
        )
    return table


def _between(start: str, end: str | None) -> str:
    if end is None:
        return ""
    return took(
        (datetime.datetime.fromisoformat(end) - datetime.datetime.fromisoformat(start)).total_seconds()
    )


# --- who works ------------------------------------------------------------------------------------------


async def _workers(client: Client, args: Namespace, place: dict[str, Any]) -> Any:
    now = datetime.datetime.now(datetime.UTC)
    since = args.since or now - datetime.timedelta(seconds=RECENT_S)
    return await client.workers(since=since, **place)


def _doing(worker: Any) -> tuple[str, str]:
    """What a worker is at, and the colour of it."""
    if worker.drained is not None:
        return ("draining", "yellow") if worker.leases else ("drained", "magenta")
    return ("busy", "green") if worker.leases else ("idle", "default")


def _hands(found: Sequence[Any]) -> Table:
    from writ.schemas.fleet import label_words
    from writ.schemas.ids import split_job_key

    numbers = ["leases", "granted", "completed", "failed", "expired"]
    where = ["worker", "is", "host", "version", "labels", "principal", "queues", "seen", "slots"]
    table = Table([*where, *numbers, "jobs"], ["worker", "labels", "queues", "jobs"], ["slots", *numbers])
    for each in found:
        more = each.leases - len(each.jobs)
        jobs = ", ".join([split_job_key(key)[1] for key in each.jobs]) + (f" and {more} more" if more else "")
        table.add(
            *(each.worker, _doing(each), each.host or "-", each.version or "-", label_words(each.labels)),
            *(each.principal, ", ".join(each.queues)),
            *((when(each.seen_at), "dim"), "-" if each.slots is None else str(each.slots)),
            *(*[str(getattr(each, name)) for name in numbers], jobs),
        )
    return table


# --- what it cost, and what was called ------------------------------------------------------------------


def cost(args: Namespace) -> int:
    """Sums, those that cost most first."""
    span(args)
    return asyncio.run(_cost(args))


async def _cost(args: Namespace) -> int:
    by = [name for name in args.by.split(",") if name]
    async with connected(args) as client:
        if args.release is not None and "@" in args.release:
            args.release = (await found_release(client, *named_release(args.release))).digest
        named = _given(args, "queue", "task", "model", "release", "since", "until", "limit")
        page = await client.cost(by=tuple(by), **named)
    if args.json:
        print_json(page.sums)
        return 0
    numbers = ["calls", "input", "output", "usd", "unpriced"]
    table = Table([*by, *numbers], [*by], numbers)
    for each in page.sums:
        usd = f"{each.cost_microusd / 1_000_000:,.6f}"
        sums = (
            f"{each.calls:,}",
            f"{each.input_tokens:,}",
            f"{each.output_tokens:,}",
            usd,
            str(each.unpriced),
        )
        table.add(*[str(getattr(each, name) or "-") for name in by], *sums)
    if not page.sums:
        print("no usage of models is recorded")
        return 0
    table.print()
    if page.more and on_terminal():
        next_steps("writ cost --limit 500")
    return 0


async def _tools(client: Client, args: Namespace, place: dict[str, Any]) -> Any:
    return await client.tools(**_given(args, "since"), **place)


def _toolbox(found: Sequence[Any]) -> Table:
    numbers = ["done", "failed", "denied", "recorded"]
    table = Table(["tool", *numbers, "p50", "p95", "p99"], ["tool"], [*numbers, "p50", "p95", "p99"])
    for each in found:
        times = (each.took.p50_s, each.took.p95_s, each.took.p99_s)
        table.add(each.tool, *[str(getattr(each, name)) for name in numbers], *[took(time) for time in times])
    return table


async def _calls(client: Client, args: Namespace, place: dict[str, Any]) -> Any:
    return await client.tool_calls(
        **_given(args, "tool", "queue", "job", "outcome", "since", "until"), **place
    )


def _called(found: Sequence[Any]) -> Table:
    columns = ["seq", "at", "tool", "queue", "job", "attempt", "outcome", "took", "why"]
    table = Table(columns, ["job", "why"], ["seq", "attempt", "took"])
    for each in found:
        end = (each.outcome.value, _ENDS.get(each.outcome.value, "default"))
        table.add(
            *(str(each.seq), (when(each.at), "dim"), each.tool, each.queue, each.job, str(each.attempt), end),
            *(took(None if each.run_ms is None else each.run_ms / 1_000), each.rule or each.error_type or ""),
        )
    return table


LISTINGS: Final = {
    "audit": Listing(_audit, "acts", _acts, "act", (0, 5, 7), "nobody has done anything that matches"),
    "attempts": Listing(_attempts, "attempts", _tries, "attempt", (0,), "no attempt matches"),
    "workers": Listing(_workers, "workers", _hands, "worker", (0,), "no worker has leases, or was heard of"),
    "tools": Listing(_tools, "tools", _toolbox, "tool", (0,), "no tool was called"),
    "tools calls": Listing(_calls, "calls", _called, "call", (0, 2), "no call matches"),
}
