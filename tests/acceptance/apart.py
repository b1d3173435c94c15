"""Servers in network namespaces of their own, whose cables can be pulled.

    this namespace (made for the run)          one of each server
      wb 10.99.0.1/24, a bridge
        w0 ------------------------------------- eth 10.99.0.10
        w1 ------------------------------------- eth 10.99.0.11 ...

The namespaces live as long as the processes in them: nothing is left behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .cluster import Cluster

_INSIDE: Final = "WRIT_TEST_NAMESPACE"
_CLIENTS: Final = 4222
_ROUTES: Final = 6222


def missing() -> str | None:
    """Why there can be no namespaces here; None where there can."""
    wanted = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
    if wanted:
        return f"{wanted[0]} is not installed"
    made = subprocess.run(
        ("unshare", "-n", "ip", "link", "add", "w0", "type", "veth", "peer", "name", "w1"),
        capture_output=True,
        text=True,
        check=False,
    )
    return None if made.returncode == 0 else f"no namespace or no veth: {made.stderr.strip()}"


def inside() -> bool:
    """Whether this process is in a namespace that `enter` made."""
    return bool(os.environ.get(_INSIDE))


def enter(module: str, words: Sequence[str]) -> None:
    """Goes on as a new run of a program, in a namespace of its own that has a loopback and nothing else."""
    shell = ("unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    os.environ[_INSIDE] = "1"
    os.execvp(shell[0], (*shell, sys.executable, "-m", module, *words))


class Apart(Cluster):
    """A cluster, each of its servers behind a cable. To be used inside (`enter`)."""

    def __init__(self, root: Path, keys: Path, servers: int = 3) -> None:
        super().__init__(root, keys, servers)
        self.ports = [_CLIENTS] * servers
        _ip("link", "add", "wb", "type", "bridge")
        _ip("address", "add", "10.99.0.1/24", "dev", "wb")
        _ip("link", "set", "wb", "up")

    @property
    def url(self) -> str:
        return ",".join([f"nats://{self._host(number)}:{_CLIENTS}" for number in range(self.size)])

    def environment(self, number: int) -> dict[str, str]:
        routes = [f'"nats-route://{self._host(each)}:{_ROUTES}"' for each in range(self.size)]
        return {
            **super().environment(number),
            "WRIT_BROKER_LISTEN": f"{self._host(number)}:{_CLIENTS}",
            "WRIT_BROKER_CLUSTER": f"{self._host(number)}:{_ROUTES}",
            "WRIT_BROKER_ROUTES": f"[{', '.join(routes)}]",
        }

    def command(self, number: int) -> tuple[str, ...]:
        # It waits for its end of the cable, and goes on as soon as the address is there.
        waiting = f"until ip address show eth 2>&1 | grep -q {self._host(number)}/; do sleep 0.02; done"
        return ("unshare", "-n", "sh", "-c", f'{waiting}; exec "$@"', "sh", *super().command(number))

    def start(self, number: int) -> None:
        super().start(number)
        cable = f"w{number}"
        subprocess.run(("ip", "link", "del", cable), capture_output=True, check=False)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth", "netns", str(self._inside(number)))
        _ip("link", "set", cable, "master", "wb", "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("link", "set", "eth", "up"),
            ("address", "add", f"{self._host(number)}/24", "dev", "eth"),
        ):
            subprocess.run(("nsenter", "-t", str(self.pid(number)), "-n", "ip", *words), check=True)

    def _inside(self, number: int) -> int:
        """The process of a server, once it is in a namespace of its own."""
        pid, ours = self.pid(number), os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{pid}/ns/net") == ours:
            pass
        return pid

    def pull(self, number: int) -> None:
        """Pulls a server's cable: nothing comes and goes, and nobody is told."""
        _ip("link", "set", f"w{number}", "down")

    def plug(self, number: int) -> None:
        """Puts the cable back."""
        _ip("link", "set", f"w{number}", "up")

    @contextmanager
    def slow(self, number: int, delay_s: float) -> Generator[None]:
        """Holds back all that goes through a server's cable for so long, in both directions.

        The kernel's own way, `netem`, is missing in many: a program takes the place of the cable's last bit.
        """
        cable, mine, bridged = f"w{number}", f"v{number}", f"b{number}"
        _ip("link", "add", bridged, "type", "veth", "peer", "name", mine)
        _ip("link", "set", bridged, "master", "wb", "up")
        _ip("link", "set", mine, "arp", "off", "up")  # else this machine answers there for its own address
        _ip("link", "set", cable, "arp", "off", "nomaster")
        command = (sys.executable, "-m", "tests.acceptance.slow_cable", cable, mine, str(delay_s))
        holding = subprocess.Popen(command)
        try:
            yield
            assert holding.poll() is None, f"nothing held the cable {cable} back: see above"
        finally:
            holding.kill()
            holding.wait()
            _ip("link", "del", bridged)
            _ip("link", "set", cable, "arp", "on", "master", "wb")

    @staticmethod
    def _host(number: int) -> str:
        return f"10.99.0.{10 + number}"


def _ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True)
