"""Who works, and what models cost."""

from __future__ import annotations

import asyncio
import datetime
from collections import defaultdict
from typing import Any, Final

from writ.http.problems import Fault
from writ.schemas.lists import CostBy

from .drawing import Line, area
from .telling import Event
from .text import document
from .visit import Page, Visit, part

WORKERS: Final = 50
ATTEMPTS: Final = 20
SUMS: Final = 50
_SINCE_H: Final = 24
_DAYS: Final = 30
_DONE: Final = {"drain_worker": "worker_undrained", "undrain_worker": "worker_drained"}
"""What was done last to a worker that may be asked this."""


async def workers(visit: Visit) -> Page:
    since = visit.wall - datetime.timedelta(hours=_SINCE_H)
    page = await visit.client.workers(since=since, limit=WORKERS, cursor=visit.one("cursor"))
    return Page("workers.html", {"page": page, "hours": _SINCE_H})


async def worker(visit: Visit) -> Page:
    """One worker: what it said of itself, what it holds, what became of the attempts before."""
    name = visit.path["name"]
    ever = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    page, attempts = await asyncio.gather(
        visit.client.workers(worker=name, since=ever),
        part(visit.client.attempts(worker=name, limit=ATTEMPTS, cursor=visit.one("cursor"))),
    )
    if not page.workers:
        raise Fault(404, f"no worker {name[:256]} was ever heard of")
    (found,) = page.workers
    wanted = "drain_worker" if found.drained is None else "undrain_worker"
    tasks = [(task, document(schema)) for task, schema in sorted(found.tasks.items())]
    shows = {"worker": found, "attempts": attempts, "tasks": tasks, "actions": await visit.may([wanted])}
    done = Event(_DONE[wanted], "" if found.drained is None else f"by {found.drained_by}: {found.drained}")
    return Page("worker.html", shows | {"done": {"events": [done]}})


async def cost(visit: Visit) -> Page:
    today = visit.wall.replace(hour=0, minute=0, second=0, microsecond=0)
    since = today - datetime.timedelta(days=_DAYS - 1)
    chosen = visit.one("by") or CostBy.MODEL.value
    by = CostBy(chosen) if chosen in set(CostBy) else CostBy.MODEL
    filters: dict[str, Any] = {"queue": visit.one("queue"), "since": since}
    total, days, sums = await asyncio.gather(
        visit.client.cost(by=(), **filters),
        visit.client.cost(by=(CostBy.DAY,), limit=_DAYS + 1, **filters),
        visit.client.cost(by=(by,), limit=SUMS, **filters),
    )
    by_day: dict[str, float] = defaultdict(float)
    for each in days.sums:
        by_day[str(each.day)] += each.cost_microusd / 1_000_000
    dates = [(since + datetime.timedelta(days=n)).date().isoformat() for n in range(_DAYS)]
    values = [by_day[date] for date in dates]
    words = f"Cost by day of the last {_DAYS} days; the highest is ${max(values):,.2f}"
    return Page(
        "cost.html",
        {
            "total": total.sums[0] if total.sums else None,
            "chart": area([Line("cost", values, "accent")], words),
            "days": _DAYS,
            "by": by.value,
            "choices": [each.value for each in CostBy],
            "page": sums,
        },
    )
