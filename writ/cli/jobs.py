"""`writ jobs` and `job`."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from .fetch import all_jobs, all_records, states_of
from .moments import span
from .output import (
    STATE_STYLES,
    Table,
    count,
    fields,
    next_steps,
    on_terminal,
    one_line,
    paint,
    print_json,
    state,
    when,
)
from .reach import connected
from .releases import found_release, named_release
from .tags import tags_of
from .timeline import steps_of, timeline_lines
from .watching import Shown, watch

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.schemas.queries import JobView

_BELONGS: Final = ("batch", "parent", "schedule", "operation")
_ANCESTORS_MAX: Final = 20
_TREE_MAX: Final = 100


# --- jobs -----------------------------------------------------------------------------------------------


def jobs(args: Namespace) -> int:
    """The listing. No job is an answer, too."""
    args.states = states_of(args.state)
    span(args)
    return watch(args, _look(args)) if args.watch else asyncio.run(_list(args))


async def filters(client: Client, args: Namespace) -> dict[str, Any]:
    """What the options ask for. A parent given by its id alone is looked up. Raises JobNotFound."""
    if args.parent is not None and "~" not in args.parent:
        parent = await client.job(args.parent)
        args.parent = f"{parent.queue}~{parent.id}"
    if args.release is not None and "@" in args.release:
        args.release = (await found_release(client, *named_release(args.release))).digest
    belongs = {name: getattr(args, name) for name in (*_BELONGS, "release")}
    more = {"error_class": args.error, "tags": tags_of(args.tag), "search": args.search}
    asked = {name: getattr(args, name) for name in ("states", "queue", "task", "actor", "since", "until")}
    return asked | belongs | more


async def _list(args: Namespace) -> int:
    async with connected(args) as client:
        asked = await filters(client, args)
        found = await all_jobs(client, **asked, limit=args.limit)
    if args.json:
        print_json(found)
        return 0
    table_of(found).print()
    if on_terminal():
        print(f"\n{summary(found)}")
    if not found:
        narrow = any(asked.values())
        next_steps("writ jobs            (without filters)" if narrow else "writ submit QUEUE TASK INPUT")
    return 0


def table_of(found: Iterable[JobView]) -> Table:
    """Jobs as rows."""
    table = Table(
        ["id", "queue", "task", "state", "attempt", "submitted"], elastic=["queue", "task"], right=["attempt"]
    )
    for job in found:
        styled = (job.state.value, STATE_STYLES[job.state.value])
        submitted = (when(job.submitted_at), "dim")
        table.add(job.id, job.queue, job.task, styled, str(job.attempt), submitted)
    return table


def summary(found: Iterable[JobView]) -> str:
    """`12 jobs: 10 completed, 2 dead`."""
    counts = Counter(job.state.value for job in found)
    parts = ", ".join(f"{counts[name]:,} {state(name)}" for name in STATE_STYLES if counts[name])
    return f"{count(counts.total(), 'job')}{': ' if parts else ''}{parts}"


def _look(args: Namespace) -> Callable[[Client], Awaitable[Shown]]:
    """What a watch sees: the newest for a terminal, and all in the order of their changes for a pipe."""

    async def look(client: Client) -> Shown:
        most = args.limit or (500 if on_terminal() else None)
        found = await all_jobs(client, **await filters(client, args), limit=most)
        totals = (await client.status()).jobs if on_terminal() else {}
        line = ", ".join(f"{number:,} {name}" for name, number in totals.items() if number)
        lines = [
            (
                (each.queue, each.id),
                " ".join(map(str, (each.seq, each.queue, each.id, each.task, each.state, each.attempt))),
            )
            for each in sorted(found, key=lambda each: each.seq)
        ]
        return Shown(table_of(found), line or "no jobs yet", lines)

    return look


# --- job ------------------------------------------------------------------------------------------------


def job(args: Namespace) -> int:
    """One job: what it is, and all that happened to it."""
    return asyncio.run(_job(args))


async def _job(args: Namespace) -> int:
    async with connected(args) as client:
        view = await client.job(args.id, args.queue)
        records = await all_records(client, view.queue, view.id)
        children = await children_of(client, view)
        tree = [] if args.json else await _tree(client, view, children)
    if args.json:
        import msgspec

        named = [{"queue": c.queue, "id": c.id, "task": c.task, "state": c.state} for c in children]
        print_json({**msgspec.structs.asdict(view), "children": named, "records": records})
        return 0
    show_job(view)
    if len(tree) > 1:
        print(f"\n{paint('Tree', 'bold')}")
        for line in tree:
            print(line)
    print(f"\n{paint('Timeline', 'bold')}")
    for line in timeline_lines(steps_of(view.tenant, view.queue, view.id, records)):
        print(line)
    print()
    next_steps(f"writ explain {view.id}")
    return 0


async def children_of(client: Client, view: JobView) -> list[JobView]:
    """The jobs that one has started, oldest first; of very many the newest."""
    page = await client.jobs(parent=f"{view.queue}~{view.id}", limit=_TREE_MAX)
    return list(reversed(page.jobs))


async def _tree(client: Client, view: JobView, children: Sequence[JobView]) -> list[str]:
    """The job between those that started it and those that it started, a line each."""
    from writ.broker.errors import JobNotFound
    from writ.schemas.ids import split_job_key

    above: list[JobView] = []
    parent = view.parent
    while parent is not None and len(above) < _ANCESTORS_MAX:
        queue, id = split_job_key(parent)
        try:
            above.append(await client.job(id, queue))
        except JobNotFound:
            break
        parent = above[-1].parent
    lines = [_branch(depth, each) for depth, each in enumerate(reversed(above))]
    lines.append(_branch(len(above), view, here=True))
    left = [(len(above) + 1, each) for each in reversed(children)]
    while left:
        depth, child = left.pop()
        if len(lines) >= _TREE_MAX:
            lines.append(f"  and more: writ jobs --parent {view.queue}~{view.id}")
            break
        lines.append(_branch(depth, child))
        left += [(depth + 1, each) for each in reversed(await children_of(client, child))]
    return lines


def _branch(depth: int, view: JobView, *, here: bool = False) -> str:
    name = f"{view.queue}~{view.id}"
    mark = "  (this job)" if here else ""
    shown = paint(name, "bold") if here else name
    return f"  {'  ' * depth}{shown}  {view.task}  {state(view.state.value)}{mark}"


def show_job(view: JobView) -> None:
    """The job's fields, those that say something."""
    print(f"{paint(view.id, 'bold')} in queue {view.queue} is {state(view.state.value)}\n")
    error = view.error
    fields(
        [
            ("task", view.task),
            ("attempt", _attempts(view)),
            ("submitted", f"{view.submitted_at} by {view.actor}"),
            ("due", view.due_at if view.state.value in ("scheduled", "retrying") else ""),
            ("priority", f"{view.priority}" if view.priority != 3 else ""),
            ("waits for", _wait(view)),
            ("after", ", ".join(view.after)),
            ("parent", view.parent or ""),
            ("batch", view.batch or ""),
            ("schedule", view.schedule or ""),
            ("process", view.process or ""),
            ("release", view.release or ""),
            ("keys", _keys(view)),
            ("tags", ", ".join(f"{name}={value}" for name, value in view.tags.items())),
            ("worker", f"{view.worker}, lease until {view.lease_expires_at}" if view.worker else ""),
            ("finished", view.finished_at or ""),
            ("input", _content(view.input)),
            ("output", _content(view.output)),
            ("last error", f"{error.class_} {error.type}: {one_line(error.text or '')}" if error else ""),
            ("progress", _content(view.progress)),
            ("to be cancelled", view.cancel or ""),
            ("cause", view.cause or ""),
            ("dropped", view.dropped or ""),
            ("operation", view.operation or ""),
            ("reason", ": ".join(each for each in (view.dead_reason, view.reason) if each)),
        ]
    )


def _wait(view: JobView) -> str:
    wait = view.wait
    if wait is None:
        return ""
    on = f" {', '.join(wait.on)}" if wait.on else ""
    until = f", until {wait.until} and then {wait.on_timeout}" if wait.until else ""
    return f"{wait.reason}{on} since {wait.since}{until}"


def _keys(view: JobView) -> str:
    from writ.schemas.fleet import label_words

    named = [
        ("unique", view.unique_key),
        ("concurrency", view.concurrency_key),
        ("requires", label_words(view.requires)),
        ("fairness", view.fairness_key),
    ]
    return ", ".join(f"{name} {key}" for name, key in named if key)


def _attempts(view: JobView) -> str:
    parts = [str(view.attempt)]
    if view.round > 1:
        parts.append(f"round {view.round}")
    if view.failures:
        parts.append(f"{view.failures} failed")
    if view.lease_losses:
        parts.append(f"{view.lease_losses} lost")
    return ", ".join(parts)


def _content(raw: Any) -> str:
    from writ.broker.coding import encoding_of

    text = bytes(raw).decode(errors="replace")
    told = encoding_of(text)
    if told is not None:
        return told
    if text == "null":
        return ""
    return one_line(text, 60) if on_terminal() else text
