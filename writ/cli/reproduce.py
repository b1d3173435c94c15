"""`writ reproduce`: a finished job once more, with the recorded answers, and both runs compared."""

from __future__ import annotations

import asyncio
import contextlib
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from .fetch import all_records
from .output import count, next_steps, paint, print_json, state
from .reach import connected
from .usage import CommandError

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.orchestrator.replay.compare import Difference
    from writ.schemas.recordings import Run


def reproduce(args: Namespace) -> int:
    """Exits 1 where the two runs differ."""
    return asyncio.run(_reproduce(args))


async def _reproduce(args: Namespace) -> int:
    from writ.broker.errors import JobEnded
    from writ.orchestrator.replay.compare import compare

    async with connected(args) as client:
        job = await client.job(args.id, args.queue)
        try:
            handle = await client.reproduce(job.id, job.queue)
        except ValueError as error:  # it has not ended, or was erased
            raise CommandError(str(error), [f"writ explain {job.id}"]) from error
        with contextlib.suppress(JobEnded):  # as the first run may have
            await client.result(handle, timeout_s=args.timeout)
        first = await _run(client, job.queue, job.id, job.ended_by)
        again = await _run(client, job.queue, handle.id, None)
    found = compare(first, again)
    if args.json:
        print_json(_document(job.id, first, again, found))
    else:
        _show(job.id, first, again, found)
        next_steps(f"writ explain {handle.id}")
    return 1 if found else 0


async def _run(client: Client, queue: str, id: str, end: int | None) -> Run:
    from writ.schemas.codec import decode
    from writ.schemas.recordings import last_run

    records = await all_records(client, queue, id, reveal=True)
    run = last_run([decode(bytes(each.record)) for each in records], end)
    assert run is not None, "a job that is known has records"
    return run


def _show(id: str, first: Run, again: Run, found: list[Difference]) -> None:
    answered = f"{count(len(again.job.steps), 'step')} and {count(len(again.calls), 'call')} of tools"
    print(f"job {again.job.id} reproduces {id}: {state(again.job.state.value)}, {answered} answered")
    if not found:
        print("the two runs do not differ")
        return
    print(f"{count(len(found), 'difference')}\n")
    for each in found:
        print(f"  {paint(each.where, 'bold')}: {each.hint}")
        print(f"      first: {each.first}")
        print(f"      again: {each.again}")


def _document(id: str, first: Run, again: Run, found: list[Difference]) -> dict[str, Any]:
    return {
        "job": again.job.id,
        "queue": again.job.queue,
        "reproduces": id,
        "end": first.job.ended_by,
        "steps": len(again.job.steps),
        "calls": len(again.calls),
        "state": again.job.state,
        "differences": found,
    }
