"""What a package says of itself: its manifest, from whose bytes its digest comes."""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from writ.schemas.processes import Digest, ProcessName, Version
from writ.schemas.stored import PACKAGE_MAX_BYTES as PACKAGE_MAX_BYTES  # noqa: PLC0414 - with the other bounds

FORMAT: Final = 1
MANIFEST: Final = "MANIFEST.json"
SIGNATURE: Final = "SIGNATURE.json"
SBOM: Final = "sbom.cdx.json"
REQUIREMENTS: Final = "requirements.lock"
CODE: Final = "code/"
"""Files of the project stand below this in a package."""

FILES_MAX: Final = 5_000

_PATH: Final = re.compile(r"[^\x00-\x1f\x7f\\:/]+(/[^\x00-\x1f\x7f\\:/]+)*")


class PackageError(ValueError):
    """A package was changed since it was built, or is none; the message says where."""


class Kind(StrEnum):
    """What a process is: an agent that calls models, a robot for user interfaces, or a plain job."""

    AGENT = "agent"
    RPA = "rpa"
    JOB = "job"


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the package: its length, and its SHA-256 in hex."""

    size_bytes: int
    sha256: Digest


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """`modules` define the tasks, `entry_points` are tasks by name.

    `prompts` and `tools` (the JSON Schemas of tools) are paths in the package by name; `models` and `indexes`
    are versions by name. `commit` is the git commit of the project and `modified` whether files differed from
    it. `files` are all files of the package but the manifest and the signature.
    """

    format: int
    name: ProcessName
    version: Version
    kind: Kind
    modules: Annotated[tuple[str, ...], Meta(min_length=1)]
    entry_points: dict[str, str]
    python: str
    files: dict[str, FileEntry]
    prompts: dict[str, str] = {}
    tools: dict[str, str] = {}
    models: dict[str, str] = {}
    indexes: dict[str, str] = {}
    commit: str | None = None
    modified: bool = False

    def encoded(self) -> bytes:
        """The bytes that stand in the package; the same for the same manifest."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=1) + b"\n"


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An Ed25519 signature of `signed_text`, by the key of a principal (a public NKey, U...)."""

    key: str
    signature: bytes
    """In base64, as msgspec writes bytes."""

    def encoded(self) -> bytes:
        """The bytes that stand in the package."""
        return msgspec.json.encode(self) + b"\n"


def digest_of(manifest: bytes) -> str:
    """The digest by which a release is known: of its manifest, which holds those of all files."""
    return hashlib.sha256(manifest).hexdigest()


def signed_text(digest: str) -> bytes:
    """What is signed of a package."""
    return f"writ package {FORMAT}\n{digest}\n".encode()


def path_fault(path: str) -> str | None:
    """Why a path cannot stand in a package; None where it can. It must mean one place below one folder."""
    if not _PATH.fullmatch(path) or len(path.encode()) > 512:
        return f"{path[:80]!r} is no relative path with forward slashes, of at most 512 bytes"
    if any(part in (".", "..") for part in path.split("/")):
        return f"{path[:80]!r} leaves its folder"
    return None
