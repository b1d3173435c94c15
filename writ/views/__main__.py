"""`python -m writ.views`: the views of a node, and answers from them. The node starts it (see `keeper`)."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from writ.broker.accounts import FRONT_INBOX
from writ.broker.alarms import raise_alarm
from writ.broker.archive import ArchivedLog
from writ.broker.clock import SystemClock
from writ.broker.connect import Target, connect
from writ.broker.doors import DEFAULT_TENANT
from writ.broker.filed import FiledObjects
from writ.broker.filing import JetStreamFiling, buckets_of
from writ.broker.keyvalue import JetStreamKeyValue, bucket_of
from writ.broker.log import JetStreamIntake, JetStreamLog
from writ.broker.mirror import Mirror
from writ.broker.note_places import place_of
from writ.broker.objects import FolderObjects
from writ.broker.ports import OutcomeUnknown
from writ.broker.queries import ask, serve_queries, teller
from writ.broker.requests import NatsRequests
from writ.broker.spread import Spread
from writ.broker.streams import look_at, partitions_of
from writ.broker.vault import Vault, vault_path
from writ.children.life import ended, live
from writ.children.share import Share
from writ.metrics.components import component, name_in, of_node
from writ.metrics.of_audit import of_audit
from writ.metrics.of_views import of_views
from writ.metrics.serving import serve
from writ.projections import places
from writ.projections.checkpoints import Checkpointing
from writ.projections.feed import Feeds
from writ.projections.packages import PackageStore
from writ.projections.proofs import Proofs
from writ.projections.queries import Queries
from writ.projections.registry import APART, OPTIONAL, VIEWS
from writ.projections.runner import Runner
from writ.projections.snapshots import Snapshots
from writ.projections.tree import TreeView
from writ.projections.watch import Alarm, Watch
from writ.schemas import catalog
from writ.schemas.bounds import PACKAGES_MAX_BYTES, REASON_MAX_CHARS
from writ.schemas.commands import RaiseAlarm
from writ.schemas.metrics import Family
from writ.schemas.queries import Durability
from writ.schemas.stores import FILES_MAX_BYTES
from writ.schemas.subjects import STORE_SERVED, SUBMIT_STREAM, log_stream, mirror_stream, queries_of

from ..durable import Durable, doubts
from ..storehouse import FILES, Storehouse
from .apart import Apart, tune
from .front import Front
from .keeper import Settings

_BROKER_S: Final = 20.0
"""How long the broker may be away while this starts."""

PARTITIONS_LOOK_S: Final = 2.0
_NICE: Final = 10
"""Views take what engine, broker and workers leave, a tenth of a core that all want. Where Linux shares
between sessions first they do so while they are in time, see `Share`."""


def main(directory: Path) -> int:
    """Serves the views in a directory until standard input ends or SIGTERM comes."""
    tune()
    return live(Settings, partial(_open, directory), _NICE)


async def _open(directory: Path, settings: Settings, parts: AsyncExitStack) -> None:
    """Opens the views, has them follow the log and answers queries. All of it is closed with `parts`."""

    async def link(key: str, purpose: str, inbox: str = "_INBOX") -> Any:
        made = await connect(
            Target(settings.url, Path(key)), f"writ:{purpose}", inbox_prefix=inbox, wait_s=_BROKER_S
        )
        parts.push_async_callback(made.close)
        return made

    logs, answers = await asyncio.gather(link(settings.log_key, "view"), link(settings.answer_key, "query"))
    live = JetStreamLog(logs, settings.partition, settings.log_epoch)
    log_ = ArchivedLog.beside(Path(settings.directory), live)
    intake = JetStreamIntake(logs, settings.submit_epoch)
    feeds = Feeds(log_)
    parts.push_async_callback(feeds.close)
    makes = (*VIEWS, *OPTIONAL) if settings.search else VIEWS
    snapshots = Snapshots.beside(Path(settings.directory), directory.name)
    if not settings.search:
        for make in OPTIONAL:  # what is not kept in step must not answer, nor stay
            places.remove(directory / f"{make().name}.db")
            await snapshots.forget(make().name)
    share = Share(SystemClock())
    apart = Apart(feeds)
    parts.push_async_callback(apart.close)
    runners = [
        Runner(
            directory / f"{make().name}.db",
            feeds,
            make,
            helper=apart.fold if make in APART else None,
            snapshots=snapshots,
            folded=share.dealt_with,
        )
        for make in makes
    ]
    for runner in runners:
        parts.push_async_callback(runner.close)
        await runner.open()
    for runner in runners:  # together: who begins later finds the reading gone on, and reads for itself
        parts.push_async_callback(ended, asyncio.create_task(runner.run(), name=f"view {runner.name}"))
    parts.push_async_callback(ended, asyncio.create_task(snapshots.keep(runners), name="snapshots of views"))
    vault = Vault(vault_path(Path(settings.directory)), create=False)
    who = NatsRequests(answers, logs).who
    checkpoints = _checkpointing(settings, runners, log_)
    parts.push_async_callback(checkpoints.close)
    parts.push_async_callback(ended, asyncio.create_task(checkpoints.run(), name="checkpoints"))
    # An archive of its own: what it has noticed of it is a list that two may not add to at a time.
    watched = ArchivedLog.beside(Path(settings.directory), live)
    watch = await _watch(settings, checkpoints, logs, watched)
    parts.push_async_callback(ended, asyncio.create_task(watch.run(), name="watch"))
    proofs, tell = Proofs(checkpoints, log_), teller(logs)
    store = PackageStore(lambda tenant: _packages(logs, tenant, settings.spread))
    await store.take_over(FolderObjects(Path(settings.directory) / "packages"))
    queries = Queries(
        runners,
        log_,
        intake,
        settings.version,
        who=who,
        keys=vault,
        proofs=proofs,
        tell=tell,
        packages=store,
        durability=await _durability(settings, logs, watch, parts),
    )
    parts.push_async_callback(queries.close)
    await _serve_metrics(directory, settings, runners, (checkpoints, watch), logs, parts)
    if settings.partition:
        queries.partitions = settings.partition + 1  # there are others
        await serve_queries(answers, queries.answer, queries_of(settings.partition))
        await answers.flush()
        return
    front = Front(queries.answer, partial(ask, await link(settings.log_key, "front", FRONT_INBOX)), who)
    parts.push_async_callback(ended, asyncio.create_task(_count(front, queries, logs), name="partitions"))
    await serve_queries(answers, front.answer)
    house = _storehouse(queries, logs, settings.spread)
    parts.push_async_callback(ended, asyncio.create_task(house.keep(), name="sweeper of files"))
    await serve_queries(answers, house.answer, [STORE_SERVED])
    await answers.flush()  # the broker has the subscription: whoever asks from now on is heard


async def _count(front: Front, queries: Queries, link: Any) -> None:
    """Keeps in step how many partitions there are, until cancelled."""
    while True:
        with suppress(OutcomeUnknown):  # looked at again
            front.partitions = queries.partitions = await partitions_of(link)
        await asyncio.sleep(PARTITIONS_LOOK_S)


def _packages(link: Any, tenant: str, spread: Spread) -> FiledObjects:
    bucket = bucket_of("packages", tenant)
    filing = JetStreamFiling(link, bucket, PACKAGES_MAX_BYTES, spread)
    return FiledObjects(filing, bucket, partial(secrets.token_hex, 12))


def _storehouse(queries: Queries, link: Any, spread: Spread) -> Storehouse:
    return Storehouse(
        queries.admit,
        lambda bucket: JetStreamFiling(link, bucket, FILES_MAX_BYTES, spread),
        lambda bucket: JetStreamKeyValue(link, bucket, "Writ: memory of runs and agents.", spread),
        partial(buckets_of, link, FILES),
        SystemClock(),
    )


async def _durability(
    settings: Settings, logs: Any, watch: Watch, parts: AsyncExitStack
) -> Callable[[], Awaitable[tuple[Durability | None, Sequence[str]]]]:
    target = Target(settings.url, Path(settings.system_key))
    system = await connect(target, "writ:durability", inbox_prefix="_INBOX", wait_s=_BROKER_S)
    parts.push_async_callback(system.close)
    durable = Durable(system, logs, settings.partition, SystemClock())

    async def look() -> tuple[Durability | None, Sequence[str]]:
        found = await durable.look()
        told = None if found is None else replace(found, mirror_lag=watch.mirror_lag)
        return told, doubts(told)

    return look


def _checkpointing(settings: Settings, runners: list[Runner], log_: ArchivedLog) -> Checkpointing:
    tree = next(runner for runner in runners if runner.name == TreeView.name)
    copies = [place_of(address) for address in settings.checkpoints]
    return Checkpointing(Path(settings.directory), tree, settings.partition, log_.last_seq, copies)


async def _watch(settings: Settings, checkpoints: Checkpointing, link: Any, log_: ArchivedLog) -> Watch:
    """Raises OutcomeUnknown where the mirror cannot be made."""
    names = [log_stream(settings.partition), SUBMIT_STREAM]
    mirror = None
    if settings.audit_mirror:
        mirror = await Mirror.open(link, settings.partition, spread=settings.spread)
        names.append(mirror_stream(settings.partition))

    async def report(alarm: Alarm) -> None:
        said = RaiseAlarm(
            tenant=DEFAULT_TENANT, alarm=alarm.kind, about=alarm.about, reason=alarm.reason[:REASON_MAX_CHARS]
        )
        await raise_alarm(link, "audit", said)

    return Watch(
        Path(settings.directory),
        log_,
        checkpoints,
        partial(look_at, link, names),
        report,
        mirror,
        about=names[0],
    )


async def _serve_metrics(
    directory: Path,
    settings: Settings,
    runners: list[Runner],
    audit: tuple[Checkpointing, Watch],
    link: Any,
    parts: AsyncExitStack,
) -> None:
    """The page of the views, and where somebody asked for it that of the node. Raises PortTaken."""
    node = Path(settings.directory)

    async def of_process() -> list[Family]:
        of_these = await of_views(runners, directory, settings.partition, link)
        return [*of_these, *of_audit(settings.partition, *audit)]

    async def of_all() -> list[Family]:
        return await of_node(node)

    await parts.enter_async_context(component(node, name_in(catalog.VIEWS, settings.partition), of_process))
    if settings.metrics_port is not None:
        server = await serve(of_all, settings.metrics_port, settings.metrics_host)
        parts.callback(server.close)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
