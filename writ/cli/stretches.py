"""Where forensics reads a log from: the node, page by page, or a bundle."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from .reach import connected
from .usage import CommandError, UsageError

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.orchestrator.replay.bundle import Head
    from writ.orchestrator.replay.stretch import Stretch
    from writ.schemas.queries import JobView, RecordView


async def whole_log(client: Client, upto: int | None = None) -> Stretch:
    """All that the tenant may read of its node's log, or of its records up to sequence `upto`."""
    from writ.orchestrator.replay.history import Entry
    from writ.orchestrator.replay.stretch import Coverage, Stretch

    entries: list[Entry] = []
    page = await client.stretch()
    whole, last = page.whole, page.last if upto is None else min(page.last, upto)
    seen = (page.position, page.digest) if page.position and upto is None else None
    while True:
        entries += [Entry(v.seq, v.subject, bytes(v.record)) for v in page.records if v.seq <= last]
        whole = whole and page.whole
        if page.upto >= last:
            break
        page = await client.stretch(page.upto)
    coverage = Coverage.WHOLE if whole else Coverage.TENANT
    tenant = client.target.tenant
    return Stretch(tenant, page.partition, page.epoch, last, coverage, tuple(entries), seen)


def read_log(args: Namespace) -> Stretch:
    """The log that the options name: a bundle's, else all that the tenant may read of its node's."""
    if args.bundle is not None:
        return read_bundle(args.bundle)[1]

    async def read() -> Stretch:
        async with connected(args) as client:
            return await whole_log(client)

    return asyncio.run(read())


def read_bundle(name: str) -> tuple[Head, Stretch]:
    """What is in a bundle. Raises CommandError where it cannot be read, or was changed."""
    from writ.orchestrator.replay.bundle import BundleError, read

    try:
        return read(Path(name))
    except BundleError as error:
        raise CommandError(f"refused: {error}", ["make it again: writ replay ID --export FILE"]) from error
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from error


def key_in(stretch: Stretch, job_id: str, queue: str | None) -> str:
    """The key of a job of a stretch. Raises CommandError where there is none, or several queues have one."""
    from writ.schemas.ids import split_job_key
    from writ.schemas.subjects import parse_log

    found: dict[str, None] = {}
    for entry in stretch.entries:
        address = parse_log(entry.subject)
        if address.kind == "job" and address.tenant == stretch.tenant:
            its_queue, its_id = split_job_key(address.key)
            if its_id == job_id and queue in (None, its_queue):
                found[address.key] = None
    if not found:
        where = "" if queue is None else f" in queue {queue}"
        raise CommandError(f"no job {job_id}{where} in what was read", ["writ replay --bundle FILE"])
    if len(found) > 1:
        queues = ", ".join(sorted(split_job_key(key)[0] for key in found))
        raise CommandError(f"several queues have a job {job_id}: {queues}; say which with --queue")
    return next(iter(found))


def of_records(view: JobView, records: list[RecordView]) -> Stretch:
    """A job's own records with what moves its leases, as a stretch."""
    from writ.orchestrator.replay.history import Entry, read_entry
    from writ.orchestrator.replay.stretch import Coverage, Stretch
    from writ.schemas.subjects import parse_log

    entries = tuple([Entry(each.seq, each.subject, bytes(each.record)) for each in records])
    partition = parse_log(entries[0].subject).partition if entries else 0
    epoch = read_entry(entries[-1]).epoch if entries else 0
    return Stretch(view.tenant, partition, epoch, entries[-1].seq if entries else 0, Coverage.JOBS, entries)
