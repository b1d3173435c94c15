"""Where signed notes are kept outside the broker, by name and only ever added to: a folder, or a bucket."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from writ.schemas.checkpoints import Note, NoteError, notes_in

from .objects import sync_folder

if TYPE_CHECKING:
    from .buckets import RemoteBucket

SCHEMES: Final = ("s3://", "gs://", "az://")
"""Of addresses of object stores; any other place is a folder."""

OBJECT_NOTES: Final = 100
"""Notes of one object in a bucket: a year of checkpoints is some thousand objects."""


class StoreAway(OSError):
    """An object store does not answer, or refuses. The text says which, and what it said."""


class Notes(Protocol):
    """A row of notes. Every method raises OSError, and NoteError where something else is there."""

    def read(self) -> list[Note]:
        """All of them; empty where there are none."""
        ...

    def end(self) -> tuple[int, Note | None]:
        """How many there are, and the last one, if there is any."""
        ...

    def add(self, notes: Sequence[Note]) -> None:
        """Durable on return."""
        ...


class NotePlace(Protocol):
    """Where rows of notes are kept. As text it is its address."""

    def notes(self, name: str) -> Notes:
        """The row of that name, which there may not be yet."""
        ...


class NoteFile:
    """A file of signed notes that is only added to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Note]:
        """Empty where there is no file. Raises OSError, and NoteError where it holds something else."""
        try:
            return notes_in(_whole(self.path.read_bytes()))
        except FileNotFoundError:
            return []
        except UnicodeDecodeError as error:
            raise NoteError(f"{self.path} holds what is no text") from error
        except NoteError as error:
            raise NoteError(f"{self.path}: {error}") from error

    def end(self) -> tuple[int, Note | None]:
        notes = self.read()
        return len(notes), notes[-1] if notes else None

    def add(self, notes: Sequence[Note]) -> None:
        """Durable on return. Takes the place of a note that a crash has left unfinished. Raises OSError."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = not self.path.exists()
        with self.path.open("ab+") as file:
            file.seek(0)
            whole = [f"{note}\n".encode() for note in notes_in(_whole(file.read()))]
            file.truncate(sum(map(len, whole)))
            file.write("".join([f"{note}\n" for note in notes]).encode())
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            sync_folder(self.path.parent)


def _whole(content: bytes) -> str:
    """A file up to where something in it was last ended: a crash may have cut off what stands behind."""
    return content[: content.rfind(b"\n\n") + 2].decode() if b"\n\n" in content else ""


class NoteFolder:
    """Each row is a file of a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def notes(self, name: str) -> NoteFile:
        return NoteFile(self.path / name)


class NoteObjects:
    """A row of notes in a bucket: objects of `OBJECT_NOTES` notes, each named by how many stand before it.

    The last one is written anew as it grows.
    """

    def __init__(self, bucket: RemoteBucket, name: str) -> None:
        self._bucket = bucket
        self._name = name

    def read(self) -> list[Note]:
        found: list[Note] = []
        for name in self._bucket.names(self._name):
            if int(name) != len(found):
                raise NoteError(f"{self._bucket}/{self._name}/{name} comes behind {len(found)} notes")
            found += self._object(name)
        return found

    def end(self) -> tuple[int, Note | None]:
        name, notes = self._last()
        return int(name) + len(notes), notes[-1] if notes else None

    def add(self, notes: Sequence[Note]) -> None:
        if not notes:
            return
        name, last = self._last()
        start, rest = int(name), [*last, *notes]
        for at in range(0, len(rest), OBJECT_NOTES):
            content = "".join([f"{note}\n" for note in rest[at : at + OBJECT_NOTES]])
            self._bucket.put(f"{self._name}/{start + at:020}", content.encode())

    def _last(self) -> tuple[str, list[Note]]:
        names = self._bucket.names(self._name)
        return (names[-1], self._object(names[-1])) if names else ("0", [])

    def _object(self, name: str) -> list[Note]:
        where = f"{self._bucket}/{self._name}/{name}"
        try:
            if not name.isdecimal():
                raise NoteError("no object of ours has such a name")
            return notes_in(self._bucket.get(f"{self._name}/{name}").decode())
        except UnicodeDecodeError as error:
            raise NoteError(f"{where} holds what is no text") from error
        except NoteError as error:
            raise NoteError(f"{where}: {error}") from error


class NoteBucket:
    """Each row is some objects of a bucket."""

    def __init__(self, bucket: RemoteBucket) -> None:
        self._bucket = bucket

    def __str__(self) -> str:
        return str(self._bucket)

    def notes(self, name: str) -> NoteObjects:
        return NoteObjects(self._bucket, name)


def place_of(address: str) -> NotePlace:
    """A bucket as `s3://BUCKET/PREFIX`, or a folder. Raises ValueError where it can be neither."""
    if not address.startswith(SCHEMES):
        return NoteFolder(Path(address))
    from .buckets import RemoteBucket  # noqa: PLC0415 - it needs an extra

    return NoteBucket(RemoteBucket(address))


def absolute(address: str) -> str:
    """The address, from wherever it is read."""
    return address if address.startswith(SCHEMES) else str(Path(address).absolute())
