"""A node and its workers as a user has them: `writ up` and `writ worker`, each a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Self

from writ.broker.connect import Target, connect
from writ.broker.log import JetStreamLog
from writ.broker.streams import api
from writ.cli.processes import tail, writ_command
from writ.cli.reach import node_info
from writ.schemas.subjects import log_stream

from .processes import Usage, child, usage
from .tasks import LEDGER, LINE

QUEUE: Final = "bench"
READY_TIMEOUT_S: Final = 60.0
_STOP_S: Final = 20.0
_POLL_S: Final = 0.02
_TASKS: Final = Path(__file__).with_name("tasks.py")


class StageError(Exception):
    """A process did not do its part; the message ends with what it said."""


class Stage:
    """A directory with a node and workers. Use it with `async with`: all of it is gone afterwards.

    Every process stops by itself when its standard input ends, that is, when this one is gone. With `tenants`
    the node is that of `tenants.py`, as `writ up` knows one tenant.
    """

    def __init__(self, *, tenants: int = 0) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="writ-bench-"))
        self.ledger = self.directory / "ledger"
        self.ledger.touch()
        self.target = Target()
        self._tenants = tenants
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._link: Any = None

    async def __aenter__(self) -> Self:
        try:
            await self._start_node()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._link is not None:
            await self._link.close()
        names = sorted(self._running, key=lambda name: name == "node")  # the workers first
        for name in names:
            await self.stop(name)
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- processes --------------------------------------------------------------------------------------

    async def _start_node(self) -> None:
        words = ("up", "--quiet", "--dir", str(self.directory), "--until-stdin-ends")
        script = Path(__file__).with_name("tenants.py")
        many = [sys.executable, str(script), str(self.directory), str(self._tenants)]
        await self.start("node", *words, command=many if self._tenants else None)
        until = time.monotonic() + READY_TIMEOUT_S
        while (info := node_info(self.directory)) is None:
            self.check()
            if time.monotonic() > until:
                raise StageError(f"the node is not ready after {READY_TIMEOUT_S:g} s:\n{self.said('node')}")
            await asyncio.sleep(_POLL_S)
        self.target = Target(
            str(info["url"]), Path(str(info["key_path"])), str(info["tenant"]), str(info["principal"])
        )
        log_user = Target(self.target.url, self.directory / "keys" / "log.creds")
        self._link = await connect(log_user, "bench-check", inbox_prefix="_INBOX")

    async def restart_node(self) -> float:
        """Stops the node and starts it on its data: how many seconds until it leads and answers again."""
        await self._link.close()
        await self.stop("node")
        begun = time.monotonic()
        await self._start_node()
        return time.monotonic() - begun

    async def start_worker(self, concurrency: int, name: str = "worker") -> None:
        """Returns when the process runs; that it works is seen when jobs run."""
        await self.start(
            name,
            *("worker", str(_TASKS), "--queue", QUEUE, "--concurrency", str(concurrency), "--name", name),
            *("--dir", str(self.directory), "--until-stdin-ends"),
        )

    async def start(self, name: str, *words: str, command: list[str] | None = None) -> None:
        """Runs `writ` with these words, or another command, until the stage is left."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("WRIT_", "NATS_"))}
        mine = {LEDGER: str(self.ledger), "NATS_URL": self.target.url, "NO_COLOR": "1"}
        if self.target.key_path is not None:
            mine["NATS_NKEY"] = str(self.target.key_path)
        with (self.directory / f"{name}.log").open("ab") as said:
            self._running[name] = await asyncio.create_subprocess_exec(
                *(command or writ_command(*words)),
                stdin=asyncio.subprocess.PIPE,
                stdout=said,
                stderr=said,
                start_new_session=True,
                env=clean | mine,
            )

    async def stop(self, name: str) -> None:
        """Ends a process as its user would, by force where it does not listen."""
        process = self._running.pop(name)
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(how)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _STOP_S)
                return

    def check(self) -> None:
        """Raises StageError where a process has ended."""
        for name, process in self._running.items():
            if process.returncode is not None:
                raise StageError(f"the {name} ended with code {process.returncode}:\n{self.said(name)}")

    def said(self, name: str) -> str:
        """The last lines of a process."""
        return tail(self.directory / f"{name}.log")

    def use(self) -> dict[str, Usage]:
        """What every process has used until now; this one is the `client`."""
        pids = {name: process.pid for name, process in self._running.items()}
        pids["broker"] = int((self.directory / "broker.pid").read_text(encoding="utf-8"))
        pids["client"] = os.getpid()
        views = child(pids["node"], "writ.views") if "node" in pids else None
        if views is not None:
            pids["views"] = views
        return {name: usage(pid) for name, pid in pids.items()}

    # --- what came of it --------------------------------------------------------------------------------

    @property
    def sync_interval(self) -> str:
        """What the broker that runs was told of syncing."""
        said = (self.directory / "broker.conf").read_text(encoding="utf-8")
        return said.partition("sync_interval:")[2].split()[0].strip('"')

    @property
    def log(self) -> JetStreamLog:
        """The log as the broker's own user reads it."""
        return JetStreamLog(self._link, 0, 1)

    async def log_state(self) -> tuple[int, int]:
        """The log's last sequence, and the bytes that the broker keeps for it."""
        info = await api(self._link, f"STREAM.INFO.{log_stream(0)}")
        return int(info["state"]["last_seq"]), int(info["state"]["bytes"])

    def bodies(self) -> int:
        """How many bodies have begun."""
        return self.ledger.stat().st_size // LINE.size

    def lines(self) -> list[tuple[int, int]]:
        """The number of each body's job, and when it began, in nanoseconds of wall time."""
        return [(n, at) for n, at in LINE.iter_unpack(self.ledger.read_bytes())]
