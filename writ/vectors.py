"""Vectors that are searched by nearness: what an agent knows. `pip install "writ-orchestrator[vectors]"`

    async with remembered(ctx, "librarian", "facts", dimensions=384) as facts:
        facts.add("f1", embed("the moon is far"), {"text": "the moon is far"})
        near = facts.search(embed("how far is the moon?"), 3)

Any class with the methods of `Vectors` does in its place; the one here keeps all in memory, by usearch.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, Self

import msgspec

from writ.schemas.stores import File
from writ.workers.context import Context

_encode = msgspec.msgpack.Encoder().encode


class Hit(msgspec.Struct, frozen=True):
    """What was found: `score` is the cosine of the angle between, 1 where they point the same way."""

    key: str
    score: float
    data: Any = None


class Vectors(Protocol):
    """A store of vectors by key, each with data of the user's own: what JSON can hold."""

    def add(self, key: str, vector: Sequence[float], data: Any = None) -> None:
        """Puts a vector there, in place of the one of that key."""
        ...

    def remove(self, key: str) -> bool:
        """Whether there was one."""
        ...

    def search(self, vector: Sequence[float], limit: int = 10) -> list[Hit]:
        """The nearest ones, nearest first."""
        ...

    def dump(self) -> bytes:
        """All of it, to be made anew from."""
        ...

    def __len__(self) -> int: ...


class _Entry(msgspec.Struct):
    number: int
    data: Any = None


class _Dump(msgspec.Struct):
    dimensions: int
    next: int
    entries: dict[str, _Entry]
    index: bytes


class Changed(Exception):
    """Another job has changed the same vectors meanwhile; the next attempt begins with what it made."""


class EmbeddedVectors:
    """Vectors of so many `dimensions`, in this process's memory. Raises ImportError without the extra."""

    def __init__(self, dimensions: int) -> None:
        from usearch.index import Index

        self._dimensions = dimensions
        self._index: Any = Index(ndim=dimensions, metric="cos", dtype="f32")
        self._entries: dict[str, _Entry] = {}
        self._keys: dict[int, str] = {}
        self._next = 1

    @classmethod
    def load(cls, dump: bytes, dimensions: int) -> Self:
        """From what `dump` gave. Raises ValueError where that has other dimensions."""
        found = msgspec.msgpack.decode(dump, type=_Dump)
        if found.dimensions != dimensions:
            raise ValueError(
                f"the vectors have {found.dimensions} dimensions, and {dimensions} are asked for"
            )
        made = cls(dimensions)
        if found.entries:
            made._index.load(found.index)
        made._entries, made._next = found.entries, found.next
        made._keys = {entry.number: key for key, entry in found.entries.items()}
        return made

    def add(self, key: str, vector: Sequence[float], data: Any = None) -> None:
        self.remove(key)
        self._index.add(self._next, self._array(vector))
        self._entries[key] = _Entry(self._next, data)
        self._keys[self._next] = key
        self._next += 1

    def remove(self, key: str) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._index.remove(entry.number)
        del self._keys[entry.number]
        return True

    def search(self, vector: Sequence[float], limit: int = 10) -> list[Hit]:
        asked = self._array(vector)
        if not self._entries:
            return []
        found = self._index.search(asked, min(limit, len(self._entries)))
        keys = [(self._keys[int(match.key)], 1.0 - float(match.distance)) for match in found]
        return [Hit(key, score, self._entries[key].data) for key, score in keys]

    def dump(self) -> bytes:
        index = bytes(self._index.save(None)) if self._entries else b""
        return _encode(_Dump(self._dimensions, self._next, self._entries, index))

    def __len__(self) -> int:
        return len(self._entries)

    def _array(self, vector: Sequence[float]) -> Any:
        import numpy as np

        if len(vector) != self._dimensions:
            raise ValueError(f"the vector has {len(vector)} dimensions; {self._dimensions} are kept")
        return np.asarray(vector, dtype=np.float32)


_PREFIX: Final = "vectors/"


@asynccontextmanager
async def remembered(
    ctx: Context,
    agent: str,
    name: str,
    *,
    dimensions: int,
    load: Callable[[bytes, int], Any] = EmbeddedVectors.load,
    new: Callable[[int], Any] = EmbeddedVectors,
    keep_s: float = 365 * 86_400.0,
) -> AsyncGenerator[Any, None]:
    """The vectors of that name of an agent, kept as a file that its memory names, and kept anew if changed.

    What was found at first is in the record, by what it holds: a reproduction searches the same. Raises
    Changed where another job was quicker. `load` and `new` make another kind of `Vectors`.
    """
    memory = ctx.memory.agent(agent)
    before = await memory.look(_PREFIX + name)
    if before.revision:
        file = msgspec.convert(before.value, File)
        vectors = load(await ctx.files.get(file), dimensions)
    else:
        vectors = new(dimensions)
    had = vectors.dump()
    yield vectors
    has = vectors.dump()
    if has == had:
        return
    made = await ctx.files.put(has, name=f"{agent}-{name}.vectors", keep_s=keep_s)
    kept = await memory.put(_PREFIX + name, msgspec.to_builtins(made), revision=before.revision)
    if kept is None:
        raise Changed(f"vectors {name} of agent {agent} were changed meanwhile")
