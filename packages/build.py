"""Building a package: the same sources give the same bytes, on any machine and at any time."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Mapping, Set
from pathlib import Path

from .archive import zipped
from .manifest import (
    CODE,
    FORMAT,
    MANIFEST,
    PACKAGE_MAX_BYTES,
    REQUIREMENTS,
    SBOM,
    SIGNATURE,
    FileEntry,
    Manifest,
    Signature,
    digest_of,
    signed_text,
)
from .project import Project, files_of, read_project, unpinned
from .sbom import bill_of_materials


class BuildError(ValueError):
    """A project cannot be packaged as it is; the message says why and what to do."""


Sign = Callable[[bytes], bytes]
"""The Ed25519 signature of a text."""


def build(folder: Path, key: str, sign: Sign) -> bytes:
    """The package of a project folder, signed by the principal with the public NKey `key`.

    Raises ProjectError, and BuildError where dependencies are not locked.
    """
    project = read_project(folder)
    files = files_of(folder, project)
    commit = _commit(folder, files.keys())
    lock = files.pop(REQUIREMENTS, b"").decode("utf-8", "replace")
    if project.dependencies and not lock.strip():
        raise BuildError(f"process.toml names dependencies, and there is no {REQUIREMENTS}; run: writ lock")
    loose = unpinned(lock)
    if loose:
        raise BuildError(f"{REQUIREMENTS} does not pin {loose[0]!r} to one version; run: writ lock")
    parts = {CODE + path: content for path, content in files.items()}
    parts[REQUIREMENTS] = lock.encode()
    parts[SBOM] = bill_of_materials(project.name, project.version, lock)
    manifest = _manifest(project, parts, *commit).encoded()
    digest = digest_of(manifest)
    signature = Signature(key, sign(signed_text(digest)))
    whole = zipped({**parts, MANIFEST: manifest, SIGNATURE: signature.encoded()})
    if len(whole) > PACKAGE_MAX_BYTES:
        raise BuildError(f"the package has {len(whole)} bytes; at most {PACKAGE_MAX_BYTES} are taken")
    return whole


def _manifest(project: Project, parts: Mapping[str, bytes], commit: str | None, modified: bool) -> Manifest:
    return Manifest(
        FORMAT,
        project.name,
        project.version,
        project.kind,
        project.modules,
        project.entry_points,
        project.python,
        {path: FileEntry(len(parts[path]), _sha256(parts[path])) for path in sorted(parts)},
        {name: CODE + path for name, path in project.prompts.items()},
        {name: CODE + path for name, path in project.tools.items()},
        project.models,
        project.indexes,
        commit,
        modified,
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _commit(folder: Path, files: Set[str]) -> tuple[str | None, bool]:
    """The git commit of a folder, and whether the project's files differ from that; no commit without git.

    Other files in the folder, such as a report that was written there, change nothing: they are no sources.
    """
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        known = _git(folder, "ls-files", "-z", "--", ".").split("\0")
        differ = _git(folder, "diff", "--name-only", "-z", "--relative", "HEAD").split("\0")
    except (OSError, subprocess.CalledProcessError):
        return None, False
    gone = any(not (folder / path).exists() for path in differ)
    return commit, gone or not files.isdisjoint(differ) or not files <= set(known)


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *words],  # noqa: S607
        cwd=folder, check=True, capture_output=True, encoding="utf-8", errors="surrogateescape",
    )  # fmt: skip
    return done.stdout
