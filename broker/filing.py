"""Files of a tenant in the broker's object store, by what they hold; and the in-memory twin.

A tenant has a bucket of its own, in the form that every NATS client knows: the parts of an object are
messages on `$O.<bucket>.C.<upload>`, and one on `$O.<bucket>.M.<name>` says that it is whole. Its name is its
SHA-256.
"""
# nats-py, and the JSON of its API, are typed in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import base64
from typing import NamedTuple, Protocol

import msgspec
from nats.aio.client import Client as Nats

from .bucket import Bucket
from .keyvalue import text_of, token_of
from .ports import NotStored
from .spread import ALONE, Spread
from .streams import names_of


class Part(NamedTuple):
    """A part of a file, and its sequence, which tells where the next one begins to be looked for."""

    data: bytes
    seq: int


class Info(msgspec.Struct):
    """What is stored of a file that is whole, as object stores have it: its parts are those of `nuid`."""

    name: str
    bucket: str
    nuid: str
    size: int
    chunks: int
    digest: str
    mtime: str = "1970-01-01T00:00:00Z"
    metadata: dict[str, str] = {}


_info = msgspec.json.Decoder(Info).decode


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

    def __init__(self, nats: Nats, bucket: str, max_bytes: int, spread: Spread = ALONE) -> None:
        self._prefix = f"$O.{bucket}."
        self._bucket = Bucket(
            nats,
            f"OBJ_{bucket}",
            "Writ: files of a tenant, by what they hold.",
            [f"{self._prefix}C.>", f"{self._prefix}M.>"],
            spread,
            max_bytes=max_bytes,
        )

    async def put(self, upload: str, data: bytes) -> None:
        await self._bucket.make()
        await self._store(f"{self._prefix}C.{upload}", data)

    async def part(self, upload: str, after: int) -> Part | None:
        body = {"next_by_subj": f"{self._prefix}C.{upload}", "seq": after + 1}
        found = await self._bucket.message(body)
        return None if found is None else Part(base64.b64decode(found.get("data", "")), int(found["seq"]))

    async def drop(self, upload: str) -> None:
        await self._bucket.purge(f"{self._prefix}C.{upload}")

    async def tell(self, name: str, info: bytes) -> None:
        await self._bucket.make()
        await self._store(f"{self._prefix}M.{token_of(name)}", info, {"Nats-Rollup": "sub"})

    async def told(self, name: str) -> bytes | None:
        found = await self._bucket.message({"last_by_subj": f"{self._prefix}M.{token_of(name)}"})
        return None if found is None else base64.b64decode(found.get("data", ""))

    async def forget(self, name: str) -> None:
        await self._bucket.purge(f"{self._prefix}M.{token_of(name)}")

    async def names(self) -> list[str]:
        return sorted([text_of(token) for token in await self._tokens("M")])

    async def uploads(self) -> list[str]:
        return await self._tokens("C")

    async def _tokens(self, kind: str) -> list[str]:
        return await self._bucket.under(f"{self._prefix}{kind}.")

    async def _store(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        error = (await self._bucket.store(subject, data, headers)).get("error")
        if error:
            raise NotStored(str(error.get("description", "refused")))


async def look_up(filing: Filing, name: str) -> Info | None:
    """What is stored of a file; None where it is not there. Raises OutcomeUnknown."""
    told = await filing.told(name)
    return None if told is None else _info(told)


async def buckets_of(nats: Nats, kind: str) -> list[str]:
    """The buckets of files of a kind that there are. Raises OutcomeUnknown."""
    start = f"OBJ_writ-{kind}-"
    return [name.removeprefix("OBJ_") for name in await names_of(nats) if name.startswith(start)]
