"""An orchestrator over a broker, wired as the node and `writ orchestrator` need it."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from writ.broker.archive import ArchivedLog
from writ.broker.clock import SystemClock
from writ.broker.keyvalue import JetStreamKeyValue
from writ.broker.log import JetStreamIntake, JetStreamLog
from writ.broker.objects import sync_folder
from writ.broker.ports import OutcomeUnknown
from writ.broker.requests import NatsRequests
from writ.broker.spread import ALONE, Spread
from writ.broker.streams import partitions_of
from writ.broker.vault import Vault, vault_path
from writ.orchestrator.engine import Engine
from writ.orchestrator.restoring import check_unfinished
from writ.orchestrator.snapshots import Snapshots
from writ.orchestrator.strongroom import ASSET_BUCKET
from writ.schemas.bounds import LIVE_MAX
from writ.schemas.upgrading import RECORDS

if TYPE_CHECKING:
    from writ.broker.hardened import HardenedClient
    from writ.broker.ports import Log
    from writ.orchestrator.access_desk import Founder

log = logging.getLogger("writ.node")

_PATIENCE_S: Final = 30.0
"""How long streams are waited for: a cluster elects for each of them, in 4 to 10 s."""

_AGAIN_S: Final = 0.5
_S = TypeVar("_S")


class Wired(NamedTuple):
    """An engine that does not run yet, and the epochs of its streams."""

    engine: Engine
    log_epoch: int
    intake_epoch: int


async def wire_engine(
    directory: Path,
    logs: HardenedClient,
    answers: HardenedClient,
    *,
    partition: int = 0,
    founders: Sequence[Founder] = (),
    live_max: int = LIVE_MAX,
    spread: Spread = ALONE,
    reads: int = RECORDS,
) -> Wired:
    """An engine of a partition with a node's directory beside it: archive, snapshots, key store.

    The connections are those of the users `log` and `answer`; streams that are not there are made,
    with this `spread`. Raises the errors of `JetStreamLog.open`, and BackupError where the directory
    was not restored to the end.
    """
    check_unfinished(directory)
    floors = _read_epochs(directory, partition)
    open_log = partial(JetStreamLog.open, logs, partition, spread=spread, epoch_floor=floors.get("log", 0))
    live = await _patiently(open_log)
    open_intake = partial(JetStreamIntake.open, logs, spread=spread, epoch_floor=floors.get("submit", 0))
    intake = await _patiently(open_intake)
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    _write_epochs(directory, partition, {"log": live.epoch, "submit": intake.epoch})
    engine = Engine(
        ArchivedLog.beside(directory, live),
        intake,
        NatsRequests(answers, logs),
        SystemClock(),
        name=name,
        version=version("writ-orchestrator"),
        entropy=random.SystemRandom().random,
        others=partial(_others, directory, logs, partition, {}),
        snapshots=Snapshots.beside(directory, live.partition),
        keys=Vault(vault_path(directory)),
        founders=founders,
        assets=JetStreamKeyValue(logs, ASSET_BUCKET, "Writ: the sealed values of assets.", spread),
        live_max=live_max,
        reads=reads,
    )
    return Wired(engine, live.epoch, intake.epoch)


async def _others(
    directory: Path, link: HardenedClient, partition: int, opened: dict[int, Log]
) -> Sequence[Log]:
    """The logs of all other partitions that there are now; each is `opened` once."""
    for number in range(await partitions_of(link)):
        if number != partition and number not in opened:
            opened[number] = ArchivedLog.beside(directory, await JetStreamLog.open(link, number))
    return [opened[number] for number in sorted(opened)]


async def make_logs(directory: Path, link: HardenedClient, partitions: int, spread: Spread) -> None:
    """So many logs at least, numbered from 0; those that are there stay. Raises as `wire_engine`."""
    check_unfinished(directory)
    for number in range(partitions):
        floor = _read_epochs(directory, number).get("log", 0)
        await _patiently(partial(JetStreamLog.open, link, number, spread=spread, epoch_floor=floor))


async def _patiently(open_: Callable[[], Awaitable[_S]]) -> _S:
    """A stream, opened as soon as it answers: who starts where a server was just lost need not fail for it.

    Raises what `open_` does, and OutcomeUnknown not before its time is up.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + _PATIENCE_S
    while True:
        try:
            return await open_()
        except OutcomeUnknown as silent:
            if loop.time() > until:
                raise
            log.warning("%s; asking again", silent)
        await asyncio.sleep(_AGAIN_S)


def _epochs_file(directory: Path, partition: int) -> Path:
    """One for each partition, as each is led by a process of its own."""
    return directory / ("epochs.json" if partition == 0 else f"epochs-{partition}.json")


def _read_epochs(directory: Path, partition: int) -> dict[str, int]:
    """The highest epochs known of this node's streams: a stream made anew must get a higher one."""
    try:
        return msgspec.json.decode(_epochs_file(directory, partition).read_bytes(), type=dict[str, int])
    except FileNotFoundError:
        return {}


def _write_epochs(directory: Path, partition: int, epochs: dict[str, int]) -> None:
    replace_file(_epochs_file(directory, partition), msgspec.json.encode(epochs))


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file so that it is there as it was or as it shall be, and stays so when the power is lost.

    Several processes may do so at once: orchestrators that start on one directory.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with temporary.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
