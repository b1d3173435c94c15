"""Locking: which versions a project's dependencies come to, with the digests of what is downloaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from .manifest import REQUIREMENTS
from .project import Project, ProjectError

_RESOLVES_S: Final = 300.0


class _Archive(msgspec.Struct, frozen=True):
    hashes: dict[str, str] = {}


class _Download(msgspec.Struct, frozen=True):
    archive_info: _Archive = _Archive()


class _Metadata(msgspec.Struct, frozen=True):
    name: str
    version: str


class _Install(msgspec.Struct, frozen=True):
    metadata: _Metadata
    download_info: _Download


class _Report(msgspec.Struct, frozen=True):
    """What `pip install --report` says: https://pip.pypa.io/en/stable/reference/installation-report/."""

    install: tuple[_Install, ...]


def lock(folder: Path, project: Project) -> int:
    """Writes `requirements.lock` and says how many it names. Raises ProjectError where pip finds none."""
    found = _resolved(project.dependencies) if project.dependencies else ()
    lines = [_line(each) for each in sorted(found, key=lambda each: each.metadata.name.lower())]
    (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return len(lines)


def _resolved(dependencies: tuple[str, ...]) -> tuple[_Install, ...]:
    words = ["install", "--dry-run", "--ignore-installed", "--quiet", "--only-binary=:all:"]
    words += ["--disable-pip-version-check", "--report", "-", "--", *dependencies]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", *words], capture_output=True, timeout=_RESOLVES_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ProjectError(f"pip has not found versions within {_RESOLVES_S:g} s") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ProjectError(f"pip finds no versions: {said[-1] if said else 'it does not say why'}")
    return msgspec.json.decode(done.stdout, type=_Report).install


def _line(install: _Install) -> str:
    digest = install.download_info.archive_info.hashes.get("sha256")
    pinned = f"{install.metadata.name}=={install.metadata.version}"
    return pinned if digest is None else f"{pinned} --hash=sha256:{digest}"
