"""The worker's side of the mould: starting attempts in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from writ.schemas.policy import Isolation

from ..environments import Environment
from ..errors import LevelLacking, LoadError, WorkerError
from . import places
from .frames import MESSAGE_MAX_BYTES, Loaded, Setup, Spawn, encode, read_from_mould
from .levels import lacking, sandbox
from .limits import AttemptLimits

_PREFIX: Final = "writ-run-"
LOAD_WAIT_S: Final = 60.0
SPARES_MAX: Final = 4
_PASSED_ON: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE")


class NotIsolated(Exception):
    """An attempt cannot be started as it must be kept apart."""


@dataclass(slots=True)
class Started:
    """The worker's ends of one attempt: what it says, writes, and the line to its guard."""

    link: socket.socket
    out: int
    err: int
    line: socket.socket
    folder: str
    kill: Callable[[], None]
    """Ends the guard, too."""

    def tell(self, what: bytes) -> None:
        """TERM or KILL to every process of the attempt."""
        with contextlib.suppress(OSError):
            self.line.send(what)


class Mould:
    """One process that has the module imported; see `mould.py`."""

    def __init__(
        self,
        setup: Setup,
        ahead: Sequence[str] = (),
        folder: str = "",
        environment: Environment | None = None,
    ) -> None:
        self.folder = folder
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*ahead, *_interpreter(environment), str(theirs.fileno())],
                env=_environment(),
                # Modules are looked for where it stands, too: that must be the release's code, not ours.
                cwd=None if environment is None else environment.folder,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_stderr() else subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._control.send(encode(setup))
        self._loaded: Loaded | None = None

    @property
    def descriptor(self) -> int:
        return self._control.fileno()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def loaded(self) -> Loaded:
        """What it has imported; waits for it, up to a minute. Raises NotIsolated, LoadError."""
        if self._loaded is None:
            self._control.settimeout(LOAD_WAIT_S)
            try:
                data = self._control.recv(MESSAGE_MAX_BYTES)
            except OSError as error:
                raise NotIsolated(f"the module was not imported within {LOAD_WAIT_S:g} s: {error}") from error
            if not data:
                raise NotIsolated(
                    f"the process for attempts ended with status {self._process.wait()} at its start"
                )
            said = read_from_mould(data)
            if not isinstance(said, Loaded):
                raise LoadError(said.text)
            self._loaded = said
            self._control.settimeout(None)
        return self._loaded

    def spawn(self, folder: str, *, network: bool, kill: Callable[[], None]) -> Started:
        """Starts an attempt. Raises OSError."""
        link, its_link = socket.socketpair()
        line, its_line = socket.socketpair()
        out, its_out = os.pipe()
        err, its_err = os.pipe()
        handed = [its_link.detach(), its_out, its_err, its_line.detach()]
        try:
            socket.send_fds(self._control, [encode(Spawn(folder, network))], handed)
        except OSError:
            for descriptor in (link.detach(), line.detach(), out, err):
                os.close(descriptor)
            raise
        finally:
            for descriptor in handed:
                os.close(descriptor)
        return Started(link, out, err, line, folder, kill)

    def close(self) -> None:
        """Lets it end; its guards, too, where they have no attempt."""
        self._control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
            return
        self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Pool:
    """Starts attempts at one level. `secrets` are files that none may read. With an `environment` they run
    there: by its interpreter, with its modules and none of the worker's but Writ and what that needs.

    Raises LevelLacking where the machine lacks it, LoadError where a module cannot be imported.
    """

    def __init__(
        self,
        modules: Sequence[str],
        level: Isolation,
        limits: AttemptLimits,
        secrets: Sequence[Path],
        concurrency: int,
        environment: Environment | None = None,
    ) -> None:
        lacks = lacking(level)
        if lacks is not None:
            raise LevelLacking(lacks)
        self.level, self.limits = level, limits
        hidden = tuple([os.path.abspath(secret) for secret in secrets])
        self._environment = environment
        here, path = Path.cwd(), dict.fromkeys([os.getcwd(), *map(os.path.abspath, sys.path)])
        if environment is not None:
            here, path = environment.folder, dict.fromkeys(environment.path)
        whole = tuple([_absolute(each, here) for each in modules])
        self._setup = Setup(whole, level, limits, tuple(path), hidden)
        _clear_up()
        self._root = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
        self._finalizer = weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)
        self._numbers = itertools.count(1)
        self._spares: deque[Mould] = deque()
        self._spares_wanted = min(concurrency, SPARES_MAX) if level is Isolation.BUBBLEWRAP else 0
        self._mould = Mould(msgspec.structs.replace(self._setup, asked=True), environment=environment)
        try:
            loaded = self._mould.loaded()
        except NotIsolated as error:
            self.close()
            raise WorkerError(str(error)) from error
        except LoadError:
            self.close()
            raise
        self.tasks, self.schemas = loaded.tasks, loaded.schemas
        self._readable = places.readable(loaded.roots, hidden)
        if self._spares_wanted:
            self._mould.close()  # it was for the names alone

    def warm(self) -> None:
        """Starts what stands by for attempts to come."""
        while len(self._spares) < self._spares_wanted:
            self._spares.append(self._sandboxed(network=False))

    async def start(self, *, network: bool) -> Started:
        """An attempt's processes, begun. Raises NotIsolated."""
        try:
            if self.level is Isolation.BUBBLEWRAP:
                return await self._from_spare(network)
            if not self._mould.alive:
                self._mould.close()
                self._mould = self._new_mould()
                await asyncio.to_thread(self._mould.loaded)
            return self._mould.spawn(self._folder(), network=network, kill=lambda: None)
        except (OSError, LoadError, msgspec.MsgspecError) as error:
            raise NotIsolated(f"an attempt's process cannot be started: {error}") from error

    async def _from_spare(self, network: bool) -> Started:
        mould: Mould | None = None
        while self._spares and not network and mould is None:
            mould = self._spares.popleft()
            if not mould.alive:
                mould.close()
                mould = None
        mould = mould or self._sandboxed(network=network)
        await asyncio.to_thread(mould.loaded)
        self.warm()
        return mould.spawn(mould.folder, network=network, kill=mould.kill)

    def _sandboxed(self, *, network: bool) -> Mould:
        folder = self._folder()
        ahead = sandbox(folder, self._readable, network=network)
        return self._new_mould(ahead, folder)

    def _new_mould(self, ahead: Sequence[str] = (), folder: str = "") -> Mould:
        return Mould(self._setup, ahead, folder, self._environment)

    def _folder(self) -> str:
        folder = os.path.join(self._root, str(next(self._numbers)))
        os.makedirs(folder, mode=0o700)
        return folder

    def close(self) -> None:
        for mould in (self._mould, *self._spares):
            mould.close()
        self._spares.clear()
        self._finalizer()


def _clear_up() -> None:
    """Removes the folders of workers that were killed, where their guards could not."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, PermissionError, OverflowError):
            continue  # not ours


def _absolute(place: str, here: Path) -> str:
    """Where tasks stand that are named as from `here`, whatever the folder that it is read in."""
    path, colon, name = place.partition(":")
    is_file = path.endswith(".py") or "/" in path
    return f"{os.path.abspath(here / path) if is_file else path}{colon}{name}"


def _interpreter(environment: Environment | None) -> list[str]:
    """The command line of a mould, but for its descriptor."""
    mould = f"{__package__}.mould"
    if environment is None:
        return [sys.executable, "-m", mould]
    # Writ comes from where this worker has it; the mould then looks for modules where the setup says.
    folders = [path for path in sys.path if os.path.isdir(path)]
    begin = f"import site; [site.addsitedir(folder) for folder in {folders!r}]; "
    return [str(environment.python), "-I", "-c", f"{begin}from {mould} import main; main()"]


def _environment() -> dict[str, str]:
    """What is handed on of the worker's environment: nothing that names a broker or holds a secret."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def _has_stderr() -> bool:
    try:
        return sys.stderr.fileno() >= 0
    except (OSError, ValueError, AttributeError):
        return False
