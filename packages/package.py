"""Reading a package. Nothing of it is believed before everything in it was checked."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from writ.broker.jwt import is_signed

from .archive import unzipped
from .manifest import (
    CODE,
    FORMAT,
    MANIFEST,
    PACKAGE_MAX_BYTES,
    REQUIREMENTS,
    SBOM,
    SIGNATURE,
    Manifest,
    PackageError,
    Signature,
    digest_of,
    signed_text,
)

_S = TypeVar("_S", bound=msgspec.Struct)


class Package(NamedTuple):
    """A package whose every byte was checked. `key` is the public NKey of whoever signed it.

    `files` are those of the project, by their path in it; `requirements` pins its dependencies, one
    `name==version` a line with hashes, and `sbom` is a CycloneDX document.
    """

    manifest: Manifest
    digest: str
    key: str
    files: Mapping[str, bytes]
    requirements: str
    sbom: bytes

    def unpack(self, folder: Path) -> None:
        """Makes `folder` with the project's files, whole or not at all. Raises OSError where it exists."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder.parent) as unfinished:
            root = Path(unfinished) / "whole"
            for path, content in self.files.items():
                place = root / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
            os.rename(root, folder)


def open_package(
    source: Path | bytes, *, digest: str | None = None, trusted: Collection[str] | None = None
) -> Package:
    """A package from a file or from its bytes. Raises PackageError, and OSError where it cannot be read.

    With `digest` it must be that release; with `trusted` one of these public keys must have signed it.
    Whoever runs what is in it gives both, as the log tells them: `Client.release`.
    """
    parts = unzipped(source if isinstance(source, bytes) else _bytes_of(source))
    try:
        told, signed = parts.pop(MANIFEST), parts.pop(SIGNATURE)
    except KeyError as error:
        raise PackageError(f"it has no {error.args[0]}") from None
    manifest = _decoded(told, Manifest, MANIFEST)
    signature = _decoded(signed, Signature, SIGNATURE)
    if manifest.format != FORMAT:
        raise PackageError(f"it is of format {manifest.format}; this reader knows {FORMAT}")
    found = digest_of(told)
    if digest is not None and found != digest:
        raise PackageError(f"it is release {found}, and not {digest}")
    _check_files(manifest, parts)
    if not is_signed(signature.key, signed_text(found), base64.b64encode(signature.signature).decode()):
        raise PackageError(f"its signature is not that of {signature.key}")
    if trusted is not None and signature.key not in trusted:
        raise PackageError(f"it is signed by {signature.key}, whose signature does not count here")
    code = {path.removeprefix(CODE): parts[path] for path in parts if path.startswith(CODE)}
    requirements = parts.get(REQUIREMENTS, b"").decode("utf-8", "replace")
    return Package(manifest, found, signature.key, code, requirements, parts.get(SBOM, b""))


def _bytes_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(PACKAGE_MAX_BYTES + 1)


def _decoded(content: bytes, type_: type[_S], name: str) -> _S:
    try:
        return msgspec.json.decode(content, type=type_)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise PackageError(f"its {name} cannot be read: {error}") from error


def _check_files(manifest: Manifest, parts: Mapping[str, bytes]) -> None:
    """Raises PackageError where the files are not those of the manifest."""
    for path in sorted(manifest.files.keys() ^ parts.keys()):
        where = "is not in its manifest" if path in parts else "is missing"
        raise PackageError(f"{path} {where}")
    for path, entry in manifest.files.items():
        content = parts[path]
        if (len(content), hashlib.sha256(content).hexdigest()) != (entry.size_bytes, entry.sha256):
            raise PackageError(f"{path} is not the file that was packaged")
    for path in (*manifest.prompts.values(), *manifest.tools.values()):
        if path not in parts:
            raise PackageError(f"{path} is named as a prompt or a tool, and is missing")
