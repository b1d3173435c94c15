"""A query as it comes: who asks what of which tenant, the message taken apart, what it is refused with."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from writ.schemas.faults import explain_fault
from writ.schemas.ids import token_fault
from writ.schemas.queries import Query
from writ.schemas.rejections import Rejection, RejectionKind

Asked = TypeVar("Asked", bound=Query)


class Refused(Exception):
    """Ends the answering of a query; `rejection` is what it is answered with."""

    def __init__(self, kind: RejectionKind, reason: str, field: str | None = None) -> None:
        self.rejection = Rejection(kind, reason, field)
        super().__init__(reason)


def address_of(subject: str) -> tuple[str, str, str]:
    """Tenant, principal and verb of a query's subject, which may name a partition behind them."""
    parts = subject.split(".")
    if len(parts) not in (5, 6) or parts[:2] != ["writ", "query"] or token_fault(parts[2], "tenant"):
        reason = f"subject {subject!r} is not of the form writ.query.<tenant>.<principal>.<verb>"
        raise Refused(RejectionKind.MALFORMED, reason, "subject")
    return parts[2], parts[3], parts[4]


def parse(body: bytes, kind: type[Asked]) -> Asked:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        field, reason = explain_fault(error, body, kind)
        raise Refused(RejectionKind.MALFORMED, reason, field) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(RejectionKind.MALFORMED, f"the query is not JSON: {error}") from error
