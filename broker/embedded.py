"""A nats-server of our own, run as a child process on a directory.

    <directory>/  broker.conf    written anew at every start (mode 0600)
                  keys/          seeds of principals, the operator's, credentials of Writ's own users, written
                                 anew at every start, and who is let in (all mode 0600, the directory 0700)
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
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import nats.errors
import nats.js.errors

from .accounts import SERVICE_ACCOUNT, BrokerSettings, Principal, render
from .clock import SystemClock
from .connect import login
from .doors import DEFAULT_TENANT, OWNER, Doors, local_principal, prepare, write_credentials
from .free_ports import choose_port
from .hardened import HardenedClient
from .owned import (
    DEFAULT_DIRECTORY,
    POLL_S,
    STOP_GRACE_S,
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
from .roll import Roll
from .tls import CA_FILE
from .trust import Trust

READY_TIMEOUT_S: Final = 30.0

_FREE_PORT_TRIES: Final = 3
_WRITE_ERROR: Final = b"critical write error"


@dataclass(frozen=True, slots=True)
class BrokerExit:
    """How the server process ended: its return code, whether we asked for it, the last lines of its log."""

    code: int
    expected: bool
    log_tail: str


class EmbeddedBroker(Doors):
    """A running nats-server. Make one with `start`; end it with `stop`, or use it as `async with`."""

    def __init__(
        self,
        directory: Path,
        settings: BrokerSettings,
        roll: Roll,
        trust: Trust,
        process: asyncio.subprocess.Process,
        lock: OwnerLock,
        log_offset: int,
    ) -> None:
        super().__init__(directory, roll, trust)
        self.settings = settings
        self._process = process
        self._lock = lock
        self._log_offset = log_offset
        self._ending = False
        self._heard = log_offset
        self._gave_up = False

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
        directory = prepare(directory)
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
                if settings.max_file_store_bytes is None:
                    # The server's own choice, three quarters of what is free now, may be less than is used.
                    settings = replace(settings, max_file_store_bytes=shutil.disk_usage(directory).total)
                write(directory / "broker.conf", render(settings, trust))
                write_credentials(directory, trust)
                _write_authority(directory, settings)
                roll = Roll(trust, settings, SystemClock(), directory / "keys")
                roll.prepare(everyone, directory / "accounts")
                offset = size_of(directory / "broker.log")
                process = await spawn(program, directory)
                broker = cls(directory, settings, roll, trust, process, lock, offset)
                try:
                    await broker._until_ready(ready_timeout_s)
                    await broker._follow()
                    await broker._open_gate(settings.login_life_s)
                except BaseException as error:
                    died, told = process.returncode, isinstance(error, BrokerStartError)
                    await broker._end(signal.SIGKILL)
                    if died is not None and isinstance(error, Exception) and not told:
                        raise broker._start_error(f"nats-server ended with code {died} at start") from error
                    lost_the_port = "address already in use" in str(error)
                    if told and lost_the_port and tries:
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
    def founders(self) -> tuple[Principal, ...]:
        """Whom a log that is empty begins with."""
        return self.principals

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

    async def wait(self) -> BrokerExit:
        """Return when the server process has ended, by itself (`expected` False) or through `stop`."""
        code = await self._process.wait()
        return BrokerExit(code, self._ending, tail(self.directory, self._log_offset))

    def gave_up_writing(self) -> bool:
        """Whether the server has met a write error since it was started: it then stores nothing more."""
        path = self.directory / "broker.log"
        try:
            if self._heard > size_of(path):
                self._heard = 0  # the log was turned over
            with path.open("rb") as file:
                file.seek(self._heard)
                said = file.read()
        except FileNotFoundError:  # for a moment, while the server turns it over
            return self._gave_up
        self._heard += len(said)
        self._gave_up = self._gave_up or _WRITE_ERROR in said.lower()
        return self._gave_up

    def give_up(self) -> None:
        """Ends the server as if it had died by itself: whoever guards it starts it again."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

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
        await self._close_links()
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
            client = HardenedClient()
            await client.connect(
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
