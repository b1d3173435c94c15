"""The roll: whom the gate lets in, and the accounts of the broker kept in step with it."""
# nats-py leaves its keyword options untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import nats.errors

from .accounts import (
    AccountSettings,
    Principal,
    closed_account,
    own_accounts,
    principal_account,
    refuse_repeats,
)
from .clock import Clock
from .gate import SKEW_S, Entry
from .jwt import claims_in
from .owned import write
from .trust import Trust

if TYPE_CHECKING:
    from .hardened import HardenedClient

ROLL_FILE: Final = "roll.json"
"""In the folder of keys (mode 0600): the roll, for gates in other processes."""

_LOOK_S: Final = 0.1
_UPDATE: Final = b"$SYS.REQ.CLAIMS.UPDATE"
_UPDATE_TIMEOUT_S: Final = 5.0
_US: Final = 1_000_000


class AccountsRefused(Exception):
    """The broker did not take what an account is now; the message says of which one and why."""


class BrokerSilent(AccountsRefused):
    """Nobody answered: what was to be told behind it was not told."""


class Listed:
    """Entries by what they may show."""

    def __init__(self, entries: Collection[Entry] = ()) -> None:
        self.keys = {key: each for each in entries for key in each.principal.keys}
        self.tokens = {digest: each for each in entries for digest in each.principal.tokens}


class Roll:
    """Who is known, as principals of the broker; a `Register` for the gate.

    With a folder of keys it is kept there as well, before the broker hears of a change.
    """

    def __init__(self, trust: Trust, settings: AccountSettings, clock: Clock, keys: Path | None) -> None:
        self._trust = trust
        self._settings = settings
        self._clock = clock
        self._file = None if keys is None else keys / ROLL_FILE
        self._system: HardenedClient | None = None
        self._entries: dict[str, Entry] = {}
        self._listed = Listed()
        self._owed: set[str] = set()
        """Accounts of which the broker does not know yet what they are, or that they are closed."""

    @property
    def principals(self) -> tuple[Principal, ...]:
        return tuple([entry.principal for entry in self._entries.values()])

    @property
    def owes(self) -> bool:
        """Whether the broker has yet to be told something: `set` does so with the same principals, too."""
        return bool(self._owed)

    def by_key(self, public: str) -> Entry | None:
        return self._listed.keys.get(public)

    def by_token(self, digest: str) -> Entry | None:
        return self._listed.tokens.get(digest)

    def prepare(self, principals: Sequence[Principal], accounts: Path) -> None:
        """Takes the principals that there are before the broker starts, and writes what it reads then.

        An account that an earlier start left is closed. Raises ValueError for two of one name or key.
        """
        refuse_repeats(principals)
        now_s = self._now_s()
        self._enter([Entry(each) for each in principals])
        tokens = own_accounts(self._settings, self._trust, now_s)
        for each in principals:
            tokens[each.account] = principal_account(self._settings, self._trust, each, now_s)
        kept: set[str] = set()
        for name, token in tokens.items():
            file = accounts / f"{self._trust.account(name).public}.jwt"
            file.write_text(token)
            kept.add(file.name)
        for left in accounts.glob("*.jwt"):
            if left.name not in kept:
                name = str(claims_in(left.read_text())["name"])
                left.write_text(closed_account(self._trust, name, now_s))

    def follow(self, system: HardenedClient) -> None:
        """From here on changes are told to the broker, on a connection of the user `system`."""
        self._system = system

    async def begin(self, principals: Sequence[Principal], gone: Iterable[str] = ()) -> None:
        """Makes these the principals of a broker that may have them already: nobody is disconnected.

        But for the accounts that are `gone`: whoever was to say so may have ended before. Raises ValueError
        for two of one name or key, AccountsRefused.
        """
        refuse_repeats(principals)
        now_s = self._now_s()
        tokens = {name: closed_account(self._trust, name, now_s) for name in gone}
        for each in principals:
            tokens[each.account] = principal_account(self._settings, self._trust, each, now_s)
        self._enter([Entry(each) for each in principals])
        await self.tell(tokens)

    async def set(self, principals: Sequence[Principal], changed_s: Mapping[str, int] | None = None) -> None:
        """Makes these the principals. Who has changed or gone is disconnected; the others stay as they are,
        and so does who has but got a further key or token.

        `changed_s` is when a principal changed, by its account, in seconds since 1970: where all who keep
        the accounts of one broker name the same time, what the second of them tells disconnects nobody. A
        time that is missing or too far away to end what was let in since is now.

        Raises ValueError for two of one name or key, AccountsRefused where the broker does not follow: then
        the gate judges by the new roll all the same, and calling again tells the broker again.
        """
        refuse_repeats(principals)
        now_s = self._now_s()
        before = self._entries
        entries: list[Entry] = []
        changed: dict[str, str] = {}
        for each in principals:
            known = before.get(each.account)
            if known is not None and _only_gains(known.principal, each):
                entry = Entry(each, known.changed_s)  # nothing that its connections rest on is gone
                entries.append(entry)
                if each.account in self._owed:
                    changed[each.account] = principal_account(
                        self._settings, self._trust, each, now_s, entry.changed_s
                    )
                continue
            # Past what any gate has issued: a second change within a second ends what the first let in.
            since_s = _near((changed_s or {}).get(each.account), now_s)
            entry = Entry(each, since_s if known is None else max(since_s, known.changed_s + 1))
            entries.append(entry)
            changed[each.account] = principal_account(
                self._settings, self._trust, each, now_s, entry.changed_s
            )
        self._enter(entries)
        gone = (before.keys() | self._owed) - self._entries.keys()
        await self.tell({name: closed_account(self._trust, name, now_s) for name in gone} | changed)

    def _enter(self, entries: Iterable[Entry]) -> None:
        self._entries = {entry.principal.account: entry for entry in entries}
        self._listed = Listed(self._entries.values())
        if self._file is not None:
            write(self._file, msgspec.json.encode(list(self._entries.values())).decode())

    async def tell(self, tokens: Mapping[str, str]) -> None:
        """Tells the broker what accounts are, by their names. What it does not take is owed to it.

        Raises AccountsRefused for the first of those, when all others are told.
        """
        self._owed |= tokens.keys()
        refused: AccountsRefused | None = None
        for name, token in tokens.items():
            try:
                await self._tell(name, token)
            except BrokerSilent:
                raise
            except AccountsRefused as error:
                refused = refused or error
            else:
                self._owed.discard(name)
        if refused is not None:
            raise refused

    async def _tell(self, name: str, token: str) -> None:
        if self._system is None:
            raise BrokerSilent(f"account {name}: there is no connection to a broker")
        try:
            answer = json.loads(await self._system.ask(_UPDATE, token.encode(), _UPDATE_TIMEOUT_S))
        except nats.errors.MaxPayloadError as error:
            raise AccountsRefused(f"account {name}: its {len(token)} bytes are too many") from error
        except (nats.errors.Error, OSError, ValueError) as error:
            raise BrokerSilent(f"account {name}: the broker did not answer: {error}") from error
        if "error" in answer:
            raise AccountsRefused(f"account {name}: {answer['error'].get('description', answer['error'])}")

    def _now_s(self) -> int:
        return self._clock.wall_us() // _US


