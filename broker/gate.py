"""The gate: answers the broker when it asks whether to let somebody in (NATS *auth callout*).

Who asks shows an NKey, by having signed what the broker gave it to sign, or a token. Whom the register knows
by it gets the account of its name and, for an hour at most, the permissions of its roles. Several gates may
stand side by side; each question goes to one of them. Connections that are in need none.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from .accounts import AUTH_SUBJECT, GATE_ACCOUNT, Principal
from .clock import Clock
from .jwt import claims_in, is_signed
from .keys import is_public_user_key
from .trust import Trust

if TYPE_CHECKING:
    from .hardened import HardenedClient

log = logging.getLogger("writ.broker")

LIFE_S: Final = 3_600
"""How long a connection may stand before it has to show its credentials again."""

SKEW_S: Final = 30
"""How far the clocks of gates, and of who changes the roll, may be apart."""

_GROUP: Final = "writ-gate"
_AUDIENCE: Final = "nats-authorization-request"
_US: Final = 1_000_000


class _Shown(msgspec.Struct, frozen=True):
    """What a client has shown: a key and a signature, or a token, which some send as a password."""

    nkey: str | None = None
    sig: str | None = None
    auth_token: str | None = None
    password: str | None = msgspec.field(name="pass", default=None)


class _Client(msgspec.Struct, frozen=True):
    """What the broker knows of it: what it gave it to sign."""

    nonce: str | None = None


class _Server(msgspec.Struct, frozen=True):
    id: str


class _Asked(msgspec.Struct, frozen=True):
    server_id: _Server
    user_nkey: str
    connect_opts: _Shown = _Shown()
    client_info: _Client = _Client()


class _Question(msgspec.Struct, frozen=True):
    """What a broker asks, as far as it is looked at."""

    iss: str
    aud: str
    nats: _Asked


class Entry(NamedTuple):
    """Somebody to be let in. What was issued up to `changed_s` (seconds since 1970) no longer counts."""

    principal: Principal
    changed_s: int = 0


class Register(Protocol):
    """Who is known, now. Neither blocks; both raise OSError where that cannot be read."""

    def by_key(self, public: str) -> Entry | None:
        """Who has a public NKey."""
        ...

    def by_token(self, digest: str) -> Entry | None:
        """Who has the token with this SHA-256, in hex."""
        ...


class TurnedAway(NamedTuple):
    """Why somebody is not let in, as the broker is told, which writes it into its log.

    `key` is what was shown, if it was a key; `signed` is whether who showed it has signed by it.
    """

    key: str = ""
    signed: bool = True

    def __str__(self) -> str:
        if not self.key:
            return "no principal has what was shown, or no key or token was"
        return f"no principal has key {self.key}" if self.signed else f"not signed by key {self.key}"


class Gate:
    """One answering service, on the connection of the user `gate`."""

    def __init__(self, trust: Trust, register: Register, clock: Clock, life_s: int = LIFE_S) -> None:
        if not 1 <= life_s <= LIFE_S:
            raise ValueError(f"a life of {life_s} s: a login counts for 1 to {LIFE_S} s")
        self._trust = trust
        self._register = register
        self._clock = clock
        self._life_s = life_s

    async def open(self, nats: HardenedClient) -> None:
        """Answers until the connection is closed."""

        def asked(subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
            answer = self.answer(body)
            if answer is not None and reply:
                nats.put(reply, answer)

        await nats.feed(AUTH_SUBJECT, asked, _GROUP)
        await nats.flush()

    def answer(self, request: bytes) -> bytes | None:
        """The signed answer to a question of the broker's; None to what is no such question.

        None as well where the register cannot be read: another gate answers, or the login is tried again.
        """
        try:
            question = msgspec.convert(claims_in(request.decode()), _Question)
            asked = question.nats
            server, user = asked.server_id.id, asked.user_nkey
            if question.aud != _AUDIENCE or question.iss != server:
                raise ValueError(f"it is signed by {question.iss} for {question.aud!r}")
        except (ValueError, msgspec.ValidationError) as error:
            log.warning("somebody other than a broker asked to let somebody in: %s", error)
            return None
        try:
            found = self._known(asked.connect_opts, asked.client_info)
        except OSError as error:
            log.warning("a login is left unanswered, as who is known cannot be read: %s", error)
            return None
        now_s = self._clock.wall_us() // _US
        verdict: dict[str, Any] = {"type": "authorization_response", "version": 2}
        if isinstance(found, TurnedAway):
            verdict["error"] = str(found)
        else:
            verdict["jwt"] = self._admit(found, user, now_s)
        answer = {"sub": user, "aud": server, "nats": verdict}
        return self._trust.account(GATE_ACCOUNT).token(answer, now_s).encode()

    def _known(self, shown: _Shown, client: _Client) -> Entry | TurnedAway:
        key, signature, nonce = shown.nkey, shown.sig, client.nonce
        if key:
            named = key if is_public_user_key(key) else ""
            if not (signature and nonce and is_signed(key, nonce.encode(), signature)):
                return TurnedAway(named, signed=False)
            return self._register.by_key(key) or TurnedAway(named)
        token = shown.auth_token or shown.password
        entry = self._register.by_token(hashlib.sha256(token.encode()).hexdigest()) if token else None
        return entry or TurnedAway()

    def _admit(self, entry: Entry, user: str, now_s: int) -> str:
        # As of before now: a change revokes what was issued up to its own time, by whatever clock.
        issued_s = max(now_s - SKEW_S, entry.changed_s + 1)
        claims = entry.principal.permissions().claims()
        account = entry.principal.account
        return self._trust.user_token(account, user, claims, issued_s, now_s + self._life_s)
