"""The console's answers: a page for each address, made by a template, under one strict policy.

Nothing on a page comes from another host, no script and no style stands within a page, and a page goes into
no frame. Reads and actions are the person's own: the client of a visit asks in their name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import RedirectResponse, Response

from writ.orchestrator.replay.text import duration

from . import drawing, text
from .acting import ACTS
from .histories import Histories
from .routes import ROUTES
from .visit import ROOT, Denied, Elsewhere, Given, Handler, Page, Visit, job_link, link

if TYPE_CHECKING:
    from writ.http.problems import Problem

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "X-Frame-Options": "DENY",
    # With none at all a browser sends forms as from nowhere, and we take those of our own pages alone.
    "Referrer-Policy": "same-origin",
}
_STATIC: Final = {
    "console.css": "text/css",
    "console.js": "text/javascript",
    "htmx.min.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_NAME: Final = re.compile(r"\{(\w+)\}")


class Site:
    """The pages by their addresses; holds the histories that were read last."""

    def __init__(self) -> None:
        self.histories = Histories()
        self._templates = _templates()
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = [
            (method, re.compile(ROOT + _NAME.sub(r"(?P<\1>[^/]+)", path)), handler)
            for method, path, handler in ROUTES
        ]

    def find(self, method: str, raw_path: str) -> tuple[Handler, dict[str, str]] | None:
        """What makes the page, and the names in its address; None where there is nothing."""
        method = "GET" if method == "HEAD" else method
        for verb, pattern, handler in self._routes:
            found = pattern.fullmatch(raw_path) if verb == method else None
            if found is not None:
                return handler, {name: unquote(value) for name, value in found.groupdict().items()}
        return None

    def response(self, visit: Visit, given: Given) -> Response:
        """The page that a handler gave."""
        match given:
            case Page(template=template, shows=shows, status=status):
                return self._page(template, shows, status, visit)
            case Elsewhere(to=to):
                return RedirectResponse(to, HTTPStatus.SEE_OTHER, headers=_HEADERS)
            case _:
                given.headers.setdefault("Content-Security-Policy", POLICY)
                return given

    def sign_in(self, to: str, oidc: str | None, fault: str | None) -> Response:
        """The page on which somebody says who they are, and goes on to `to`; `oidc` leads to a provider."""
        shows = {"to": to, "oidc": oidc, "fault": fault}
        return self._page("sign-in.html", shows, HTTPStatus.UNAUTHORIZED if fault else HTTPStatus.OK, None)

    def problem(self, problem: Problem, visit: Visit | None) -> Response:
        """The page that tells what went wrong."""
        return self._page("problem.html", {"problem": problem}, problem.status, visit)

    def _page(self, template: str, shows: Mapping[str, Any], status: int, visit: Visit | None) -> Response:
        made = self._templates.get_template(template).render(visit=visit, **shows)
        return Response(made, status, _HEADERS, media_type="text/html")


def static(name: str) -> Response | None:
    """A file that pages refer to; None where there is none."""
    if name not in _STATIC:
        return None
    headers = {"Cache-Control": "private, max-age=31536000, immutable"}  # the address holds the version
    return Response(_content(name), headers=headers, media_type=_STATIC[name])


@cache
def _content(name: str) -> bytes:
    return files("writ.console").joinpath("static", name).read_bytes()


@cache
def _version() -> str:
    """Changes with what the pages refer to, so that it may be kept for good."""
    return hashlib.sha256(b"".join(map(_content, _STATIC))).hexdigest()[:12]


def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("writ.console"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=text.shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions: tuple[Any, ...] = (
        *(text.plain, text.document, text.built, text.moment, text.ago, text.number, text.seconds),
        *(text.dollars, text.size, text.whole, text.exact, duration, bytes),
    )
    made.filters.update({function.__name__: function for function in functions})
    made.tests["denied"] = lambda value: isinstance(value, Denied)
    shared: dict[str, Any] = {
        "link": link,
        "job_link": job_link,
        "again_with": _again_with,
        "again_at": _again_at,
        "acts": ACTS,
        "draw": drawing,
        "version": _version(),
        "root": ROOT,
    }
    made.globals.update(shared)
    return made


def _again_with(visit: Visit, **asked: str) -> str:
    """The same page with other parameters."""
    return _linked(visit.here, visit, asked)


def _again_at(visit: Visit, page: str, **asked: str) -> str:
    """Another page with the same parameters and some more."""
    return _linked(link(page), visit, asked)


def _linked(address: str, visit: Visit, asked: Mapping[str, str]) -> str:
    kept = {name: values for name, values in visit.asked.items() if any(values) and name != "seen"}
    return f"{address}?{urlencode({**kept, **asked}, doseq=True)}"
