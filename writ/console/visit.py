"""A request for a page, as what makes the page gets it, and what that gives back."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, urlencode

from writ.broker.errors import PermissionDenied, Refused
from writ.schemas.bounds import SECOND_US
from writ.schemas.rejections import RejectionKind

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.responses import Response

    from writ.broker.client import Client

    from .histories import Histories

ROOT = "/console"


@dataclass(frozen=True)
class Visit:
    """Who looks, by the client that asks and acts in their name, and what for.

    `path` are the names in the address, `asked` the parameters behind it, `sent` the fields of a form. `here`
    is the address without its parameters, `again` the one to ask for the same page anew. `secret` goes into
    every form, and back with it.
    """

    client: Client
    directory: Path
    histories: Histories
    path: Mapping[str, str]
    asked: Mapping[str, list[str]]
    sent: Mapping[str, list[str]] = field(default_factory=dict[str, list[str]])
    here: str = ROOT
    again: str = ROOT
    secret: str = ""
    still: Callable[[], Awaitable[None]] | None = None

    @property
    def principal(self) -> str:
        return self.client.target.principal

    @property
    def now(self) -> int:
        """Microseconds since 1970."""
        return time.time_ns() // 1_000

    @property
    def wall(self) -> datetime.datetime:
        """The same as a date and a time, in UTC."""
        return datetime.datetime.fromtimestamp(self.now / SECOND_US, datetime.UTC)

    def one(self, name: str) -> str | None:
        """A parameter; None where it is not given, or empty."""
        return next((each for each in self.asked.get(name, ()) if each), None)

    def given(self, name: str) -> str:
        """A field of a form, without blanks around it."""
        return next(iter(self.sent.get(name, ())), "").strip()

    async def may(self, operations: Iterable[str], queue: str = "*") -> frozenset[str]:
        """Those of some operations that the person may do in a queue."""
        names = tuple(operations)
        verdicts = await asyncio.gather(*[self.client.can(name, queue) for name in names])
        return frozenset(name for name, found in zip(names, verdicts, strict=True) if found.allowed)

    async def queues_for(self, operation: str, queues: Set[str]) -> Set[str]:
        """Those of some queues in which the person may do an operation."""
        if await self.may([operation]):
            return queues  # whoever may in all of them is asked about once
        names = sorted(queues)
        allowed = await asyncio.gather(*[self.may([operation], name) for name in names])
        return {name for name, found in zip(names, allowed, strict=True) if found}


@dataclass(frozen=True)
class Page:
    """A template, and what it shows."""

    template: str
    shows: Mapping[str, Any]
    status: int = 200


@dataclass(frozen=True)
class Elsewhere:
    """Go on there: what was asked has been done."""

    to: str


Given: TypeAlias = "Page | Elsewhere | Response"
Handler: TypeAlias = Callable[[Visit], Awaitable[Given]]


class Denied:
    """A part of a page that this person may not see, with why."""

    def __init__(self, why: str) -> None:
        self.why = why


async def part(asked: Awaitable[Any]) -> Any:
    """A part of a page; Denied where the person may not see it, and the rest of the page is for them."""
    try:
        return await asked
    except PermissionDenied as error:
        return Denied(error.rejection.reason if error.rejection else str(error))
    except Refused as error:
        if error.kind is RejectionKind.DENIED:
            return Denied(error.rejection.reason)
        raise


def link(*names: str, **asked: object) -> str:
    """The address of a page: names below the console's root, and parameters that are not None."""
    path = "/".join([ROOT, *[quote(each, safe="") for each in names]])
    query = urlencode({name: value for name, value in asked.items() if value is not None}, doseq=True)
    return f"{path}?{query}" if query else path


def job_link(key: str) -> str:
    """The address of a job's page."""
    queue, _, name = key.partition("~")
    return link("queues", queue, "jobs", name)
