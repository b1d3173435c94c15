"""The console's pages over HTTP: takes a request through the guard to its page, as `app` does for the API."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from writ.console.live import live
from writ.console.site import Site, static
from writ.console.visit import ROOT, Visit

from .bearers import Bearers, Who
from .guard import Turns, body_within
from .problems import Fault, fault_of

if TYPE_CHECKING:
    from pathlib import Path

FORM_MAX_BYTES: Final = 512 * 1024
FIELDS_MAX: Final = 1_000
PAGE_S: Final = 60.0
_FORM: Final = "application/x-www-form-urlencoded"
_LIVE: Final = f"{ROOT}/live"
_STATIC: Final = f"{ROOT}/static/"


class Visits:
    """Answers what is asked of the console."""

    def __init__(self, bearers: Bearers, directory: Path, requests: Turns, streams: Turns) -> None:
        self._bearers = bearers
        self._directory = directory
        self._requests = requests
        self._streams = streams
        self._site = Site()

    def takes(self, request: Request) -> bool:
        """Whether a request is for the console."""
        path = request.scope["path"]
        return path in ("/", ROOT) or path.startswith(f"{ROOT}/")

    async def answer(self, request: Request, held: AsyncExitStack) -> Response:
        """The page, or one that tells what is wrong. What is held is given back when it has been sent."""
        path = request.scope["path"]
        if path in ("/", f"{ROOT}/"):
            return RedirectResponse(ROOT, 303)
        client = request.client.host if request.client else ""
        if path.startswith(_STATIC):
            found = static(path.removeprefix(_STATIC))
            return found or self._site.problem(Fault(404, f"there is nothing at {path[:200]}").problem, None)
        visit = None
        try:
            await held.enter_async_context((self._streams if path == _LIVE else self._requests).of(client))
            async with asyncio.timeout(PAGE_S):
                who = await self._bearers.who(request)
                visit = self._visit(request, who)
                return await self._page(request, visit)
        except Exception as error:
            fault = fault_of(error)
            response = self._site.problem(fault.problem, visit)
            for name, value in fault.headers.items():
                response.headers[name] = value
            return response

    async def _page(self, request: Request, visit: Visit) -> Response:
        if request.scope["path"] == _LIVE:
            return await live(visit)
        raw = request.scope["raw_path"].decode("ascii")
        found = self._site.find(request.method, raw)
        if found is None:
            other = "GET" if request.method == "POST" else "POST"
            if self._site.find(other, raw) is not None:
                raise Fault(405, f"{request.method} is not for this page", headers={"Allow": other})
            raise Fault(404, f"there is nothing at {raw[:200]}")
        handler, path = found
        sent = await _form(request) if request.method == "POST" else {}
        visit = replace(visit, path=path, sent=sent)
        return self._site.response(visit, await handler(visit))

    def _visit(self, request: Request, who: Who) -> Visit:
        asked: dict[str, list[str]] = {}
        for name, value in request.query_params.multi_items():
            asked.setdefault(name, []).append(value)
        here = request.scope["raw_path"].decode("ascii")
        kept = {name: values for name, values in asked.items() if name != "seen"}
        again = f"{here}?{urlencode(kept, doseq=True)}" if kept else here
        client = self._bearers.client(who)
        return Visit(client, self._directory, self._site.histories, {}, asked, {}, here, again)


async def _form(request: Request) -> dict[str, list[str]]:
    """The fields of a form. Raises Fault."""
    kind = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if kind != _FORM:
        raise Fault(415, f"the body is {kind or 'of no media type'}; forms are sent as {_FORM}")
    body = await body_within(request, FORM_MAX_BYTES)
    try:
        return parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except ValueError as error:
        raise Fault(400, f"the form cannot be read: {error}") from error
