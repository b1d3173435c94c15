"""Named objects in a bucket of the broker's object store: of whoever reaches the broker, on any machine."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from .filing import Filing, Info, look_up
from .objects import OpenBytes, Opened
from .ports import OutcomeUnknown

PART_BYTES: Final = 512 * 1024


class FiledObjects:
    """A bucket as `Objects`; one alone may put into it at a time. `bucket` is its name.

    Each of `ids` names the parts of one object, and is never given again. What the broker does not do is an
    OSError, as it is of a disk; but `put` raises NotStored where it refuses, as the bucket is full.
    """

    def __init__(self, filing: Filing, bucket: str, ids: Callable[[], str]) -> None:
        self._filing = filing
        self._ids = ids
        self._bucket = bucket
        self._putting = asyncio.Lock()
        self._whole: set[str] = set()
        """Uploads that are known to be those of objects."""

    async def names(self) -> list[str]:
        try:
            return await self._filing.names()
        except OutcomeUnknown as error:
            raise OSError(str(error)) from error

    async def get(self, name: str, size_bytes: int | None = None) -> bytes:
        try:
            info = await look_up(self._filing, name)
            if info is None:
                raise FileNotFoundError(name)
            wanted = info.size if size_bytes is None else min(size_bytes, info.size)
            content, after = bytearray(), 0
            while len(content) < wanted:
                part = await self._filing.part(info.nuid, after)
                if part is None:
                    raise OSError(f"{name} has {info.size} bytes, of which {len(content)} are left")
                content += part.data
                after = part.seq
            return bytes(content[:wanted])
        except OutcomeUnknown as error:
            raise OSError(str(error)) from error

    async def open(self, name: str) -> Opened:
        return OpenBytes(await self.get(name))

    async def put(self, name: str, parts: Iterable[bytes]) -> None:
        content = b"".join(parts)
        async with self._putting:
            try:
                await self._put(name, content)
            except OutcomeUnknown as error:
                raise OSError(str(error)) from error

    async def _put(self, name: str, content: bytes) -> None:
        await self._tidy()
        before = await look_up(self._filing, name)
        upload = self._ids()
        cuts = range(0, len(content), PART_BYTES)
        for at in cuts:
            await self._filing.put(upload, content[at : at + PART_BYTES])
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
        info = Info(name, self._bucket, upload, len(content), len(cuts), f"SHA-256={digest}")
        await self._filing.tell(name, msgspec.json.encode(info))
        self._whole.add(upload)
        if before is not None:
            await self._drop(before)

    async def _tidy(self) -> None:
        """Drops the parts of what was killed; asks for every object only where there are parts unknown."""
        uploads = set(await self._filing.uploads())
        if uploads <= self._whole:
            return
        there = [await look_up(self._filing, each) for each in await self._filing.names()]
        self._whole = {each.nuid for each in there if each is not None}
        for left in uploads - self._whole:
            await self._filing.drop(left)

    async def _drop(self, info: Info) -> None:
        self._whole.discard(info.nuid)  # first: where it fails, the next put does it
        await self._filing.drop(info.nuid)

    async def delete(self, name: str) -> None:
        try:
            info = await look_up(self._filing, name)
            if info is not None:
                await self._filing.forget(name)
                await self._drop(info)
        except OutcomeUnknown as error:
            raise OSError(str(error)) from error

    async def tidy(self) -> None:
        pass  # the next `put` does it: nobody else puts
