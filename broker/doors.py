"""A broker from our side: credentials of Writ's own users, the gate that lets principals in, and their roll.

The same for a broker that is a child of ours (`embedded.py`) and for one that others run (`joined.py`).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from .accounts import ALL_ROLES, INTERNAL_USERS, Principal, Role
from .clock import SystemClock
from .connect import Target, connect
from .gate import Gate
from .glass import BREAK_GLASS, watch
from .keys import DIRECTORY_MODE, load_or_create
from .owned import STOP_GRACE_S, BrokerError, write
from .roll import AccountsRefused, Roll
from .trust import Trust

if TYPE_CHECKING:
    from .hardened import HardenedClient

DEFAULT_TENANT: Final = "default"
OWNER: Final = "owner"


def local_principal(directory: Path, tenant: str, name: str, roles: frozenset[Role] = ALL_ROLES) -> Principal:
    """A principal whose seed is kept in the broker's directory, made at first use.

    Raises ValueError for a bad name and `KeyFileError` for a key file that cannot be used.
    """
    key = load_or_create(_principal_key_path(directory, tenant, name))
    return Principal(tenant=tenant, name=name, public=key.public, roles=roles)


class Doors(ABC):
    """What both kinds of broker are: a place, the keys for it, and the roll of whom the gate lets in."""

    def __init__(self, directory: Path, roll: Roll, trust: Trust) -> None:
        self.directory = directory
        self.roll = roll
        self._trust = trust
        self._links: list[HardenedClient] = []

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients of this machine connect."""

    @property
    @abstractmethod
    def founders(self) -> tuple[Principal, ...]:
        """Whom a log that is empty begins with."""

    def key_path(self, name: str) -> Path:
        """The file that lets in an internal user (`log`, `answer`) or a principal (`owner`, `acme.robot`).

        A bare name means the tenant `default`. Raises KeyError when no seed of that name is kept here.
        """
        if name in INTERNAL_USERS:
            return credentials_path(self.directory, name)
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

    @property
    def owes(self) -> bool:
        """Whether the broker did not take all of it: `set_principals` tells it again."""
        return self.roll.owes

    async def set_principals(
        self,
        principals: Sequence[Principal],
        changed_s: Mapping[str, int] | None = None,
        gone: Iterable[str] = (),
    ) -> None:
        """Replace the principals of the running broker; `owner` is one only if it is among them.

        Whose roles changed, or who lost a key or token, is disconnected, and comes back with what it may do
        now; who is gone is disconnected for good. All other connections are as before. `changed_s` is as in
        `Roll.set`; `gone` has accounts that another process may not have closed. Raises `BrokerError` when
        the broker does not take an account, ValueError for principals that cannot be told apart.
        """
        try:
            await self.roll.set(principals, changed_s)
        except AccountsRefused as error:
            raise BrokerError(f"the broker did not take the new principals: {error}") from error

    async def tell_break_glass(self, heard: Callable[[str], None]) -> None:
        """Has `heard` called with words about each connection of the user `break-glass` from here on."""
        await watch(self._links[0], self._trust.user(BREAK_GLASS).public, heard)

    async def _follow(self, wait_s: float = 0.0) -> None:
        self.roll.follow(await self._link("system", wait_s))

    async def _open_gate(self, life_s: int) -> None:
        self.gate_link = await self._link("gate")
        await Gate(self._trust, self.roll, SystemClock(), life_s).open(self.gate_link)

    async def _link(self, user: str, wait_s: float = 0.0) -> HardenedClient:
        target = Target(self.url, self.key_path(user))
        link = await connect(target, f"writ:{user}", inbox_prefix="_INBOX", wait_s=wait_s)
        self._links.append(link)
        return link

    async def _close_links(self) -> None:
        closing = {asyncio.create_task(link.close()) for link in self._links}
        self._links = []
        if closing:
            # Not awaited one by one: nats-py may cancel whoever closes a connection that is broken.
            await asyncio.wait(closing, timeout=STOP_GRACE_S)


def credentials_path(directory: Path, user: str) -> Path:
    """Where the credentials of one of Writ's own users are."""
    return directory / "keys" / f"{user}.creds"


def write_credentials(directory: Path, trust: Trust) -> None:
    """Writes those of all of Writ's own users."""
    now_s = SystemClock().wall_us() // 1_000_000
    for name, user in INTERNAL_USERS.items():
        text = trust.credentials(user.account, name, user.permissions.claims(), now_s)
        write(credentials_path(directory, name), text)


def prepare(directory: Path) -> Path:
    """The directory as an absolute path, made with its folders where it is missing. Raises BrokerError."""
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


def _principal_key_path(directory: Path, tenant: str, name: str) -> Path:
    # Names may hold a slash. The dot, which they cannot hold, keeps these files apart from internal users'.
    return directory / "keys" / f"{quote(tenant, safe='@+=,:')}.{quote(name, safe='@+=,:')}.nk"
