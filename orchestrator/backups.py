"""A backup of all that a node holds, taken while it runs; and whether one is whole.

    DIR/backup.json              what the backup is of, written last and at once
    DIR/log/<p>/<first>.segment  the log from its first record on, as an archive
    DIR/restored                 the newest epoch that a restore from here has begun
    DIR/<time>/...               snapshots of the other streams, checkpoints, and the secrets where asked for

The log is added to: a second backup into the same folder reads what is new. It is consistent by its order.
Checkpoints go first, so that none tells of a record that is missing. Then the intake's end is looked at, and
what stands before it is waited for in the log; so each submit that was acknowledged before is a record, and
the intake itself need not be kept. Then the log; and last what the log points at, buckets and keys, which
were there before the records that name them.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import msgspec

from writ.broker.archive import SEGMENT_MAX_BYTES, SEGMENT_MAX_RECORDS, Archive, ArchivedLog, LiveLog
from writ.broker.hardened import HardenedClient
from writ.broker.log import JetStreamIntake, JetStreamLog
from writ.broker.notary import checkpoints_folder
from writ.broker.note_places import NoteFolder
from writ.broker.objects import FolderObjects, sync_folder
from writ.broker.ports import Message, NotStored, Stored
from writ.broker.streams import names_of
from writ.broker.transfer import snapshot
from writ.schemas.backups import FORMAT, Kind, LogKept, Manifest, PartKept
from writ.schemas.codec import CodecError, decode, digest
from writ.schemas.ids import EPOCH_MAX
from writ.schemas.links import MessageAccepted
from writ.schemas.records import Record
from writ.schemas.subjects import SUBMIT_STREAM, log_stream, mirror_stream

from .replay.checked import Checked, check_log, signed_in

MANIFEST: Final = "backup.json"
RESTORED: Final = "restored"
PLAIN: Final = ("checkpoints",)
SECRETS: Final = ("keys", "vault", "http.token", "tls")
"""Of a node's directory: what a backup always has, and what it has besides where keys are asked for."""

_LOCK: Final = ".lock"
_LOOK_S: Final = 0.1


class BackupError(Exception):
    """A backup cannot be taken, or is not whole. The text says why, and what to do."""


class Taken(NamedTuple):
    """A backup and how many records were added to it."""

    manifest: Manifest
    added: int


class KeptLog:
    """The log in a backup, to be read like any."""

    def __init__(self, archive: Archive, epoch: int) -> None:
        self.archive = archive
        self.partition = archive.partition
        self.epoch = epoch

    async def last_seq(self) -> int:
        return self.archive.last

    async def append(self, messages: Sequence[Message], after: int, *, whole: bool = False) -> None:
        raise NotStored("a backup takes no records")

    def read(
        self, start: int = 1, subjects: Sequence[str] = (), *, follow: bool = False
    ) -> AsyncIterator[list[Stored]]:
        return self.archive.lists(max(1, start), subjects)


def _archive_in(folder: Path, partition: int) -> Archive:
    return Archive(FolderObjects(folder / "log" / str(partition)), partition)


async def log_in(folder: Path, kept: LogKept) -> KeptLog:
    """The log of a partition as a backup has it: what a later one that failed has added is left out.

    Raises BackupError, ArchiveDamaged, OSError.
    """
    archive = _archive_in(folder, kept.partition)
    await archive.refresh()
    archive.segments = [segment for segment in archive.segments if segment.last <= kept.last]
    if (archive.last, archive.digest) != (kept.last, kept.digest):
        raise BackupError(
            f"the log of partition {kept.partition} in {folder} ends at record {archive.last}, and was taken "
            f"up to record {kept.last}; use another backup"
        )
    return KeptLog(archive, kept.epoch)


# --- taking ---------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """What a backup is taken of: a node's directory, and a connection of its user `log`."""

    directory: Path
    link: HardenedClient
    version: str


async def take(source: Source, folder: Path, now: int, *, keys: bool, wait_s: float) -> Taken:
    """Takes a backup into a folder, or brings the one that is there up to date; `now` is UTC microseconds.

    Waits for `wait_s` until the log has what was submitted before. Raises BackupError, ArchiveDamaged,
    StreamRefused, OutcomeUnknown, OSError.
    """
    with alone_in(folder):
        return await _take(source, folder, now, keys=keys, wait_s=wait_s)


