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

One process owns the directory, and the broker stops with it (`owned.py`): call `EmbeddedBroker.start` on the
thread that runs the owner's event loop to its end.

Runs on Linux and macOS (flock, signals).
"""
# nats-py leaves its keyword options untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
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
from .free_ports import choose_port
from .gate import Gate
from .glass import BREAK_GLASS, watch
from .keys import DIRECTORY_MODE, load_or_create
from .owned import (
    DEFAULT_DIRECTORY,
    POLL_S,
    STOP_GRACE_S,
    BrokerError,
    BrokerStartError,
    OwnerLock,
    read,
    server_binary,
    size_of,
    spawn,
    stop_orphan,
    tail,
    write,
)
from .roll import AccountsRefused, Roll
from .tls import CA_FILE
from .trust import Trust

if TYPE_CHECKING:
    from .hardened import HardenedClient

DEFAULT_TENANT: Final = "default"
OWNER: Final = "owner"

READY_TIMEOUT_S: Final = 30.0

_FREE_PORT_TRIES: Final = 3


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


class EmbeddedBroker:
    """A running nats-server. Make one with `start`; end it with `stop`, or use it as `async with`."""

    def __init__(
        self,
        directory: Path,
        settings: BrokerSettings,
        roll: Roll,
        process: asyncio.subprocess.Process,
        lock: OwnerLock,
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
        lock = OwnerLock.take(directory)
        try:
            await stop_orphan(directory)
            everyone = _with_owner(directory, principals)
            trust = Trust.in_directory(directory / "keys")
            _name_the_data(directory, trust)
            tries = 1 if port is not None else _FREE_PORT_TRIES
            while True:
                tries -= 1
                settings = BrokerSettings(
                    port=choose_port(directory, port),
                    store_dir=str(directory / "jetstream"),
                    log_file=str(directory / "broker.log"),
                    accounts_dir=str(directory / "accounts"),
                )
                settings = configure(settings) if configure else settings
                write(directory / "broker.conf", render(settings, trust))
                _write_credentials(directory, trust)
                _write_authority(directory, settings)
                roll = Roll(trust, settings, SystemClock())
                roll.prepare(everyone, directory / "accounts")
                offset = size_of(directory / "broker.log")
                process = await spawn(program, directory)
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
                write(directory / "ports", json.dumps({"nats": settings.port}) + "\n")
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

        Whose roles changed, or who lost a key or token, is disconnected, and comes back with what it may do
        now; who is gone is disconnected for good. All other connections are as before. Raises `BrokerError`
        when the broker does not take an account, ValueError for principals that cannot be told apart.
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

    async def tell_break_glass(self, heard: Callable[[str], None]) -> None:
        """Has `heard` called with words about each connection of the user `break-glass` from here on."""
        public = Trust.in_directory(self.directory / "keys").user(BREAK_GLASS).public
        await watch(self._links[0], public, heard)

    async def wait(self) -> BrokerExit:
        """Return when the server process has ended, by itself (`expected` False) or through `stop`."""
        code = await self._process.wait()
        return BrokerExit(code, self._ending, tail(self.directory, self._log_offset))

    async def stop(self) -> None:
        """End the server gracefully, by force after 10 s, and give up the directory. May be called again."""
        await self._end(signal.SIGTERM)
        self._release()

    async def kill(self) -> None:
        """End the server as `kill -9` does, and give up the directory. For tests of what survives it."""
        await self._end(signal.SIGKILL)
        self._release()

    def _release(self) -> None:
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
            await asyncio.sleep(POLL_S)

    def _start_error(self, what: str) -> BrokerStartError:
        said = tail(self.directory, self._log_offset) or "(nothing)"
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
        write(_credentials_path(directory, name), text)


def _write_authority(directory: Path, settings: BrokerSettings) -> None:
    path = directory / "keys" / CA_FILE
    if settings.tls is None:
        path.unlink(missing_ok=True)
    else:
        settings.tls.check()
        write(path, read(settings.tls.ca))


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
