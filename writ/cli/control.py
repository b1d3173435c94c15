"""What operators ask of single jobs: approve, reject, pause, resume, signal, edit, rerun, terminate, drop."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from .bulk import given
from .dead import need_reason
from .moments import moment
from .output import next_steps, print_json, state
from .reach import connected
from .usage import UsageError, tell

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.schemas.queries import JobView


def control(args: Namespace) -> int:
    """Asks it of each job; exits 1 where one was refused."""
    if args.command == "drop":
        need_reason(args)
    extra = _extra(args)
    ids = [args.id] if args.command == "signal" else args.ids
    return asyncio.run(_control(args, ids, extra))


def _extra(args: Namespace) -> dict[str, Any]:
    """What goes with the verb apart from id and reason. Raises UsageError."""
    if args.command in ("approve", "signal"):
        return {"data": given(args.data, "--data")}
    if args.command == "rerun":
        return {"from_step": args.from_step}
    if args.command != "edit":
        return {}
    extra: dict[str, Any] = {}
    if args.priority is not None:
        extra["priority"] = args.priority
    if args.not_before is not None:
        extra["not_before"] = moment(args.not_before, "--not-before")
    if args.input is not None:
        extra["input"] = given(args.input, "--input")
    if not extra:
        raise UsageError("nothing to change is given", ["writ edit ID --priority 1", "writ edit --help"])
    return extra


async def _ask(client: Client, args: Namespace, job_id: str, queue: str, extra: dict[str, Any]) -> int:
    """The log sequence at which it is done."""
    if args.command == "signal":
        return await client.signal(job_id, queue, args.name, extra["data"], args.reason)
    done: int = await getattr(client, args.command)(job_id, queue, args.reason, **extra)
    return done


async def _control(args: Namespace, ids: list[str], extra: dict[str, Any]) -> int:
    from writ.broker.errors import JobNotFound, Refused

    done: list[JobView] = []
    refused = 0
    async with connected(args) as client:
        for job_id in ids:
            try:
                job = await client.job(job_id, args.queue)
                queue = job.queue
                if args.command == "rerun":
                    extra["answers"] = job.ended_by
                client.min_position = await _ask(client, args, job_id, queue, extra)
                done.append(await client.job(job_id, queue))
            except (JobNotFound, Refused) as error:
                refused += 1
                unknown = isinstance(error, JobNotFound)
                if isinstance(error, Refused):
                    unknown = (error.kind.value, error.rejection.field) == ("not_found", "id")
                tell(f"job {job_id}: {error}", ["writ jobs" if unknown else f"writ job {job_id}"])
    if args.json:
        print_json(done)
    else:
        for job in done:
            print(_said(job))
        next_steps(*[f"writ job {job.id}" for job in done[:1]])
    return 1 if refused else 0


def _said(job: JobView) -> str:
    words = f"job {job.id} is {state(job.state.value)}"
    if job.dropped is not None:
        return f"{words}, and settled: {job.dropped}"
    if job.wait is not None:
        return (
            f"{words}: it waits for {job.wait.reason}" if job.wait.reason != "paused" else f"{words}: paused"
        )
    return f"{words}, in round {job.round}" if job.round > 1 else words
