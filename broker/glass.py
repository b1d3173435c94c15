"""Whether somebody uses the broker's user for emergencies: the broker tells of each connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

if TYPE_CHECKING:
    from .hardened import HardenedClient

BREAK_GLASS: Final = "break-glass"
CONNECTS: Final = "$SYS.ACCOUNT.*.CONNECT"
_WORDS_MAX: Final = 100
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def use_in(event: bytes, public: str) -> str | None:
    """Who has connected with a public key, in words; None where an event tells of another connection."""
    try:
        told = _decode(event).get("client")
    except msgspec.MsgspecError:
        return None
    client = cast("dict[str, object]", told) if isinstance(told, dict) else {}
    if client.get("user") != public:
        return None
    host, name = (str(client.get(field, ""))[:_WORDS_MAX] for field in ("host", "name"))
    called = f", calling itself {name!r}" if name else ""
    return f"somebody connected from {host or 'an unknown host'} as {BREAK_GLASS}{called}"


async def watch(system: HardenedClient, public: str, heard: Callable[[str], None]) -> None:
    """Calls `heard` of each connection with the key, for as long as that of the user `system` stands."""

    def told(subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        words = use_in(body, public)
        if words is not None:
            heard(words)

    await system.feed(CONNECTS, told)
    await system.flush()
