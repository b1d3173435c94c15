"""What people did and were refused, and what waits for one of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from writ.broker.errors import Refused
from writ.cli.stretches import whole_log
from writ.http.problems import Fault
from writ.http.replaying import RECORDS_MAX
from writ.orchestrator.replay.verify import verify_stretch
from writ.schemas.codec import decode
from writ.schemas.events import JobSuspended, WaitReason
from writ.schemas.ids import job_key
from writ.schemas.proofs import CheckpointQuery

if TYPE_CHECKING:
    from writ.schemas.queries import JobView

from .jobs import moment_of
from .visit import Denied, Page, Visit, part

ACTS: Final = 50
_ASKED: Final = 25
_turn: Final = asyncio.Lock()


async def audit(visit: Visit) -> Page:
    filters: dict[str, Any] = {name: visit.one(name) for name in ("actor", "queue", "job", "verb")}
    filters["refused"] = {"yes": True, "no": False}.get(visit.one("refused") or "")
    fault = None
    try:
        filters |= {name: moment_of(visit.one(name)) for name in ("since", "until")}
    except ValueError:
        raise Fault(422, "since and until are times in UTC, as in 2026-01-31T12:00", "since") from None
    page, checkpoint = await asyncio.gather(
        visit.client.audit(**filters, limit=ACTS, cursor=visit.one("cursor")),
        part(_checkpoint(visit)),
    )
    asked = {name: values for name, values in visit.asked.items() if name != "cursor"}
    return Page("audit.html", {"page": page, "checkpoint": checkpoint, "asked": asked, "fault": fault})


async def _checkpoint(visit: Visit) -> Any:
    """The newest signed checkpoint; why there is none in words."""
    try:
        return await visit.client.ask(CheckpointQuery())
    except Refused as error:
        return Denied(error.rejection.reason)


async def verification(visit: Visit) -> Page:
    """Every record, transition and decision of the log once more."""
    last = (await visit.client.stretch(limit=1)).last
    if last > RECORDS_MAX:
        raise Fault(
            409,
            f"the log has {last:,} records; up to {RECORDS_MAX:,} are verified on this page. "
            "`writ audit verify` and `writ replay --verify` have no such limit",
        )
    async with _turn:  # one at a time: it takes the processor
        stretch = await whole_log(visit.client)
        report = await asyncio.to_thread(verify_stretch, stretch)
    faults = [f"record {fault.seq}: {fault.rule}: {fault.reason}" for fault in report.faults]
    return Page("verification.html", {"job": None, "report": report, "faults": faults})


async def _asks(visit: Visit, job: JobView) -> str:
    """What a job asks a person, as the record says by which it waits."""
    page = await visit.client.records(job.id, job.queue, after=job.seq - 1, limit=1, reveal=True)
    events = [event for each in page.records for event in decode(bytes(each.record)).events]
    return next((event.rule for event in events if isinstance(event, JobSuspended)), "")


async def approvals(visit: Visit) -> Page:
    """Jobs that wait for a person's word, and grants that wait for a second person."""
    page, principals = await asyncio.gather(
        visit.client.jobs(waits_for=WaitReason.APPROVAL, limit=_ASKED, cursor=visit.one("cursor")),
        part(visit.client.principals(waiting=True)),
    )
    mine = await visit.queues_for("approve", {job.queue for job in page.jobs})
    shown = [job for job in page.jobs if job.queue in mine]
    asks = await asyncio.gather(*[part(_asks(visit, job)) for job in shown])
    found = () if isinstance(principals, Denied) else principals.principals
    proposals = [(each.name, proposal) for each in found for proposal in each.proposals]
    may = await visit.may(["approve_access"]) if proposals else frozenset[str]()
    return Page(
        "approvals.html",
        {
            "mine": shown,
            "asks": {
                job_key(job.queue, job.id): words
                for job, words in zip(shown, asks, strict=True)
                if isinstance(words, str)
            },
            "others": [job for job in page.jobs if job.queue not in mine],
            "next": page.next,
            "proposals": proposals,
            "may_grant": bool(may),
        },
    )


async def promotions(visit: Visit) -> Page:
    """Promotions against their gates, which wait for a second person.

    A page of its own: a leader is asked for them, and jobs are approved while there is none, too.
    """
    processes, may = await asyncio.gather(visit.client.processes(), visit.may(["approve_promotion"]))
    waiting = [(each.name, proposal) for each in processes for proposal in each.proposals]
    return Page("promotions.html", {"promotions": waiting, "may_approve": bool(may)})
