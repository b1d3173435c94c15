"""`writ dlq`: dead letters by cause, and trying them again."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .fetch import all_jobs
from .output import Table, count, next_steps, on_terminal, one_line, print_json, when
from .reach import connected
from .usage import tell

if TYPE_CHECKING:
    from writ.schemas.queries import JobView

Cause = tuple[str, str, str]
"""Error class and type, and the task. Where no attempt failed, the reason of its death is the type."""


def cause_of(job: JobView) -> Cause:
    """What dead letters are grouped by."""
    if job.error is None:
        return ("none", job.dead_reason.value if job.dead_reason else "unknown", job.task)
    return (job.error.class_, job.error.type, job.task)


def dlq(args: Namespace) -> int:
    """The listing: by cause, or with --list one by one."""
    return asyncio.run(_dlq(args))


async def _dlq(args: Namespace) -> int:
    async with connected(args) as client:
        found = await all_jobs(client, states=["dead"], queue=args.queue, task=args.task, limit=args.limit)
    if args.json:
        print_json(found)
        return 0
    if not found:
        print("no dead letters")
        return 0
    (_by_job(found) if args.list else _by_cause(found)).print()
    if on_terminal():
        print(f"\n{count(len(found), 'dead letter')}")
    newest = found[0].id
    next_steps(
        *([] if args.list else ["writ dlq --list"]),
        f"writ explain {newest}",
        f"writ dlq redrive {newest} --reason 'mended'",
    )
    return 0


def _by_cause(found: Iterable[JobView]) -> Table:
    groups: dict[Cause, list[JobView]] = {}
    for job in found:
        groups.setdefault(cause_of(job), []).append(job)
    columns = ["count", "class", "type", "task", "newest", "for example"]
    table = Table(columns, elastic=["type", "task"], right=["count"])
    for (class_, type_, task), jobs in sorted(groups.items(), key=lambda item: -len(item[1])):
        newest = max(jobs, key=lambda job: job.finished_at or "")
        finished = (when(newest.finished_at), "dim")
        table.add(
            str(len(jobs)), (class_, "yellow"), (one_line(type_, 200), "red"), task, finished, newest.id
        )
    return table


def _by_job(found: Iterable[JobView]) -> Table:
    table = Table(["id", "queue", "task", "cause", "finished"], elastic=["queue", "task", "cause"])
    for job in found:
        class_, type_, _ = cause_of(job)
        finished = (when(job.finished_at), "dim")
        cause = (one_line(f"{class_} {type_}", 200), "red")
        table.add(job.id, job.queue, job.task, cause, finished)
    return table


def redrive(args: Namespace) -> int:
    """Puts each dead letter back to pending; exits 1 where one was refused."""
    return asyncio.run(_redrive(args))


async def _redrive(args: Namespace) -> int:
    from writ.broker.errors import JobNotFound, Refused

    done: list[JobView] = []
    refused = 0
    async with connected(args) as client:
        for job_id in args.ids:
            try:
                queue = args.queue or (await client.job(job_id)).queue
                await client.redrive(job_id, queue, args.reason)
                done.append(await client.job(job_id, queue))
            except (JobNotFound, Refused) as error:
                refused += 1
                tell(f"job {job_id}: {error}", ["writ dlq --list"])
    if args.json:
        print_json(done)
    else:
        for job in done:
            print(f"job {job.id} is {job.state.value} again, in round {job.round}")
    return 1 if refused else 0