class KeptRoll:
    """The roll of another process, as it stands in the folder of keys; a `Register` for a gate."""

    def __init__(self, keys: Path) -> None:
        self._file = keys / ROLL_FILE
        self._read: tuple[int, ...] = ()
        self._listed = Listed()

    def by_key(self, public: str) -> Entry | None:
        return self._newest().keys.get(public)

    def by_token(self, digest: str) -> Entry | None:
        return self._newest().tokens.get(digest)

    async def there(self) -> None:
        """Returns when the other process has written it for the first time."""
        while not self._file.exists():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(_LOOK_S)

    def _newest(self) -> Listed:
        """Looks whether the file is another one by now, which takes microseconds. Raises OSError."""
        found = self._file.stat()
        stands = found.st_ino, found.st_mtime_ns, found.st_size
        if stands != self._read:
            self._listed = Listed(msgspec.json.decode(self._file.read_bytes(), type=list[Entry]))
            self._read = stands
        return self._listed


def _near(changed_s: int | None, now_s: int) -> int:
    """The time of a change; now, where gates that had not heard of it may have issued what is newer."""
    return now_s if changed_s is None or abs(now_s - changed_s) >= SKEW_S else changed_s


def _only_gains(before: Principal, now: Principal) -> bool:
    """Whether a principal may do what it might, by all keys and tokens that it had and perhaps by more."""
    same = replace(now, public=before.public, other_keys=before.other_keys, tokens=before.tokens)
    return same == before and set(before.keys) <= set(now.keys) and set(before.tokens) <= set(now.tokens)
