"""Files and memory, as tasks have them: `ctx.files` and `ctx.memory`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from writ.broker.moving import FileBroken, Source, parts_of, put_file, read_file
from writ.schemas.commands import Command
from writ.schemas.stores import (
    KEEP_S,
    STORE_VERBS,
    File,
    ForgetMemory,
    ListMemory,
    ReadMemory,
    WriteMemory,
)

from .children import ToStore
from .errors import FailJob
from .steps import drive
from .tools import Tool, called

if TYPE_CHECKING:
    from .journal import Journal
    from .redaction import Redactor
    from .run import Run

_encode = msgspec.json.Encoder().encode


class FileMissing(FailJob):
    """A file is not there, or does not hold what its reference says: the job is not tried again."""


class Files:
    """The tenant's files, known by what they hold. Secrets that the task was told are left out of them.

    Each method has a twin for plain functions, whose name ends with `_sync`.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    async def put(self, source: Source, *, name: str = "", media: str = "", keep_s: float = KEEP_S) -> File:
        """Stores bytes, text, a path, an open file or parts, at most 1 GiB; the reference to it.

        A task may take and return it. It is kept for `keep_s` [30 days] from when it was last put.
        """
        if isinstance(source, Path):
            name = name or source.name
        journal = self._run.journal
        clean = without(journal.redactor, parts_of(source))
        return await put_file(
            _asks(journal), clean, secrets.token_hex(12), name=name, media=media, keep_s=keep_s
        )

    async def read(self, file: File | str) -> AsyncGenerator[bytes, None]:
        """What a file holds, in parts, by its reference or SHA-256. Raises FileMissing."""
        try:
            async with aclosing(read_file(_asks(self._run.journal), file)) as parts:
                async for part in parts:
                    yield part
        except FileBroken as error:
            raise FileMissing(str(error)) from error

    async def get(self, file: File | str) -> bytes:
        """The whole of a file. Raises FileMissing."""
        return b"".join([part async for part in self.read(file)])

    async def save(self, file: File | str, path: Path | str) -> None:
        """Writes a file to a path. Raises FileMissing."""
        with open(path, "wb") as out:  # noqa: ASYNC230 - parts are small, and a disk is quick
            async for part in self.read(file):
                out.write(part)

    def put_sync(self, source: Source, *, name: str = "", media: str = "", keep_s: float = KEEP_S) -> File:
        """`put` for a task that is a plain function."""
        return drive(self.put(source, name=name, media=media, keep_s=keep_s))

    def get_sync(self, file: File | str) -> bytes:
        """`get` for a task that is a plain function."""
        return drive(self.get(file))

    def save_sync(self, file: File | str, path: Path | str) -> None:
        """`save` for a task that is a plain function."""
        drive(self.save(file, path))


class Remembered(msgspec.Struct, frozen=True):
    """A value that is remembered, and its revision: 0 where there is none."""

    value: Any = None
    revision: int = 0


class Memory:
    """Values by key that outlive the attempt: of this run, or by `agent(name)` of an agent of the queue.

    Each call is a governed tool call, `memory.get` and so on: recorded with the revision that was read or
    written, and answered from the record in a reproduction. A policy may deny it. Methods have twins for
    plain functions, whose names end with `_sync`.
    """

    def __init__(self, run: Run, agent: str | None = None) -> None:
        self._run = run
        self._agent = agent

    def agent(self, name: str) -> Memory:
        """The long-term memory of an agent of this queue, which all its jobs share."""
        return Memory(self._run, name)

    async def get(self, key: str, default: Any = None) -> Any:
        """The value; `default` where there is none."""
        found = await self.look(key)
        return found.value if found.revision else default

    async def look(self, key: str) -> Remembered:
        """The value with its revision."""
        found: Remembered = await self._call("memory.get", self._look, key=key)
        return found

    async def put(
        self, key: str, value: Any, *, ttl_s: float | None = None, revision: int | None = None
    ) -> int | None:
        """Keeps a value, at most 192 KiB of JSON, for `ttl_s` or for good; its revision.

        With `revision` only where the key has that one now, 0 for none; else it is None, and nothing changes.
        """
        made: int | None = await self._call(
            "memory.put", self._put, key=key, value=value, ttl_s=ttl_s, revision=revision
        )
        return made

    async def delete(self, key: str) -> None:
        """Forgets a value."""
        await self._call("memory.delete", self._delete, key=key)

    async def keys(self) -> list[str]:
        """The keys that there are."""
        found: list[str] = await self._call("memory.keys", self._keys)
        return found

    def get_sync(self, key: str, default: Any = None) -> Any:
        """`get` for a task that is a plain function."""
        return drive(self.get(key, default))

    def put_sync(
        self, key: str, value: Any, *, ttl_s: float | None = None, revision: int | None = None
    ) -> int | None:
        """`put` for a task that is a plain function."""
        return drive(self.put(key, value, ttl_s=ttl_s, revision=revision))

    def delete_sync(self, key: str) -> None:
        """`delete` for a task that is a plain function."""
        drive(self.delete(key))

    def keys_sync(self) -> list[str]:
        """`keys` for a task that is a plain function."""
        return drive(self.keys())

    # --- what the calls do ------------------------------------------------------------------------------

    async def _call(self, tool: str, function: Any, **given: Any) -> Any:
        return await called(Tool(function, tool, "1", ()), self._run.journal, (self._agent,), given)

    async def _look(self, agent: str | None, key: str) -> Remembered:
        told = await _ask(self._run.journal, "read_memory", ReadMemory(agent=agent, key=key))
        return Remembered(msgspec.json.decode(told.value) if told.revision else None, told.revision)

    async def _put(
        self, agent: str | None, key: str, value: Any, ttl_s: float | None, revision: int | None
    ) -> int | None:
        content = msgspec.Raw(_encode(value))
        command = WriteMemory(agent=agent, key=key, value=content, ttl_s=ttl_s, revision=revision)
        told = await _ask(self._run.journal, "write_memory", command)
        return None if told.changed else int(told.revision)

    async def _delete(self, agent: str | None, key: str) -> None:
        await _ask(self._run.journal, "forget_memory", ForgetMemory(agent=agent, key=key))

    async def _keys(self, agent: str | None) -> list[str]:
        return list((await _ask(self._run.journal, "list_memory", ListMemory(agent=agent))).keys)


async def _ask(journal: Journal, verb: str, command: Command) -> Any:
    """What the store answers to the keeper."""
    answer = await journal.errand(ToStore(verb, msgspec.Raw(_encode(command))))
    return msgspec.json.decode(answer, type=STORE_VERBS[verb][1])


def _asks(journal: Journal) -> Any:
    async def ask(verb: str, command: Command, answer: type[Any]) -> Any:
        return await _ask(journal, verb, command)

    return ask


def without(redactor: Redactor, parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes without the secrets in them, also where one is split over two parts."""
    held = b""
    for part in parts:
        held = redactor.clean(held + part)
        keep = max(0, redactor.longest - 1)
        cut = max(0, len(held) - keep)
        yield held[:cut]
        held = held[cut:]
    yield redactor.clean(held)
