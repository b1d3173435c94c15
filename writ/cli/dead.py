"""`writ dlq`: dead letters by cause, trying them again, and settling them."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from .bulk import carry_out
from .fetch import all_jobs, pages
from .output import Table, count, next_steps, on_terminal, one_line, print_json, when
from .reach import connected
from .usage import UsageError, tell
from .watching import Shown, rows, watch

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.schemas.queries import DeadView, JobView

_REASONS: Final = {"redrive": "mended in 1.2", "drop": "customer left"}


def error_of(job: JobView) -> tuple[str, str]:
    """Error class and type. Where no attempt failed, the reason of its death is the type."""
    if job.error is None or job.dead_reason in ("expired", "dependency", "rejected", "wait_timeout"):
        return ("none", job.dead_reason.value if job.dead_reason else "unknown")
    return (job.error.class_, job.error.type)


def run(args: Namespace) -> int:
    """The listing: by cause, or with --list one by one; or one of its commands."""
    if args.verb is None:
        return watch(args, lambda client: _look(client, args)) if args.watch else asyncio.run(_dlq(args))
    for name in ("queue", "task", "cause"):
        if not hasattr(args, name):
            setattr(args, name, None)
    if args.ids:
        wide = [n for n in ("task", "cause", "all", "dry_run", "limit", "rate") if getattr(args, n)]
        if wide:
            option = wide[0].replace("_", "-")
            raise UsageError(
                f"ID and --{option} exclude each other",
                [f"writ dlq {args.verb} ID --reason '{_REASONS[args.verb]}'"],
            )
        need_reason(args)
        return asyncio.run(_each(args))
    if not (args.all or args.queue or args.task or args.cause):
        raise UsageError(
            "which dead letters? give an ID, --cause, --task or --queue, or --all",
            [f"writ dlq {args.verb} --cause C --dry-run"],
        )
    if not args.dry_run:
        need_reason(args)
    return asyncio.run(_plan(args))


def need_reason(args: Namespace) -> None:
    """Raises UsageError where no reason is given, with the command as it would be right."""
    if args.reason is None:
        verb = getattr(args, "verb", None)
        command = f"writ {args.command}" + (f" {verb}" if verb else "")
        given = {name: getattr(args, name, None) for name in ("cause", "task", "queue")}
        options = [f"--{name} {value}" for name, value in given.items() if value]
        options += ["--all"] if getattr(args, "all", False) else []
        example = " ".join([command, *args.ids, *options, f"--reason '{_REASONS[verb or args.command]}'"])
        raise UsageError(f"`{command}` needs --reason: why, in words that the log keeps", [example])


async def dead_letters(client: Client, args: Namespace) -> list[JobView]:
    """Those that match and are not settled, newest submit first."""
    named: dict[str, Any] = {} if args.cause is None else {"cause": args.cause}
    found = await all_jobs(client, states=["dead"], queue=args.queue, task=args.task, **named)
    return [job for job in found if job.dropped is None][: args.limit or None]


async def causes(client: Client, args: Namespace) -> list[DeadView]:
    """The causes of those that match, most of them first."""
    named = {name: getattr(args, name) for name in ("queue", "task", "cause")}
    found, _ = await pages(lambda place: client.dead(**named, **place), "causes", None)
    return sorted(found, key=lambda each: -each.count)


async def _dlq(args: Namespace) -> int:
    async with connected(args) as client:
        jobs = await dead_letters(client, args) if args.list or args.json else []
        groups = [] if args.list or args.json else await causes(client, args)
    if args.json:
        print_json(jobs)
        return 0
    if not (jobs or groups):
        print("no dead letters")
        return 0
    (_by_job(jobs) if args.list else _by_cause(groups)).print()
    if on_terminal():
        print(f"\n{count(len(jobs) or sum(each.count for each in groups), 'dead letter')}")
    newest = jobs[0] if jobs else groups[0].newest
    next_steps(
        *([] if args.list else ["writ dlq --list"]),
        f"writ explain {newest.id}",
        f"writ dlq redrive --cause {newest.cause} --reason 'mended' --dry-run"
        if newest.cause
        else f"writ dlq redrive {newest.id} --reason 'mended'",
    )
    return 0


async def _look(client: Client, args: Namespace) -> Shown:
    if args.list:
        jobs = await dead_letters(client, args)
        return rows(_by_job(jobs), count(len(jobs), "dead letter"), (0,))
    groups = await causes(client, args)
    return rows(_by_cause(groups), count(sum(each.count for each in groups), "dead letter"), (0, 2))


def _by_cause(groups: Iterable[DeadView]) -> Table:
    columns = ["cause", "count", "queue", "class", "type", "task", "newest", "for example"]
    table = Table(columns, elastic=["queue", "type", "task"], right=["count"])
    for each in groups:
        newest = each.newest
        class_, type_ = error_of(newest)
        finished = (when(newest.finished_at), "dim")
        error = ((class_, "yellow"), (one_line(type_, 200), "red"))
        table.add(each.cause, str(each.count), each.queue, *error, newest.task, finished, newest.id)
    return table


def _by_job(found: Iterable[JobView]) -> Table:
    columns = ["id", "queue", "task", "cause", "error", "finished"]
    table = Table(columns, elastic=["queue", "task", "error"])
    for job in found:
        finished = (when(job.finished_at), "dim")
        error = (one_line(" ".join(error_of(job)), 200), "red")
        table.add(job.id, job.queue, job.task, job.cause or "", error, finished)
    return table


async def _plan(args: Namespace) -> int:
    """A plan for each queue that has such dead letters."""
    from writ.schemas.events import Filter
    from writ.schemas.lifecycle import State

    async with connected(args) as client:
        queues = sorted({each.queue for each in await causes(client, args)})
        if not queues and not args.json:
            print("no dead letter matches")
            return 0
        filter_ = Filter(states=(State.DEAD,), task=args.task, cause=args.cause)
        return await carry_out(args, client, args.verb, queues, filter_)


async def _each(args: Namespace) -> int:
    """Each dead letter that is named; exits 1 where one was refused."""
    from writ.broker.errors import JobNotFound, Refused

    done: list[JobView] = []
    refused = 0
    async with connected(args) as client:
        for job_id in args.ids:
            try:
                job = await client.job(job_id, args.queue)
                if args.verb == "redrive":
                    done_at = await client.redrive(job_id, job.queue, args.reason, answers=job.ended_by)
                else:
                    done_at = await client.drop(job_id, job.queue, args.reason)
                client.min_position = done_at
                done.append(await client.job(job_id, job.queue))
            except (JobNotFound, Refused) as error:
                refused += 1
                tell(f"job {job_id}: {error}", ["writ dlq --list"])
    if args.json:
        print_json(done)
    else:
        for job in done:
            again = f"is {job.state.value} again, in round {job.round}"
            print(f"job {job.id} {again if args.verb == 'redrive' else 'is settled'}")
    return 1 if refused else 0
