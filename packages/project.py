"""A project folder: its `process.toml`, and the files that go into a package.

name = "invoices"
version = "0.3.1"
kind = "agent"
modules = ["invoices"]
files = ["invoices/**", "prompts/*.md", "tools/*.json"]

[entry_points]
main = "invoices.extract"

[prompts]
extract = "prompts/extract.md"

[tools]
rates = "tools/rates.json"

[models]
extract = "small-2026-09"

[indexes]
suppliers = "2026-11-02"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from writ.schemas.processes import ProcessName, Version

from .manifest import FILES_MAX, REQUIREMENTS, Kind, path_fault

PROJECT_FILE: Final = "process.toml"
_LEFT_OUT: Final = frozenset({"__pycache__", ".git", ".venv", ".writ", "node_modules"})
_VERSION_LINE: Final = re.compile(r'^version\s*=\s*"([^"]*)"', re.MULTILINE)
_PINNED: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.+!_-]+(\s+--hash=sha256:[0-9a-f]{64})*")


class ProjectError(ValueError):
    """A project folder cannot be used as it is; the message says why and what to do."""


class Project(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `process.toml` says. `files` are patterns; what is named elsewhere need not match them."""

    name: ProcessName
    version: Version
    kind: Kind = Kind.JOB
    python: str = ">=3.11"
    modules: Annotated[tuple[str, ...], Meta(min_length=1)] = ("main",)
    files: Annotated[tuple[str, ...], Meta(min_length=1)] = ("**/*.py",)
    dependencies: tuple[str, ...] = ()
    entry_points: dict[str, str] = {}
    prompts: dict[str, str] = {}
    tools: dict[str, str] = {}
    models: dict[str, str] = {}
    indexes: dict[str, str] = {}


def read_project(folder: Path) -> Project:
    """The project of a folder. Raises ProjectError."""
    path = folder / PROJECT_FILE
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), Project)
    except FileNotFoundError:
        raise ProjectError(f"there is no {path}; `writ init NAME --type job` makes a project") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ProjectError(f"{path} cannot be read: {error}") from error


def raised(version: str, part: str) -> str:
    """The next version: `part` is major, minor or patch."""
    numbers = [int(number) for number in version.split(".")]
    at = ("major", "minor", "patch").index(part)
    return ".".join(str(n) for n in (*numbers[:at], numbers[at] + 1, *[0] * (2 - at)))


def write_version(folder: Path, version: str) -> None:
    """Gives `process.toml` another version and leaves the rest as it is. Raises ProjectError."""
    path = folder / PROJECT_FILE
    text = path.read_text("utf-8")
    changed, count = _VERSION_LINE.subn(f'version = "{version}"', text, count=1)
    if not count:
        raise ProjectError(f'{path} has no line that begins with version = "..."; add one above all tables')
    path.write_text(changed, "utf-8")


def files_of(folder: Path, project: Project) -> dict[str, bytes]:
    """The files of a project by path, in order. Raises ProjectError: also for one that leads out of it."""
    named = [*project.prompts.values(), *project.tools.values(), PROJECT_FILE]
    if (folder / REQUIREMENTS).exists():
        named.append(REQUIREMENTS)
    found: dict[str, bytes] = {}
    root = folder.resolve()
    for path in sorted({*_matched(folder, project), *named}):
        fault = path_fault(path)
        place = folder / path
        if fault is None and not place.resolve().is_relative_to(root):
            fault = f"{path} is a link that leads out of the project"
        if fault is not None:
            raise ProjectError(fault)
        try:
            found[path] = place.read_bytes()
        except OSError as error:
            raise ProjectError(f"{place}: {error.strerror}; process.toml names it") from error
    if len(found) > FILES_MAX:
        raise ProjectError(f"the project has {len(found)} files; at most {FILES_MAX} go into a package")
    return found


def _matched(folder: Path, project: Project) -> Iterator[str]:
    for pattern in project.files:
        if pattern.startswith("/") or ".." in pattern.split("/"):
            raise ProjectError(f"files names {pattern!r}, which leads out of the project")
        for place in folder.glob(pattern):
            path = place.relative_to(folder)
            if place.is_file() and not _LEFT_OUT.intersection(path.parts) and path.suffix != ".pyc":
                yield path.as_posix()


def pins(requirements: str) -> list[str]:
    """The lines of a lock file, each with what was broken off, and without remarks."""
    lines = [line.strip() for line in requirements.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def unpinned(requirements: str) -> list[str]:
    """The lines of a lock file that do not name one version."""
    return [line for line in pins(requirements) if not _PINNED.fullmatch(line)]
