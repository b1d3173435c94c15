"""The console's pages over HTTP: takes a request through the guard to its page, as `app` does for the API.

A browser is known by its session. It brings the session's word back in a field of each form, as a form has no
header of its own; who brings a token instead, as a program does, needs none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from writ.broker.refusals import PAGE_RULE
from writ.console.live import live
from writ.console.site import Site, static
from writ.console.visit import ROOT, Visit

from .bearers import Bearers, Who, whose
from .guard import Turns, body_within
from .oidc import START
from .problems import Fault, fault_of, of_stranger
from .sessions import Sessions, cookie, is_of_own_page

if TYPE_CHECKING:
    from pathlib import Path

FORM_MAX_BYTES: Final = 512 * 1024
FIELDS_MAX: Final = 1_000
PAGE_S: Final = 60.0
SIGN_IN: Final = f"{ROOT}/sign-in"
SIGN_OUT: Final = f"{ROOT}/sign-out"
WORD: Final = "csrf"
"""The field of a form with the word of its session."""

_SEE_OTHER: Final = 303
_NOBODY: Final = 401
_FORM: Final = "application/x-www-form-urlencoded"
_LIVE: Final = f"{ROOT}/live"
_STATIC: Final = f"{ROOT}/static/"

Form = Mapping[str, list[str]]


class Visits:
    """Answers what is asked of the console. `pages` are those that the API has beside it, by path."""

    def __init__(
        self,
        bearers: Bearers,
        sessions: Sessions,
        directory: Path,
        note: Callable[[Fault], None],
        requests: Turns,
        streams: Turns,
        pages: Mapping[str, Any],
    ) -> None:
        self._bearers = bearers
        self._sessions = sessions
        self._directory = directory
        self._note = note
        self._requests = requests
        self._streams = streams
        self._oidc = START if START in pages else None
        self._site = Site()

    def takes(self, request: Request) -> bool:
        """Whether a request is for the console."""
        path = request.scope["path"]
        return path in ("/", ROOT) or path.startswith(f"{ROOT}/")

    async def answer(self, request: Request, held: AsyncExitStack) -> Response:
        """The page, or one that tells what is wrong. What is held is given back when it has been sent."""
        path = request.scope["path"]
        if path in ("/", f"{ROOT}/"):
            return RedirectResponse(ROOT, _SEE_OTHER)
        if path.startswith(_STATIC):
            found = static(path.removeprefix(_STATIC))
            return found or self._site.problem(Fault(404, f"there is nothing at {path[:200]}").problem, None)
        client = request.client.host if request.client else ""
        visit = None
        try:
            await held.enter_async_context((self._streams if path == _LIVE else self._requests).of(client))
            async with asyncio.timeout(PAGE_S):
                sent: Form = await _form(request) if request.method == "POST" else {}
                if path == SIGN_IN:
                    return await self._sign_in(request, sent)
                who = await self._who(request, sent)
                visit = self._visit(request, who, sent)
                if path == SIGN_OUT:
                    return await self._sign_out(request)
                return await self._page(request, visit)
        except Exception as error:
            fault = fault_of(error)
            shows_nothing = "authorization" not in request.headers and not self._sessions.is_shown(request)
            if not shows_nothing or fault.problem.status != _NOBODY:
                self._note(fault)
            if fault.problem.status == _NOBODY and "authorization" not in request.headers:
                return self._to_sign_in(request)
            response = self._site.problem(fault.problem, visit)
            for name, value in fault.headers.items():
                response.headers[name] = value
            return response

    # --- who ------------------------------------------------------------------------------------------------

    async def _who(self, request: Request, sent: Form, *, goes_on: bool = False) -> Who:
        """Who looks. A page that asks for itself anew is no use of a session."""
        if not self._sessions.is_shown(request):
            return await self._bearers.who(request)
        by_itself = goes_on or "hx-request" in request.headers
        word = next(iter(sent.get(WORD, ())), "")
        return await self._sessions.who(request, is_use=not by_itself, word=word)

    async def _still(self, request: Request, who: Who) -> None:
        if await self._who(request, {}, goes_on=True) != who:
            raise Fault(_NOBODY, "the session is somebody else's by now")

    def _to_sign_in(self, request: Request) -> Response:
        raw = request.scope["raw_path"].decode("ascii")
        query = request.scope["query_string"].decode("ascii", "replace")
        there = {"to": f"{raw}?{query}" if query else raw} if request.method == "GET" and raw != _LIVE else {}
        return RedirectResponse(f"{SIGN_IN}?{urlencode(there)}" if there else SIGN_IN, _SEE_OTHER)

    async def _sign_in(self, request: Request, sent: Form) -> Response:
        """The form, or a session for the token in it."""
        to = next(iter(sent.get("to", request.query_params.getlist("to"))), ROOT)
        if not to.startswith((f"{ROOT}/", f"{ROOT}?")) or "\\" in to:
            to = ROOT
        fault = None
        if request.method == "POST":
            if not is_of_own_page(request):
                why = "only a page of this origin signs a browser in"
                raise Fault(403, why, audit=of_stranger(PAGE_RULE))
            try:
                shown = await self._sessions.of_token(next(iter(sent.get("token", ())), "").strip())
                by = "the owner's token" if shown.token is None else f"API token {shown.token}"
                secret, _, _ = await self._sessions.start(whose(shown), by, shown.token)
                response = RedirectResponse(to, _SEE_OTHER)
                response.headers["Set-Cookie"] = cookie(request, secret)
                return response
            except Fault as error:
                if error.problem.status != _NOBODY:
                    raise
                self._note(error)
                fault = "This token is nobody's; it may be revoked, or over."
        return self._site.sign_in(to, self._oidc, fault)

    async def _sign_out(self, request: Request) -> Response:
        if request.method != "POST" or not self._sessions.is_shown(request):
            raise Fault(405, "a session is ended by the button of a page", headers={"Allow": "POST"})
        secret, found = await self._sessions.find(request)
        await self._sessions.end(found, secret, "signed out")
        response = RedirectResponse(SIGN_IN, _SEE_OTHER)
        response.headers["Set-Cookie"] = cookie(request, "")
        return response

    # --- what -----------------------------------------------------------------------------------------------

    def _visit(self, request: Request, who: Who, sent: Form) -> Visit:
        asked: dict[str, list[str]] = {}
        for name, value in request.query_params.multi_items():
            asked.setdefault(name, []).append(value)
        here = request.scope["raw_path"].decode("ascii")
        return Visit(
            self._bearers.client(who),
            self._directory,
            self._site.histories,
            {},
            asked,
            sent,
            here,
            f"{here}?{urlencode(asked, doseq=True)}" if asked else here,
            self._sessions.word(request),
            partial(self._still, request, who),
        )

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
        visit = replace(visit, path=path)
        return self._site.response(visit, await handler(visit))


async def _form(request: Request) -> Form:
    """The fields of a form. Raises Fault."""
    kind = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if kind != _FORM:
        raise Fault(415, f"the body is {kind or 'of no media type'}; forms are sent as {_FORM}")
    body = await body_within(request, FORM_MAX_BYTES)
    try:
        return parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except ValueError as error:
        raise Fault(400, f"the form cannot be read: {error}") from error
