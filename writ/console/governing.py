"""Queues with their policies, history and what each version changed; schedules with their next times."""

from __future__ import annotations

import asyncio
import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from writ.cli.queues import flat
from writ.cli.queues import shown as value_words
from writ.http.problems import Fault
from writ.orchestrator.replay.text import governing_words
from writ.schemas.events import EVENT_TYPES, QueueDeclared
from writ.schemas.policy import QueuePolicy
from writ.schemas.queues import Mode

from .overview import backlog
from .telling import Event
from .visit import Elsewhere, Page, Visit, link, part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from writ.schemas.queries import ChangeView

QUEUES: Final = 50
SCHEDULES: Final = 50
_TIMES: Final = 10
_RECENT: Final = datetime.timedelta(hours=1)
"""So far back it is told how long jobs of each queue waited."""

_QUEUE_VERBS: Final = {
    Mode.OPEN: ("pause_queue", "drain_queue"),
    Mode.PAUSED: ("resume_queue", "drain_queue"),
    Mode.DRAINING: ("resume_queue", "pause_queue"),
}


class Change(NamedTuple):
    """Something that was done to a queue or schedule; of a new policy, which fields are otherwise."""

    seq: int
    at: str
    actor: str
    event: str
    words: str
    fields: list[tuple[str, str, str]]

    @property
    def events(self) -> list[Event]:
        """What the record of it tells, as a page shows what somebody has just done."""
        return [Event(self.event, self.words)]


def just_done(visit: Visit, made: Sequence[Change]) -> Change | None:
    """The change that whoever looks comes from."""
    return next((each for each in made if str(each.seq) == visit.one("seen")), None)


async def queues(visit: Visit) -> Page | Elsewhere:
    new = visit.one("new")
    if new is not None:
        return Elsewhere(link("queues", new, "policy"))
    place: dict[str, Any] = {"limit": QUEUES, "cursor": visit.one("cursor")}
    page, traffic = await asyncio.gather(
        visit.client.queues(**place), part(visit.client.traffic(since=visit.wall - _RECENT, **place))
    )
    rows = {each.queue: each for each in backlog(page, traffic, visit.now, most=QUEUES)}
    may = await visit.may(["declare"])
    return Page("queues.html", {"page": page, "rows": rows, "may_declare": bool(may)})


async def queue(visit: Visit) -> Page:
    name = visit.path["queue"]
    page, traffic = await asyncio.gather(
        visit.client.queues(name, history=True), part(visit.client.traffic(queue=name))
    )
    if not page.queues:
        raise Fault(404, f"there is no queue {name}: it has had no job, and nobody has declared it")
    (found,) = page.queues
    may = await visit.may((*_QUEUE_VERBS[found.mode], "declare"), name)
    made = changes(found.history)
    built_in = flat(QueuePolicy())
    policy = [(key, value_words(value), value != built_in[key]) for key, value in flat(found.policy).items()]
    return Page(
        "queue.html",
        {
            "queue": found,
            "row": backlog(page, traffic, visit.now)[0],
            "traffic": traffic,
            "policy": sorted(policy, key=lambda each: not each[2]),
            "changes": made,
            "done": just_done(visit, made),
            "may_declare": "declare" in may,
            "actions": [verb for verb in _QUEUE_VERBS[found.mode] if verb in may],
        },
    )


def changes(history: Sequence[ChangeView]) -> list[Change]:
    """What happened, newest first, each new policy beside the one before it."""
    found: list[Change] = []
    before: QueuePolicy | None = None
    for each in reversed(history):
        event = msgspec.json.decode(each.data, type=EVENT_TYPES[each.event])
        fields: list[tuple[str, str, str]] = []
        if isinstance(event, QueueDeclared):
            if before is not None or event.version == 1:
                fields = changed(before or QueuePolicy(), event.policy)
            before = event.policy
        words = governing_words(event, each.actor)
        found.append(Change(each.seq, each.at, each.actor, each.event, words, fields))
    return found[::-1]


def changed(before: QueuePolicy, after: QueuePolicy) -> list[tuple[str, str, str]]:
    """The fields in which policies differ: each with what it was, and what it is."""
    old, new = flat(before), flat(after)
    return [(name, value_words(old[name]), value_words(new[name])) for name in new if old[name] != new[name]]


async def schedules(visit: Visit) -> Page:
    page = await visit.client.schedules(
        queue=visit.one("queue"), times=3, limit=SCHEDULES, cursor=visit.one("cursor")
    )
    return Page("schedules.html", {"page": page})


async def schedule(visit: Visit) -> Page:
    name, of = visit.path["name"], visit.path["queue"]
    page = await visit.client.schedules(name, of, times=_TIMES, history=True, deleted=True)
    if not page.schedules:
        raise Fault(404, f"queue {of} has no schedule {name}")
    (found,) = page.schedules
    wanted = ("trigger_schedule", "resume_schedule" if found.paused is not None else "pause_schedule")
    may: Any = () if found.deleted is not None else await visit.may(wanted, of)
    spec = [
        (key, value_words(value)) for key, value in flat(found.spec).items() if value not in (None, [], {})
    ]
    actions = [verb for verb in wanted if verb in may]
    made = changes(found.history)
    shows = {"schedule": found, "spec": spec, "changes": made, "done": just_done(visit, made)}
    return Page("schedule.html", shows | {"actions": actions})
