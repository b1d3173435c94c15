"""The OpenAPI 3.1 document of the API, made from its routes and from the messages they take and give.

`make docs` writes it to `openapi.json` beside this file, which is what the API serves.
"""

from __future__ import annotations

import re
from functools import cache
from http import HTTPStatus
from typing import Any, Final

import msgspec
from msgspec import structs

from .app import POSITION
from .live import MEDIA_TYPE as EVENTS
from .pages import Health
from .problems import MEDIA_TYPE as PROBLEM
from .problems import Problem
from .route import JSON, Route
from .routes import ROUTES

_REF: Final = "#/components/schemas/{name}"
_ABOUT: Final = """\
What runs, what ran and why, and all that operators do, over HTTP. It listens on 127.0.0.1 alone, and wants \
a token of `writ token create`, or the owner's in the node's `http.token`, as `Authorization: Bearer`. \
A browser logs in \
with such a token at `/v1/session`; under the cookie that it gets, whatever is no GET wants `Writ-CSRF` too. \
What its principal may not do is a 403 of kind `denied`, whose detail ends with the rule.

A write's answer carries the log position that it stands at, in `Writ-Position`; a read tells of at least \
`min_position`, and of all that was acknowledged before it where that is not given.

Errors are problem+json (RFC 9457): 400 and 422 for what is not as this document says, 409 for what is, and \
is refused."""
_READ_ERRORS: Final = (400, 401, 403, 404, 405, 409, 413, 421, 422, 429, 431, 503)
_WRITE_ERRORS: Final = (*_READ_ERRORS, 408, 415)
_STRING: Final = {"type": "string"}


def document(version: str) -> dict[str, Any]:
    """The whole document, as JSON would have it."""
    types: list[Any] = [Problem, Health]
    for route in ROUTES:
        types += [*route.answers.values(), *([route.body] if route.body is not None else [])]
        types += [field.type for field in _fields(route.params)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    of = dict(zip(map(id, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, of)
    for path, about in (("/healthz", "Is the process alive."), ("/readyz", "May the node be relied on now.")):
        paths[path] = {"get": _health(path, about, of)}
    for schema in components.values():
        _told(schema)
    licence = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Writ", "version": version, "description": _ABOUT, "license": licence},
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "headers": _HEADERS,
            "responses": {str(status): _problem(status) for status in (*_WRITE_ERRORS, 500)},
        },
    }


_fields = cache(structs.fields)
"""A type that stands there is then always the same object, by which its schema is found."""

_HEADERS: Final = {
    "Position": {
        "description": "The log position that the answer rests on.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "ETag": {"description": "Of the body, for If-None-Match.", "schema": _STRING},
    "Link": {"description": "The next page, where there is one.", "schema": _STRING},
    "Location": {"description": "The path of what was made.", "schema": _STRING},
    "Allow": {"description": "The methods of the path.", "schema": _STRING},
    "WWW-Authenticate": {"description": "How to ask.", "schema": _STRING},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "string", "pattern": "^[0-9]+$"}},
}


def _header(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/headers/{name}"}


def _problem(status: int) -> dict[str, Any]:
    of_status = {401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After", 503: "Retry-After"}
    found: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "content": {PROBLEM: {"schema": {"$ref": _REF.format(name="Problem")}}},
    }
    if status in of_status:
        found["headers"] = {of_status[status]: _header(of_status[status])}
    return found


def _errors(statuses: tuple[int, ...]) -> dict[str, Any]:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}


def _operation(route: Route, of: dict[int, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.about,
        "tags": [_tag(route)],
        "parameters": _parameters(route, of),
        "responses": {
            **{str(status): _answer(route, status, of) for status in route.answers},
            **_errors(_READ_ERRORS if route.is_read else _WRITE_ERRORS),
        },
    }
    if route.is_tagged:
        unchanged = {"description": "As it was.", "headers": {"ETag": _header("ETag")}}
        found["responses"]["304"] = unchanged
    if route.body is not None:
        required = not isinstance(route.body, type) or any(f.required for f in structs.fields(route.body))
        found["requestBody"] = {"required": required, "content": {JSON: {"schema": of[id(route.body)]}}}
    if not found["parameters"]:
        del found["parameters"]
    if route.is_open:
        found["security"] = []
    return found


def _tag(route: Route) -> str:
    """What a route is about: what is named within a queue, else the first word of the path."""
    words = [word for word in route.path.split("/")[2:] if not word.startswith("{")]
    within = {"jobs": "jobs", "submits": "jobs", "schedules": "schedules", "batches": "batches"}
    within["operations"] = "operations"
    return within.get(words[1], words[0]) if len(words) > 1 else words[0]


def _answer(route: Route, status: int, of: dict[int, Any]) -> dict[str, Any]:
    headers: dict[str, Any] = {POSITION: _header("Position")}
    if route.is_tagged:
        headers |= {name: _header(name) for name in ("ETag", "Link")}
    if status in (201, 202):
        headers["Location"] = _header("Location")
    content = {route.media_type: {"schema": of[id(route.answers[status])]}}
    if route.stream is not None:
        content[EVENTS] = {"schema": {"type": "string", "description": "Server-sent events without end."}}
    found: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "headers": headers,
        "content": content,
    }
    if route.links:
        found["links"] = {
            name: {"operationId": name, "parameters": dict(parameters)}
            for name, parameters in route.links.items()
        }
    return found


def _parameters(route: Route, of: dict[int, Any]) -> list[dict[str, Any]]:
    in_path = set(re.findall(r"\{(\w+)\}", route.path))
    found: list[dict[str, Any]] = []
    for field in _fields(route.params):
        schema = _present(of[id(field.type)])
        if field.encode_name in in_path:
            found.append({"name": field.encode_name, "in": "path", "required": True, "schema": schema})
            continue
        if field.default not in (msgspec.NODEFAULT, None, ()):
            schema = schema | {"default": field.default}
        parameter = {"name": field.encode_name, "in": "query", "schema": schema}
        found.append(parameter | ({"required": True} if field.required else {}))
    if route.is_tagged:
        found.append({"name": "If-None-Match", "in": "header", "schema": {"type": "string"}})
    return found


def _present(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter: without null, as it may be left out; a mapping as it is written there."""
    if schema.get("type") == "object":
        pair = {"type": "string", "pattern": "^[^=]+="}
        return {"type": "array", "items": pair, "description": "Each as name=value."}
    if "anyOf" not in schema:
        return schema
    kinds = [each for each in schema["anyOf"] if each != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return rest | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds})


def _health(path: str, about: str, of: dict[int, Any]) -> dict[str, Any]:
    return {
        "operationId": path[1:],
        "summary": about,
        "tags": ["health"],
        "security": [],
        "responses": {
            "200": {"description": "Yes.", "content": {JSON: {"schema": of[id(Health)]}}},
            **_errors((403, 405, 421, 429, 431, 503)),
        },
    }


def _told(schema: dict[str, Any]) -> None:
    """A description as it is read, without the indentation of the code that it stands in."""
    if "description" in schema:
        schema["description"] = re.sub(r"\n +", "\n", schema["description"])
