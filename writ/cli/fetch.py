"""Asking for everything, page by page, and what is made of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from .usage import UsageError, nearest

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.orchestrator.replay.explain import Explanation
    from writ.orchestrator.replay.history import Step
    from writ.schemas.processes import Process
    from writ.schemas.queries import JobView, QueueView, RecordView

PAGE_JOBS: Final = 500
PAGE_RECORDS: Final = 500
PAGE_ROWS: Final = 500


def states_of(words: Sequence[str]) -> tuple[str, ...]:
    """States as given with --state, several by commas. Raises UsageError for one that does not exist."""
    from .options import STATES

    states = tuple(word.strip() for each in words for word in each.split(",") if word.strip())
    for name in states:
        if name not in STATES:
            meant = nearest(name, STATES)
            raise UsageError(
                f"there is no state {name!r}; there are {', '.join(STATES)}",
                [f"writ jobs --state {meant}"] if meant else [],
            )
    return states


async def all_jobs(
    client: Client,
    *,
    states: Sequence[str] = (),
    queue: str | None = None,
    task: str | None = None,
    limit: int | None = None,
    **belongs: Any,
) -> list[JobView]:
    """All jobs that match, newest submit first, or the `limit` newest; `belongs` as in `Client.jobs`."""
    found: list[JobView] = []
    cursor: str | None = None
    while True:
        size = PAGE_JOBS if limit is None else min(PAGE_JOBS, limit - len(found))
        page = await client.jobs(states=states, queue=queue, task=task, **belongs, limit=size, cursor=cursor)
        found += page.jobs
        cursor = page.next
        if cursor is None or (limit is not None and len(found) >= limit):
            return found


async def all_records(
    client: Client, queue: str, id: str, *, context: bool = False, reveal: bool = False
) -> list[RecordView]:
    """All records of a job, oldest first; `context` and `reveal` as in `Client.records`."""
    found: list[RecordView] = []
    while True:
        after = found[-1].seq if found else 0
        page = await client.records(
            id, queue, after=after, limit=PAGE_RECORDS, context=context, reveal=reveal
        )
        found += page.records
        if not page.more or not page.records:
            return found


async def pages(
    ask: Callable[[dict[str, Any]], Awaitable[Any]], field: str, limit: int | None
) -> tuple[list[Any], bool]:
    """Rows of one page after the other, up to `limit`, and whether there may be more."""
    found: list[Any] = []
    cursor: str | None = None
    while True:
        size = PAGE_ROWS if limit is None else min(PAGE_ROWS, limit - len(found))
        page = await ask({"limit": size, "cursor": cursor})
        found += getattr(page, field)
        cursor = page.next
        if cursor is None or (limit is not None and len(found) >= limit):
            return found, cursor is not None


async def job_with_records(
    client: Client, id: str, queue: str | None = None
) -> tuple[JobView, list[RecordView]]:
    """A job and its records with their context, both as of the same record of the job."""
    view = await client.job(id, queue)
    while True:
        records = await all_records(client, view.queue, view.id, context=True)
        seq = view.seq
        view = await client.job(view.id, view.queue)
        if view.seq == seq:
            return view, records


async def process_of(client: Client, job: JobView) -> Process | None:
    """The process that a job asks for a release of, as far as the client may see it."""
    from writ.broker.errors import PermissionDenied

    if job.process is None:
        return None
    try:
        found = await client.processes(job.process.partition("@")[0], queue=job.queue)
    except PermissionDenied:
        return None
    return found[0] if found else None


def explained(
    steps: Sequence[Step], wall_us: int, queue: QueueView | None = None, process: Process | None = None
) -> Explanation:
    """The explanation of a job with this history, now, where its queue and process stand as they are seen."""
    from writ.orchestrator.replay.explain import QueueStanding, explain
    from writ.schemas.queues import Queue

    # A log that is ahead of this machine's clock must not put the past into the future.
    now = max(wall_us, steps[-1].record.at)
    if queue is None:
        return explain(steps, now)
    from .queues import bucket_of

    grants, retries = (None if each is None else bucket_of(each) for each in (queue.grants, queue.retries))
    state = Queue(queue.policy, queue.version, queue.mode, queue.reason, grants, retries)
    standing = QueueStanding(
        state, queue.jobs.get("running", 0), queue.jobs.get("pending", 0), queue.running_by_key, process
    )
    return explain(steps, now, standing)
