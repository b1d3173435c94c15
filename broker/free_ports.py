"""Which port a broker listens on, and who has it where it is taken."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
from pathlib import Path

from .owned import BrokerError, read


class PortInUseError(BrokerError):
    """The port asked for is taken."""


def choose_port(directory: Path, asked: int | None) -> int:
    if asked is not None:
        if not 1 <= asked <= 65_535:
            raise BrokerError(f"port {asked} does not exist; give one from 1 to 65535, or none at all")
        if not _is_free(asked):
            raise PortInUseError(
                f"port {asked} is in use{_listener(asked)}; stop that, or give another --port "
                "(without --port a free one is taken)"
            )
        return asked
    last = _last_port(directory)
    if last is not None and _is_free(last):
        return last
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _last_port(directory: Path) -> int | None:
    try:
        port = int(json.loads(read(directory / "ports"))["nats"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a first start, or a file someone damaged: any free port will do
    return port if 1 <= port <= 65_535 else None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As nats-server does: connections of an earlier broker that linger do not make the port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _listener(port: int) -> str:
    """Who listens on `port`, as ` by NAME (pid N)`; empty where the system does not tell."""
    program = shutil.which("lsof")
    if program is not None:
        command = [program, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        fields = {line[:1]: line[1:] for line in reversed(shown.splitlines())}
        return f" by {fields['c']} (pid {fields['p']})" if {"c", "p"} <= fields.keys() else ""
    return _listener_from_proc(port)


def _listener_from_proc(port: int) -> str:
    with contextlib.suppress(OSError):
        rows = [
            line.split()
            for table in ("tcp", "tcp6")
            for line in read(Path("/proc/net") / table).splitlines()[1:]
        ]
        # Columns: 1 is the local address with its port in hexadecimal, 3 the state (0A listens), 9 the inode.
        inodes = [row[9] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")]
        sockets = {f"socket:[{inode}]" for inode in inodes}
        for entry in Path("/proc").glob("[0-9]*/fd/*"):
            with contextlib.suppress(OSError):
                if str(entry.readlink()) in sockets:
                    process = entry.parent.parent
                    return f" by {read(process / 'comm').strip()} (pid {process.name})"
    return ""
