"""A disk that can lose its power: a file system of its own in a file, as a loop device.

A cut stops the file system at once, with the journal as it is on the disk (`EXT4_IOC_SHUTDOWN` with no flush
of the log). What was written and not synced was in memory alone, and is gone when it is mounted again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import Final

_SHUTDOWN: Final = 0x8004587D
"""_IOR('X', 125, __u32), of <linux/ext4.h>."""

_NO_LOG_FLUSH: Final = 2
_UNMOUNT_S: Final = 20.0
_MIB: Final = 1024 * 1024


def missing() -> str | None:
    """Why no such disk can be had here; None where one can."""
    if os.geteuid() != 0:
        return "mounting wants root"
    if not os.path.exists("/dev/loop-control"):
        return "there are no loop devices"
    wanted = [name for name in ("mkfs.ext4", "mount", "umount") if shutil.which(name) is None]
    return f"{wanted[0]} is not installed" if wanted else None


class Disk:
    """In `folder`: an image, and where it is mounted."""

    def __init__(self, folder: Path, size_mib: int = 512) -> None:
        self._image = folder / "disk.img"
        self.path = folder / "disk"
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(size_mib * _MIB)
        _run("mkfs.ext4", "-q", "-F", str(self._image))
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.path))

    def cut(self) -> None:
        """From here on nothing reaches the disk, nor is read from it."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        """Returns when nobody uses it any more; those who do must have been ended."""
        until = time.monotonic() + _UNMOUNT_S
        while True:
            done = subprocess.run(("umount", str(self.path)), capture_output=True, text=True, check=False)
            if done.returncode == 0 or not os.path.ismount(self.path):
                return
            if time.monotonic() > until:
                raise AssertionError(f"{self.path} is in use still: {done.stderr}")
            time.sleep(0.05)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
