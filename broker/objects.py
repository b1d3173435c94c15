"""Named objects, each written once and whole: where archives and snapshots are kept.

A folder fulfils it here. An object store of another kind needs these four calls and nothing else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

_UNFINISHED: Final = ".new"


class Objects(Protocol):
    """Every method raises OSError where the place cannot be read or written."""

    async def names(self) -> list[str]:
        """The names of all objects, in their order; empty where nothing was ever put."""
        ...

    async def get(self, name: str, size_bytes: int | None = None) -> bytes:
        """An object, or its first bytes. Raises FileNotFoundError where there is none."""
        ...

    async def put(self, name: str, parts: Iterable[bytes]) -> None:
        """Stores the parts as one object, which is there whole and durable on return, or not at all."""
        ...

    async def delete(self, name: str) -> None:
        """Of one that is not there, too."""
        ...


class FolderObjects:
    """Each object is a file of a folder, which is made when the first is put."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
