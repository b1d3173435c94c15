"""`writ backup` and `writ restore`."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .brokers import join_of
from .output import count, fields, next_steps, paint, print_json
from .reach import directory_of, node_info, with_dir
from .usage import UNREACHABLE, CommandError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from writ.broker.hardened import HardenedClient
    from writ.orchestrator.replay.checked import Checked
    from writ.orchestrator.restoring import Restored
    from writ.schemas.backups import Manifest

T = TypeVar("T")


def backup(args: Namespace) -> int:
    """Takes a backup of the node that runs in the directory, or only reads one with --check."""
    folder = Path(args.folder)
    if args.check:
        manifest, checks = asyncio.run(_saying_why(_verify(folder)))
        told: dict[str, Any] = {"at": _stamp(manifest), "keys": manifest.keys, "logs": checks}
        _say(args, told, f"the backup in {folder} is whole", _pairs(manifest, folder))
        return 0
    manifest, added = asyncio.run(_saying_why(_take(args, folder)))
    told = {"at": _stamp(manifest), "keys": manifest.keys, "added": added, "logs": manifest.logs}
    _say(args, told, f"backed up, with {count(added, 'new record')}", _pairs(manifest, folder))
    if not args.json:
        if not manifest.keys:
            print("\nThe keys are not in it: keep keys, vault, audit and http.token of the node elsewhere.")
        next_steps(f"writ backup {folder} --check", f"writ restore {folder} --dir NEW")
    return 0


def restore(args: Namespace) -> int:
    """Makes a node's directory and streams of a backup."""
    folder, directory = Path(args.folder), directory_of(args)
    keys, restored = asyncio.run(_saying_why(_restore(args, folder, directory)))
    vault = (directory / "vault").exists()
    if args.json:
        logs = [log._asdict() for log in restored]
        print_json({"directory": str(directory), "logs": logs, "vault": vault})
        return 0
    print(paint(f"restored to {directory}", "bold green"))
    for log in restored:
        print(f"partition {log.partition}: records 1 to {log.seq}, and on in epoch {log.epoch}")
    if not (vault or keys):
        print(
            f"\nThere is no {directory / 'vault'}: sealed content, if there was any, stays closed. If the"
            "\nnode had a vault, put it there before you start this one: it makes itself another."
        )
    next_steps(with_dir("writ up", directory), with_dir("writ audit verify", directory))
    return 0


def _say(args: Namespace, told: dict[str, Any], first: str, pairs: list[tuple[str, str]]) -> None:
    if args.json:
        print_json(told)
    else:
        print(paint(first, "bold green") + "\n")
        fields(pairs)


def _stamp(manifest: Manifest) -> str:
    from writ.schemas.checkpoints import stamped

    return stamped(manifest.at)


def _pairs(manifest: Manifest, folder: Path) -> list[tuple[str, str]]:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    pairs = [("backup", str(folder)), ("taken", _stamp(manifest)), ("size", f"{size / 1e6:.1f} MB")]
    for log in manifest.logs:
        pairs.append((f"partition {log.partition}", f"records 1 to {log.last}, epoch {log.epoch}"))
    streams = [part.name for part in manifest.parts if part.kind == "stream"]
    return [*pairs, ("buckets", ", ".join(streams) or "none"), ("keys", "in it" if manifest.keys else "no")]


async def _saying_why(work: Awaitable[T]) -> T:
    """What the work comes to; its errors as the command line tells them."""
    from writ.broker.archive import ArchiveDamaged
    from writ.broker.errors import Unreachable
    from writ.broker.owned import BrokerError
    from writ.broker.ports import AppendFailed, OutcomeUnknown
    from writ.broker.streams import ApiError, BrokerTooOld, StreamMismatch
    from writ.broker.transfer import StreamRefused
    from writ.orchestrator.backups import BackupError
    from writ.schemas.chain import Violation

    try:
        return await work
    except (OutcomeUnknown, Unreachable) as error:
        raise CommandError(str(error), ["writ status"], UNREACHABLE) from error
    except (BackupError, ArchiveDamaged, BrokerError, StreamRefused, StreamMismatch, BrokerTooOld) as error:
        raise CommandError(str(error)) from error
    except (AppendFailed, ApiError, Violation, OSError) as error:
        raise CommandError(f"{type(error).__name__}: {error}") from error


async def _verify(folder: Path) -> tuple[Manifest, list[Checked]]:
    from writ.orchestrator.backups import verify

    return await verify(folder)


async def _take(args: Namespace, folder: Path) -> tuple[Manifest, int]:
    from writ import __version__
    from writ.broker.clock import SystemClock
    from writ.orchestrator.backups import Source, take

    directory = directory_of(args)
    info = node_info(directory)
    if info is None and args.broker_url is None:
        raise CommandError(f"no node runs in {directory}", [with_dir("writ up", directory)], UNREACHABLE)
    async with AsyncExitStack() as parts:
        link = await _link(args.broker_url or str((info or {})["url"]), directory, parts)
        now = SystemClock().wall_us()
        source = Source(directory, link, __version__)
        return await take(source, folder, now, keys=args.keys, wait_s=args.wait)


async def _restore(args: Namespace, folder: Path, directory: Path) -> tuple[bool, list[Restored]]:
    """Whether the secrets were in the backup, and the logs."""
    from writ.broker.clock import SystemClock
    from writ.broker.embedded import EmbeddedBroker
    from writ.broker.spread import ALONE
    from writ.orchestrator.backups import alone_in, read_manifest, verify
    from writ.orchestrator.restoring import Target, put_files, put_streams

    join = join_of(args)
    read_manifest(folder)  # before anything is written there
    async with AsyncExitStack() as parts:
        parts.enter_context(alone_in(folder))
        manifest, _ = await verify(folder)
        put_files(manifest, folder, directory)
        if join is None:
            url, spread = (await parts.enter_async_context(await EmbeddedBroker.start(directory))).url, ALONE
        else:
            broker, spread = await join.open(directory)
            parts.push_async_callback(broker.stop)
            url = broker.url
        link = await _link(url, directory, parts)
        target = Target(directory, link, spread)
        restored = await put_streams(manifest, folder, target, SystemClock(), args.epoch_above)
        return manifest.keys, restored


async def _link(url: str, directory: Path, parts: AsyncExitStack) -> HardenedClient:
    from writ.broker.connect import Target, connect

    link = await connect(Target(url, directory / "keys" / "log.creds"), "writ:backup", inbox_prefix="_INBOX")
    parts.push_async_callback(link.close)
    return link
