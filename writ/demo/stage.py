"""The processes of the demonstration: a node and workers, none of which may be left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from writ.broker.connect import Target
from writ.cli.processes import tail, writ_command
from writ.cli.reach import node_info

NODE: Final = "node"
READY_TIMEOUT_S: Final = 30.0
_DRAIN_S: Final = 3.0
_STOP_S: Final = 15.0
_POLL_S: Final = 0.02


class StageError(Exception):
    """A process did not do its part; the message ends with what it said."""


@dataclass
class Player:
    """One process, and the log that it writes."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    expected: bool = False
    """Whether its end is in the script."""


class Stage:
    """A directory with a node and its workers. Use it with `async with`: all of it is gone afterwards.

    Each process also stops by itself when its standard input ends, that is, when this process is gone.
    """

    def __init__(self, keep: bool) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="writ-demo-"))
        self._keep = keep
        self._players: dict[str, Player] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._stop()
        finally:
            for player in self._players.values():
                if player.process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        player.process.kill()
            if not self._keep:
                shutil.rmtree(self.directory, ignore_errors=True)

    # --- starting ---------------------------------------------------------------------------------------

    async def start_node(self) -> Target:
        """Returns when the node is ready; where it is."""
        player = await self._start(NODE, "up", "--quiet", "--dir", str(self.directory), "--until-stdin-ends")
        async with asyncio.timeout(READY_TIMEOUT_S):
            while True:
                info = node_info(self.directory)
                if info is not None and info["pid"] == player.process.pid:
                    break
                self._check(player)
                await asyncio.sleep(_POLL_S)
        key = Path(str(info["key_path"]))
        return Target(str(info["url"]), key, str(info["tenant"]), str(info["principal"]))

    async def start_worker(self, name: str, queue: str, concurrency: int) -> None:
        """Returns when the process runs; that it works is seen in the log of jobs."""
        words = ("worker", "writ.demo.tasks", "--queue", queue, "--name", name)
        counts = ("--concurrency", str(concurrency), "--until-stdin-ends")
        await self._start(name, *words, *counts, "--dir", str(self.directory))

    async def _start(self, name: str, *words: str) -> Player:
        log = self.directory / f"{name}.log"
        with log.open("ab") as said:
            process = await asyncio.create_subprocess_exec(
                *writ_command(*words),
                stdin=asyncio.subprocess.PIPE,
                stdout=said,
                stderr=said,
                cwd=self.directory,
                # A session of its own: Ctrl-C in a terminal reaches the demonstration alone, which ends it.
                start_new_session=True,
                env=os.environ | {"WRIT_LOG": "INFO", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"},
            )
        player = self._players[name] = Player(name, process, log)
        return player

    # --- in the course of it ----------------------------------------------------------------------------

    async def kill(self, name: str) -> int:
        """Ends a worker as `kill -9` does; its process id."""
        player = self._players[name]
        player.expected = True
        player.process.kill()
        code = await player.process.wait()
        if code != -signal.SIGKILL:
            raise StageError(f"{name} had ended by itself, with code {code}:\n{tail(player.log)}")
        return player.process.pid

    async def unexpected_end(self) -> None:
        """Raises StageError as soon as a process ends that should not."""
        waits = {asyncio.create_task(each.process.wait()): each for each in self._players.values()}
        try:
            while waits:
                done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._check(waits.pop(task))
        finally:
            for task in waits:
                task.cancel()

    def _check(self, player: Player) -> None:
        code = player.process.returncode
        if code is not None and not player.expected:
            raise StageError(f"{player.name} ended with code {code}; it said:\n{tail(player.log)}")

    def logs(self) -> str:
        """The last lines of every process."""
        return "\n".join(f"--- {each.name}\n{tail(each.log)}" for each in self._players.values())

    # --- stopping ---------------------------------------------------------------------------------------

    async def stop_workers(self) -> None:
        """Drains the workers, and does not wait long."""
        workers = [each for each in self._players.values() if each.name != NODE]
        # The second SIGTERM says not to wait for what runs.
        for how, within_s in ((signal.SIGTERM, 0.2), (signal.SIGTERM, _DRAIN_S), (signal.SIGKILL, _DRAIN_S)):
            if await self._end(workers, how, within_s):
                return

    async def _stop(self) -> None:
        await self.stop_workers()
        node = [each for each in self._players.values() if each.name == NODE]
        if not await self._end(node, signal.SIGTERM, _STOP_S):
            await self._end(node, signal.SIGKILL, _STOP_S)
            self._end_broker()

    @staticmethod
    async def _end(players: list[Player], how: signal.Signals, within_s: float) -> bool:
        """Whether all have ended within the time after the signal."""
        for player in players:
            player.expected = True
            if player.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    player.process.send_signal(how)
        waits = [asyncio.ensure_future(each.process.wait()) for each in players]
        if not waits:
            return True
        _, late = await asyncio.wait(waits, timeout=within_s)
        for task in late:
            task.cancel()
        return not late

    def _end_broker(self) -> None:
        """The broker of a node that had to be killed; the kernel ends it on Linux alone."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self.directory / "broker.pid").read_text(encoding="utf-8")), signal.SIGKILL)
