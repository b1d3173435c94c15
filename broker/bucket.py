"""A stream that keeps what is stored under its subjects: what key-value and object buckets share."""
# nats-py, and the JSON of its API, are typed in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any, Final

import msgspec
from nats.aio.client import Client as Nats
from nats.errors import Error as NatsError

from .ports import NotStored, OutcomeUnknown
from .spread import Spread
from .streams import EXISTS, NO_MESSAGE, NO_STREAM, REQUEST_TIMEOUT_S, ApiError, api, create, move

_NO_ROOM: Final = frozenset({10023, 10047})
_KEPT: Final = {
    "retention": "limits",
    "discard": "new",
    "storage": "file",
    "allow_direct": True,
    "allow_rollup_hdrs": True,
}


class Bucket:
    """One stream, made once. Every method raises OutcomeUnknown where the broker does not answer."""

    def __init__(
        self, nats: Nats, stream: str, description: str, subjects: list[str], spread: Spread, **more: Any
    ) -> None:
        self._nats = nats
        self._stream = stream
        self._config: dict[str, Any] = {"name": stream, "description": description, "subjects": subjects}
        self._config |= {**_KEPT, **spread.config(), **more}
        self._spread = spread
        self._made = False

    async def make(self) -> None:
        """Makes the stream, unless that was done. Raises NotStored where there is no room for it."""
        if self._made:
            return
        try:
            await create(self._nats, f"STREAM.CREATE.{self._stream}", self._config)
        except ApiError as error:
            if error.code in _NO_ROOM:
                raise NotStored(f"the broker has no room for {self._stream}: {error}") from error
            if error.code != EXISTS:
                raise OutcomeUnknown(str(error)) from error
            await self._move()
        self._made = True

    async def _move(self) -> None:
        try:
            info = await api(self._nats, f"STREAM.INFO.{self._stream}")
            await move(self._nats, info["config"], self._spread)
        except ApiError as error:
            raise OutcomeUnknown(str(error)) from error

    async def message(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """The stored message that is asked for, if there is one."""
        try:
            found = await api(self._nats, f"STREAM.MSG.GET.{self._stream}", body)
        except ApiError as error:
            if error.code in (NO_MESSAGE, NO_STREAM):
                return None
            raise OutcomeUnknown(str(error)) from error
        message: dict[str, Any] = found["message"]
        return message

    async def under(self, prefix: str, within: str = "") -> list[str]:
        """The subjects with messages below `<prefix><within>`, in order and without the prefix."""
        try:
            body = {"subjects_filter": f"{prefix}{within}>"}
            info = await api(self._nats, f"STREAM.INFO.{self._stream}", body)
        except ApiError as error:
            if error.code == NO_STREAM:
                return []
            raise OutcomeUnknown(str(error)) from error
        return sorted([subject.removeprefix(prefix) for subject in info["state"].get("subjects") or {}])

    async def purge(self, subject: str) -> bool:
        """Deletes what is under a subject; whether there was anything."""
        try:
            done = await api(self._nats, f"STREAM.PURGE.{self._stream}", {"filter": subject})
        except ApiError as error:
            if error.code == NO_STREAM:
                return False
            raise OutcomeUnknown(str(error)) from error
        return bool(done.get("purged"))

    async def store(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """What the broker says to a message: `seq`, or an `error`."""
        try:
            answer = await self._nats.request(subject, data, timeout=REQUEST_TIMEOUT_S, headers=headers)
        except (NatsError, OSError, TimeoutError) as silent:
            raise OutcomeUnknown(f"the broker does not answer: {silent}") from silent
        said: dict[str, Any] = msgspec.json.decode(answer.data)
        return said
