"""What an attempt says of itself: progress for those who look, and details for the attempt after it."""

from __future__ import annotations

import threading
from typing import Any, Final

import msgspec

from writ.schemas.bounds import INLINE_MAX_BYTES

from .steps import StepRefused

EVERY_S: Final = 1.0
RECORDS_MAX: Final = 1_000
"""Of what an attempt says of itself, as it runs to its limit; what it says in between is passed over."""

_encode = msgspec.json.Encoder().encode


class _Word(msgspec.Struct, omit_defaults=True):
    """As it is sent, and as the next attempt finds it."""

    progress: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    details: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Said:
    """The newest that one run has said of itself, from any thread, and whether it was sent."""

    def __init__(self, before: msgspec.Raw | msgspec.UnsetType, attempt_timeout_s: float) -> None:
        self.every_s = max(EVERY_S, attempt_timeout_s / RECORDS_MAX)
        self.sent_us: int | None = None
        self.before = _details(before)
        """What the attempts before have left as details; None where there is nothing."""

        self._lock = threading.Lock()
        self._word = _Word(details=msgspec.UNSET if self.before is None else self.before)
        self._fresh = False

    @property
    def fresh(self) -> bool:
        """Whether something was said that is not on its way."""
        return self._fresh

    def is_due(self, now_us: int) -> bool:
        """Whether the newest may be sent: it is not so often that a history grows too long by it."""
        return self.sent_us is None or now_us - self.sent_us >= self.every_s * 1_000_000

    def put(self, field: str, value: Any) -> None:
        """The newest progress or details. Raises StepRefused for what cannot be kept."""
        try:
            content = _encode(value)
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            raise StepRefused(f"{field} cannot be written as JSON: {error}") from error
        if len(content) > INLINE_MAX_BYTES // 2:
            reason = f"{field} of {len(content)} bytes is too large; at most {INLINE_MAX_BYTES // 2} are kept"
            raise StepRefused(reason)
        with self._lock:
            setattr(self._word, field, msgspec.Raw(content))
            self._fresh = True

    def replace(self, content: msgspec.Raw) -> None:
        """The newest word, as the Said of another process gives it. Raises msgspec.MsgspecError."""
        word = msgspec.json.decode(content, type=_Word)
        with self._lock:
            self._word = word
            self._fresh = True

    def newest(self) -> bytes:
        """What is to be sent, which it is then taken to be."""
        with self._lock:
            self._fresh = False
            return _encode(self._word)


def _details(before: msgspec.Raw | msgspec.UnsetType) -> msgspec.Raw | None:
    if isinstance(before, msgspec.UnsetType):
        return None
    try:
        found = msgspec.json.decode(before, type=_Word).details
    except msgspec.MsgspecError:
        return None  # another worker's, in words of its own
    return None if isinstance(found, msgspec.UnsetType) else found
