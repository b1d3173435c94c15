"""`python -m writ.children.gate`: a gate beside the node's own, so that logins go on while either is away.

It needs the node's secret and the roll that the node keeps on disk, and nothing else of it.
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import msgspec

from writ.broker.clock import SystemClock
from writ.broker.connect import Target, connect
from writ.broker.gate import Gate
from writ.broker.roll import KeptRoll
from writ.broker.trust import Trust

from .keeper import Child
from .life import live

_BROKER_S: Final = 20.0
"""How long the broker may be away while this starts."""

_NICE: Final = 0
"""Somebody waits at the door."""


class Settings(msgspec.Struct, frozen=True):
    """What the process is told: the folder of keys, the broker, and how long a login counts."""

    keys: str
    url: str
    life_s: int


def second_gate() -> Child[Settings]:
    """The process, for the node to hold."""
    return Child("the second gate", __name__)


async def _open(settings: Settings, parts: AsyncExitStack) -> None:
    keys = Path(settings.keys)
    target = Target(settings.url, keys / "gate.creds")
    link = await connect(target, "writ:second-gate", inbox_prefix="_INBOX", wait_s=_BROKER_S)
    parts.push_async_callback(link.close)
    roll = KeptRoll(keys)
    await roll.there()  # before, it would turn everybody away
    await Gate(Trust.in_directory(keys), roll, SystemClock(), settings.life_s).open(link)


if __name__ == "__main__":
    sys.exit(live(Settings, _open, _NICE))
