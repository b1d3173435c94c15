"""What a client has kept for it beside the log: files, and the memory of runs and agents."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from writ.schemas.commands import Answer, Command
from writ.schemas.stores import (
    KEEP_S,
    STORE_VERBS,
    DropFile,
    File,
    FilesTold,
    ForgetMemory,
    KeysTold,
    ListFiles,
    ListMemory,
    MemoryTold,
    ReadMemory,
)
from writ.schemas.subjects import NO_QUEUE, store_subject

from .asking import Asking
from .moving import Source, put_file, read_file

_TIMEOUT_S = 30.0


class Storing(Asking):
    """Part of the client."""

    async def put_file(
        self, source: Source, *, name: str = "", media: str = "", keep_s: float = KEEP_S
    ) -> File:
        """Stores a file of at most 1 GiB, and returns the reference to it, which is what it holds.

        `source` is bytes, text, a path, an open file, or parts. It is kept for `keep_s` [30 days] from the
        last time that it was put. Raises ValueError for one that is too large.
        """
        upload = self._entropy(12).hex()
        return await put_file(self._store, source, upload, name=name, media=media, keep_s=keep_s)

    def read_file(self, file: File | str) -> AsyncGenerator[bytes, None]:
        """What a file holds, in parts, by its reference or its SHA-256. Raises FileBroken."""
        return read_file(self._store, file)

    async def get_file(self, file: File | str) -> bytes:
        """The whole of a file. Raises FileBroken where it is not there, or damaged."""
        async with aclosing(read_file(self._store, file)) as parts:
            return b"".join([part async for part in parts])

    async def save_file(self, file: File | str, path: Path) -> None:
        """Writes a file to a path, which holds all of it then, or is as it was. Raises FileBroken."""
        unfinished = path.with_name(f".{path.name}.part")
        try:
            with unfinished.open("wb") as out:
                async with aclosing(read_file(self._store, file)) as parts:
                    async for part in parts:
                        out.write(part)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    async def files(self, *, after: str = "", limit: int = 100) -> FilesTold:
        """The tenant's files by SHA-256, behind `after`."""
        told: FilesTold = await self._store("list_files", ListFiles(after, limit), FilesTold)
        return told

    async def drop_file(self, sha256: str) -> None:
        """Deletes a file."""
        await self._store("drop_file", DropFile(sha256), Answer)

    # --- memory -----------------------------------------------------------------------------------------

    async def memory_keys(
        self, queue: str, *, run: str | None = None, agent: str | None = None
    ) -> tuple[str, ...]:
        """The keys in the memory of a run, a job of the queue, or of an agent."""
        told: KeysTold = await self._store("list_memory", ListMemory(run=run, agent=agent), KeysTold, queue)
        return told.keys

    async def read_memory(
        self, queue: str, key: str, *, run: str | None = None, agent: str | None = None
    ) -> MemoryTold:
        """A value as JSON with its revision, which is 0 where there is none."""
        command = ReadMemory(run=run, agent=agent, key=key)
        told: MemoryTold = await self._store("read_memory", command, MemoryTold, queue)
        return told

    async def forget_memory(
        self, queue: str, key: str | None = None, *, run: str | None = None, agent: str | None = None
    ) -> None:
        """Deletes a value, or without `key` all of a run or an agent."""
        await self._store("forget_memory", ForgetMemory(run=run, agent=agent, key=key), Answer, queue)

    async def _store(self, verb: str, command: Command, answer: type[Any], queue: str = NO_QUEUE) -> Any:
        assert STORE_VERBS[verb][1] is answer
        subject = store_subject(self.target.tenant, self.target.principal, verb, queue)
        return await self._ask(subject, command, answer, _TIMEOUT_S)
