"""`writ archive`: finished history outside the broker."""

from __future__ import annotations

import asyncio
import fcntl
import os
from argparse import Namespace
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .output import count, fields, next_steps, paint, print_json, when
from .partitions import chosen, each_of
from .processes import log_to_stderr, when_stdin_ends
from .reach import directory_of, logs_of, with_dir
from .usage import UNREACHABLE, CommandError

if TYPE_CHECKING:
    from writ.orchestrator.retention import Kept, Sizes

LAST_PASS: Final = "archive.json"
"""What the newest pass said, in the node's directory; of other partitions `archive-<p>.json`."""

_LOCK: Final = "archive.lock"
_NICE: Final = 10
_PATIENCE_S: Final = 1.0


def archive(args: Namespace) -> int:
    """Shows what the last pass left, or makes one."""
    directory = directory_of(args)
    if args.verb == "run":
        log_to_stderr()
        if args.until_stdin_ends:
            when_stdin_ends(_PATIENCE_S)
        os.nice(_NICE)  # it may take its time, the engine's answers may not
        with _alone(directory):
            passes = asyncio.run(_run(directory, args.partition, _sizes(args)))
    else:
        passes = _last_passes(directory, args.partition)
    if args.json:
        print_json(each_of(passes))
        return 0
    for number, kept in passes.items():
        if len(passes) > 1:
            print(paint(f"partition {number}", "bold"))
        _show(args, kept)
    return 0


def _last_passes(directory: Path, partition: int | None) -> dict[int, Kept]:
    """What the newest pass of each partition has left, or of one."""
    if partition is not None:
        return {partition: last_pass(directory, partition) or _before_the_first(directory)}
    found = {0: last_pass(directory) or _before_the_first(directory)}
    while (kept := last_pass(directory, len(found))) is not None:
        found[len(found)] = kept
    return found


def _before_the_first(directory: Path) -> Kept:
    """What a directory has where no pass was made. Raises CommandError where no node ever ran in it."""
    from writ.orchestrator.retention import Kept

    if not (directory / "views").is_dir():
        raise CommandError(f"no node ever ran in {directory}", [with_dir("writ up", directory)])
    return Kept()


def _file(directory: Path, partition: int) -> Path:
    return directory / (LAST_PASS if partition == 0 else f"archive-{partition}.json")


def last_pass(directory: Path, partition: int = 0) -> Kept | None:
    """What the newest pass over a partition has left in a directory; None before the first."""
    import msgspec

    from writ.orchestrator.retention import Kept

    try:
        return msgspec.json.decode(_file(directory, partition).read_bytes(), type=Kept)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _write(path: Path, kept: Kept) -> None:
    import msgspec

    unfinished = path.with_name(f"{path.name}.new")
    unfinished.write_bytes(msgspec.json.encode(kept))
    unfinished.replace(path)


@contextmanager
def _alone(directory: Path) -> Generator[None]:
    """One pass at a time: another one is waited for."""
    try:
        descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise CommandError(f"directory {directory}: {error.strerror}", ["writ up"], UNREACHABLE) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sizes(args: Namespace) -> Sizes:
    from writ.orchestrator.retention import Sizes

    given: dict[str, Any] = {name: getattr(args, name) for name in Sizes._fields}
    sizes = Sizes()._replace(**{name: value for name, value in given.items() if value is not None})
    return sizes._replace(segment_min=min(sizes.segment_min, sizes.segment_max))


async def _run(directory: Path, partition: int | None, sizes: Sizes) -> dict[int, Kept]:
    """One pass over each log, or one, of the node that runs in the directory."""
    from writ.broker.archive import ArchiveDamaged, ArchivedLog
    from writ.broker.clock import SystemClock
    from writ.broker.log import JetStreamLog
    from writ.orchestrator.ended import SnapshotDamaged
    from writ.orchestrator.retention import Retention
    from writ.orchestrator.snapshots import Snapshots
    from writ.schemas.chain import Violation

    async with logs_of(directory, "archive") as link:
        try:
            passes: dict[int, Kept] = {}
            for number in await chosen(link, partition, directory):
                log = ArchivedLog.beside(directory, await JetStreamLog.open(link, number))
                snapshots = Snapshots.beside(directory, number)
                passes[number] = await Retention(log, snapshots, sizes).run(SystemClock().wall_us())
                _write(_file(directory, number), passes[number])
            return passes
        except (ArchiveDamaged, SnapshotDamaged, Violation, OSError) as error:
            raise CommandError(f"history is not whole, and nothing more was moved: {error}") from error


def _show(args: Namespace, kept: Kept) -> None:
    if args.verb == "run":
        moved = f"moved {count(kept.archived, 'record')} to the archive, {kept.trimmed} left the log"
        print(paint(moved, "bold green" if kept.trimmed else "bold") + "\n")
    if not kept.log_last:
        print("nothing was archived yet")
        next_steps(with_dir("writ archive run", directory_of(args)))
        return
    held = kept.held_back
    left = f"records {kept.log_first} to {kept.log_last}" if kept.log_last >= kept.log_first else "nothing"
    past = f"records 1 to {kept.archive_last} in {count(kept.segments, 'segment')}"
    pairs = [
        ("archive", past if kept.segments else "nothing yet"),
        ("log", left),
        ("snapshot", f"at record {kept.snapshot}" if kept.snapshot else "none yet"),
    ]
    if held is not None:
        from datetime import UTC, datetime

        until = held.until and datetime.fromtimestamp(held.until / 1_000_000, UTC).isoformat()
        more = f"; until {when(until)}" if until else ""
        pairs.append(("held back", f"record {held.seq}: {held.reason}{more}"))
    fields(pairs)
