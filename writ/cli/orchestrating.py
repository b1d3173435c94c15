"""`writ orchestrator`: one more orchestrator over a log, which stands by warm and takes over."""

from __future__ import annotations

import asyncio
import signal
from argparse import Namespace
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .partitions import chosen
from .processes import log_to_stderr, new_loop, when_stdin_ends
from .reach import directory_of, node_info, with_dir
from .usage import UNREACHABLE, CommandError

if TYPE_CHECKING:
    from writ.broker.hardened import HardenedClient
    from writ.orchestrator.engine import Engine

_PATIENCE_S: Final = 15.0


def orchestrator(args: Namespace) -> int:
    """Runs until a signal; a leader hands over to who stands by."""
    log_to_stderr()
    if args.until_stdin_ends:
        when_stdin_ends(_PATIENCE_S)
    with asyncio.Runner(loop_factory=new_loop()) as runner:
        return runner.run(_run(args))


async def _run(args: Namespace) -> int:
    from writ.broker.errors import Unreachable, WireError
    from writ.broker.owned import BrokerError
    from writ.broker.ports import OutcomeUnknown
    from writ.broker.streams import ApiError, BrokerTooOld, StreamMismatch
    from writ.orchestrator.backups import BackupError
    from writ.orchestrator.garbage import keep_small

    directory = directory_of(args)
    async with AsyncExitStack() as parts:
        try:
            doors: asyncio.Task[None] | None = None
            if args.broker_url is None:
                engine = await _beside(directory, args.partition or 0, args.records, parts)
            else:
                engine, doors = await _joined(args, directory, parts)
        except (Unreachable, OutcomeUnknown) as error:
            raise CommandError(str(error), [with_dir("writ status", directory)], UNREACHABLE) from error
        except (WireError, BrokerError, BrokerTooOld, StreamMismatch, ApiError, BackupError) as error:
            raise CommandError(str(error)) from error
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, engine.stop)
        running = asyncio.create_task(engine.run())
        beside = [asyncio.create_task(_tell(engine)), asyncio.create_task(keep_small())]
        try:
            await _until_ended(engine, running, doors)
        finally:
            for task in beside:
                task.cancel()
    return 0


async def _until_ended(engine: Engine, running: asyncio.Task[None], doors: asyncio.Task[None] | None) -> None:
    """Returns when the engine has ended. Where the doorkeeper does, the engine hands over: this process would
    let in whom it knew at that time for ever. Raises CommandError then."""
    if doors is None:
        return await running
    await asyncio.wait([running, doors], return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        return running.result()
    engine.stop()
    await asyncio.wait([running], timeout=_PATIENCE_S)
    running.cancel()
    try:
        doors.result()
    except Exception as error:  # whatever it is, nobody would hear of it otherwise
        reason = f"whom the broker lets in no longer followed the log: {error!r}; start this again"
        raise CommandError(reason) from error
    return None


async def _tell(engine: Engine) -> None:
    await engine.is_led.wait()
    number = engine.state.number
    what = f"leads partition {number}"
    if not engine.leading.is_set():
        what = f"stands by for partition {number}; {engine.leader} leads"
    print(f"orchestrator {engine.name} {what}", flush=True)
    await engine.leading.wait()
    print(f"orchestrator {engine.name} leads from record {engine.state.seq}", flush=True)


async def _beside(directory: Path, partition: int, reads: int, parts: AsyncExitStack) -> Engine:
    """On the broker of the node in a directory, which lets principals in itself."""
    from writ.broker.doors import DEFAULT_TENANT, OWNER, local_principal
    from writ.engines import wire_engine
    from writ.principals import founders

    url = (node_info(directory) or {}).get("url")
    if url is None:
        reason = f"no node runs in {directory}, and no --broker-url is given"
        raise CommandError(reason, [with_dir("writ up", directory)], UNREACHABLE)
    links: list[HardenedClient] = []
    for user in ("log", "answer"):
        keys = directory / "keys" / f"{user}.creds"
        if not keys.exists():
            raise CommandError(f"{keys} is missing: copy the folder keys of the node to {directory}")
        links.append(await _link(str(url), keys, user, parts))
    await chosen(links[0], partition, directory)
    # The first log has them from its node.
    own = founders([local_principal(directory, DEFAULT_TENANT, OWNER)]) if partition else ()
    return (await wire_engine(directory, *links, partition=partition, founders=own, reads=reads)).engine


async def _joined(
    args: Namespace, directory: Path, parts: AsyncExitStack
) -> tuple[Engine, asyncio.Task[None] | None]:
    """On a broker that runs by itself: this process lets principals in as well, as any that joined it.

    The task is the doorkeeper, which never returns. Only who has the first log is one: all others hear later
    of a change of principals, and would have the broker take it back.
    """
    from writ.broker.clock import SystemClock
    from writ.engines import wire_engine
    from writ.joining import Join
    from writ.principals import Doorkeeper, founders

    partition = args.partition or 0
    join = Join(args.broker_url, args.replicas, tuple(args.placement))
    broker, spread = await join.open(directory, args.login_life)
    parts.push_async_callback(broker.stop)
    links = [await _link(broker.url, broker.key_path(user), user, parts) for user in ("log", "answer")]
    await chosen(links[0], partition, directory)
    own = founders(broker.founders)
    wired = await wire_engine(
        directory, *links, partition=partition, founders=own, spread=spread, reads=args.records
    )
    engine = wired.engine
    if partition:
        return engine, None

    async def keep_doors() -> None:
        await engine.is_led.wait()
        doorkeeper = Doorkeeper(SystemClock())
        await doorkeeper.listen(links[0])
        while True:
            await doorkeeper.keep(broker, engine.state)

    doors = asyncio.create_task(keep_doors())
    parts.callback(doors.cancel)
    return engine, doors


async def _link(url: str, keys: Path, user: str, parts: AsyncExitStack) -> HardenedClient:
    from writ.broker.connect import Target, connect

    link = await connect(Target(url, keys), f"writ:{user}", inbox_prefix="_INBOX")
    parts.push_async_callback(link.close)
    return link
