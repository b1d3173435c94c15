"""Named objects, each written once and whole: where archives and snapshots are kept.

A folder fulfils it here. An object store of another kind needs these six calls and nothing else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from writ.schemas.bounds import SECOND_US

from .clock import Clock, SystemClock

_UNFINISHED: Final = ".new"
_LEFT_S: Final = 3_600.0
"""What was not written to for so long is what a process that was killed has left."""


class Opened(Protocol):
    """An object that is read piece by piece; it stays readable when it is deleted meanwhile."""

    def piece(self, start: int, size_bytes: int) -> bytes:
        """Bytes of the object, fewer where it ends before. Raises OSError."""
        ...


class Objects(Protocol):
    """Every method raises OSError where the place cannot be read or written."""

    async def names(self) -> list[str]:
        """The names of all objects, in their order; empty where nothing was ever put."""
        ...

    async def get(self, name: str, size_bytes: int | None = None) -> bytes:
        """An object, or its first bytes. Raises FileNotFoundError where there is none."""
        ...

    async def open(self, name: str) -> Opened:
        """An object, to be read at any place. Raises FileNotFoundError where there is none."""
        ...

    async def put(self, name: str, parts: Iterable[bytes]) -> None:
        """Stores the parts as one object, which is there whole and durable on return, or not at all."""
        ...

    async def delete(self, name: str) -> None:
        """Of one that is not there, too."""
        ...

    async def tidy(self) -> None:
        """Deletes what is left of objects of which a `put` was killed, as far as that is known for sure."""
        ...


class _OpenFile:
    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)

    def piece(self, start: int, size_bytes: int) -> bytes:
        return os.pread(self._file.fileno(), size_bytes, start)


class FolderObjects:
    """Each object is a file of a folder, which is made when the first is put."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.folder = folder
        self._clock = clock or SystemClock()

    async def names(self) -> list[str]:
        return await asyncio.to_thread(self._names)

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.folder) if not name.endswith(_UNFINISHED))
        except FileNotFoundError:
            return []

    async def get(self, name: str, size_bytes: int | None = None) -> bytes:
        def read() -> bytes:
            with (self.folder / name).open("rb") as file:
                return file.read(-1 if size_bytes is None else size_bytes)

        return await asyncio.to_thread(read)

    async def open(self, name: str) -> Opened:
        return await asyncio.to_thread(_OpenFile, self.folder / name)

    async def put(self, name: str, parts: Iterable[bytes]) -> None:
        await asyncio.to_thread(self._put, name, parts)

    def _put(self, name: str, parts: Iterable[bytes]) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = self.folder / f"{name}{_UNFINISHED}"
        with unfinished.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.folder / name)
        sync_folder(self.folder)

    async def delete(self, name: str) -> None:
        await asyncio.to_thread((self.folder / name).unlink, missing_ok=True)

    async def tidy(self) -> None:
        await asyncio.to_thread(self._tidy)

    def _tidy(self) -> None:
        for path in self.folder.glob(f"*{_UNFINISHED}"):
            with suppress(FileNotFoundError):  # its writer has just ended
                if self._clock.wall_us() / SECOND_US - path.stat().st_mtime > _LEFT_S:
                    path.unlink()


class MemoryObjects:
    """Objects in memory, for tests and for loops on which threads have no place."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def names(self) -> list[str]:
        return sorted(self.kept)

    async def get(self, name: str, size_bytes: int | None = None) -> bytes:
        if name not in self.kept:
            raise FileNotFoundError(name)
        return self.kept[name][:size_bytes]

    async def open(self, name: str) -> Opened:
        return OpenBytes(await self.get(name))

    async def put(self, name: str, parts: Iterable[bytes]) -> None:
        self.kept[name] = b"".join(parts)

    async def delete(self, name: str) -> None:
        self.kept.pop(name, None)

    async def tidy(self) -> None:
        pass


class OpenBytes:
    """An object that is in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def piece(self, start: int, size_bytes: int) -> bytes:
        return self._content[start : start + size_bytes]


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
