"""A broker that runs already, as `--broker-url` and the options beside it describe it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from writ.broker.accounts import AccountSettings
from writ.broker.doors import prepare
from writ.broker.gate import LIFE_S
from writ.broker.joined import JoinedBroker
from writ.broker.owned import OwnerLock
from writ.broker.spread import Spread

log = logging.getLogger("writ.node")


class Join(NamedTuple):
    """The broker, several servers with commas; and how its streams are kept, None for what suits its size."""

    url: str
    replicas: int | None = None
    tags: tuple[str, ...] = ()

    async def open(
        self, directory: Path, login_life_s: int = LIFE_S, *, owns: bool = False
    ) -> tuple[JoinedBroker, Spread]:
        """The broker, which lets nobody in yet, and how its streams are kept.

        With `owns` the directory is this process's alone, as that of a node is. Raises the errors of
        `JoinedBroker.start` and `spread`, and AlreadyRunningError.
        """
        directory = prepare(directory)
        lock = OwnerLock.take(directory) if owns else None
        try:
            settings = AccountSettings(login_life_s=login_life_s)
            broker = await JoinedBroker.start(directory, self.url, settings, lock=lock)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        try:
            sync_s = (await broker.servers()).sync_s
            if sync_s:
                log.warning(
                    "the broker at %s has on the disk every %g s what it acknowledges: a loss of power loses "
                    "what came since; set sync_interval: always in its configuration", self.url, sync_s,
                )  # fmt: skip
            return broker, await broker.spread(self.replicas, self.tags)
        except BaseException:
            await broker.stop()
            raise
