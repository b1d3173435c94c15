"""The list of jobs, by the filters in its address, and what can be done to many of them."""

from __future__ import annotations

import datetime
from typing import Any, Final

from writ.broker.errors import Refused
from writ.schemas.errors import ErrorClass
from writ.schemas.lifecycle import State

from .visit import Page, Visit, link

ROWS: Final = 50
TEXTS: Final = (
    "queue",
    "task",
    "actor",
    "batch",
    "parent",
    "schedule",
    "operation",
    "release",
    "cause",
    "search",
)
"""Filters that are text, by the names that `Client.jobs` knows them under."""

BULK: Final = ("cancel", "redrive", "rerun", "drop")
VIEWS: Final[tuple[tuple[str, dict[str, list[str]]], ...]] = (
    ("All", {}),
    ("Live", {"state": ["pending", "running", "retrying", "suspended", "scheduled"]}),
    ("Dead letters", {"state": ["dead"]}),
    ("Retrying", {"state": ["retrying"]}),
    ("Waiting", {"state": ["suspended"]}),
)
"""What most people look for."""


async def jobs(visit: Visit) -> Page:
    filters, fault = filters_of(visit)
    page = None
    if fault is None:
        try:
            page = await visit.client.jobs(**filters, limit=ROWS, cursor=visit.one("cursor"))
        except Refused as error:
            if error.rejection.field is None:
                raise
            fault = error.rejection.reason
    asked = {name: values for name, values in visit.asked.items() if name not in ("cursor", "seen")}
    may = await visit.may(["plan"], visit.one("queue") or "*")
    return Page(
        "jobs.html",
        {
            "page": page,
            "fault": fault,
            "asked": asked,
            "states": [state.value for state in State],
            "chosen": visit.asked.get("state", []),
            "classes": [each.value for each in ErrorClass],
            "views": [(name, link("jobs", **filters), _same(asked, filters)) for name, filters in VIEWS],
            "verbs": BULK if may else (),
        },
        status=200 if fault is None else 422,
    )


def _same(asked: dict[str, list[str]], filters: dict[str, list[str]]) -> bool:
    return {name: sorted(values) for name, values in asked.items() if any(values)} == {
        name: sorted(values) for name, values in filters.items()
    }


def filters_of(visit: Visit) -> tuple[dict[str, Any], str | None]:
    """What the address asks for, as `Client.jobs` takes it, and what is wrong with it in words."""
    found: dict[str, Any] = {name: visit.one(name) for name in TEXTS}
    found["states"] = tuple(each for each in visit.asked.get("state", ()) if each)
    unknown = [each for each in found["states"] if each not in set(State)]
    if unknown:
        return found, f"there is no state {unknown[0]!r}; there are {', '.join(State)}"
    found["error_class"] = visit.one("error")
    if found["error_class"] is not None and found["error_class"] not in set(ErrorClass):
        return found, f"there is no error class {found['error_class']!r}; there are {', '.join(ErrorClass)}"
    tags = [each for each in visit.asked.get("tag", ()) if each]
    if any("=" not in each for each in tags):
        return found, f"a tag is a name and a value, as in customer=acme; {tags[0]!r} is not"
    found["tags"] = dict(each.split("=", 1) for each in tags) or None
    for name in ("since", "until"):
        try:
            found[name] = moment_of(visit.one(name))
        except ValueError:
            return found, f"{name} is a time in UTC, as in 2026-01-31T12:00; {visit.one(name)!r} is not"
    return found, None


def moment_of(text: str | None) -> datetime.datetime | None:
    if text is None:
        return None
    moment = datetime.datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)
