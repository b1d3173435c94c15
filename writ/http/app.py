"""The application: takes a request through the guard to its route, and wraps what the route answers."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import unquote, urlencode

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from writ.schemas.bounds import MESSAGE_MAX_BYTES
from writ.schemas.ids import SYSTEM_TENANT

from .bearers import COMPONENT, Bearers, Who
from .guard import PROTECTED, REQUESTS_AT_ONCE, STREAMS_AT_ONCE, Turns, body_within, check_head, wants
from .live import MEDIA_TYPE as EVENTS
from .problems import Fault, fault_of
from .route import JSON, SVG, Call, Reply, Route
from .routes import OPEN, by_path
from .sessions import Sessions, Visit
from .shapes import body_of, is_optional, parameters_of
from .visits import Visits

if TYPE_CHECKING:
    from pathlib import Path

    from writ.broker.wire import NatsWire

BODY_MAX_BYTES: Final = MESSAGE_MAX_BYTES
"""What the broker takes in one message."""

REQUEST_S: Final = 60.0
"""How long a request may take in all; a stream may take as long as its reader likes."""

POSITION: Final = "Writ-Position"

Page: TypeAlias = Callable[[Request], Awaitable[Response]]
"""What is to be had without a token: made anew for each request."""

_ALWAYS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
_PARAMETER: Final = re.compile(r"\{(\w+)\}")


class App:
    """The ASGI application of a node's HTTP API; `pages` are beside it, by path.

    `note` is told of each fault, for the audit. `public` is the origin of a server in front that speaks TLS,
    if there is one.
    """

    def __init__(
        self, bearers: Bearers, sessions: Sessions, feed: NatsWire, pages: Mapping[str, Page],
        directory: Path, note: Callable[[Fault], None], public: str | None = None,
    ) -> None:  # fmt: skip
        self._bearers = bearers
        self._note = note
        self._sessions = sessions
        self._public = public
        self._directory = directory
        self._feed = feed
        self._pages = pages
        self._requests = Turns(REQUESTS_AT_ONCE)
        self._streams = Turns(STREAMS_AT_ONCE)
        self._visits = Visits(bearers, sessions, directory, note, self._requests, self._streams, self._pages)
        self._routes = [
            (re.compile(_PARAMETER.sub(r"(?P<\1>[^/]+)", path)), methods)
            for path, methods in by_path().items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        request = Request(scope, receive)
        async with AsyncExitStack() as held:
            try:
                if self._visits.takes(request):
                    check_head(request, self._public)
                    response = await self._visits.answer(request, held)
                else:
                    response = await self._answer(request, held)
            except ClientDisconnect:
                return
            except Exception as error:
                fault = fault_of(error)
                self._note(fault)
                response = fault.response()
            for name, value in (*_ALWAYS.items(), ("Date", formatdate(usegmt=True))):
                response.headers.setdefault(name, value)
            await response(scope, receive, send)

    async def _answer(self, request: Request, held: AsyncExitStack) -> Response:
        """What is held, a turn, is given back when the answer has been sent."""
        check_head(request, self._public)
        client = request.client.host if request.client else ""
        page = self._pages.get(request.scope["path"])
        if page is not None:
            _check_method(request, ("GET",))
            await held.enter_async_context(self._requests.of(client))
            async with asyncio.timeout(REQUEST_S):
                return await page(request)
        if not request.scope["path"].startswith(PROTECTED):
            raise Fault(404, f"there is nothing at {request.scope['path'][:200]}; see /openapi.json")
        if _is_open(request):
            who = Who(SYSTEM_TENANT, COMPONENT)
        else:  # also of what does not exist, nobody is told who has not said who they are
            async with self._requests.of(client), asyncio.timeout(REQUEST_S):
                who = await self._who(request)
        route, path = self._route(request)
        if route.stream is not None and wants(EVENTS, request.headers.getlist("accept")):
            await held.enter_async_context(self._streams.of(client))
            call = self._call(request, who, _parameters(request, route, path))
            call = replace(call, still=partial(self._still, request, who))
            return await route.stream(call, request.headers.get("last-event-id"))
        await held.enter_async_context(self._requests.of(client))
        async with asyncio.timeout(REQUEST_S):
            params = _parameters(request, route, path)
            body = await _body(request, route)
            reply = await route.handle(self._call(request, who, params, body))
        return _response(request, route, reply)

    async def _who(self, request: Request, *, goes_on: bool = False) -> Who:
        """Who asks, by a token or by a session; what goes on by itself is no use of one. Raises Fault."""
        if self._sessions.is_shown(request):
            return await self._sessions.who(request, is_use=not goes_on)
        return await self._bearers.who(request)

    async def _still(self, request: Request, who: Who) -> None:
        """Raises Fault where the token or session of a request that goes on counts no more."""
        if await self._who(request, goes_on=True) != who:
            raise Fault(401, "the token is somebody else's by now")

    def _call(self, request: Request, who: Who, params: Any, body: Any = None) -> Call:
        visit = Visit(self._sessions, request, who)
        return Call(self._bearers.client(who), self._feed, self._directory, visit, params, body)

    def _route(self, request: Request) -> tuple[Route, dict[str, str]]:
        """The route, and the parameters in its path. Names may hold slashes, which callers write as %2F."""
        raw = request.scope["raw_path"].decode("ascii")
        for pattern, methods in self._routes:
            found = pattern.fullmatch(raw)
            if found is not None:
                _check_method(request, methods)
                method = "GET" if request.method == "HEAD" else request.method
                return methods[method], {name: unquote(value) for name, value in found.groupdict().items()}
        raise Fault(404, f"there is nothing at {raw[:200]}; see /openapi.json")


def _is_open(request: Request) -> bool:
    return (request.method, request.scope["raw_path"].decode("ascii")) in OPEN


def _check_method(request: Request, methods: Any) -> None:
    allowed = [*methods, "HEAD"] if "GET" in methods else list(methods)
    if request.method not in allowed:
        allow = ", ".join(sorted(allowed))
        raise Fault(405, f"{request.method} is not for this path; {allow} are", headers={"Allow": allow})


def _parameters(request: Request, route: Route, path: Mapping[str, str]) -> Any:
    return parameters_of(route.params, path, request.query_params.multi_items())


async def _body(request: Request, route: Route) -> Any:
    sent = await body_within(request, BODY_MAX_BYTES)
    if route.body is None:
        if sent:
            raise Fault(400, f"{request.method} of this path takes no body")
        return None
    kind = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if not sent and not kind and _may_be_left_out(route.body):
        return body_of(b"{}", route.body)
    if kind != JSON:
        raise Fault(415, f"the body is {kind or 'of no media type'}; send {JSON}")
    return body_of(sent, route.body)


def _may_be_left_out(body: Any) -> bool:
    return isinstance(body, type) and issubclass(body, msgspec.Struct) and is_optional(body)


def _response(request: Request, route: Route, reply: Reply) -> Response:
    headers: dict[str, str] = {}
    if reply.position is not None:
        headers[POSITION] = str(reply.position)
    if reply.location is not None:
        headers["Location"] = reply.location
    if reply.cookie is not None:
        headers["Set-Cookie"] = reply.cookie
    if reply.next is not None:
        headers["Link"] = f'<{_next(request, reply.next)}>; rel="next"'
    if route.media_type not in (JSON, SVG):
        headers["Cache-Control"] = "no-store"
        return StreamingResponse(reply.body, reply.status, headers, media_type=route.media_type)
    body = reply.body if isinstance(reply.body, bytes) else msgspec.json.encode(reply.body)
    if not route.is_tagged:
        headers["Cache-Control"] = "no-store"
        return Response(body, reply.status, headers, media_type=JSON)
    headers["Cache-Control"] = "private, no-cache"
    headers["ETag"] = tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    asked = [each.strip() for each in request.headers.get("if-none-match", "").split(",")]
    if "*" in asked or tag in [each.removeprefix("W/") for each in asked]:
        return Response(status_code=304, headers=headers)
    return Response(body, reply.status, headers, media_type=route.media_type)


def _next(request: Request, following: Mapping[str, str]) -> str:
    """The address of the page after this one: the same question from another place."""
    asked = [(name, value) for name, value in request.query_params.multi_items() if name not in following]
    return f"{request.scope['raw_path'].decode()}?{urlencode([*asked, *following.items()])}"
