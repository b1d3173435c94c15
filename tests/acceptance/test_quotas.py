"""A thousand jobs race for the last of a budget or quota, from several clients and workers at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from writ import Client
from writ.broker.connect import Target, connect
from writ.orchestrator.replay.verify import verify
from writ.orchestrator.state import Partition
from writ.schemas.codec import decode
from writ.schemas.events import CommandRejected, JobSubmitted, LeaseGranted, RejectionsFolded
from writ.schemas.lifecycle import TERMINAL, Job, evolve_record
from writ.schemas.quotas import Budget, BudgetReached, Quotas
from writ.schemas.records import Record
from writ.schemas.steps import UsageRecorded

if TYPE_CHECKING:
    from .conftest import Live
else:
    Live = Any

JOBS, CLIENTS, WORKERS, QUEUES = 1_000, 8, 6, ("north", "south", "east")
COST = 1_000
"""Micro-dollars that each attempt uses."""


async def race(live: Live, quotas: Quotas, ends: Callable[[Partition], bool]) -> list[Record]:
    """Submits by many clients at once, and workers of every queue that use what they reserved; the log.

    It `ends` when all submits are dealt with, nothing runs, and the state is as that says.
    """
    async with Client(owner(live)) as host:
        await host.set_price("m", 1_000_000, 0)
        await host.set_quotas("default", quotas)
    before = live.state.seq
    sent = asyncio.gather(*[submit(live, number) for number in range(CLIENTS)])
    over = asyncio.Event()
    workers = [asyncio.create_task(work(live, f"w{n}", QUEUES[n % 3], over)) for n in range(WORKERS)]
    await sent
    dealt_with = 0
    async with asyncio.timeout(60):
        reader = live.log.read(follow=True)
        async for part in reader:
            dealt_with += dealt([decode(message.body) for message in part])
            if dealt_with == JOBS and not live.state.running and ends(live.state):
                await reader.aclose()  # type: ignore[attr-defined]
                break
    over.set()
    await asyncio.gather(*workers)
    await live.check()
    return await live.records(before + 1)


def owner(live: Live) -> Target:
    return Target(live.node.url, live.node.broker.key_path("owner"))


async def submit(live: Live, number: int) -> None:
    async with Client(owner(live)) as client:
        for begin in range(0, JOBS // CLIENTS, 25):
            jobs: list[dict[str, object]] = [{"task": "t", "id": f"c{number}-{begin + n}"} for n in range(25)]
            await client.submit_many(QUEUES[(number + begin) % 3], jobs)


async def work(live: Live, name: str, queue: str, over: asyncio.Event) -> None:
    """Acquires, uses what was reserved, completes, as a worker in any language does, until it is over."""
    link = await connect(owner(live), name)

    async def ask(verb: str, **fields: Any) -> dict[str, Any]:
        body = msgspec.json.encode({"worker": name, **fields})
        while True:
            answer = await link.request(f"writ.lease.default.owner.{verb}.{queue}", body, timeout=20)
            found: dict[str, Any] = msgspec.json.decode(answer.data)
            if found.get("error", {}).get("kind") != "try_later":
                return found

    try:
        while not over.is_set():
            leases = (await ask("acquire", count=20, wait_s=1)).get("leases", [])
            held = [{"id": lease["id"], "token": lease["token"]} for lease in leases]
            note = {"note": "usage_recorded", "model": "m", "input_tokens": COST}
            if held:
                await ask("note", reports=[{**one, "first": 1, "notes": [note]} for one in held])
                await ask("complete", reports=held)
    finally:
        await link.close()


def dealt(records: Iterable[Record]) -> int:
    """How many jobs were taken in or refused."""
    count = 0
    for record in records:
        for event in record.events:
            match event:
                case JobSubmitted():
                    count += 1
                case CommandRejected(verb="submit", count=many) | RejectionsFolded(count=many):
                    count += many
                case _:
                    pass
    return count


async def test_1000_jobs_racing_for_the_last_of_a_budget_never_pass_it(live: Live) -> None:
    """Must hold: counted from the log alone, what is spent and reserved is never more than the budget."""
    limit = 100 * COST + COST // 2
    records = await race(
        live, Quotas(budget=Budget(limit, COST)), lambda s: s.accounts["default"].spent_microusd >= 100 * COST
    )
    spent = most = 0
    reserved: dict[str, int] = {}
    for record in records:
        for event in record.events:
            if isinstance(event, LeaseGranted):
                reserved[record.key] = event.reserved_microusd
            elif isinstance(event, UsageRecorded):
                spent += event.cost_microusd or 0
                reserved[record.key] -= event.cost_microusd or 0
        job = live.state.jobs.get(f"default.{record.key}")
        if job is not None and job.ended_by == record.seq:
            reserved.pop(record.key, None)
        most = max(most, spent + sum(reserved.values()))
    assert most == spent == 100 * COST, "all that fits was used, and no more"
    told = [
        event.percent for record in records for event in record.events if isinstance(event, BudgetReached)
    ]
    assert told in ([80, 100], [100]), "where one round spends from below 80 to all of it, that alone is told"
    report = await verify(live.log)
    assert report.ok, "\n".join(report.lines())


async def test_1000_jobs_racing_for_the_last_of_a_quota_never_pass_it(live: Live) -> None:
    """Must hold: counted from the log alone, never more live jobs than the quota, nor workers with leases."""
    records = await race(live, Quotas(jobs=60, workers=2), lambda s: not s.usage.of("default").jobs)
    jobs: dict[str, Job] = {}
    most_jobs = most_workers = 0
    for record in records:
        if record.kind == "job":
            jobs[record.key] = evolve_record(jobs.get(record.key), record)
        live_jobs = [job for job in jobs.values() if job.state not in TERMINAL]
        most_jobs = max(most_jobs, len(live_jobs))
        most_workers = max(most_workers, len({job.lease.worker for job in live_jobs if job.lease}))
    assert (most_jobs, most_workers) == (60, 2)
    refused = [e for r in records for e in r.events if isinstance(e, CommandRejected)]
    assert refused
    assert all("its quota is 60 [quota.jobs]" in why.reason for each in refused for why in each.refused)
    report = await verify(live.log)
    assert report.ok, "\n".join(report.lines())
