"""A node, workers and a client as real processes, and a watch on the raw log beside them."""
# nats-py leaves its options untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import nats.errors

HERE = Path(__file__).parent
QUEUE = "kills"
STREAM = "WRIT_LOG_0"
START_S = 30.0
STOP_S = 15.0
OUTPUT_S = 900.0
"""A listing of 100,000 jobs on a busy machine takes minutes."""
_ON_ITS_WAY_US = 50_000


def _shown(pid: int) -> str:
    """State and command line of a process; empty for a zombie, which may have nobody to reap it."""
    command = ["ps", "-ww", "-o", "stat=,command=", "-p", str(pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return "" if shown.startswith("Z") else shown


class LogWatch:
    """A follower of the raw log: the checker's fold, as new as the last look."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.history: Any = stage.checker.History()
        self._messages: list[Any] = []

    def live_at(self, wall_us: int) -> dict[str, int]:
        """How many leases each worker held at a time, by the broker's own time of storing."""
        until_then = [each for each in self._messages if each.stored_us <= wall_us]
        live: dict[str, int] = self._stage.checker.fold(until_then).live
        return live

    def gap_after(self, wall_us: int) -> int:
        """Microseconds between the last record by a time, or on its way then, and the next; 0 without."""
        found = self._messages
        later = bisect_right(found, wall_us + _ON_ITS_WAY_US, key=lambda each: int(each.stored_us))
        return found[later].stored_us - found[later - 1].stored_us if 0 < later < len(found) else 0

    async def reach(self, wall_us: int) -> None:
        """Takes what was stored up to a time; returns at the first record behind it."""
        await self.until(
            lambda _: self._messages and self._messages[-1].stored_us > wall_us, "the log goes on", START_S
        )

    async def until(self, condition: Callable[[Any], object], what: str, timeout_s: float) -> None:
        """Returns when something holds of the log. Goes on while the broker is away."""
        checker, stage = self._stage.checker, self._stage
        client = await checker.connect(stage.url, stage.directory / "keys" / "log.creds")
        try:
            async with asyncio.timeout(timeout_s):
                while not condition(self.history):
                    found = list[Any]()
                    with suppress(TimeoutError, ConnectionError, nats.errors.Error):  # the broker may be away
                        found = await checker.read_from(client, STREAM, self.history.seq + 1, 1.0)
                    for message in found:
                        self.history.take(message)
                        self._messages.append(message)
                        if condition(self.history):
                            return
                    if not found:
                        await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(
                f"not within {timeout_s:g} s: {what}; {self.history.seq} records, {self.history.live} live\n"
                f"{stage.said()}"
            ) from None
        finally:
            with suppress(ConnectionError):  # it may be lost at this moment
                await client.close()


class Stage:
    """A directory for everything of one test, and every process started there."""

    def __init__(self, root: Path, checker: ModuleType) -> None:
        self.root = root
        self.checker = checker
        self.directory = root / "node"
        self.ledger = root / "ledger"
        self.ledger.mkdir()
        self.go = root / "go"
        self.url = self.key_path = ""
        self.options: tuple[str, ...] = ()
        """Further words for `writ up`."""
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []

    # --- processes --------------------------------------------------------------------------------------

    def run(self, name: str, *command: str, **env: str) -> subprocess.Popen[bytes]:
        """Starts a program in a process group of its own; what it says goes to `<name>.log`."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("NATS_", "WRIT_"))}
        with (self.root / f"{name}.log").open("ab") as said:
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env={**clean, "LEDGER": str(self.ledger), **env},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self._started.append((name, process))
        return process

    @staticmethod
    def writ(*words: str) -> tuple[str, ...]:
        """A command line of this very Writ."""
        return (sys.executable, "-P", "-m", "writ", *words)

    async def node(self) -> subprocess.Popen[bytes]:
        """`writ up`; returns when it leads."""
        process = self.run("node", *self.writ("up", "--dir", str(self.directory), *self.options))
        await self.serves(process)
        return process

    async def serves(self, node: subprocess.Popen[bytes]) -> None:
        """Returns when a node is up, and takes where it is for all that is to come."""
        await self.until(
            lambda: self._info().get("pid") == node.pid or node.poll() is not None, "the node is up", START_S
        )
        assert node.poll() is None, self.said()
        self.url, self.key_path = str(self._info()["url"]), str(self._info()["key_path"])

    def worker(self, name: str, concurrency: int) -> subprocess.Popen[bytes]:
        """`writ worker` on the tasks that keep the ledger."""
        tasks = str(HERE / "ledger_tasks.py")
        words = ("worker", tasks, "--queue", QUEUE, "--concurrency", str(concurrency), "--name", name)
        return self.run(name, *self.writ(*words), **self.credentials())

    def submitter(self, jobs: int, held_back: int, lease_s: float) -> subprocess.Popen[bytes]:
        """The client; the last `held_back` jobs come after `release`."""
        numbers = (str(jobs), str(held_back), str(lease_s))
        program = (sys.executable, "-P", str(HERE / "submitter.py"))
        return self.run("submitter", *program, QUEUE, *numbers, str(self.go), **self.credentials())

    def release(self) -> None:
        self.go.touch()

    def broker_pid(self, directory: Path | None = None) -> int:
        """The nats-server of the node in a directory, the stage's own by default; 0 while there is none."""
        try:
            return int(((directory or self.directory) / "broker.pid").read_text())
        except (OSError, ValueError):
            return 0

    def lives(self, broker: int) -> bool:
        """Whether that nats-server of the node still runs."""
        return str(self.directory) in _shown(broker)

    def _info(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.directory / "node.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found

    def credentials(self) -> dict[str, str]:
        return {"NATS_URL": self.url, "NATS_NKEY": self.key_path}

    def watch(self) -> LogWatch:
        """A follower of the node's log."""
        return LogWatch(self)

    # --- evidence ---------------------------------------------------------------------------------------

    def acknowledged(self) -> list[int]:
        """When each acknowledgement came, by the wall clock in microseconds."""
        return [e["at_us"] for e in self.checker.read_ledger(self.ledger) if e["what"] == "ack"]

    async def verdict(self) -> dict[str, Any]:
        """What the checker, a program of its own, makes of log, ledger and `writ jobs --json`."""
        jobs = self.root / "jobs.json"
        listed = await self.output(*self.writ("jobs", "--json", "--dir", str(self.directory)))
        jobs.write_bytes(listed)
        key = self.directory / "keys" / "log.creds"
        said = await self.output(
            sys.executable,
            *("-I", str(HERE / "checker.py"), "--url", self.url, "--key", str(key)),
            *("--ledger", str(self.ledger), "--jobs", str(jobs)),
        )
        summary: dict[str, Any] = json.loads(said)
        return summary

    async def output(self, *command: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=self.root, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, errors = await asyncio.wait_for(process.communicate(), OUTPUT_S)
        assert process.returncode == 0, f"{out[-2000:].decode()}{errors[-2000:].decode()}: {command}"
        return out

    async def until(self, condition: Callable[[], object], what: str, timeout_s: float = STOP_S) -> None:
        """Returns when something holds, looked at a hundred times a second."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():  # noqa: ASYNC110 - watches other processes, which have no event
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"not within {timeout_s:g} s: {what}\n{self.said()}") from None

    def said(self) -> str:
        """The last lines of every process, for a failure's message."""
        parts: list[str] = []
        for path in sorted(self.root.glob("*.log")):
            parts += [f"--- {path.name}", *path.read_text(errors="replace").splitlines()[-15:]]
        return "\n".join(parts)

    # --- ending -----------------------------------------------------------------------------------------

    async def ended(self, process: subprocess.Popen[bytes], what: str, timeout_s: float = STOP_S) -> int:
        """Waits for a process to end by itself; its exit code."""
        await self.until(lambda: process.poll() is not None, f"{what} ends", timeout_s)
        return int(process.returncode)

    async def clear(self) -> None:
        """Kills whatever is left, the broker too, which is in a process group of its own."""
        for _, process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_S)
        await self.broker_gone(self.directory)

    async def broker_gone(self, directory: Path) -> None:
        """Returns when the broker of a node that was killed has ended; kills it where that takes long."""
        broker = self.broker_pid(directory)
        deadline = time.monotonic() + STOP_S
        while broker and str(directory) in _shown(broker):
            if time.monotonic() > deadline:
                os.kill(broker, signal.SIGKILL)
            await asyncio.sleep(0.01)
