"""What a user would pick instead, measured in the same run: servers, harnesses, and what each printed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple, Self

from .machine import ROOT

Line = dict[str, Any]
"""What a harness prints. One that did not run has `error`."""

HERE: Final = Path(__file__).with_name("peers")
HOME: Final = ROOT / "benchmarks" / ".peers"
LIGHT_S: Final = 10
_TIMEOUT_S: Final = 240.0
_RESTATE: Final = "node_modules/@restatedev/restate-server-linux-x64/bin"


class Peer(NamedTuple):
    """A harness, with how many jobs, and on which of its servers.

    `alone` names a server that uses the processor when it is idle: it is stopped while others are timed.
    """

    harness: str
    jobs: int
    mode: str = ""
    alone: str = ""

    @property
    def name(self) -> str:
        return self.harness.removesuffix("_peer") + (f" ({self.mode})" if self.mode else "")


PEERS: Final = (
    Peer("pgqueuer_peer", 10_000),
    Peer("faststream_peer", 10_000),
    Peer("faststream_peer", 10_000, "fsync"),
    Peer("taskiq_peer", 10_000),
    Peer("taskiq_peer", 10_000, "fsync"),
    Peer("huey_peer", 10_000),
    Peer("huey_peer", 10_000, "fsync"),
    Peer("dramatiq_peer", 10_000),
    Peer("dramatiq_peer", 10_000, "fsync"),
    Peer("dramatiq_peer", 10_000, "rabbit"),
    Peer("procrastinate_peer", 5_000),
    Peer("celery_peer", 2_000),
    Peer("celery_peer", 2_000, "rabbit"),
    Peer("arq_peer", 3_000),
    Peer("dbos_peer", 3_000),
    Peer("rq_peer", 1_000),
    Peer("restate_peer", 3_000, alone="restate"),
    Peer("temporal_peer", 200, alone="temporal"),
)


class Servers:
    """The servers that the peers need, on ports of their own; those that are not installed are missed."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="writ-bench-peers-"))

    async def __aenter__(self) -> Self:
        self.directory.chmod(0o755)  # PostgreSQL runs as another user where this one is root
        await self._brokers("start")
        for peer in PEERS:
            self.signal(peer.alone, signal.SIGSTOP)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._brokers("stop")
        await asyncio.sleep(2)
        shutil.rmtree(self.directory, ignore_errors=True)

    def signal(self, server: str, how: signal.Signals) -> None:
        """To one server, if it was started."""
        file = self.directory / f"{server}.pid"
        if server and file.is_file():
            os.kill(int(file.read_text(encoding="utf-8")), how)

    async def _brokers(self, verb: str) -> None:
        path = os.pathsep.join([str(HOME / "venv" / "bin"), str(HOME / _RESTATE), os.environ.get("PATH", "")])
        process = await asyncio.create_subprocess_exec(
            *("bash", str(HERE / "brokers.sh"), verb, str(self.directory)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | {"PATH": path},
        )
        await process.wait()


async def one_pass(servers: Servers, peers: Iterable[Peer] = PEERS) -> AsyncIterator[Line]:
    """Each peer once."""
    for peer in peers:
        servers.signal(peer.alone, signal.SIGCONT)
        await asyncio.sleep(2 if peer.alone else 0.5)
        line = await _run(peer)
        servers.signal(peer.alone, signal.SIGSTOP)
        yield {"peer": peer.name, **line, "name": peer.name}


async def _run(peer: Peer) -> Line:
    venv = "venv-arq" if peer.harness == "arq_peer" else "venv"
    python = HOME / venv / "bin" / "python"
    if not python.exists():
        return {"error": f"no {python.relative_to(ROOT)}; `make bench-peers` makes it"}
    process = await asyncio.create_subprocess_exec(
        *(str(python), f"{peer.harness}.py", "--jobs", str(peer.jobs), "--light-secs", str(LIGHT_S)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        cwd=HERE,
        env=os.environ | {"BENCH_MODE": peer.mode},
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), _TIMEOUT_S)
    except TimeoutError:
        return {"error": f"not done after {_TIMEOUT_S:g} s"}
    finally:
        if process.returncode is None:
            process.terminate()  # it ends its worker, which is of a session of its own
            await process.wait()
    try:
        line: Line = json.loads(out.decode().splitlines()[-1])
    except (IndexError, ValueError):
        said = err.decode(errors="replace").strip().splitlines()
        return {"error": said[-1] if said else "it said nothing"}
    return line


# --- what came of it ------------------------------------------------------------------------------------


def did_not_run(lines: Iterable[Line]) -> list[str]:
    """Which peers did not, and why."""
    return [f"{line['name']}: {line['error']}" for line in lines if "error" in line]


def middle(lines: Iterable[Line], name: str, figure: str) -> float | None:
    """The median of a peer's figure over all passes."""
    found = [float(line[figure]) for line in lines if line["name"] == name and line.get(figure) is not None]
    return median(found) if found else None


def is_synced(line: Line) -> bool:
    """Whether it has a job on disk before it says so."""
    promise = str(line.get("durability", ""))
    return "fsync" in promise or "own log on disk" in promise


def fastest(
    lines: list[Line], figure: str, *, synced: bool = False, name: str = ""
) -> tuple[str, float] | None:
    """The peer that is ahead in a figure, and that figure; of all, of those that sync, or just one."""
    names = {line["name"] for line in lines if (not synced or is_synced(line)) and name in ("", line["name"])}
    found = [(each, rate) for each in names if (rate := middle(lines, each, figure)) is not None]
    return max(found, key=lambda pair: pair[1]) if found else None
