"""The share of the processors that a process takes where others want them, too.

Niceness counts within a session only where Linux shares its processors between sessions first (autogroups,
see sched(7)), and each process of a node has a session of its own. A session has a niceness, too, and unlike
that of a process it may be taken back by whoever gave it.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from writ.broker.clock import Clock

log = logging.getLogger("writ.node")

YIELDING: Final = 10
"""A tenth of what a session of niceness 0 gets beside it."""

LATE_US: Final = 500_000
CALM_US: Final = 2_000_000
"""After being late it yields again when it was in time for so long."""

_SESSION: Final = Path("/proc/self/autogroup")


def give_way(pid: int) -> None:
    """Has a process that leads a session yield for good, as far as its system has ways for that."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid) + YIELDING)
    with suppress(OSError):  # without autogroups, or gone already
        Path(f"/proc/{pid}/autogroup").write_text(str(YIELDING))


class Share:
    """That of a process which follows others: it yields to them as long as it is in time all the same.

    Without autogroups nothing changes, and the niceness of the process counts.
    """

    def __init__(self, clock: Clock, session: Path = _SESSION) -> None:
        self._clock = clock
        self._session: Path | None = session
        self._nice: int | None = None
        self._late_us: int | None = None

    def dealt_with(self, at: int) -> None:
        """What happened at a wall time, in microseconds, is dealt with now."""
        now_us = self._clock.mono_us()
        if self._clock.wall_us() - at > LATE_US:
            self._late_us = now_us
        late = self._late_us is not None and now_us - self._late_us < CALM_US
        nice = 0 if late else YIELDING
        if nice != self._nice and self._session is not None:
            self._be(nice, self._session)

    def _be(self, nice: int, session: Path) -> None:
        try:
            session.write_text(str(nice))
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return  # Linux takes ten changes a second, of all its sessions: the next call tries again
            log.debug("the session cannot yield: %s", error)
            self._session = None
        else:
            self._nice = nice
