"""Files on their way to and from a tenant's store: in parts, checked by what they hold."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from writ.schemas.commands import Answer, Command
from writ.schemas.stores import (
    FILE_MAX_BYTES,
    KEEP_S,
    PART_MAX_BYTES,
    File,
    FileTold,
    FindFile,
    GetPart,
    PartTold,
    PutFile,
    PutPart,
)

Ask = Callable[[str, Command, type[Any]], Awaitable[Any]]
"""Sends a verb of the store; raises where it is refused."""

Source = bytes | str | Path | BinaryIO | Iterable[bytes]
"""What a file holds: itself as bytes or text, where it stands, or from where it comes."""


class FileBroken(Exception):
    """A file is not there, or does not hold what its name says; the text says which."""


async def put_file(
    ask: Ask,
    source: Source,
    upload: str,
    *,
    name: str = "",
    media: str = "",
    keep_s: float = KEEP_S,
) -> File:
    """Stores a file, and waits until it is whole. Raises ValueError for one that is too large."""
    hashed, size, number = hashlib.sha256(), 0, 0
    for part in parts_of(source):
        size += len(part)
        if size > FILE_MAX_BYTES:
            raise ValueError(f"the file has more than {FILE_MAX_BYTES} bytes, which is the most that is kept")
        hashed.update(part)
        await ask("put_part", PutPart(upload, number, part), Answer)
        number += 1
    shown = name or (source.name if isinstance(source, Path) else "")
    file = File(hashed.hexdigest(), size, shown, media)
    told: FileTold = await ask("put_file", PutFile(file, upload, number, keep_s), FileTold)
    assert told.found is not None
    return file


async def read_file(ask: Ask, file: File | str) -> AsyncGenerator[bytes, None]:
    """What a file holds, in parts. Raises FileBroken, after the last where they are not what it holds."""
    sha256 = file if isinstance(file, str) else file.sha256
    found: FileTold = await ask("find_file", FindFile(sha256), FileTold)
    if found.found is None:
        raise FileBroken(f"there is no file {sha256}: it was never put, or is not kept any more")
    hashed, after = hashlib.sha256(), 0
    while True:
        part: PartTold = await ask("get_part", GetPart(sha256, after), PartTold)
        hashed.update(part.data)
        if part.data:
            yield part.data
        if part.last:
            break
        after = part.next
    if hashed.hexdigest() != sha256:
        raise FileBroken(f"file {sha256} holds something else, {hashed.hexdigest()}: the store is damaged")


def parts_of(source: Source) -> Iterator[bytes]:
    """What a source holds, in parts of the size that is sent, or less."""
    if isinstance(source, str):
        source = source.encode()
    if isinstance(source, bytes | bytearray | memoryview):
        source = io.BytesIO(source)
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield from _read(file)
    elif hasattr(source, "read"):
        yield from _read(source)
    else:
        yield from _joined(source)


def _read(file: Any) -> Iterator[bytes]:
    while part := file.read(PART_MAX_BYTES):
        yield part


def _joined(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in parts of the size that is sent."""
    held = bytearray()
    for part in parts:
        held += part
        while len(held) >= PART_MAX_BYTES:
            yield bytes(held[:PART_MAX_BYTES])
            del held[:PART_MAX_BYTES]
    if held:
        yield bytes(held)
