"""Dead letters by cause, and operations: plans for many jobs, before they are made and while they go on."""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

import msgspec

from writ.http.problems import Fault
from writ.schemas.commands import Plan, Planned
from writ.schemas.errors import ErrorClass
from writ.schemas.events import Filter, OperationVerb
from writ.schemas.ids import split_job_key
from writ.schemas.lifecycle import State

from .visit import Denied, Elsewhere, Page, Visit, link, part

CAUSES: Final = 50
OPERATIONS: Final = 50
SELECTED_MAX: Final = 200
_STATES: Final = {
    OperationVerb.REDRIVE: (State.DEAD,),
    OperationVerb.DROP: (State.DEAD,),
    OperationVerb.RERUN: (State.COMPLETED, State.CANCELLED, State.DEAD),
    OperationVerb.CANCEL: (State.SCHEDULED, State.PENDING, State.SUSPENDED, State.RUNNING, State.RETRYING),
}
"""Whose turn it can be, where the filter names no states."""


async def dead(visit: Visit) -> Page:
    queue = visit.one("queue")
    page, operations, may = await asyncio.gather(
        visit.client.dead(
            queue=queue, task=visit.one("task"), largest=True, limit=CAUSES, cursor=visit.one("cursor")
        ),
        part(visit.client.operations(queue=queue, limit=OPERATIONS)),
        visit.may(["plan"], queue or "*"),
    )
    shown = () if isinstance(operations, Denied) else operations.operations
    running = [each for each in shown if each.ended is None]
    ended = sorted((each for each in shown if each.ended is not None), key=lambda each: each.planned_at)
    shows = {"page": page, "asked": visit.asked, "may_plan": bool(may)}
    return Page("dead.html", shows | {"operations": [*running, *ended[:-6:-1]]})


async def operations(visit: Visit) -> Page:
    page = await visit.client.operations(limit=OPERATIONS, cursor=visit.one("cursor"))
    return Page("operations.html", {"page": page})


async def operation(visit: Visit) -> Page:
    queue, name = visit.path["queue"], visit.path["id"]
    page, redone = await asyncio.gather(
        visit.client.operations(name, queue), visit.client.jobs(queue=queue, operation=name, limit=20)
    )
    if not page.operations:
        raise Fault(404, f"queue {queue} has no operation {name}")
    return Page("operation.html", {"op": page.operations[0], "page": redone})


class Part(NamedTuple):
    """What a plan would do in one queue."""

    queue: str
    filter: Filter
    matched: int
    sample: tuple[str, ...]


async def plan(visit: Visit) -> Page:
    """Asks for confirmation: says how many jobs are meant, and some of them."""
    verb, filters = planned_from(visit.asked)
    reason = "asked how many there are"
    answers = await asyncio.gather(
        *[
            visit.client.plan(queue, Plan(verb, filter_, reason, dry_run=True))
            for queue, filter_ in filters.items()
        ]
    )
    parts = [
        Part(queue, filter_, answer.matched, answer.sample)
        for (queue, filter_), answer in zip(filters.items(), answers, strict=True)
    ]
    sent = [(name, value) for name, values in visit.asked.items() for value in values]
    total = sum(each.matched for each in parts)
    return Page("plan.html", {"verb": verb.value, "parts": parts, "total": total, "sent": sent})


async def carry_out(visit: Visit) -> Elsewhere:
    """Makes the plan that was confirmed, and never more than the number that was said."""
    verb, filters = planned_from(visit.sent)
    reason = visit.given("reason")
    if not reason:
        raise Fault(422, "say why: the reason is kept with the plan", "reason")
    made: list[tuple[str, Planned]] = []
    for queue, filter_ in filters.items():
        confirmed = _whole(visit, f"matched~{queue}", 100_000_000)
        if not confirmed:
            continue
        plan_ = Plan(
            verb,
            filter_,
            reason,
            limit=confirmed,
            rate_per_s=_rate(visit),
            canary=min(_whole(visit, "canary", 1_000), confirmed),
            stop_after=_whole(visit, "stop_after", 1_000_000),
        )
        made.append((queue, await visit.client.plan(queue, plan_)))
    if len(made) == 1 and made[0][1].operation is not None:
        queue, answer = made[0]
        _, name = split_job_key(answer.operation or "")
        return Elsewhere(link("queues", queue, "operations", name, seen=answer.position))
    return Elsewhere(link("operations"))


def _whole(visit: Visit, name: str, most: int) -> int:
    text = visit.given(name) or "0"
    if not (text.isascii() and text.isdigit()) or len(text) > 12 or int(text) > most:
        raise Fault(422, f"{name} is a whole number up to {most:,}; {text!r} is not", name)
    return int(text)


def _rate(visit: Visit) -> float | None:
    text = visit.given("rate")
    try:
        rate = float(text) if text else None
    except ValueError:
        rate = 0.0
    if rate is not None and not 0 < rate <= 100_000:
        raise Fault(422, f"rate is jobs a second, more than 0 and up to 100,000; {text!r} is not", "rate")
    return rate


def planned_from(asked: Any) -> tuple[OperationVerb, dict[str, Filter]]:
    """The verb, and which jobs of each queue are meant: those selected, or all that a filter matches."""

    def one(name: str) -> str | None:
        return next((each for each in asked.get(name, ()) if each), None)

    verb = one("verb")
    if verb is None or verb not in set(OperationVerb):
        raise Fault(422, f"{verb!r} is nothing that can be done to many jobs", "verb")
    does = OperationVerb(verb)
    keys = asked.get("job", [])
    if keys:
        if len(keys) > SELECTED_MAX:
            raise Fault(422, f"{len(keys)} jobs are selected; select up to {SELECTED_MAX}, or filter", "job")
        chosen: dict[str, list[str]] = {}
        for key in keys:
            queue, sign, name = key.partition("~")
            if not sign:
                raise Fault(422, f"{key!r} names no job; a key is QUEUE~ID", "job")
            chosen.setdefault(queue, []).append(name)
        return does, {queue: Filter(ids=tuple(names)) for queue, names in chosen.items()}
    queue = one("queue")
    if queue is None:
        raise Fault(422, "select jobs, or filter by a queue: a plan is for the jobs of one", "queue")
    try:
        states = tuple(State(each) for each in asked.get("state", ()) if each) or _STATES.get(does, ())
        error = one("error")
        error_class = None if error is None else ErrorClass(error)
    except ValueError as wrong:
        raise Fault(422, str(wrong), "state") from wrong
    given = {"task": one("task"), "cause": one("cause"), "error_class": error_class}
    return does, {queue: msgspec.structs.replace(Filter(states=states), **given)}
