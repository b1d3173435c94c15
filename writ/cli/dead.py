"""`writ dlq`: dead letters by cause, trying them again, and settling them."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from .bulk import carry_out
from .fetch import all_jobs
from .output import Table, count, next_steps, on_terminal, one_line, print_json, when
from .reach import connected
from .usage import UsageError, tell
from .watching import Shown, rows, watch

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.schemas.queries import JobView

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
    found = await all_jobs(client, states=["dead"], queue=args.queue, task=args.task)
    return [job for job in found if job.dropped is None and args.cause in (None, job.cause)]


async def _dlq(args: Namespace) -> int:
    async with connected(args) as client:
        found = await dead_letters(client, args)
    found = found[: args.limit]
    if args.json:
        print_json(found)
        return 0
    if not found:
        print("no dead letters")
        return 0
    _table(args, found).print()
    if on_terminal():
        print(f"\n{count(len(found), 'dead letter')}")
    newest = found[0]
    next_steps(
        *([] if args.list else ["writ dlq --list"]),
        f"writ explain {newest.id}",
        f"writ dlq redrive --cause {newest.cause} --reason 'mended' --dry-run"
        if newest.cause
        else f"writ dlq redrive {newest.id} --reason 'mended'",
    )
    return 0


async def _look(client: Client, args: Namespace) -> Shown:
    found = (await dead_letters(client, args))[: args.limit]
    names = (0,) if args.list else (0, 2, 3, 4)  # its cause, or error and task where it has none
    return rows(_table(args, found), count(len(found), "dead letter"), names)


def _table(args: Namespace, found: Sequence[JobView]) -> Table:
    return _by_job(found) if args.list else _by_cause(found)


def _by_cause(found: Iterable[JobView]) -> Table:
    groups: dict[str, list[JobView]] = {}
    for job in found:
        groups.setdefault(job.cause or " ".join((*error_of(job), job.task)), []).append(job)
    columns = ["cause", "count", "class", "type", "task", "newest", "for example"]
    table = Table(columns, elastic=["type", "task"], right=["count"])
    for jobs in sorted(groups.values(), key=lambda jobs: -len(jobs)):
        newest = max(jobs, key=lambda job: job.finished_at or "")
        class_, type_ = error_of(newest)
        finished = (when(newest.finished_at), "dim")
        table.add(
            *(newest.cause or "", str(len(jobs)), (class_, "yellow"), (one_line(type_, 200), "red")),
            *(newest.task, finished, newest.id),
        )
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
        found = await dead_letters(client, args)
        queues = sorted({job.queue for job in found})
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
                    await client.redrive(job_id, job.queue, args.reason, answers=job.ended_by)
                else:
                    await client.drop(job_id, job.queue, args.reason)
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
