"""Connecting to the broker: where it is, who we are, and what it told us that a time-out would hide.

nats-py reports a denied publish as a time-out and a denied subscribe as success; the reason reaches only its
error callback. `Watch` is that callback: it keeps the reason and passes it to whoever waits.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from writ.schemas.ids import token_fault

from .errors import NotAdmitted, PermissionDenied, Unreachable
from .tls import CA_FILE, client_context

if TYPE_CHECKING:
    from .hardened import HardenedClient

DEFAULT_URL: Final = "nats://127.0.0.1:4222"
PENDING_MAX_BYTES: Final = 64 * 1024 * 1024
"""What may wait to be sent while the broker is away."""

RECONNECT_WAIT_S: Final = 0.25
ADMITTED_S: Final = 0.75
"""How long at least a refused login is tried again: the broker knows a principal moments after it is made."""

REFUSED_S: Final = 15.0
"""How long logins are refused before one who was in is told so: a broker may be up before its gate."""

PING_INTERVAL_S: Final = 10
"""Two unanswered pings end a connection that is only half there."""

_NOT_ADMITTED: Final = "authorization"
"""In what the broker, or nats-py, says of a login that was refused."""

_IN_THE_CLEAR: Final = "WRONG_VERSION_NUMBER"
"""What OpenSSL says of an answer that is no TLS."""

_VIOLATION: Final = re.compile(
    r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Target:
    """A broker, and who we are to it.

    `url` may name several servers, separated by commas. `key_path` is the file with the principal's NKey
    seed, or a credentials file (`.creds`); None where the broker asks for none. Raises ValueError for names
    that cannot stand in a subject.

    `ca_path` is a PEM file with the authority that the broker's certificate is checked by; None where a
    `ca.pem` beside the key file is to be taken, or else no TLS.
    """

    url: str = DEFAULT_URL
    key_path: Path | None = None
    tenant: str = "default"
    principal: str = "owner"
    ca_path: Path | None = None

    def __post_init__(self) -> None:
        fault = token_fault(self.tenant, "tenant") or token_fault(self.principal, "principal")
        if fault:
            raise ValueError(fault)

    @property
    def shown(self) -> str:
        """What we log in with, in words."""
        return f"the key in {self.key_path}" if self.key_path else "a login without a key"

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """From what `writ env` sets: NATS_URL, NATS_NKEY, NATS_CA (files), WRIT_TENANT, WRIT_PRINCIPAL."""
        env = os.environ if env is None else env
        key, ca = env.get("NATS_NKEY"), env.get("NATS_CA")
        return cls(
            url=env.get("NATS_URL") or DEFAULT_URL,
            key_path=Path(key) if key else None,
            tenant=env.get("WRIT_TENANT") or "default",
            principal=env.get("WRIT_PRINCIPAL") or "owner",
            ca_path=Path(ca) if ca else None,
        )


class Watch:
    """What a connection was told: whether it stands, what it was denied, why it ended.

    `connected` is set while the connection stands. `on_denied` is called with every denial as it comes.
    """

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.ended: Exception | None = None
        """Set when the connection ended for good without our asking."""
        self.last_denied: PermissionDenied | None = None
        self._refused_since: float | None = None
        self.on_denied: Callable[[PermissionDenied], None] | None = None
        self.on_ended: Callable[[], None] | None = None
        self.on_broken: Callable[[bool], None] | None = None
        """Called when the connection breaks, with True, and when it stands again."""

        self._failed: asyncio.Queue[Exception] | None = asyncio.Queue()
        """Until the connection stands for the first time; from then on nobody asks what fails."""

    @property
    def not_admitted(self) -> bool:
        """Whether the broker has not let us in for so long that it is not for want of a gate."""
        since = self._refused_since
        return since is not None and asyncio.get_running_loop().time() - since >= REFUSED_S

    async def error(self, error: Exception) -> None:
        """The error callback."""
        found = _VIOLATION.search(str(error))
        if found is None:
            if not self.connected.is_set():
                if _NOT_ADMITTED not in str(error).lower():
                    self._refused_since = None
                elif self._refused_since is None:
                    self._refused_since = asyncio.get_running_loop().time()
                if self._failed is not None:
                    self._failed.put_nowait(error)
            return
        verb = "publish" if found[1].lower() == "publish" else "subscribe"
        self.last_denied = PermissionDenied(found[2], verb)
        if self.on_denied is not None:
            self.on_denied(self.last_denied)

    async def first_failure(self, servers: int) -> Exception:
        """Returns once each server has failed once: what is wrong at one that is there, if one is."""
        failed = self._failed
        assert failed is not None, "it has not stood yet"
        failures = [await failed.get() for _ in range(servers)]
        if isinstance(failures[-1], ConnectionResetError):
            failures.append(await failed.get())  # a refused login can look like this; the next try tells
        telling = [failure for failure in failures if not isinstance(failure, ConnectionError)]
        return (telling or failures)[-1]

    async def opened(self) -> None:
        self.connected.set()
        if self.on_broken is not None:
            self.on_broken(False)
        self._refused_since = None
        self._failed = None

    async def broken(self) -> None:
        self.connected.clear()
        if self.on_broken is not None:
            self.on_broken(True)

    async def closed(self) -> None:
        self.connected.clear()
        if self.on_ended is not None:
            self.on_ended()


_AUTHORITY: Final = "put its authority (keys/ca.pem of the node) beside the key file, or set NATS_CA to it"


def _in_words(why: object) -> object:
    """What is wrong, where the reason is about TLS."""
    if isinstance(why, ssl.SSLCertVerificationError):
        return f"its certificate does not stand: {why.verify_message}; {_AUTHORITY}"
    if isinstance(why, ssl.SSLError):
        return f"it does not speak TLS here, or not ours ({why.reason}); without TLS unset NATS_CA"
    if "'NoneType' object has no attribute" in str(why) or "ssl" in str(why).lower():
        return f"it speaks TLS; {_AUTHORITY}"
    return why


def login(key_path: Path | None, ca_path: Path | None = None) -> dict[str, Any]:
    """The options of nats-py with which to log in by a file: an NKey seed, or credentials (`.creds`).

    With an authority, or a `ca.pem` beside the file, TLS comes before anything else. Raises TlsError where
    that file cannot be used.
    """
    options: dict[str, Any] = {}
    if key_path is not None:
        options["user_credentials" if key_path.suffix == ".creds" else "nkeys_seed"] = str(key_path)
        beside = key_path.with_name(CA_FILE)
        ca_path = ca_path or (beside if beside.is_file() else None)
    if ca_path is not None:
        options |= {"tls": client_context(ca_path), "tls_handshake_first": True}
    return options


async def connect(
    target: Target,
    name: str,
    *,
    inbox_prefix: str | None = None,
    watch: Watch | None = None,
    wait_s: float = 0.0,
    try_s: float = 5.0,
) -> HardenedClient:
    """A connection that reconnects for ever; `name` is shown by the broker's own tools.

    The inbox prefix is `_INBOX_<principal>` unless given. Tries for `wait_s` seconds, and at least once, each
    time up to `try_s` for every server, as one of them may take connections and say nothing. Raises
    Unreachable, NotAdmitted among them.
    """
    # 80 ms that a program which never connects saves:
    from .hardened import HardenedClient  # noqa: PLC0415

    watch = watch or Watch()
    servers = [url.strip() for url in target.url.split(",") if url.strip()]
    if target.ca_path is not None and not target.ca_path.is_file():
        raise Unreachable(target.url, f"authority file {target.ca_path} does not exist")
    if target.key_path is not None and not target.key_path.is_file():
        raise Unreachable(target.url, f"key file {target.key_path} does not exist")
    loop = asyncio.get_running_loop()
    start = loop.time()
    while True:
        connection = HardenedClient()
        options: dict[str, Any] = {
            "servers": servers,
            "name": name,
            "error_cb": watch.error,
            "reconnected_cb": watch.opened,
            "disconnected_cb": watch.broken,
            "closed_cb": watch.closed,
            "allow_reconnect": True,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": RECONNECT_WAIT_S,
            "connect_timeout": try_s,
            "ping_interval": PING_INTERVAL_S,
            "max_outstanding_pings": 2,
            "pending_size": PENDING_MAX_BYTES,
            "inbox_prefix": inbox_prefix or f"_INBOX_{target.principal}",
            **login(target.key_path, target.ca_path),
        }
        connecting = asyncio.ensure_future(connection.connect(**options))
        failing = asyncio.ensure_future(watch.first_failure(len(servers)))
        try:
            whole_s = try_s * len(servers)
            await asyncio.wait({connecting, failing}, timeout=whole_s, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done() and connecting.exception() is None:
                await watch.opened()
                return connection
            why: object = f"no answer within {whole_s:g} s"
            if connecting.done():
                why = connecting.exception()
            elif failing.done():
                why = failing.result()
        finally:
            failing.cancel()
            if not connecting.done():
                connecting.cancel()
                await asyncio.wait({connecting})
        await connection.close()
        refused = _NOT_ADMITTED in str(why).lower()
        # Where a handshake begins late, as on a busy machine, the broker has spoken in the clear already.
        late = getattr(why, "reason", None) == _IN_THE_CLEAR
        if loop.time() >= start + max(wait_s, ADMITTED_S if refused or late else 0.0):
            if refused:
                raise NotAdmitted(target.url, target.shown)
            raise Unreachable(target.url, _in_words(why))
        await asyncio.sleep(RECONNECT_WAIT_S)
