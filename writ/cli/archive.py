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
from .processes import log_to_stderr, when_stdin_ends
from .reach import directory_of, node_info, with_dir
from .usage import UNREACHABLE, CommandError

if TYPE_CHECKING:
    from writ.orchestrator.retention import Kept, Sizes

LAST_PASS: Final = "archive.json"
"""What the newest pass said, in the node's directory."""

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
            kept = asyncio.run(_run(directory, _sizes(args)))
            _write(directory, kept)
    else:
        kept = last_pass(directory) or _before_the_first(directory)
    if args.json:
        print_json(kept)
    else:
        _show(args, kept)
    return 0


def _before_the_first(directory: Path) -> Kept:
    """What a directory has where no pass was made. Raises CommandError where no node ever ran in it."""
    from writ.orchestrator.retention import Kept

    if not (directory / "views").is_dir():
        raise CommandError(f"no node ever ran in {directory}", [with_dir("writ up", directory)])
    return Kept()


def last_pass(directory: Path) -> Kept | None:
    """What the newest pass in a directory has left; None before the first."""
    import msgspec

    from writ.orchestrator.retention import Kept

    try:
        return msgspec.json.decode((directory / LAST_PASS).read_bytes(), type=Kept)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _write(directory: Path, kept: Kept) -> None:
    import msgspec

    unfinished = directory / f"{LAST_PASS}.new"
    unfinished.write_bytes(msgspec.json.encode(kept))
    unfinished.replace(directory / LAST_PASS)


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


async def _run(directory: Path, sizes: Sizes) -> Kept:
    """One pass over the log of the node that runs in the directory."""
    from writ.broker.archive import ArchiveDamaged, ArchivedLog
    from writ.broker.clock import SystemClock
    from writ.broker.connect import Target, connect
    from writ.broker.errors import Unreachable
    from writ.broker.log import JetStreamLog
    from writ.broker.ports import OutcomeUnknown
    from writ.orchestrator.ended import SnapshotDamaged
    from writ.orchestrator.retention import Retention
    from writ.orchestrator.snapshots import Snapshots
    from writ.schemas.chain import Violation

    info = node_info(directory)
    if info is None:
        raise CommandError(f"no node runs in {directory}", [with_dir("writ up", directory)], UNREACHABLE)
    target = Target(str(info["url"]), directory / "keys" / "log.creds")
    try:
        link = await connect(target, "writ:archive", inbox_prefix="_INBOX")
    except Unreachable as error:
        raise CommandError(str(error), [with_dir("writ status", directory)], UNREACHABLE) from error
    try:
        log = ArchivedLog.beside(directory, await JetStreamLog.open(link))
        snapshots = Snapshots.beside(directory, log.partition)
        return await Retention(log, snapshots, sizes).run(SystemClock().wall_us())
    except (ArchiveDamaged, SnapshotDamaged, Violation, OSError) as error:
        raise CommandError(f"history is not whole, and nothing more was moved: {error}") from error
    except OutcomeUnknown as error:
        raise CommandError(str(error), [with_dir("writ status", directory)], UNREACHABLE) from error
    finally:
        await link.close()


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