@contextmanager
def alone_in(folder: Path) -> Generator[None]:
    """Nobody else uses the backup in a folder, which is made where there is none. Raises BackupError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise BackupError(
            f"{folder} cannot be written: {error.strerror}; backups add to it, and restores note their epoch "
            "there, so use a copy that can be"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(
                f"another backup to {folder}, or a restore from it, is at work; try again when it has ended"
            ) from None
        yield
    finally:
        os.close(descriptor)


async def _take(source: Source, folder: Path, now: int, *, keys: bool, wait_s: float) -> Taken:
    before = read_manifest(folder) if (folder / MANIFEST).exists() else None
    keys = keys or (before is not None and before.keys)
    beside = f"at-{now}"
    parts = _Parts(folder, beside)
    for name in PLAIN:
        parts.copy(source.directory, name)
    streams = await names_of(source.link)
    numbers = [n for n in range(len(streams)) if log_stream(n) in streams]
    if not numbers:
        raise BackupError("the broker has no log: there is nothing to back up")
    intake = await JetStreamIntake.open(source.link)
    await _settled(intake, wait_s)
    lives = [await JetStreamLog.open(source.link, number) for number in numbers]
    archives = [_archive_in(folder, number) for number in numbers]
    known = before.logs if before is not None else ()
    logs, added = await copy_logs(source.directory, lives, folder, archives, known)
    for kept, archive in zip(logs, archives, strict=True):
        await asyncio.to_thread(parts.segments, kept.partition, archive, before)
    own = {SUBMIT_STREAM, *map(log_stream, numbers), *map(mirror_stream, numbers)}
    for name in sorted(set(streams) - own):
        await parts.stream(source.link, name)
    if keys:
        for name in SECRETS:
            parts.copy(source.directory, name)
        parts.copy(source.directory, "audit", "key.")
    manifest = Manifest(
        version=source.version,
        at=now,
        keys=keys,
        intake_epoch=intake.epoch,
        folder=beside,
        logs=tuple(logs),
        parts=tuple(parts.kept),
    ).sealed
    old = before.parts if before is not None else ()
    await _check_parts(folder, [part for part in manifest.parts if part not in old])
    _finish(folder, manifest)
    return Taken(manifest, added)


def _finish(folder: Path, manifest: Manifest) -> None:
    """From here on the backup is this one; what belonged to the one before goes."""
    sync_tree(folder / manifest.folder)
    _replace(folder / MANIFEST, _text(manifest))
    for old in folder.glob("at-*"):
        if old.name != manifest.folder:
            shutil.rmtree(old)


async def _settled(intake: JetStreamIntake, wait_s: float) -> None:
    """Returns when all that is in the intake now is in the log: its leader then forgets it there."""
    last = await intake.last_seq()
    try:
        async with asyncio.timeout(wait_s):
            while await intake.first_seq() <= last:  # noqa: ASYNC110 - the broker tells nobody of a purge
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        left = await intake.first_seq()
        raise BackupError(
            f"submits {left} to {last} of the intake are not in the log after {wait_s:g} s, and the backup "
            "would lack them; see with writ status whether anybody leads, or give it longer with --wait"
        ) from None


async def copy_logs(
    directory: Path,
    lives: Sequence[LiveLog],
    folder: Path,
    archives: Sequence[Archive],
    before: Sequence[LogKept] = (),
) -> tuple[list[LogKept], int]:
    """The logs as a backup has them then, and how many records came; `before` is how it had them.

    What one partition has heard of another must be in both: so a log is copied up to where it ends now, and
    further where another, read later, has a message of it from there.
    """
    known = {each.partition: each for each in before}
    for live, archive in zip(lives, archives, strict=True):
        await _agree(ArchivedLog.beside(directory, live), folder, archive, known.get(live.partition))
    ends = [await live.last_seq() for live in lives]
    kept: dict[int, LogKept] = {}
    added = 0
    while behind := [n for n, end in enumerate(ends) if n not in kept or kept[n].last < end]:
        for number in behind:
            heard: dict[int, int] = {}
            kept[number], more = await _copy_log(
                directory, lives[number], folder, archives[number], ends[number], heard
            )
            if kept[number].last < ends[number]:
                raise BackupError(
                    f"the log of partition {number} ends at record {kept[number].last}, and another one has "
                    f"heard of its record {ends[number]}: it was cut; compare with writ audit verify"
                )
            added += more
            ends = [max(end, heard.get(n, 0)) for n, end in enumerate(ends)]
    return [kept[number] for number in sorted(kept)], added


async def _agree(log: ArchivedLog, folder: Path, archive: Archive, kept: LogKept | None) -> None:
    """Sees to it that what a backup has of a log is of this log. Raises BackupError where it is not.

    What a backup that did not finish has added is let go of then: a world that was restored from the one
    before goes on otherwise, and may end before it.
    """
    if kept is not None and log.epoch < kept.epoch:
        raise BackupError(
            f"the backup is of epoch {kept.epoch} of partition {kept.partition}, and this log of epoch "
            f"{log.epoch}: it is older than its backup; back up to a new folder"
        )
    await archive.refresh()
    if await _holds(log, archive.last, archive.digest):
        return
    await archive.drop(0 if kept is None else kept.last)
    if not await _holds(log, archive.last, archive.digest):
        raise BackupError(
            f"record {archive.last} of partition {log.partition} is not in the log as the backup in {folder} "
            "has it: the backup is of another log, or one of the two was changed; compare with writ audit "
            "verify, and back up to a new folder"
        )


async def _holds(log: ArchivedLog, seq: int, wanted: str) -> bool:
    """Whether a log has that record; then it has all that are before it."""
    if seq == 0 or await log.last_seq() < seq:
        return seq == 0
    async with aclosing(_up_to(log, seq, seq)) as reading:
        return [digest(message.body) async for message in reading] == [wanted]


async def _copy_log(
    directory: Path, live: LiveLog, folder: Path, archive: Archive, end: int, heard: dict[int, int]
) -> tuple[LogKept, int]:
    """Adds to a backup what it does not have of a log up to a record; what it has then, and how many came.

    Notes what was `heard` in them: by partition, the newest record of it that sent something.
    """
    await archive.refresh()
    first, before = await live.first_seq(), archive.last
    log = ArchivedLog.beside(directory, live)
    await log.archive.refresh()
    row: list[Stored] = []
    size_bytes = 0
    prev = archive.digest
    async for message in _up_to(log, before + 1, end):
        record = _record_in(message)
        if record is None or record.prev != prev:
            raise BackupError(
                f"record {message.seq} of partition {live.partition} does not continue record "
                f"{message.seq - 1} as the backup in {folder} has it: the backup is of another log, or "
                "one of the two was changed; compare with writ audit verify, and back up to a new folder"
            )
        for event in record.events if record.kind == "link" else ():
            if isinstance(event, MessageAccepted):
                other = int(record.key)
                heard[other] = max(heard.get(other, 0), event.message.seq)
        prev = digest(message.body)
        row.append(message)
        size_bytes += len(message.body)
        if len(row) == SEGMENT_MAX_RECORDS or size_bytes >= SEGMENT_MAX_BYTES:
            await _add(archive, row)
            row, size_bytes = [], 0
    if row:
        await _add(archive, row)
    return LogKept(live.partition, live.epoch, first, archive.last, archive.digest), archive.last - before


async def _up_to(log: ArchivedLog, start: int, end: int) -> AsyncGenerator[Stored]:
    """The messages of a log from one record to another."""
    if start > end:
        return
    async with aclosing(cast("AsyncGenerator[list[Stored]]", log.read(start))) as reading:
        async for messages in reading:
            for message in messages:
                if message.seq <= end:
                    yield message
            if messages[-1].seq >= end:
                return


def _record_in(message: Stored) -> Record | None:
    try:
        return decode(message.body)
    except CodecError:
        return None


async def _add(archive: Archive, row: Sequence[Stored]) -> None:
    """Adds a segment, and reads back what came to stand there."""
    segment = await archive.add(row)
    if await archive.read(segment) != list(row):
        raise BackupError(f"segment {segment.name} of the backup does not read as it was written")


class _Parts:
    """The files of one state of a backup, in a folder of their own."""

    def __init__(self, folder: Path, beside: str) -> None:
        self._folder = folder
        self._beside = beside
        self.kept: list[PartKept] = []

    def copy(self, directory: Path, name: str, begins: str = "") -> None:
        """A file of the node's directory, or those in a folder of it whose names begin so, if any.

        Names that begin with a dot are of files that are being written.
        """
        path = directory / name
        if path.is_dir():
            for inner in sorted(path.iterdir()):
                if inner.name.startswith(begins) and not inner.name.startswith("."):
                    self.copy(directory, f"{name}/{inner.name}")
        elif path.is_file():
            with self._open(name) as file:
                content = path.read_bytes()
                file.write(content)
            self._keep(name, name, hashlib.sha256(content).hexdigest(), len(content), Kind.FILE)

    async def stream(self, link: HardenedClient, name: str) -> None:
        """A snapshot of a stream: each part behind its length."""
        hashed, size_bytes = hashlib.sha256(), 0
        with self._open(f"streams/{name}") as file:
            async for part in snapshot(link, name):
                framed = len(part).to_bytes(4, "big") + part
                hashed.update(framed)
                size_bytes += len(framed)
                await asyncio.to_thread(file.write, framed)
        self._keep(name, f"streams/{name}", hashed.hexdigest(), size_bytes, Kind.STREAM)

    def _open(self, name: str) -> Any:
        path = self._folder / self._beside / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    def segments(self, partition: int, archive: Archive, before: Manifest | None) -> None:
        """The segments of a log; those that the backup before had are taken for what they were."""
        known = {part.path: part for part in before.parts} if before is not None else {}
        for segment in archive.segments:
            path = f"log/{partition}/{segment.name}"
            if path in known:
                self.kept.append(known[path])
            else:
                content = (self._folder / path).read_bytes()
                sha256 = hashlib.sha256(content).hexdigest()
                self.kept.append(PartKept(segment.name, path, sha256, len(content), Kind.SEGMENT))

    def _keep(self, name: str, path: str, sha256: str, size_bytes: int, kind: Kind) -> None:
        self.kept.append(PartKept(name, f"{self._beside}/{path}", sha256, size_bytes, kind))


def sync_tree(folder: Path) -> None:
    """Makes all files below a folder durable. Raises OSError."""
    for where, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(os.path.join(where, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(where))


def _replace(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    sync_folder(path.parent)


def _text(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"


# --- epochs of restores ---------------------------------------------------------------------------------


def next_epoch(manifest: Manifest, folder: Path, above: int) -> int:
    """The epoch of a world that is restored now: above that of the backup and of all restored from here.

    It is noted in the folder, durably, so that no other restore from it has it too. `above` is for those that
    the folder does not know of. Hold `alone_in`. Raises BackupError, OSError.
    """
    path = folder / RESTORED
    try:
        noted = int(path.read_text("ascii"))
    except FileNotFoundError:
        noted = 0
    except ValueError as error:
        raise BackupError(
            f"{path} holds no epoch: {error}; put the greatest one there that was restored"
        ) from error
    epoch = max(above, noted, manifest.intake_epoch, *(log.epoch for log in manifest.logs)) + 1
    if epoch > EPOCH_MAX:
        raise BackupError(f"epoch {epoch} is too great for a token: {EPOCH_MAX} is the last one")
    _replace(path, b"%d\n" % epoch)
    return epoch


# --- verifying ------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest:
    """What the backup in a folder says of itself. Raises BackupError, OSError."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
        manifest = msgspec.json.decode(content, type=Manifest)
    except FileNotFoundError:
        raise BackupError(f"{folder} holds no backup that was finished: {MANIFEST} is missing") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BackupError(f"{path} cannot be read: {error}; use another backup") from error
    if manifest.format != FORMAT:
        raise BackupError(
            f"the backup in {folder} has format {manifest.format}, and this Writ reads {FORMAT}; "
            f"restore it with Writ {manifest.version}"
        )
    if content != _text(manifest.sealed):
        raise BackupError(f"{path} is not what was written there; use another backup")
    return manifest


async def verify(folder: Path) -> tuple[Manifest, list[Checked]]:
    """Reads all of a backup: every part's checksum, each log's chain, every checkpoint that was signed of it.

    Raises BackupError at the first fault, ArchiveDamaged, OSError.
    """
    manifest = read_manifest(folder)
    await _check_parts(folder, manifest.parts)
    checks: list[Checked] = []
    for kept in manifest.logs:
        log = await log_in(folder, kept)
        signed = signed_in(NoteFolder(checkpoints_folder(folder / manifest.folder)), kept.partition)
        found = [signed] if signed.checkpoints or signed.faults else []
        checked = await check_log(log, found)
        if not checked.ok:
            raise BackupError(f"the log in {folder} is not whole: {'; '.join(checked.lines()[2:])}")
        checks.append(checked)
    return manifest, checks


async def _check_parts(folder: Path, parts: Sequence[PartKept]) -> None:
    for part in parts:
        path = folder / part.path
        try:
            found = await asyncio.to_thread(_sha256, path)
        except FileNotFoundError:
            raise BackupError(f"{path} of the backup is missing; use another backup") from None
        if found != part.sha256:
            raise BackupError(f"{path} holds other bytes than were put there; use another backup")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
