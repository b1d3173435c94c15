"""Files of a tenant in the broker's object store, by what they hold; and the in-memory twin.

A tenant has a bucket of its own, in the form that every NATS client knows: the parts of an object are
messages on `$O.<bucket>.C.<upload>`, and one on `$O.<bucket>.M.<name>` says that it is whole. Its name is its
SHA-256.
"""
# nats-py, and the JSON of its API, are typed in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import base64
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from nats.aio.client import Client as Nats
from nats.errors import Error as NatsError

from .keyvalue import text_of, token_of
from .ports import NotStored, OutcomeUnknown
from .streams import REQUEST_TIMEOUT_S, ApiError, api

_NO_STREAM: Final = 10059
_NO_MESSAGE: Final = 10037
_EXISTS: Final = 10058


class Part(NamedTuple):
    """A part of a file, and its sequence, which tells where the next one begins to be looked for."""

    data: bytes
    seq: int


class Filing(Protocol):
    """One tenant's. Every method raises OutcomeUnknown where the broker does not answer."""

    async def put(self, upload: str, data: bytes) -> None:
        """Stores the next part of an upload. Raises NotStored."""
        ...

    async def part(self, upload: str, after: int) -> Part | None:
        """The first part of an upload behind a sequence."""
        ...

    async def drop(self, upload: str) -> None:
        """Deletes the parts of an upload."""
        ...

    async def tell(self, name: str, info: bytes) -> None:
        """Stores what is to be known of a file that is whole. Raises NotStored."""
        ...

    async def told(self, name: str) -> bytes | None:
        """What was stored of it."""
        ...

    async def forget(self, name: str) -> None:
        """Deletes what was stored of it; its parts stay."""
        ...

    async def names(self) -> list[str]:
        """All files that are whole."""
        ...

    async def uploads(self) -> list[str]:
        """All uploads of which there are parts."""
        ...


class MemoryFiling:
    """A bucket in memory."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Part]] = {}
        self._told: dict[str, bytes] = {}
        self._last = 0

    async def put(self, upload: str, data: bytes) -> None:
        self._last += 1
        self._parts.setdefault(upload, []).append(Part(data, self._last))

    async def part(self, upload: str, after: int) -> Part | None:
        return next((part for part in self._parts.get(upload, ()) if part.seq > after), None)

    async def drop(self, upload: str) -> None:
        self._parts.pop(upload, None)

    async def tell(self, name: str, info: bytes) -> None:
        self._told[name] = info

    async def told(self, name: str) -> bytes | None:
        return self._told.get(name)

    async def forget(self, name: str) -> None:
        self._told.pop(name, None)

    async def names(self) -> list[str]:
        return sorted(self._told)

    async def uploads(self) -> list[str]:
        return sorted(self._parts)


class JetStreamFiling:
    """A bucket of the broker, made when the first part is put."""

    def __init__(self, nats: Nats, bucket: str, max_bytes: int) -> None:
        self._nats = nats
        self._stream = f"OBJ_{bucket}"
        self._prefix = f"$O.{bucket}."
        self._max_bytes = max_bytes
        self._made = False

    async def put(self, upload: str, data: bytes) -> None:
        await self._make()
        await self._store(f"{self._prefix}C.{upload}", data)

    async def part(self, upload: str, after: int) -> Part | None:
        body = {"next_by_subj": f"{self._prefix}C.{upload}", "seq": after + 1}
        found = await self._message(body)
        return None if found is None else Part(base64.b64decode(found.get("data", "")), int(found["seq"]))

    async def drop(self, upload: str) -> None:
        await self._purge(f"{self._prefix}C.{upload}")

    async def tell(self, name: str, info: bytes) -> None:
        await self._make()
        await self._store(f"{self._prefix}M.{token_of(name)}", info, {"Nats-Rollup": "sub"})

    async def told(self, name: str) -> bytes | None:
        found = await self._message({"last_by_subj": f"{self._prefix}M.{token_of(name)}"})
        return None if found is None else base64.b64decode(found.get("data", ""))

    async def forget(self, name: str) -> None:
        await self._purge(f"{self._prefix}M.{token_of(name)}")

    async def names(self) -> list[str]:
        return sorted([text_of(token) for token in await self._tokens("M")])

    async def uploads(self) -> list[str]:
        return await self._tokens("C")

    async def _tokens(self, kind: str) -> list[str]:
        prefix = f"{self._prefix}{kind}."
        try:
            info = await api(self._nats, f"STREAM.INFO.{self._stream}", {"subjects_filter": f"{prefix}>"})
        except ApiError as error:
            if error.code == _NO_STREAM:
                return []
            raise OutcomeUnknown(str(error)) from error
        return sorted([subject.removeprefix(prefix) for subject in info["state"].get("subjects") or {}])

    async def _message(self, body: dict[str, Any]) -> dict[str, Any] | None:
        try:
            found = await api(self._nats, f"STREAM.MSG.GET.{self._stream}", body)
        except ApiError as error:
            if error.code in (_NO_MESSAGE, _NO_STREAM):
                return None
            raise OutcomeUnknown(str(error)) from error
        message: dict[str, Any] = found["message"]
        return message

    async def _purge(self, subject: str) -> None:
        try:
            await api(self._nats, f"STREAM.PURGE.{self._stream}", {"filter": subject})
        except ApiError as error:
            if error.code != _NO_STREAM:
                raise OutcomeUnknown(str(error)) from error

    async def _store(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        try:
            answer = await self._nats.request(subject, data, timeout=REQUEST_TIMEOUT_S, headers=headers)
        except (NatsError, OSError, TimeoutError) as silent:
            raise OutcomeUnknown(f"the broker does not answer: {silent}") from silent
        error = msgspec.json.decode(answer.data).get("error")
        if error:
            raise NotStored(str(error.get("description", "refused")))

    async def _make(self) -> None:
        if self._made:
            return
        config = {
            "name": self._stream,
            "description": "Writ: files of a tenant, by what they hold.",
            "subjects": [f"{self._prefix}C.>", f"{self._prefix}M.>"],
            "retention": "limits",
            "discard": "new",
            "storage": "file",
            "num_replicas": 1,
            "max_bytes": self._max_bytes,
            "allow_direct": True,
            "allow_rollup_hdrs": True,
        }
        try:
            await api(self._nats, f"STREAM.CREATE.{self._stream}", config)
        except ApiError as error:
            if error.code != _EXISTS:
                raise OutcomeUnknown(str(error)) from error
        self._made = True


async def buckets_of(nats: Nats, kind: str) -> list[str]:
    """The buckets of files of a kind that there are. Raises OutcomeUnknown."""
    start = f"OBJ_writ-{kind}-"
    found: list[str] = []
    while True:
        try:
            told = await api(nats, "STREAM.NAMES", {"offset": len(found)})
        except ApiError as error:
            raise OutcomeUnknown(str(error)) from error
        names: list[str] = told.get("streams") or []
        found += names
        if not names or len(found) >= int(told.get("total", 0)):
            return [name.removeprefix("OBJ_") for name in found if name.startswith(start)]
