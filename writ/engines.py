"""An orchestrator over a broker, wired as the node and `writ orchestrator` need it."""

from __future__ import annotations

import os
import random
import secrets
import socket
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from writ.broker.archive import ArchivedLog
from writ.broker.clock import SystemClock
from writ.broker.keyvalue import JetStreamKeyValue
from writ.broker.log import JetStreamIntake, JetStreamLog
from writ.broker.objects import sync_folder
from writ.broker.requests import NatsRequests
from writ.broker.spread import ALONE, Spread
from writ.broker.vault import Vault, vault_path
from writ.orchestrator.engine import Engine
from writ.orchestrator.restoring import check_unfinished
from writ.orchestrator.snapshots import Snapshots
from writ.orchestrator.strongroom import ASSET_BUCKET
from writ.schemas.bounds import LIVE_MAX
from writ.schemas.upgrading import RECORDS

if TYPE_CHECKING:
    from writ.broker.hardened import HardenedClient
    from writ.orchestrator.access_desk import Founder

_EPOCHS_FILE: Final = "epochs.json"


class Wired(NamedTuple):
    """An engine that does not run yet, the log that it is over, and the epochs of its streams."""

    engine: Engine
    live: JetStreamLog
    log_epoch: int
    intake_epoch: int


async def wire_engine(
    directory: Path,
    logs: HardenedClient,
    answers: HardenedClient,
    *,
    founders: Sequence[Founder] = (),
    live_max: int = LIVE_MAX,
    spread: Spread = ALONE,
    reads: int = RECORDS,
) -> Wired:
    """An engine with a node's directory beside it: archive, snapshots, key store.

    The connections are those of the users `log` and `answer`; streams that are not there are made,
    with this `spread`. Raises the errors of `JetStreamLog.open`, and BackupError where the directory
    was not restored to the end.
    """
    check_unfinished(directory)
    floors = _read_epochs(directory)
    live = await JetStreamLog.open(logs, spread=spread, epoch_floor=floors.get("log", 0))
    intake = await JetStreamIntake.open(logs, spread=spread, epoch_floor=floors.get("submit", 0))
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    _write_epochs(directory, {"log": live.epoch, "submit": intake.epoch})
    engine = Engine(
        ArchivedLog.beside(directory, live),
        intake,
        NatsRequests(answers, logs),
        SystemClock(),
        name=name,
        version=version("writ-orchestrator"),
        entropy=random.SystemRandom().random,
        snapshots=Snapshots.beside(directory, live.partition),
        keys=Vault(vault_path(directory)),
        founders=founders,
        assets=JetStreamKeyValue(logs, ASSET_BUCKET, "Writ: the sealed values of assets.", spread),
        live_max=live_max,
        reads=reads,
    )
    return Wired(engine, live, live.epoch, intake.epoch)


def _read_epochs(directory: Path) -> dict[str, int]:
    """The highest epochs known of this node's streams: a stream made anew must get a higher one."""
    try:
        return msgspec.json.decode((directory / _EPOCHS_FILE).read_bytes(), type=dict[str, int])
    except FileNotFoundError:
        return {}


def _write_epochs(directory: Path, epochs: dict[str, int]) -> None:
    replace_file(directory / _EPOCHS_FILE, msgspec.json.encode(epochs))


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file so that it is there as it was or as it shall be, and stays so when the power is lost."""
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
