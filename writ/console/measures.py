"""Who works, and what models cost."""

from __future__ import annotations

import asyncio
import datetime
from collections import defaultdict
from typing import Any, Final

from writ.schemas.lists import CostBy

from .drawing import Line, area
from .visit import Page, Visit

WORKERS: Final = 50
SUMS: Final = 50
_SINCE_H: Final = 24
_DAYS: Final = 30


async def workers(visit: Visit) -> Page:
    since = visit.wall - datetime.timedelta(hours=_SINCE_H)
    page = await visit.client.workers(since=since, limit=WORKERS, cursor=visit.one("cursor"))
    return Page("workers.html", {"page": page, "hours": _SINCE_H})


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
