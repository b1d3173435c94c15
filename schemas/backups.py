"""What a backup says of itself, and what the log says of having been restored from one."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Final

import msgspec

from .facts import Fact

FORMAT: Final = 1


class LogRestored(Fact, frozen=True):
    """The log goes on from a backup, in a new epoch: what came behind record `last` elsewhere is not in it.

    No lease of an earlier epoch lives from here on. The backup was `taken_at`, UTC microseconds.
    """

    last: int
    taken_at: int
    before: int
    """The epoch that the log had."""


class LogKept(msgspec.Struct, frozen=True):
    """A partition's log in a backup: all its records up to `last`, whose digest is `digest`.

    `first` was the oldest one that the broker still had: those before it were in the archive alone.
    """

    partition: int
    epoch: int
    first: int
    last: int
    digest: str


class Kind(StrEnum):
    """What a file of a backup holds."""

    SEGMENT = "segment"
    STREAM = "stream"
    FILE = "file"


class PartKept(msgspec.Struct, frozen=True):
    """A file of a backup: segment `name` of a log, the snapshot of stream `name`, or file `name` of a
    node's directory. `path` is where it lies in the backup.
    """

    name: str
    path: str
    sha256: str
    size_bytes: int
    kind: Kind


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`backup.json`. `keys` says whether the parts hold the secrets; `at` is UTC microseconds.

    `folder` is where the parts lie that belong to this state of the backup.
    """

    format: int = FORMAT
    version: str
    at: int
    keys: bool
    intake_epoch: int
    folder: str
    logs: tuple[LogKept, ...]
    parts: tuple[PartKept, ...]
    checksum: str = ""

    @property
    def sealed(self) -> Manifest:
        """With the SHA-256 over all else in it."""
        plain = msgspec.structs.replace(self, checksum="")
        digest = hashlib.sha256(msgspec.json.encode(plain)).hexdigest()
        return msgspec.structs.replace(self, checksum=digest)
