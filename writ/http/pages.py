"""What is beside the API and wants no token: health, readiness, metrics, its document, a page to try it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from writ.metrics.components import of_node
from writ.metrics.exposition import page

from .problems import RETRY_AFTER, Fault, fault_of
from .sessions import PATH as SESSION_PATH

if TYPE_CHECKING:
    from writ.broker.client import Client

    from .app import Page

LAG_MAX_RECORDS: Final = 10_000
LAG_MAX_S: Final = 30.0
"""A view that is further behind than either answers of the past: the node is not ready."""

STATUS_S: Final = 3.0
DOCUMENT: Final = "openapi.json"
_PAGE_POLICY: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}
_FILES: Final = {
    "/openapi.json": (DOCUMENT, "application/json"),
    "/docs": ("docs.html", "text/html"),
    "/docs/page.js": ("docs.js", "text/javascript"),
    "/docs/page.css": ("docs.css", "text/css"),
}


class Health(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str


class LogInWays(msgspec.Struct, frozen=True):
    """Where a browser logs in: with a token, by a POST; and by going to a page, where there is a provider."""

    token: str
    oidc: str | None


def ways_to_log_in(oidc: str | None) -> Page:
    """Tells pages what to offer to who has not logged in; `oidc` is the path of the way to a provider."""

    async def tell(_: Request) -> Response:
        body = msgspec.json.encode(LogInWays(SESSION_PATH, oidc))
        return Response(body, headers={"Cache-Control": "no-store"}, media_type="application/json")

    return tell


def pages(client: Client, directory: Path) -> Mapping[str, Page]:
    """The pages by their paths. What else is to be had without a token is a further entry."""

    async def alive(_: Request) -> Response:
        return _health("alive")

    async def ready(_: Request) -> Response:
        faults = await _faults(client)
        if faults:
            raise Fault(503, "; ".join(faults), headers=RETRY_AFTER)
        return _health("ready")

    async def metrics(request: Request) -> Response:
        told = page(await of_node(directory), request.headers.get("accept", ""))
        return Response(told.body, headers={"Content-Type": told.content_type, "Cache-Control": "no-store"})

    return {
        "/healthz": alive,
        "/readyz": ready,
        "/metrics": metrics,
        **{path: _file(*file) for path, file in _FILES.items()},
    }


def _health(word: str) -> Response:
    body = msgspec.json.encode(Health(word))
    return Response(body, headers={"Cache-Control": "no-store"}, media_type="application/json")


async def _faults(client: Client) -> list[str]:
    """Why the node cannot be relied on now; empty where it can."""
    try:
        status = await client.status(timeout_s=STATUS_S)
    except Exception as error:
        return [fault_of(error).problem.detail]
    allowed = f"{LAG_MAX_RECORDS} and {LAG_MAX_S:g} s are allowed"
    return status.faults() + [
        f"view {each.name} is {each.lag} records and {each.lag_s:g} s behind; {allowed}"
        for each in status.views
        if each.lag > LAG_MAX_RECORDS or each.lag_s > LAG_MAX_S
    ]


def _file(name: str, media_type: str) -> Page:
    async def read(_: Request) -> Response:
        content = files("writ.http").joinpath(name).read_bytes()
        headers = {"Cache-Control": "no-cache", **(_PAGE_POLICY if media_type == "text/html" else {})}
        return Response(content, headers=headers, media_type=media_type)

    return read
