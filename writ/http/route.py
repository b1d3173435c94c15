"""A route of the API: what it takes and gives, and what it does. `routes` lists them all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta
from starlette.responses import Response

from writ.schemas.bounds import SHARDS
from writ.schemas.commands import CONTROL_ANSWERS, Answer, Command
from writ.schemas.queries import Query
from writ.schemas.subjects import NO_QUEUE

from .problems import Fault
from .shapes import Cursor, derived, opened_cursor, sealed_cursor

if TYPE_CHECKING:
    from pathlib import Path

    from writ.broker.client import Client
    from writ.broker.wire import NatsWire

    from .sessions import Visit

JSON: Final = "application/json"
SVG: Final = "image/svg+xml"
GRACE_S: Final = 3.0
"""How much longer than a view may take to catch up a read may take in all."""

OK: Final = 200
CREATED: Final = 201
ACCEPTED: Final = 202


@dataclass(frozen=True)
class Call:
    """A request as a route gets it: parameters of path and query string, and the body.

    `client` asks and submits as the principal whose request it is, on `feed` live records come; `directory`
    is the node's, and `visit` how the request came in. What goes on for long asks `still` now and then, which
    raises Fault once the request would not be answered any more.
    """

    client: Client
    feed: NatsWire
    directory: Path
    visit: Visit
    params: Any
    body: Any = None
    still: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True)
class Reply:
    """What a route gives: a body, the log position that it rests on, and the parameters of the next page.

    `location` is the path of what was made, `cookie` what the browser is to keep. Where the media type of the
    route is not JSON, the body is bytes of a picture, or an iterator of bytes.
    """

    body: Any
    position: int | None = None
    next: Mapping[str, str] | None = None
    status: int = OK
    location: str | None = None
    cookie: str | None = None


Handler: TypeAlias = Callable[[Call], Awaitable[Reply]]
Stream: TypeAlias = Callable[[Call, str | None], Awaitable[Response]]
"""What is answered to a reader of server-sent events, with the last id that it has had."""


@dataclass(frozen=True)
class Route:
    """One method of one path. `answers` is the type of the body by status, `about` a sentence.

    `links` are for the document: routes that may follow, by name, with where their parameters come from.
    """

    method: str
    path: str
    name: str
    about: str
    params: type[msgspec.Struct]
    answers: Mapping[int, Any]
    handle: Handler
    body: Any = None
    stream: Stream | None = None
    links: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    media_type: str = JSON
    is_open: bool = False
    """Nobody needs to say who they are."""

    @property
    def is_read(self) -> bool:
        return self.method == "GET"

    @property
    def is_tagged(self) -> bool:
        """Whether who has had the answer may ask whether it is still so."""
        return self.is_read and self.media_type in (JSON, SVG)


def first_line(about: str | None) -> str:
    return (about or "").strip().split("\n", maxsplit=1)[0]


# --- reads ----------------------------------------------------------------------------------------------


class OfPartition(msgspec.Struct, frozen=True, kw_only=True):
    """What is of one log says of which; without it, of the first."""

    partition: Annotated[int, Meta(ge=0, lt=SHARDS)] = 0


def listing(
    path: str,
    name: str,
    query: type[Query],
    page: type[Answer],
    without: tuple[str, ...] = (),
    more: type[msgspec.Struct] = msgspec.Struct,
) -> Route:
    """A page of a query's answer. `more` are parameters that are not of the query: OfPartition, or none."""
    params = derived(query, without, more=more, cursor=Cursor)
    shown = derived(page, ("error", "position"))

    async def handle(call: Call) -> Reply:
        given = _values(call.params, params)
        partition = await partition_asked(call) if more is OfPartition else None
        given.pop("partition", None)
        if given.get("cursor") is not None:
            given["cursor"] = opened_cursor(given["cursor"])
        asked = query(**given)
        timeout_s = asked.max_wait_s + GRACE_S
        found = await call.client.ask(asked, timeout_s=timeout_s, partition=partition)
        values = _values(found, shown)
        following = _following(values)
        return Reply(shown(**values), found.position, following)

    return Route("GET", path, name, first_line(query.__doc__), params, {OK: shown}, handle)


