"""Asking for everything, page by page, and what is made of it."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .usage import UsageError, nearest

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.orchestrator.decide.quotas import Standing
    from writ.orchestrator.replay.explain import Explanation
    from writ.orchestrator.replay.history import Step
    from writ.schemas.commands import TenantTold
    from writ.schemas.lists import WorkerView
    from writ.schemas.processes import Process
    from writ.schemas.queries import JobView, QueueView, RecordView

RECENT_S: Final = 300
"""A worker that was heard of within this counts as there, also without leases."""

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


class Around(NamedTuple):
    """What stands around a job, as far as the client may see it."""

    queue: QueueView | None = None
    process: Process | None = None
    """The one that the job asks for a release of."""

    tenant: TenantTold | None = None
    """Its quotas, and what it uses."""

    workers: tuple[WorkerView, ...] | None = None
    """Those of the queue that were heard of lately."""


async def around(client: Client, job: JobView) -> Around:
    """Asks for the job's queue with its workers, its process and its tenant: for a job that has not ended."""
    from writ.broker.errors import PermissionDenied, Refused

    if job.finished_at is not None:
        return Around()
    queues = (await client.queues(job.queue)).queues
    process: Process | None = None
    with suppress(PermissionDenied, Refused):
        if job.process is not None:
            found = await client.processes(job.process.partition("@")[0], queue=job.queue)
            process = found[0] if found else None
    workers = await workers_of(client, job.queue)
    return Around(queues[0] if queues else None, process, await tenant_seen(client), workers)


async def workers_of(client: Client, queue: str) -> tuple[WorkerView, ...] | None:
    """The workers of a queue that were heard of lately; None for whom that is not to be told."""
    from writ.broker.errors import PermissionDenied

    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=RECENT_S)
    try:
        found, _ = await pages(lambda place: client.workers(since=since, **place), "workers", None)
    except PermissionDenied:
        return None
    return tuple([each for each in found if queue in each.queues])


async def tenant_seen(client: Client) -> TenantTold | None:
    """The tenant's quotas and what it uses; None for whom that is not to be told."""
    from writ.broker.errors import PermissionDenied, Refused

    with suppress(PermissionDenied, Refused):
        return await client.tenant()
    return None


def standing_of(told: TenantTold) -> Standing:
    """A tenant as decisions see it."""
    from writ.orchestrator.decide.quotas import Load, Standing
    from writ.schemas.quotas import Account

    used = told.used
    account = Account(
        told.quotas_version, told.quotas, told.quotas, since=used.since, spent_microusd=used.spent_microusd
    )
    return Standing(account, Load(used.jobs, used.input_bytes, used.workers, used.reserved_microusd))


def explained(steps: Sequence[Step], wall_us: int, seen: Around | None = None) -> Explanation:
    """The explanation of a job with this history, now, where what stands around it is as it was seen."""
    from writ.orchestrator.replay.explain import QueueStanding, explain
    from writ.schemas.queues import Queue

    # A log that is ahead of this machine's clock must not put the past into the future.
    now = max(wall_us, steps[-1].record.at)
    queue, process, tenant, workers = seen or Around()
    use = None if tenant is None else standing_of(tenant)
    if queue is None:
        return explain(steps, now, None, use)
    from .queues import bucket_of

    grants, retries = (None if each is None else bucket_of(each) for each in (queue.grants, queue.retries))
    state = Queue(queue.policy, queue.version, queue.mode, queue.reason, grants, retries)
    running, pending = (queue.jobs.get(name, 0) for name in ("running", "pending"))
    standing = QueueStanding(state, running, pending, queue.running_by_key, process, workers)
    return explain(steps, now, standing, use)
