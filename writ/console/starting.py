"""Starting a job by hand: a form made of what its task takes, as a worker told it."""

from __future__ import annotations

import datetime
from typing import Any, Final, NamedTuple

import msgspec

from writ.broker.errors import SubmitRefused
from writ.http.problems import Fault

from .forms import Field, fields_of, value_of
from .visit import Denied, Elsewhere, Page, Visit, link, part

_LOOKED_AT: Final = 500
_HEARD_OF: Final = datetime.timedelta(days=1)
_DECIDED_S: Final = 5.0
_PREFIX: Final = "in."


async def start(visit: Visit) -> Page:
    known = await tasks(visit)
    queue, task = visit.one("queue"), visit.one("task")
    return _form(visit, known, queue, task, {}, {})


def _form(
    visit: Visit,
    known: dict[str, Known],
    queue: str | None,
    task: str | None,
    typed: dict[str, str],
    faults: dict[str, str],
) -> Page:
    schema = known[task].schema if task in known else None
    found = None if schema is None else fields_of(schema)
    return Page(
        "start.html",
        {
            "known": known,
            "queues": sorted({queue for each in known.values() for queue in each.queues}),
            "queue": queue,
            "task": task,
            "about": None if schema is None else schema.get("description"),
            "fields": found,
            "typed": typed,
            "faults": faults,
        },
        status=422 if faults else 200,
    )


class Known(NamedTuple):
    """A task that workers can run: the JSON Schema of its input, and queues in which they have run jobs."""

    schema: dict[str, Any]
    queues: tuple[str, ...]


async def tasks(visit: Visit) -> dict[str, Known]:
    """The tasks of the workers that were heard of in the last day; the newest word counts."""
    since = visit.wall - _HEARD_OF
    page = await part(visit.client.workers(since=since, limit=_LOOKED_AT))
    found: dict[str, Known] = {}
    if isinstance(page, Denied):
        return found
    for worker in sorted(page.workers, key=lambda each: each.seen_at):
        for name, schema in worker.tasks.items():
            queues = {*worker.queues, *(found[name].queues if name in found else ())}
            found[name] = Known(msgspec.json.decode(schema), tuple(sorted(queues)))
    return found


async def submit(visit: Visit) -> Page | Elsewhere:
    """Submits the job, and goes to its page; shows the form again where something in it is wrong."""
    queue, task = visit.given("queue"), visit.given("task")
    known = await tasks(visit)
    schema = known[task].schema if task in known else None
    typed = {name: values[-1] for name, values in visit.sent.items()}
    faults: dict[str, str] = {}
    given = _input(visit, None if schema is None else fields_of(schema), faults)
    options = _options(visit, faults)
    if not faults:
        try:
            handle = await visit.client.submit(queue, task, given, **options)
            job = await visit.client.accepted(handle, timeout_s=_DECIDED_S)
            return Elsewhere(link("queues", job.queue, "jobs", job.id, seen=job.seq))
        except SubmitRefused as error:
            faults[error.rejection.field or ""] = error.rejection.reason
        except TimeoutError as error:
            raise Fault(
                503, "the job is stored, and nobody has decided on it yet; look for it under Jobs"
            ) from error
    return _form(visit, known, queue, task, typed, faults)


def _input(visit: Visit, fields: list[Field] | None, faults: dict[str, str]) -> Any:
    if fields is None or visit.given("as_json"):
        text = visit.given("input")
        try:
            return msgspec.Raw(msgspec.json.encode(msgspec.json.decode(text.encode()))) if text else None
        except msgspec.MsgspecError as error:
            faults["input"] = f"this is not JSON: {error}"
            return None
    found: dict[str, Any] = {}
    for field in fields:
        text = visit.given(_PREFIX + field.name)
        if not text and not field.required:
            continue
        try:
            found[field.name] = value_of(field, text)
        except ValueError as error:
            faults[field.name] = str(error)
    return found


def _options(visit: Visit, faults: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if visit.given("id"):
        found["id"] = visit.given("id")
    for name, kind in (("priority", int), ("delay_s", float)):
        text = visit.given(name)
        try:
            found |= {name: kind(text)} if text else {}
        except ValueError:
            faults[name] = f"{text!r} is not a number"
    if visit.given("approval"):
        found["approval"] = {}
    return found
