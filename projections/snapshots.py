"""Snapshots of views: copies of their files, from which a view that was lost goes on, and not from record 1.

One is a copy of a view's file, and a title, which is written when the copy is durable: of which record it is,
and what its bytes must be. It is used only where a view has no file that can be opened, nobody asked for it
to be built anew, and the log holds the record that it is of: the log is the truth.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import msgspec

from writ.broker.objects import FolderObjects, sync_folder
from writ.broker.ports import Log, Stored
from writ.schemas.chain import Position
from writ.schemas.codec import digest

from . import places
from .folded import reached_in, stamp_in

if TYPE_CHECKING:
    from .runner import Runner

log = logging.getLogger("writ.projections")

STRIDE_RECORDS: Final = 100_000
"""A view that has gone on for so many is copied. Less are folded anew within seconds."""

_SHARE: Final = 4
"""And by a part of so much of what it holds: so a file is copied about five times however long it grows."""

_LOOK_S: Final = 30.0
_RESTS: Final = 3
"""So many times as long as a copy took none follows: of a million jobs they take a core for half a minute."""

_ROOM: Final = 4
"""A file is copied where so many times its bytes are free: what is stored in earnest comes first."""

_encode = msgspec.json.Encoder().encode


class Title(msgspec.Struct, frozen=True):
    """Of which record a snapshot is; `stamp` is the version of the tables, `file` the copy's name."""

    stamp: int
    position: Position
    file: str
    checksum: str


class Snapshots:
    """The snapshots of a node's views, the newest of each. What is done with files blocks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._objects = FolderObjects(folder)

    @classmethod
    def beside(cls, directory: Path, views: str = "views") -> Snapshots:
        """Those that are kept in a node's directory, of the views in one of its folders."""
        return cls(directory / "snapshots" / views)

    def title(self, view: str) -> Title | None:
        """What there is of a view; None where there is nothing that can be read."""
        try:
            return msgspec.json.decode((self.folder / f"{view}.json").read_bytes(), type=Title)
        except (OSError, msgspec.MsgspecError):
            return None

    async def keep(self, runners: Sequence[Runner], stride: int = STRIDE_RECORDS) -> None:
        """Copies each view whenever it has gone on far enough, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            for runner in runners:
                title = await asyncio.to_thread(self.title, runner.name)
                taken = 0 if title is None else title.position.seq
                far = abs(runner.position - taken) >= max(stride, taken // _SHARE)
                if far and not (runner.halted or runner.away or runner.outdated or runner.building):
                    begun = loop.time()
                    try:
                        await self.take(runner.path)
                    except (OSError, sqlite3.Error) as error:
                        log.warning("no snapshot was taken of the view %s: %s", runner.name, error)
                    await asyncio.sleep(_RESTS * (loop.time() - begun))
            await asyncio.sleep(_LOOK_S)

    async def take(self, path: Path) -> Title:
        """Copies the view that lives at `path`, which may go on meanwhile. Durable on return.

        Raises OSError, sqlite3.Error.
        """
        title = await asyncio.to_thread(self._copy, path)
        await self._objects.put(f"{path.stem}.json", [_encode(title)])
        for name in await self._objects.names():
            if name.startswith(f"{path.stem}.") and name not in (title.file, f"{path.stem}.json"):
                await self._objects.delete(name)
        log.info("a snapshot of the view %s was taken at record %d", path.stem, title.position.seq)
        return title

    def _copy(self, path: Path) -> Title:
        source = path.resolve(strict=True)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        size_bytes, free_bytes = source.stat().st_size, shutil.disk_usage(self.folder).free
        if free_bytes < _ROOM * size_bytes:
            raise OSError(f"{free_bytes} bytes are free, and it has {size_bytes}")
        copy = self.folder / f"{path.stem}.new"
        _copy_live(source, copy)
        with closing(sqlite3.connect(copy, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=DELETE").fetchone()  # it has the write-ahead log within it now
            stamp, position = stamp_in(db), reached_in(copy).position
        with copy.open("rb+") as file:
            os.fchmod(file.fileno(), 0o600)
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        name = f"{path.stem}.{position.seq:020}.db"
        copy.replace(self.folder / name)
        sync_folder(self.folder)
        return Title(stamp, position, name, checksum)

    async def forget(self, view: str) -> None:
        """Deletes what there is of a view. Raises OSError."""
        for name in await self._objects.names():
            if name.startswith(f"{view}."):
                await self._objects.delete(name)

    async def put_back(self, path: Path, stamp: int, log_: Log) -> Position | None:
        """Makes the snapshot of a view the file that lives at `path`; the position at which it stands.

        None, having changed nothing, where there is none of this version that is whole and fits the log.
        Raises OSError, and what reading the log raises.
        """
        title = await asyncio.to_thread(self.title, path.stem)
        if title is None or title.stamp != stamp:
            return None
        if not await _holds(log_, title.position):
            log.warning("the snapshot %s is passed over: the log has another record there", title.file)
            return None
        if not await asyncio.to_thread(self._put_back, path, title):
            log.warning("the snapshot %s is passed over: it is not what was written", title.file)
            return None
        log.info("the view %s goes on from the snapshot at record %d", path.stem, title.position.seq)
        return title.position

    def _put_back(self, path: Path, title: Title) -> bool:
        copy = path.with_suffix(".copy")
        try:
            shutil.copyfile(self.folder / title.file, copy)
        except FileNotFoundError:
            return False
        with copy.open("rb") as file:
            sound = hashlib.file_digest(file, "sha256").hexdigest() == title.checksum
        if not sound:
            copy.unlink()
            return False
        newest = places.ask(path)
        copy.replace(newest)  # whole: an empty one is what somebody has asked for
        places.enlive(path, newest)
        return True


def _copy_live(source: Path, copy: Path) -> None:
    """Copies a database and its write-ahead log as they are. Raises OSError, sqlite3.Error.

    A transaction that reads keeps SQLite from beginning the log anew, and from moving into the file what was
    written since: so the file, read first, and the log have all of it between them. A process of its own
    reads them, as whoever closes a file gives up the locks that SQLite has on it in the same process.
    """
    with closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, isolation_level=None)) as db:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        for suffix in ("", "-wal"):
            made = Path(f"{copy}{suffix}")
            made.unlink(missing_ok=True)
            if Path(f"{source}{suffix}").exists():
                done = subprocess.run(
                    ["cp", "--", f"{source}{suffix}", made],  # noqa: S607 - wherever the system has it
                    capture_output=True,
                    check=False,
                )
                if done.returncode:
                    raise OSError(done.stderr.decode(errors="replace").strip())


async def _holds(log_: Log, at: Position) -> bool:
    """Whether a log holds the record at a position."""
    if at.epoch > log_.epoch or await log_.last_seq() < at.seq:
        return False
    async with aclosing(cast("AsyncGenerator[list[Stored]]", log_.read(at.seq))) as reading:
        async for some in reading:
            return some[0].seq == at.seq and digest(some[0].body) == at.digest
    return False
