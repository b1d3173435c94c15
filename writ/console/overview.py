"""The first page: is it well, what goes through, what waits, what fails, what it costs."""

from __future__ import annotations

import asyncio
import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from writ.schemas.bounds import SECOND_US
from writ.schemas.lists import CostBy

from .drawing import Line, area
from .text import micros
from .visit import Denied, Page, Visit, part

if TYPE_CHECKING:
    from markupsafe import Markup

    from writ.schemas.lists import TrafficPage
    from writ.schemas.queries import QueuesPage

MINUTES: Final = 60
QUEUES: Final = 12
CAUSES: Final = 8
_LOOKED_AT: Final = 500
_MINUTE_US: Final = 60 * SECOND_US
_WAITING: Final = ("pending", "scheduled", "retrying", "suspended")


async def overview(visit: Visit) -> Page:
    client, now = visit.client, visit.now
    wall = visit.wall
    midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0)
    hour = wall - datetime.timedelta(minutes=MINUTES)
    status, traffic, queues, workers, dead, cost, costs = await asyncio.gather(
        part(client.status()),
        part(client.traffic(since=hour, minutes=MINUTES, limit=_LOOKED_AT)),
        part(client.queues(limit=_LOOKED_AT)),
        part(client.workers(since=wall - datetime.timedelta(minutes=2), limit=_LOOKED_AT)),
        part(client.dead(largest=True, limit=CAUSES)),
        part(client.cost(since=midnight, by=())),
        part(client.cost(since=midnight, by=(CostBy.MODEL,), limit=5)),
    )
    return Page(
        "overview.html",
        {
            "status": status,
            "throughput": traffic if isinstance(traffic, Denied) else throughput(traffic, now),
            "backlog": queues if isinstance(queues, Denied) else backlog(queues, traffic, now),
            "more_queues": not isinstance(queues, Denied)
            and (len(queues.queues) > QUEUES or queues.next is not None),
            "workers": workers,
            "dead": dead,
            "cost": cost,
            "costs": costs,
        },
    )


class Throughput(NamedTuple):
    """The last hour by the minute, drawn, and its sums."""

    chart: Markup
    completed: int
    submitted: int
    failed: int
    dead: int
    rate_per_min: float


def throughput(page: TrafficPage, now: int) -> Throughput:
    """What was submitted, completed and failed in each minute up to now."""
    last = now // _MINUTE_US
    by_minute = {micros(each.at) // _MINUTE_US: each for each in page.minutes}
    minutes = [by_minute.get(minute) for minute in range(last - MINUTES + 1, last + 1)]

    def of(name: str) -> list[float]:
        return [0.0 if each is None else float(getattr(each, name)) for each in minutes]

    sums = {name: int(sum(of(name))) for name in ("completed", "submitted", "failed", "dead")}
    words = ", ".join(f"{count:,} {name}" for name, count in sums.items())
    lines = [
        Line("completed", of("completed"), "s-completed"),
        Line("submitted", of("submitted"), "s-pending"),
        Line("attempts failed", of("failed"), "s-dead"),
    ]
    recent = of("completed")[-6:-1]  # whole minutes
    return Throughput(area(lines, f"The last hour: {words}"), rate_per_min=sum(recent) / 5, **sums)


class Backlog(NamedTuple):
    """A queue, how many of its jobs are where, and since when its oldest pending one waits."""

    queue: str
    mode: str
    jobs: dict[str, int]
    waiting: int
    oldest_us: int | None
    p95_s: float | None


def backlog(page: QueuesPage, traffic: Any, now: int, most: int = QUEUES) -> list[Backlog]:
    """The queues with most to do first, then those that were busy last."""
    flows = {} if isinstance(traffic, Denied) else {each.queue: each for each in traffic.queues}
    found: list[Backlog] = []
    for each in page.queues:
        flow = flows.get(each.queue)
        oldest = None if flow is None or flow.oldest_at is None else max(0, now - micros(flow.oldest_at))
        waiting = sum(each.jobs.get(name, 0) for name in _WAITING)
        p95_s = None if flow is None else flow.waits.p95_s
        found.append(Backlog(each.queue, each.mode.value, each.jobs, waiting, oldest, p95_s))
    found.sort(key=lambda each: (-each.waiting, -each.jobs.get("running", 0), each.queue))
    return found[:most]
