"""Making a node of a backup: into a directory and a broker that hold nothing; all of it or none.

Logs keep their sequences, their chain and what was signed of them, and go on in a new epoch. Their first new
record is `log_restored`. What the archive had goes to the archive, the rest back into the broker.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from writ.broker.archive import ArchivedLog
from writ.broker.clock import Clock
from writ.broker.hardened import HardenedClient
from writ.broker.log import JetStreamIntake, JetStreamLog
from writ.broker.objects import FolderObjects
from writ.broker.ports import Log, Message, OutcomeUnknown, WrongLastSequence
from writ.broker.spread import ALONE, Spread
from writ.broker.streams import names_of
from writ.broker.tls import CA_FILE
from writ.broker.transfer import restore as restore_stream
from writ.broker.trust import OPERATOR_FILE
from writ.schemas import bounds
from writ.schemas.backups import Kind, LogKept, LogRestored, Manifest

from .backups import SECRETS, BackupError, log_in, next_epoch, sync_tree
from .logtime import LogTime
from .round import Round, system_record
from .snapshots import Snapshots, recover

UNFINISHED: Final = "restoring"
"""A file of the directory while it is not whole: no node may start on it."""

_OWN: Final = ("archive", "snapshots", "views", "checkpoints", "jetstream", "epochs.json", UNFINISHED)
_FRAME: Final = 4
_PATIENCE_S: Final = 15.0
_AGAIN_S: Final = 0.2


class Target(NamedTuple):
    """Where a backup goes: a directory, a connection of its broker's user `log`, how streams are kept."""

    directory: Path
    link: HardenedClient
    spread: Spread = ALONE


class Restored(NamedTuple):
    """A log as it goes on: the epoch that it has, and its newest record."""

    partition: int
    epoch: int
    seq: int


def check_unfinished(directory: Path) -> None:
    """Raises BackupError where a restore into the directory has not come to its end."""
    if (directory / UNFINISHED).exists():
        raise BackupError(
            f"{directory} was being restored, and that did not end: delete {directory} and restore it again"
        )


def put_files(manifest: Manifest, folder: Path, directory: Path) -> None:
    """Puts a backup's files into a directory that holds nothing yet. Raises BackupError.

    But for the keys, where the backup has none; and an authority among them, of the broker that is joined.
    """
    taken = [name for name in _OWN if (directory / name).exists()]
    if manifest.keys:
        taken += [name for name in SECRETS if (directory / name).exists() and not _joins(directory / name)]
    if taken:
        raise BackupError(
            f"{directory} is not empty: it has {', '.join(taken)}; restore into a new one with --dir"
        )
    if not manifest.keys and not (directory / "keys" / OPERATOR_FILE).exists():
        raise BackupError(
            f"the backup was taken without keys, and {directory} has none: first put {', '.join(SECRETS)} "
            "and audit of the node there, from where you keep them"
        )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / UNFINISHED).write_text(f"from {folder}\n")
    for part in manifest.parts:
        if part.kind is Kind.FILE:
            path = directory / part.name
            if path.exists():
                continue  # the authority: that of the broker to come, and not of the one that was
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(folder / part.path, path)
            path.chmod(0o600)


def _joins(keys: Path) -> bool:
    """Whether a folder holds the authority of a broker to be joined, and no key."""
    return keys.is_dir() and [each.name for each in keys.iterdir()] == [CA_FILE]


async def put_streams(
    manifest: Manifest, folder: Path, target: Target, clock: Clock, epoch_above: int = 0
) -> list[Restored]:
    """Fills a broker that has no stream, and the directory's archive and snapshots; the logs as they go on.

    They do so in an epoch that no other restore from the folder had, and above `epoch_above`.

    Raises BackupError, ArchiveDamaged, StreamRefused, AppendFailed, Violation, OSError.
    """
    streams = await names_of(target.link)
    if streams:
        raise BackupError(
            f"the broker is not empty: it has {', '.join(sorted(streams)[:5])}; take one without streams"
        )
    floor = next_epoch(manifest, folder, epoch_above) - 1
    for part in manifest.parts:
        if part.kind is Kind.STREAM:
            parts = _framed(folder / part.path)
            await restore_stream(target.link, part.name, parts, target.spread)
    restored = [await _put_log(manifest.at, kept, folder, target, clock, floor) for kept in manifest.logs]
    await JetStreamIntake.open(target.link, spread=target.spread, epoch_floor=floor)
    sync_tree(target.directory)
    (target.directory / UNFINISHED).unlink()
    return restored


async def _framed(path: Path) -> AsyncGenerator[bytes]:
    with path.open("rb") as file:
        while head := file.read(_FRAME):
            yield file.read(int.from_bytes(head, "big"))


async def _put_log(
    taken_at: int, kept: LogKept, folder: Path, target: Target, clock: Clock, floor: int
) -> Restored:
    """One log: its archived segments as files, the others record by record, and the record of all this."""
    backup = await log_in(folder, kept)
    archived = [segment for segment in backup.archive.segments if segment.last < kept.first]
    place = FolderObjects(target.directory / "archive" / str(kept.partition))
    for segment in archived:
        content = await FolderObjects(folder / "log" / str(kept.partition)).get(segment.name)
        await place.put(segment.name, (content,))
    at = archived[-1].last if archived else 0
    live = await JetStreamLog.open(
        target.link, kept.partition, spread=target.spread, epoch_floor=floor, first_seq=at + 1
    )
    async for messages in backup.read(at + 1):
        for some in _batches([Message(message.subject, message.body) for message in messages]):
            await append_alone(live, some, at)
            at += len(some)
    log = ArchivedLog.beside(target.directory, live)
    snapshots = Snapshots.beside(target.directory, kept.partition)
    state, end = await recover(log, snapshots)
    if (end.seq, end.digest) != (kept.last, kept.digest):
        raise BackupError(f"the restored log ends at record {end.seq}, and not as the backup does")
    round_ = Round(state, LogTime(clock, state.at).now())
    system_record(round_, LogRestored(kept.last, taken_at, kept.epoch), "restore")
    encoded = round_.encode()
    await append_alone(live, encoded.messages, encoded.after)
    round_.keep(encoded.digests)
    await snapshots.put(state, live.epoch)
    return Restored(kept.partition, live.epoch, state.seq)


async def append_alone(live: Log, messages: Sequence[Message], after: int) -> None:
    """Appends to a log that nobody else writes: what a cluster does not answer is looked up, and sent again.

    It elects a leader for a stream that was just made, and may do so at any moment. Raises AppendFailed, and
    OutcomeUnknown where that takes too long.
    """
    again = False
    for left in reversed(range(round(_PATIENCE_S / _AGAIN_S))):
        try:
            return await live.append(messages, after)
        except (OutcomeUnknown, WrongLastSequence) as failed:
            # What an earlier try sent may come late: then the log has gone on, by our own records.
            if not left or not (again or isinstance(failed, OutcomeUnknown)):
                raise
        again = True
        await asyncio.sleep(_AGAIN_S)
        with suppress(OutcomeUnknown):
            stored = await live.last_seq()
            messages, after = messages[stored - after :], stored
            if not messages:
                return None
    return None


def _batches(messages: list[Message]) -> list[list[Message]]:
    """In parts that the broker takes in one go."""
    found: list[list[Message]] = [[]]
    size_bytes = 0
    for message in messages:
        full = len(found[-1]) == bounds.BATCH_MAX_RECORDS
        if full or size_bytes + len(message.body) > bounds.BATCH_MAX_BYTES // 2:
            found.append([])
            size_bytes = 0
        found[-1].append(message)
        size_bytes += len(message.body)
    return found
