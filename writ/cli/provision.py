"""`writ worker --process NAME@REF`: the package of a release, checked, and the environment made from it."""

from __future__ import annotations

import asyncio
import logging
import threading
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from .reach import connected
from .releases import named_release
from .usage import CommandError

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.packages import Package
    from writ.schemas.processes import Release
    from writ.workers import Worker
    from writ.workers.environments import Environment

log = logging.getLogger("writ.worker")

REVOKED_LOOK_S: Final = 5.0


class Provisioned(NamedTuple):
    """A release that stands ready to run: `named` is NAME@VERSION, `modules` are where its tasks stand."""

    named: str
    digest: str
    modules: tuple[str, ...]
    environment: Environment


def provisioned(args: Namespace, queues: Sequence[str]) -> Provisioned:
    """The release that the options name, for a worker of these queues. Raises CommandError, WorkerError."""
    from writ.workers.environments import default_cache, provision

    package = asyncio.run(_fetched(args, queues))
    environment = provision(package, Path(args.cache) if args.cache else default_cache())
    manifest = package.manifest
    return Provisioned(f"{manifest.name}@{manifest.version}", package.digest, manifest.modules, environment)


async def _fetched(args: Namespace, queues: Sequence[str]) -> Package:
    """The package, from the store or the file at hand: that of the release, byte for byte, or none."""
    from writ.broker.errors import Refused
    from writ.packages import PackageError, open_package

    name, ref = named_release(args.process)
    async with connected(args) as client:
        release = await _release(client, name, ref, queues)
        named = f"{name}@{release.version}"
        if release.revoked is not None:
            reason = f"{named} is revoked, and no lease is given for it: {release.revoked}"
            raise CommandError(reason, [f"writ release list {name}"])
        try:
            at_hand = Path(args.package) if args.package else None
            source = at_hand or await client.package(release.digest, queue=queues[0])
            return open_package(source, digest=release.digest, trusted=[release.key])
        except Refused as error:
            raise CommandError(f"the package of {named} cannot be fetched: {error}") from error
        except PackageError as error:
            whose = args.package or f"the package of {named}"
            hints = [f"writ publish      (from the sources of {name}, as its next version)"]
            raise CommandError(f"{whose} is refused, and is not {named}: {error}", hints) from error
        except OSError as error:
            raise CommandError(f"{args.package} cannot be read: {error.strerror}") from error


async def _release(client: Client, name: str, ref: str, queues: Sequence[str]) -> Release:
    """What the log knows the release as; the same for all queues, as an alias may differ by scope."""
    from writ.broker.errors import Refused

    try:
        process = await client.process(name, queue=queues[0])
    except Refused as error:
        raise CommandError(str(error), ["writ release list"]) from error
    found: dict[str, Release] = {}
    for queue in queues:
        release = process.find(ref, queue)
        if release is None:
            hints = [f"writ release list {name}"]
            raise CommandError(f"{name} has no release {ref} for queue {queue}", hints)
        found[queue] = release
    if len({release.digest for release in found.values()}) > 1:
        each = ", ".join(f"{release.version} for {queue}" for queue, release in found.items())
        raise CommandError(f"{name}@{ref} is {each}: a worker holds one of them, so start one for each")
    return found[queues[0]]


# --- while it works -------------------------------------------------------------------------------------


def drain_when_revoked(args: Namespace, worker: Worker, held: Provisioned) -> None:
    """Lets a worker end, on a thread that looks every few seconds, when nothing is granted to it any more."""
    threading.Thread(
        target=lambda: asyncio.run(_until_revoked(args, worker, held)), name="writ-release", daemon=True
    ).start()


async def _until_revoked(args: Namespace, worker: Worker, held: Provisioned) -> None:
    from writ.broker.errors import WritError

    reason: str | None = None
    while reason is None:
        await asyncio.sleep(REVOKED_LOOK_S)
        with suppress(WritError, CommandError):  # the worker itself tells of a broker that is away
            async with connected(args) as client:
                reason = await _revoked(client, held, worker.queues[0])
    log.warning("%s is revoked: %s; worker %s drains and ends", held.named, reason, worker.name)
    worker.drain()


async def _revoked(client: Client, held: Provisioned, queue: str) -> str | None:
    process = await client.process(held.named.partition("@")[0], queue=queue)
    return process.releases[held.digest].revoked
