"""Where nats-server puts the batches that are not committed yet: in memory, and not on the disk.

For each atomic batch nats-server (2.15) makes a small store under `streams/<stream>/batches/`, and takes it
away after the commit, which copies the records to the stream's own files and syncs those. Making it costs
three syncs of new files: 3 to 5 ms on a quiet disk, 20 to 30 ms beside somebody else's writes, however few
records there are. What is in it at a crash was never acknowledged and is thrown away at the next start: it
need not outlive the machine. So `batches` is made a link to a folder in memory, where the system has one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder made in it is this user's alone
ROOM_BYTES: Final = 64 * 1024 * 1024
"""With less room left in memory, batches go to the disk: several of the largest fit."""

TEND_S: Final = 1.0
_PREFIX: Final = "writ-batches-"
_LINK: Final = "batches"


class Staging:
    """Keeps the links of one broker's streams. `memory` must be a file system in memory; None without one."""

    def __init__(self, store: Path, memory: Path | None) -> None:
        self._store = store
        self._memory = memory
        self._folder: Path | None = None
        self._tending: asyncio.Task[None] | None = None

    @classmethod
    def beside(cls, store: Path) -> Staging:
        """For the broker whose data is in `store`, as this system allows."""
        there = sys.platform == "linux" and MEMORY.is_mount() and os.access(MEMORY, os.W_OK)
        return cls(store, MEMORY if there else None)

    def clear(self) -> None:
        """Takes the links of an earlier run away. Only while no broker runs on the store."""
        for link in self._links():
            if link.is_symlink():
                folder = link.readlink().parent
                link.unlink()
                if folder.name.startswith(_PREFIX):
                    shutil.rmtree(folder, ignore_errors=True)

    def start(self) -> None:
        """Tends the links from now on: streams come, and a folder in memory may be cleaned away by others.

        Called as soon as the broker is ready: it takes away all `batches` of an earlier run when it starts.
        """
        if self._memory is not None:
            self.tend()
            self._tending = asyncio.create_task(self._tend())

    def stop(self) -> None:
        """Gives the memory back. Only when the broker has ended."""
        if self._tending is not None:
            self._tending.cancel()
            self._tending = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        self.clear()

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(TEND_S)
            self.tend()

    def tend(self) -> None:
        """Makes what is missing, and takes the links away where memory runs short."""
        if self._memory is None:
            return
        with contextlib.suppress(OSError):
            state = os.statvfs(self._memory)
            room = state.f_bavail * state.f_frsize >= ROOM_BYTES
            for link in self._links():
                if link.is_symlink():
                    if room:
                        link.readlink().mkdir(mode=0o700, parents=True, exist_ok=True)
                    else:
                        link.unlink()
                elif room and not link.exists():
                    # A folder that is there is the broker's, who may be about to put a batch into it.
                    self._link(link)

    def _links(self) -> list[Path]:
        return [stream / _LINK for stream in self._store.glob("*/*/streams/*")]

    def _link(self, link: Path) -> None:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._memory))
        stream = link.parent
        target = self._folder / f"{stream.parent.parent.name}~{stream.name}"
        target.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # the broker was faster
            link.symlink_to(target)
