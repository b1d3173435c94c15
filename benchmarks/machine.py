"""On what a run was measured: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from writ.broker.owned import server_binary

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results"
_PACKAGES: Final = ("writ-orchestrator", "nats-py", "msgspec", "uvloop")


def machine(data: Path) -> dict[str, str]:
    """The machine, as far as it matters; `data` is where the broker writes."""
    return {
        "cpu": _line("/proc/cpuinfo", "model name"),
        "cores": str(os.cpu_count()),
        "memory": _line("/proc/meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.release()}",
        "filesystem": filesystem(data),
    }


def versions() -> dict[str, str]:
    """Everything whose speed is part of the figures."""
    found = {"python": platform.python_version(), "commit": commit()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    said = subprocess.run([server_binary(), "--version"], capture_output=True, text=True, check=False)
    return found | {"nats-server": said.stdout.strip().rpartition("v")[2]}


def commit() -> str:
    """The commit that is measured, with a plus where files differ from it."""
    head = _git("rev-parse", "--short", "HEAD")
    return f"{head}+" if head and _git("status", "--porcelain", "--untracked-files=no") else head or "unknown"


def filesystem(path: Path) -> str:
    """The kind of file system that a path is on. On `tmpfs` a sync costs nothing: no figure counts."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, name, *_ = line.split()
        if path.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, name
    return kind


def _line(file: str, name: str) -> str:
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"


def _git(*words: str) -> str:
    said = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return said.stdout.strip() if said.returncode == 0 else ""
