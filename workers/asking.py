"""One request of a worker and its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from writ.broker.coding import Coder
from writ.broker.errors import TooLarge, WireError
from writ.broker.wire import Wire
from writ.schemas.assets import AssetTold
from writ.schemas.commands import Acquired, Answer, Command, Renewed, Reported
from writ.schemas.notes import Recalled
from writ.schemas.queries import Query, RecordsPage
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.stores import STORE_VERBS
from writ.schemas.subjects import lease_subject, query_subject, store_subject

from .coding import encoded

if TYPE_CHECKING:
    from .line import Post
    from .redaction import Redactor

_encode = msgspec.json.Encoder().encode
A = TypeVar("A", bound=Answer)
_ANSWERS: Final[tuple[type[Answer], ...]] = (
    *(Answer, Acquired, Renewed, Reported, Recalled, RecordsPage, AssetTold),
    *[told for _, told in STORE_VERBS.values()],
)
_decoders: Final[dict[type[Answer], Callable[[bytes], Any]]] = {
    cls: msgspec.json.Decoder(cls).decode for cls in _ANSWERS
}


class Refused(Exception):
    """A whole message was refused."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(f"{rejection.field}: {rejection.reason}" if rejection.field else rejection.reason)
        self.rejection = rejection


class TryLater(Refused):
    """Nothing was decided."""


class Asking:
    """Sends the requests of one worker."""

    def __init__(self, wire: Wire, post: Post, redactor: Redactor, coder: Coder) -> None:
        self._wire = wire
        self._post = post
        self._redactor = redactor
        self.coder = coder

    async def ask(self, queue: str, verb: str, command: Command, answer: type[A], timeout_s: float) -> A:
        """One request of a queue. Raises WireError, TryLater, Refused."""
        subject = lease_subject(self._post.tenant, self._post.principal, verb, queue)
        return await self._ask(subject, command, answer, timeout_s)

    async def query(self, verb: str, query: Query, answer: type[A], timeout_s: float) -> A:
        """One question to the views. Raises as `ask`."""
        subject = query_subject(self._post.tenant, self._post.principal, verb)
        return await self._ask(subject, query, answer, timeout_s)

    async def store(self, queue: str, verb: str, command: Command, answer: type[A], timeout_s: float) -> A:
        """One request to the storehouse. Raises as `ask`."""
        subject = store_subject(self._post.tenant, self._post.principal, verb, queue)
        return await self._ask(subject, command, answer, timeout_s)

    async def _ask(self, subject: str, command: Command, answer: type[A], timeout_s: float) -> A:
        body = self._redactor.message(_encode(command))
        if self.coder.encodes and not isinstance(command, Query):
            clean = msgspec.json.decode(body, type=type(command))
            body = _encode(encoded(clean, self.coder))
        try:
            data = self.coder.opened(await self._wire.request(subject, body, timeout_s))
        except TooLarge as error:  # as it will be each time: a refusal has it sent in parts, or given up
            raise Refused(Rejection(RejectionKind.TOO_LARGE, str(error))) from error
        try:
            answered: A = _decoders[answer](data)
        except msgspec.MsgspecError as error:
            raise WireError(f"the answer from {subject} cannot be read: {error}") from error
        rejection = answered.error
        if rejection is not None:
            raise (TryLater if rejection.kind is RejectionKind.TRY_LATER else Refused)(rejection)
        return answered
