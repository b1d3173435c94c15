"""What the log tells of a broker that is out of reach."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

log = logging.getLogger("writ.worker")

QUIET_S: Final = 1.0
"""A connection that stands again so soon is not spoken of: logins are renewed so."""


class Outage:
    """Tells once that the broker is lost, and once that it is back. `who` is whom that concerns."""

    def __init__(self, loop: asyncio.AbstractEventLoop, who: str, url: str) -> None:
        self._loop = loop
        self._who = who
        self._url = url
        self._since = 0.0
        self._soon: asyncio.TimerHandle | None = None
        self._told = False

    def tell(self, broken: bool) -> None:
        """The connection has broken, or stands; on the loop."""
        if broken:
            if self._soon is None and not self._told:
                self._since = self._loop.time()
                self._soon = self._loop.call_later(QUIET_S, self._lost)
            return
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._told:
            away_s = self._loop.time() - self._since
            log.warning("%s has the broker at %s again, after %.1f s", self._who, self._url, away_s)
            self._told = False

    def _lost(self) -> None:
        self._soon, self._told = None, True
        log.warning(
            "%s has lost the broker at %s: what runs goes on, but for strict queues, and is reported later",
            self._who,
            self._url,
        )
