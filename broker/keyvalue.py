"""Values by key, each with a revision, as JetStream's key-value buckets keep them; and their in-memory twin.

A bucket is the stream `KV_<name>`, as every NATS client knows it, with one message for each key. Tokens of a
key are separated by dots; those that may hold anything are written in base64 (`token_of`).
"""
# nats-py, and the JSON of its API, are typed in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import base64
import hashlib
from typing import Final, NamedTuple, Protocol

from nats.aio.client import Client as Nats

from .bucket import Bucket
from .clock import Clock, SystemClock
from .ports import NotStored
from .spread import ALONE, Spread

_WRONG_REVISION: Final = 10071


class Entry(NamedTuple):
    """A value and its revision, which grows with every change in the bucket."""

    value: bytes
    revision: int


class WrongRevision(Exception):
    """The key has another revision than was expected."""


class KeyValue(Protocol):
    """Every method raises OutcomeUnknown where the broker does not answer."""

    async def get(self, key: str) -> Entry | None: ...

    async def put(
        self, key: str, value: bytes, *, ttl_s: float | None = None, revision: int | None = None
    ) -> int:
        """Stores a value, for `ttl_s` seconds if that is given; its revision.

        With `revision` only where that is the key's now, 0 for none. Raises WrongRevision, NotStored.
        """
        ...

    async def delete(self, key: str) -> bool:
        """Whether there was something to forget."""
        ...

    async def keys(self, under: str) -> list[str]:
        """The keys that begin with those tokens, in their order."""
        ...


def token_of(text: str) -> str:
    """Any text as one token of a key."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=") or "="


def text_of(token: str) -> str:
    """What a token stands for."""
    return "" if token == "=" else base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()


def bucket_of(kind: str, tenant: str) -> str:
    """The name of a tenant's bucket; where a bucket may not have the tenant's name it ends with a digest."""
    plain = "".join(c if (c.isalnum() and c.isascii()) or c in "-_" else "_" for c in tenant)[:64]
    tail = "" if plain == tenant else f"-{hashlib.sha256(tenant.encode()).hexdigest()[:12]}"
    return f"writ-{kind}-{plain}{tail}"


class MemoryKeyValue:
    """A bucket in memory."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._last = 0
        self._entries: dict[str, tuple[Entry, int | None]] = {}

    async def get(self, key: str) -> Entry | None:
        entry, until = self._entries.get(key, (None, None))
        if until is not None and self._clock.mono_us() >= until:
            del self._entries[key]
            return None
        return entry

    async def put(
        self, key: str, value: bytes, *, ttl_s: float | None = None, revision: int | None = None
    ) -> int:
        known = await self.get(key)
        if revision is not None and revision != (0 if known is None else known.revision):
            raise WrongRevision(key)
        self._last += 1
        until = None if ttl_s is None else self._clock.mono_us() + round(ttl_s * 1_000_000)
        self._entries[key] = (Entry(value, self._last), until)
        return self._last

    async def delete(self, key: str) -> bool:
        known = await self.get(key)
        self._entries.pop(key, None)
        return known is not None

    async def keys(self, under: str) -> list[str]:
        found = [key for key in sorted(self._entries) if key.startswith(f"{under}.")]
        return [key for key in found if await self.get(key) is not None]


class JetStreamKeyValue:
    """A bucket of the broker, made when the first value is put."""

    def __init__(self, nats: Nats, bucket: str, description: str, spread: Spread = ALONE) -> None:
        self._prefix = f"$KV.{bucket}."
        self._bucket = Bucket(
            nats,
            f"KV_{bucket}",
            description,
            [f"{self._prefix}>"],
            spread,
            max_msgs_per_subject=1,
            allow_msg_ttl=True,
        )

    async def get(self, key: str) -> Entry | None:
        message = await self._bucket.message({"last_by_subj": self._prefix + key})
        if message is None:
            return None
        if b"Nats-Marker-Reason" in base64.b64decode(message.get("hdrs", "")):
            return None  # it is over its time
        return Entry(base64.b64decode(message.get("data", "")), int(message["seq"]))

    async def put(
        self, key: str, value: bytes, *, ttl_s: float | None = None, revision: int | None = None
    ) -> int:
        await self._bucket.make()
        headers: dict[str, str] = {}
        if ttl_s is not None:
            headers["Nats-TTL"] = f"{max(1, round(ttl_s))}s"
        if revision is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        said = await self._bucket.store(self._prefix + key, value, headers or None)
        error = said.get("error")
        if error:
            if error.get("err_code") == _WRONG_REVISION:
                raise WrongRevision(key)
            raise NotStored(str(error.get("description", "refused")))
        return int(said["seq"])

    async def delete(self, key: str) -> bool:
        return await self._bucket.purge(self._prefix + key)

    async def keys(self, under: str) -> list[str]:
        return await self._bucket.under(self._prefix, f"{under}.")
