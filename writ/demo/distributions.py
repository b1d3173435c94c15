"""The Python distributions installed here, and whether their files are still what was installed."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
from importlib.metadata import Distribution, distributions
from pathlib import Path

import msgspec

NAMED_MAX = 20
"""Files that a report names; it counts the rest."""


class Report(msgspec.Struct, frozen=True):
    """What a check found. `unhashed` counts files of which RECORD gives no hash, such as itself."""

    distribution: str
    version: str
    checked: int
    unhashed: int
    missing_count: int
    changed_count: int
    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


def installed() -> dict[str, Distribution]:
    """Each distribution under its normalised name, in alphabetical order.

    Where two stand under one name, the one with a RECORD counts: it is what an installer wrote.
    """
    found: dict[str, Distribution] = {}
    for each in distributions():
        name = _normalised(each.metadata["Name"] or "")
        if name and (name not in found or _record(found[name]) is None):
            found[name] = each
    return dict(sorted(found.items()))


def _normalised(name: str) -> str:
    # Source: https://packaging.python.org/specifications/name-normalization/
    return re.sub(r"[-_.]+", "-", name).lower()


def _record(distribution: Distribution) -> str | None:
    return distribution.read_text("RECORD")


def verify(name: str) -> Report:
    """Compares the files of a distribution with its RECORD. Raises LookupError for one that is not installed.

    Source of the format: https://packaging.python.org/specifications/recording-installed-packages/
    """
    distribution = installed().get(name)
    if distribution is None:
        raise LookupError(f"distribution {name} is not installed")
    checked = unhashed = 0
    missing: list[str] = []
    changed: list[str] = []
    for path, hashed, *_ in csv.reader((_record(distribution) or "").splitlines()):
        if not hashed:
            unhashed += 1
            continue
        checked += 1
        file = Path(str(distribution.locate_file(path)))
        if not file.is_file():
            missing.append(path)
        elif _hash(file, hashed.partition("=")[0]) != hashed:
            changed.append(path)
    return Report(
        distribution=name,
        version=distribution.version,
        checked=checked,
        unhashed=unhashed,
        missing_count=len(missing),
        changed_count=len(changed),
        missing=tuple(missing[:NAMED_MAX]),
        changed=tuple(changed[:NAMED_MAX]),
    )


def _hash(file: Path, algorithm: str) -> str:
    """The file's hash in RECORD's spelling: URL-safe base64 without padding."""
    with file.open("rb") as content:
        found = hashlib.file_digest(content, algorithm).digest()
    return f"{algorithm}={base64.urlsafe_b64encode(found).rstrip(b'=').decode()}"
