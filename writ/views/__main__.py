"""`python -m writ.views`: the views of a node, and answers from them. The node starts it (see `keeper`)."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import msgspec

from writ.broker.archive import ArchivedLog
from writ.broker.connect import Target, connect
from writ.broker.log import JetStreamIntake, JetStreamLog
from writ.broker.queries import serve_queries
from writ.broker.requests import NatsRequests
from writ.cli.processes import log_to_stderr, new_loop, when_stdin_ends
from writ.projections.feed import Feeds
from writ.projections.queries import Queries
from writ.projections.registry import VIEWS
from writ.projections.runner import Runner

from .keeper import FAILED, READY, Settings

log = logging.getLogger("writ.views")

_BROKER_S: Final = 20.0
"""How long the broker may be away while this starts."""

_PATIENCE_S: Final = 1.0
_LINE_MAX: Final = 1_000
_SWITCH_S: Final = 0.001
"""A query gets its turn so soon while a thread folds a long batch; Python's own 5 ms count several times."""

_NICE: Final = 5
"""A view may be late, as it says how late it is; the engine's answers may not. So where both want the same
core the engine gets three quarters of it, and a view that has a long way to catch up holds nobody up."""


def main(directory: Path) -> int:
    """Serves the views in a directory until standard input ends or SIGTERM comes."""
    log_to_stderr()
    settings = _settings()
    if settings is None:
        return 0
    when_stdin_ends(_PATIENCE_S)
    sys.setswitchinterval(_SWITCH_S)
    try:
        with asyncio.Runner(loop_factory=new_loop()) as runner:
            runner.run(_serve(directory, settings))
    except asyncio.CancelledError:
        return 0
    except Exception as error:
        log.exception("the views cannot go on")
        _say(f"{FAILED}{type(error).__name__}: {error}")
        return 1
    return 0


def _settings() -> Settings | None:
    """What the node says in the first line; None where it has ended before."""
    said = b""
    while not said.endswith(b"\n"):
        some = os.read(0, 65_536)
        if not some:
            return None
        said += some
    return msgspec.json.decode(said, type=Settings)


def _say(line: str) -> None:
    os.write(1, line.replace("\n", " ")[:_LINE_MAX].encode() + b"\n")


async def _serve(directory: Path, settings: Settings) -> None:
    """Never returns; SIGTERM cancels it."""
    serving = asyncio.current_task()
    assert serving is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    async with AsyncExitStack() as parts:
        await _open(directory, settings, parts)
        os.nice(_NICE)  # not sooner: the node waits for all before this
        _say(READY)
        await asyncio.get_running_loop().create_future()


async def _open(directory: Path, settings: Settings, parts: AsyncExitStack) -> None:
    """Opens the views, has them follow the log and answers queries. All of it is closed with `parts`."""

    async def link(key: str, purpose: str) -> Any:
        made = await connect(
            Target(settings.url, Path(key)), f"writ:{purpose}", inbox_prefix="_INBOX", wait_s=_BROKER_S
        )
        parts.push_async_callback(made.close)
        return made

    logs, answers = await asyncio.gather(link(settings.log_key, "view"), link(settings.answer_key, "query"))
    live = JetStreamLog(logs, settings.partition, settings.log_epoch)
    log_ = ArchivedLog.beside(Path(settings.directory), live)
    intake = JetStreamIntake(logs, settings.submit_epoch)
    feeds = Feeds(log_)
    parts.push_async_callback(feeds.close)
    runners = [Runner(directory / f"{make().name}.db", feeds, make) for make in VIEWS]
    for runner in runners:
        parts.push_async_callback(runner.close)
        await runner.open()
        parts.push_async_callback(_end, asyncio.create_task(runner.run(), name=f"view {runner.name}"))
    who = NatsRequests(answers, logs).who
    queries = Queries(runners, log_, intake, settings.version, who=who)
    parts.push_async_callback(queries.close)
    await serve_queries(answers, queries.answer)
    await answers.flush()  # the broker has the subscription: whoever asks from now on is heard


async def _end(task: asyncio.Task[None]) -> None:
    while not task.done():  # more than once, as `wait_for` of Python 3.11 may swallow a cancellation
        task.cancel()
        await asyncio.wait({task}, timeout=0.5)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