async def partition_asked(call: Call) -> int:
    """Which partition a call with OfPartition names. Raises Fault where there is none of that number."""
    partition: int = call.params.partition
    if partition:
        there = len((await call.client.status()).partitions)
        if partition >= there:
            raise Fault(404, f"there is no partition {partition}: the node has {there}", "partition")
    return partition


def _following(values: dict[str, Any]) -> dict[str, str] | None:
    """The parameters of the page after this one; its name is sealed on the way."""
    if values.get("next") is not None:
        values["next"] = cursor = sealed_cursor(values["next"])
        return {"cursor": cursor}
    if not values.get("more"):
        return None
    after = {"after": str(values["records"][-1].seq)}
    return after | {"size": str(values["size"])} if "size" in values else after  # of the same checkpoint


def single(path: str, name: str, query: type[Query], page: type[Answer], among: str) -> Route:
    """The one element that a query finds in the field `among` of its page."""
    params = derived(query, ("limit", "cursor"))
    (item,) = (each.type.__args__[0] for each in msgspec.structs.fields(page) if each.name == among)

    async def handle(call: Call) -> Reply:
        asked = query(**_values(call.params, params))
        found = await call.client.ask(asked, timeout_s=asked.max_wait_s + GRACE_S)
        items = getattr(found, among)
        if not items:
            raise Fault(404, f"{path} names nothing: there is none of this name")
        return Reply(items[0], found.position)

    return Route("GET", path, name, first_line(item.__doc__), params, {OK: item}, handle)


# --- writes ---------------------------------------------------------------------------------------------

Recorded: Final = derived(Answer, ("error",), "Recorded")


def command(
    method: str,
    path: str,
    name: str,
    kind: type[Command],
    params: type[msgspec.Struct],
    *,
    made: Callable[[str, Any], tuple[Any, str | None]] | None = None,
) -> Route:
    """What operators ask: the fields of a command, those of its path and the others in the body.

    A GET and a DELETE have no body, and the others are parameters. What is of no queue has none in its path.
    `made` gives, by queue and answer, the answer as it
    is told here and where what it makes is, if it makes any.
    """
    body = derived(kind, tuple(params.__struct_fields__))
    has_body = method not in ("GET", "DELETE")
    if not has_body:
        params = _joined(params, body)
    shown = derived(kind_of_answer, ("error",)) if (kind_of_answer := CONTROL_ANSWERS.get(kind)) else Recorded

    async def handle(call: Call) -> Reply:
        values = _values(call.params, params)
        queue = values.pop("queue", NO_QUEUE)
        if has_body:
            values |= _values(call.body, body)
        found = await call.client.send(queue, kind(**values))
        found, where = (found, None) if made is None else made(queue, found)
        status = OK if where is None else CREATED
        return Reply(shown(**_values(found, shown)), found.position, status=status, location=where)

    answers = {OK: shown} if made is None else {OK: shown, CREATED: shown}
    about = first_line(kind.__doc__)
    return Route(method, path, name, about, params, answers, handle, body if has_body else None)


def _values(found: Any, shape: type[msgspec.Struct]) -> dict[str, Any]:
    return {each: getattr(found, each) for each in shape.__struct_fields__}


def _joined(params: type[msgspec.Struct], more: type[msgspec.Struct]) -> type[msgspec.Struct]:
    fields: list[Any] = [(each.name, each.type) for each in msgspec.structs.fields(params)]
    fields += [
        (each.name, each.type, msgspec.field(name=each.encode_name, default=each.default))
        for each in msgspec.structs.fields(more)
    ]
    return msgspec.defstruct(more.__name__, fields, kw_only=True, frozen=True)
