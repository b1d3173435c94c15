"""A broker that others run: one server or a cluster, configured with what `writ broker trust` wrote.

    <directory>/  keys/          as with a broker of our own: the operator's seed, those of principals, and
                                 credentials of Writ's own users, written anew at every start. All who join
                                 the broker need the same ones; `ca.pem` among them makes all of it TLS

Several nodes and orchestrators join the same broker. Each is a gate, and has the roll from the log: logins go
on as long as one of them lives. What an account is, all of them tell the broker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from .accounts import AccountSettings, Principal, own_accounts
from .clock import SystemClock
from .doors import DEFAULT_TENANT, OWNER, Doors, local_principal, prepare, write_credentials
from .owned import BrokerError, OwnerLock
from .ports import OutcomeUnknown
from .roll import ROLL_FILE, AccountsRefused, BrokerSilent, Roll
from .servers import Servers, look_at_servers
from .spread import Spread
from .streams import ApiError, api, telling
from .trust import Trust

if TYPE_CHECKING:
    from .hardened import HardenedClient

START_WAIT_S: Final = 30.0
_AGAIN_S: Final = 0.1
USUAL_REPLICAS: Final = 3
"""Outlive the loss of one server."""

log = logging.getLogger("writ.broker")


class JoinedBroker(Doors):
    """A connection to a broker that runs by itself. Make one with `start`; it is left with `stop`."""

    def __init__(
        self,
        directory: Path,
        roll: Roll,
        trust: Trust,
        url: str,
        settings: AccountSettings,
        lock: OwnerLock | None,
    ) -> None:
        super().__init__(directory, roll, trust)
        self._url = url
        self.settings = settings
        self._lock = lock
        self.admitting = asyncio.Event()
        """Set when this process lets principals in."""

    @classmethod
    async def start(
        cls,
        directory: Path,
        url: str,
        settings: AccountSettings | None = None,
        lock: OwnerLock | None = None,
    ) -> Self:
        """Joins the broker at `url`, several with commas; returns when it knows Writ's own accounts.

        A `lock` of the directory is held until `stop`; who has it keeps the roll there as well. Nobody is let
        in before `set_principals`. Raises `Unreachable` where no server answers or none believes our keys,
        `BrokerError` for what it does not take, `KeyFileError` for an unusable key file.
        """
        directory = prepare(directory)
        settings = settings or AccountSettings()
        trust = Trust.in_directory(directory / "keys")
        write_credentials(directory, trust)
        keys = directory / "keys"
        kept = keys if lock is not None else None  # a directory of another's has the roll of its owner
        if kept is not None:
            (kept / ROLL_FILE).unlink(missing_ok=True)  # others may have let people in since it was written
        broker = cls(directory, Roll(trust, settings, SystemClock(), kept), trust, url, settings, lock)
        try:
            await broker._follow(START_WAIT_S)
            await broker._until_ready()
            now_s = SystemClock().wall_us() // 1_000_000
            try:
                await broker.roll.tell(own_accounts(settings, trust, now_s))
            except AccountsRefused as error:
                raise BrokerError(f"the broker at {url} does not take Writ's accounts: {error}") from error
        except BaseException:
            await broker.stop()
            raise
        return broker

    @property
    def url(self) -> str:
        return self._url

    @property
    def founders(self) -> tuple[Principal, ...]:
        """Whom a log that is empty begins with: the owner, whose seed is made at first use."""
        return (local_principal(self.directory, DEFAULT_TENANT, OWNER),)

    async def set_principals(
        self,
        principals: Sequence[Principal],
        changed_s: Mapping[str, int] | None = None,
        gone: Iterable[str] = (),
    ) -> None:
        if self.admitting.is_set():
            await super().set_principals(principals, changed_s)
            return
        try:
            await self.roll.begin(principals, gone)
        except BrokerSilent as error:
            raise BrokerError(f"the broker did not take the principals: {error}") from error
        except AccountsRefused as error:  # it is told again; the others may come in
            log.error("the broker did not take all principals: %s", error)
        await self._open_gate(self.settings.login_life_s)  # before, it would have turned everybody away
        self.admitting.set()

    async def spread(self, replicas: int | None, tags: tuple[str, ...]) -> Spread:
        """How streams are kept here: on so many servers, or as suits the broker's size.

        Raises BrokerError where it has fewer, or does not tell: on one alone they would be kept for good.
        """
        servers = await self.servers()
        if not servers.found:
            raise BrokerError(f"of the broker at {self._url} no server tells how many there are; start again")
        size = servers.size
        if replicas is None:
            return Spread(USUAL_REPLICAS if size >= USUAL_REPLICAS else 1, tags, move=bool(tags))
        if replicas > size:
            raise BrokerError(f"{replicas} replicas are asked for, and the broker has {size} servers")
        return Spread(replicas, tags, move=True)

    async def servers(self) -> Servers:
        """Its servers, as far as they answer. Raises OutcomeUnknown where the connection fails."""
        with telling("of its servers"):
            return await look_at_servers(self._links[0])

    async def _until_ready(self) -> None:
        """Returns when the cluster can make streams, and the server that we are on knows our account."""
        link = await self._link("log")
        loop = asyncio.get_running_loop()
        until = loop.time() + START_WAIT_S
        while (fault := await self._unready(link)) is not None:
            if loop.time() > until:
                raise BrokerError(
                    f"the broker at {self._url} was not ready after {START_WAIT_S:g} s: {fault}"
                )
            await asyncio.sleep(_AGAIN_S)

    async def _unready(self, link: HardenedClient) -> str | None:
        try:
            servers = await self.servers()
            if not servers.ready:
                names = ", ".join([each.name for each in servers.found]) or "none"
                return f"JetStream has no leader, and of {servers.size} servers these answer: {names}"
            await api(link, "INFO")
        except (ApiError, OutcomeUnknown) as fault:
            return str(fault)
        return None

    async def wait(self) -> None:
        """Never returns: who runs the broker starts it again, and every connection comes back by itself."""
        await asyncio.get_running_loop().create_future()

    async def stop(self) -> None:
        """Leaves the broker. May be called again."""
        await self._close_links()
        if self._lock is not None:
            self._lock.release()
