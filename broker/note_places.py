"""Where signed notes are kept outside the broker, by name and only ever added to: a folder, or a bucket."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from writ.schemas.checkpoints import Note, NoteError, last_note, notes_in

from .objects import sync_folder

if TYPE_CHECKING:
    from .buckets import RemoteBucket

SCHEMES: Final = ("s3://", "gs://", "az://")
"""Of addresses of object stores; any other place is a folder."""

OBJECT_NOTES: Final = 100
"""Notes of one object in a bucket: a year of checkpoints is some thousand objects."""

_TAIL_BYTES: Final = 4_096
"""Of a file, read for its last note, which has some 400."""


class StoreAway(OSError):
    """An object store does not answer, or refuses. The text says which, and what it said."""


class Notes(Protocol):
    """A row of notes. Every method raises OSError, and NoteError where something else is there.

    A place in a row is told by how many bytes of notes stand before it, as they stand in a file.
    """

    def read(self) -> list[Note]:
        """All of them; empty where there are none."""
        ...

    def end(self) -> tuple[int, Note | None]:
        """The place behind the last one, and that one, if there is any."""
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
    """A file of signed notes that is only added to, by one writer after the other.

    Its end is found from its end: that costs the same however long the file is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, start: int = 0) -> list[Note]:
        """Those from a place on. Empty where there is no file.

        Raises OSError, and NoteError where it holds something else.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return notes_in(_whole(file.read()))
        except FileNotFoundError:
            return []
        except UnicodeDecodeError as error:
            raise NoteError(f"{self.path} holds what is no text") from error
        except NoteError as error:
            raise NoteError(f"{self.path}: {error}") from error

    def end(self) -> tuple[int, Note | None]:
        try:
            with self.path.open("rb") as file:
                return self._last(file, file.seek(0, io.SEEK_END))
        except FileNotFoundError:
            return 0, None

    def before(self, place: int) -> Note | None:
        """The note that ends at a place; None where none does."""
        try:
            with self.path.open("rb") as file:
                end, note = self._last(file, min(place, file.seek(0, io.SEEK_END)))
        except FileNotFoundError:
            return None
        return note if end == place else None

    def add(self, notes: Sequence[Note]) -> None:
        """Durable on return. Takes the place of a note that a crash has left unfinished.

        Raises OSError, and NoteError where the file ends with something else.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = not self.path.exists()
        with self.path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # what another one is writing looks unfinished
            file.truncate(self._last(file, file.seek(0, io.SEEK_END))[0])
            file.write(_written(notes))
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            sync_folder(self.path.parent)

    def _last(self, file: BinaryIO, size: int) -> tuple[int, Note | None]:
        """Where the last whole note of the first `size` bytes ends, and that note."""
        tail = min(_TAIL_BYTES, size)
        while True:
            file.seek(size - tail)
            try:
                found = last_note(file.read(tail), whole=tail == size)
            except NoteError as error:
                raise NoteError(f"{self.path}: {error}") from error
            if found is not None:
                return size - tail + found[0], found[1]
            if tail == size:
                return 0, None
            tail = min(2 * tail, size)


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
    """A row of notes in a bucket: objects of `OBJECT_NOTES` notes, each named by its place in the row.

    The last one is written anew as it grows.
    """

    def __init__(self, bucket: RemoteBucket, name: str) -> None:
        self._bucket = bucket
        self._name = name

    def read(self) -> list[Note]:
        found: list[Note] = []
        end = 0
        for name in self._bucket.names(self._name):
            start, notes = self._object(name)
            if start != end:
                raise NoteError(f"{self._bucket}/{self._name}/{name} comes behind {end} bytes of notes")
            end += len(_written(notes))
            found += notes
        return found

    def end(self) -> tuple[int, Note | None]:
        start, notes = self._last()
        return start + len(_written(notes)), notes[-1] if notes else None

    def add(self, notes: Sequence[Note]) -> None:
        if not notes:
            return
        start, last = self._last()
        rest = [*last, *notes]
        for at in range(0, len(rest), OBJECT_NOTES):
            content = _written(rest[at : at + OBJECT_NOTES])
            self._bucket.put(f"{self._name}/{start:020}", content)
            start += len(content)

    def _last(self) -> tuple[int, list[Note]]:
        names = self._bucket.names(self._name)
        return self._object(names[-1]) if names else (0, [])

    def _object(self, name: str) -> tuple[int, list[Note]]:
        """The place at which an object begins, and its notes."""
        where = f"{self._bucket}/{self._name}/{name}"
        try:
            if not name.isdecimal():
                raise NoteError("no object of ours has such a name")
            return int(name), notes_in(self._bucket.get(f"{self._name}/{name}").decode())
        except UnicodeDecodeError as error:
            raise NoteError(f"{where} holds what is no text") from error
        except NoteError as error:
            raise NoteError(f"{where}: {error}") from error


def _written(notes: Sequence[Note]) -> bytes:
    """As they stand in a file."""
    return "".join([f"{note}\n" for note in notes]).encode()


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
