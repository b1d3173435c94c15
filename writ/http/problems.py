"""What goes wrong, as problem+json (RFC 9457): each error of the API has this one form.

The rule of the statuses: 400 and 422 are for what is not as the API's document says, 409 for what is, and is
refused; `kind` then says why, `field` and `index` where.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.responses import Response

from writ.broker.errors import (
    JobNotFound,
    NoAnswer,
    PermissionDenied,
    Refused,
    SubmitNotStored,
    WireError,
)
from writ.broker.refusals import NOBODY, Refusal
from writ.schemas.rejections import Rejection, RejectionKind

log = logging.getLogger("writ.http")

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = {"Retry-After": "1"}
_TOO_LARGE: Final = 10054

_STATUSES: Final = {
    RejectionKind.NOT_FOUND: HTTPStatus.NOT_FOUND,
    RejectionKind.DENIED: HTTPStatus.FORBIDDEN,
    RejectionKind.TRY_LATER: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Of refusals; all others are conflicts."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error. `kind` is what to branch on, where Writ refused; `detail` is for people.

    `field` and `index` name the place in what was sent, `job` the key of a job that stands in the way.
    """

    title: str
    status: int
    detail: str
    type: str = msgspec.field(name="type", default="about:blank")
    kind: RejectionKind | None = None
    field: str | None = None
    index: int | None = None
    job: str | None = None


class Fault(Exception):
    """Ends the handling of a request with a problem; `audit` is what the audit is to know of it."""

    def __init__(
        self,
        status: int,
        detail: str,
        field: str | None = None,
        headers: dict[str, str] | None = None,
        audit: Refusal | None = None,
    ) -> None:
        super().__init__(detail)
        self.audit = audit
        self.problem = Problem(HTTPStatus(status).phrase, status, detail, field=field)
        self.headers = headers or {}

    @classmethod
    def refused(cls, rejection: Rejection, detail: str | None = None) -> Fault:
        """What Writ refuses."""
        status = _STATUSES.get(rejection.kind, HTTPStatus.CONFLICT)
        if rejection.field == "cursor":
            status = HTTPStatus.NOT_FOUND  # there is no page of that name
        later = RETRY_AFTER if status == HTTPStatus.SERVICE_UNAVAILABLE else None
        fault = cls(status, detail or rejection.reason, headers=later)
        fault.problem = msgspec.structs.replace(
            fault.problem,
            kind=rejection.kind,
            field=rejection.field,
            index=rejection.index,
            job=rejection.job,
        )
        return fault

    def response(self) -> Response:
        return Response(
            msgspec.json.encode(self.problem), self.problem.status, self.headers, media_type=MEDIA_TYPE
        )


def of_stranger(rule: str, about: str = "", operation: str = "request") -> Refusal:
    """For the audit: what is refused to whoever asks, before it is known who that is."""
    return Refusal(NOBODY, operation, about, rule)


def fault_of(error: Exception) -> Fault:
    """The same for whatever a handler has raised; what nobody thought of is logged and a 500."""
    words = " ".join([str(error), *getattr(error, "__notes__", ())])
    match error:
        case Fault():
            return error
        case Refused():
            return Fault.refused(error.rejection, words)
        case JobNotFound():
            return Fault(404, words)
        case PermissionDenied(rejection=Rejection() as rejection):
            return Fault.refused(rejection, words)
        case PermissionDenied():
            return Fault(403, words)
        case SubmitNotStored(code=code) if code == _TOO_LARGE:
            return Fault(413, words)
        case NoAnswer() | WireError():
            return Fault(503, words, headers=RETRY_AFTER)
        case TimeoutError():
            return Fault(503, words or "it took too long; ask again", headers=RETRY_AFTER)
        case _:
            log.error("a request failed", exc_info=error)
            return Fault(500, f"unexpected: {type(error).__name__}; the log of the node has more")
