"""Real nats-servers on the configurations of `deploy/broker`, on loopback: what a node joins."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import nats.errors

from writ.broker.connect import login
from writ.broker.hardened import HardenedClient
from writ.broker.owned import server_binary
from writ.broker.tls import CA_FILE

from .certificates import certify

CONFIGURATIONS: Final = Path(__file__).parents[2] / "deploy" / "broker"
START_S: Final = 30.0
_STOP_S: Final = 15.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody has, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:
    """Servers on one configuration, each with a folder in `data`; `keys` is the directory of a node.

    With `backup` they believe the node that was backed up there, and will be restored to that directory.
    """

    def __init__(
        self,
        root: Path,
        keys: Path,
        servers: int = 3,
        configuration: str = "cluster.conf",
        *,
        data: Path | None = None,
        backup: Path | None = None,
        sync: str = "always",
    ) -> None:
        self.root = root
        self.keys = keys
        self.size = servers
        self.configuration = configuration
        self._sync = sync
        self._backup = backup
        self._data = data or root
        ports = free_ports(3 * servers)
        self.ports, self.routes, self.remotes = (ports[at::3] for at in range(3))
        """Where clients, the other servers, and leaf nodes connect."""
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * servers
        self.more: dict[str, str] = {}
        """Further variables of every server's environment."""

    @property
    def url(self) -> str:
        return ",".join([f"nats://127.0.0.1:{port}" for port in self.ports])

    def prepare(self) -> None:
        """Writes what the servers read: the configurations as they are, and whom to believe."""
        self.root.mkdir(parents=True, exist_ok=True)
        for file in CONFIGURATIONS.glob("*.conf"):
            text = file.read_text().replace("sync_interval: always", f"sync_interval: {self._sync}")
            (self.root / file.name).write_text(text)
        command = (sys.executable, "-P", "-m", "writ", "broker", "trust", str(self.root / "trust.conf"))
        whose = ("--dir", str(self.keys)) if self._backup is None else ("--backup", str(self._backup))
        subprocess.run([*command, *whose], check=True, stdout=subprocess.DEVNULL)

    def secure(self) -> None:
        """Makes certificates, for a configuration that speaks TLS, and has whoever has the keys know them."""
        self.more |= certify(self.root / "tls")
        (self.keys / "keys").mkdir(parents=True, exist_ok=True)
        shutil.copy(self.more["WRIT_BROKER_CA"], self.keys / "keys" / CA_FILE)

    def environment(self, number: int) -> dict[str, str]:
        """What the configuration of a server is completed by."""
        here = self.folder(number)
        return {
            "WRIT_BROKER_NAME": f"broker-{number}",
            "WRIT_BROKER_LISTEN": f"127.0.0.1:{self.ports[number]}",
            "WRIT_BROKER_STORE": str(here / "store"),
            "WRIT_BROKER_ACCOUNTS": str(here / "accounts"),
            "WRIT_BROKER_CLUSTER": f"127.0.0.1:{self.routes[number]}",
            "WRIT_BROKER_ROUTES": json.dumps([f"nats-route://127.0.0.1:{port}" for port in self.routes]),
            "WRIT_BROKER_TAG": f"zone:{number}",
            "WRIT_BROKER_LEAFNODES": f"127.0.0.1:{self.remotes[number]}",
            **self.more,
        }

    def folder(self, number: int) -> Path:
        """Where a server has its data."""
        return self._data / f"broker-{number}"

    def command(self, number: int) -> tuple[str, ...]:
        """How a server is started."""
        del number
        return (str(server_binary()), "-c", str(self.root / self.configuration))

    def start(self, number: int) -> None:
        """Starts a server; it may not be ready yet."""
        here = self.folder(number)
        (here / "accounts").mkdir(parents=True, exist_ok=True)
        with (self.root / f"broker-{number}.log").open("ab") as said:
            self._processes[number] = subprocess.Popen(
                self.command(number),
                env={**os.environ, **self.environment(number)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def start_all(self) -> None:
        """Prepares and starts all."""
        self.prepare()
        for number in range(self.size):
            self.start(number)

    def pid(self, number: int) -> int:
        """Of a server that was started."""
        process = self._processes[number]
        assert process is not None
        return process.pid

    def end(self, number: int, how: signal.Signals = signal.SIGKILL) -> None:
        """Ends a server, and returns when it is gone."""
        process = self._processes[number]
        if process is not None:
            if process.poll() is None:
                process.send_signal(how)
                process.send_signal(signal.SIGCONT)
            process.wait(_STOP_S)
        self._processes[number] = None

    def mend(self) -> None:
        """Starts again what has ended."""
        for number, process in enumerate(self._processes):
            if process is not None and process.poll() is not None:
                self.start(number)

    def clear(self) -> None:
        """Ends all."""
        for number in range(self.size):
            self.end(number)

    async def stream(self, name: str) -> dict[str, Any]:
        """What the broker tells of a stream; empty while nobody answers."""
        link = HardenedClient()
        try:
            await link.connect(
                self.url.split(","),
                **login(self.keys / "keys" / "log.creds"),
                allow_reconnect=False,
                connect_timeout=2,
                error_cb=_ignore,
            )
        except (OSError, TimeoutError, nats.errors.Error):
            return {}
        try:
            answer = await link.request(f"$JS.API.STREAM.INFO.{name}", b"", timeout=2)
        except (OSError, TimeoutError, nats.errors.Error):
            return {}
        finally:
            with suppress(Exception):
                await link.close()
        found: dict[str, Any] = json.loads(answer.data)
        return {} if "error" in found else found

    async def leader(self, stream: str) -> int | None:
        """The number of the server that leads a stream; None while there is none."""
        name = (await self.stream(stream)).get("cluster", {}).get("leader")
        return None if not name else int(name.removeprefix("broker-"))

    async def whole(self, stream: str) -> None:
        """Returns when a stream has a leader and every replica has all of it."""

        def complete(found: dict[str, Any]) -> bool:
            cluster = found.get("cluster", {})
            others = cluster.get("replicas", [])
            if found and not cluster:
                return True  # one server
            return bool(cluster.get("leader")) and all(
                each.get("current") and not each.get("offline") for each in others
            )

        await self.until(stream, complete, "all replicas are current")

    async def until(self, stream: str, condition: Callable[[dict[str, Any]], object], what: str) -> None:
        """Returns when something holds of a stream."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_S
        while not condition(found := await self.stream(stream)):
            assert loop.time() < deadline, f"not within {START_S:g} s: {what}; {found}\n{self.said()}"
            await asyncio.sleep(0.1)

    def said(self) -> str:
        """The last lines of every server."""
        parts: list[str] = []
        for path in sorted(self.root.glob("*.log")):
            parts += [f"--- {path.name}", *path.read_text(errors="replace").splitlines()[-15:]]
        return "\n".join(parts)


async def _ignore(_: Exception) -> None:
    """Failures show in the answer."""
