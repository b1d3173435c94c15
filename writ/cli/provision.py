"""`writ worker --process NAME@VERSION`: reading a package's folder or zip, and making its environment."""

from __future__ import annotations

import hashlib
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from .usage import USAGE, CommandError

if TYPE_CHECKING:
    from writ.workers.environments import Code, Environment

MANIFEST: Final = "process.json"
REQUIREMENTS: Final = "requirements.txt"
SIZE_MAX_BYTES: Final = 256 * 1024 * 1024
_Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_\-.]+$(?!\n)")]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a package says of itself; `module` is the file with its tasks."""

    name: _Name
    version: _Name
    module: str


def environment_of(args: Namespace) -> tuple[Environment, str]:
    """The environment that the options ask for, and the file in it with the tasks. Raises CommandError."""
    from writ.workers.environments import default_cache, provision

    if args.package is None:
        raise CommandError(
            "--process wants --package: the folder or zip with its code", [_EXAMPLE], code=USAGE
        )
    name, at, version = args.process.partition("@")
    if not (name and at and version):
        raise CommandError(f"--process {args.process!r} is not NAME@VERSION", [_EXAMPLE], code=USAGE)
    code = read_package(Path(args.package))
    if (code.name, code.version) != (name, version):
        raise CommandError(f"{args.package} is {code.name}@{code.version}, and not {args.process}")
    if args.digest is not None and code.digest != args.digest.lower():
        reason = f"{args.package} has digest {code.digest}, and not {args.digest}: it was changed"
        raise CommandError(f"{reason}, or is another one")
    environment = provision(code, Path(args.cache) if args.cache else default_cache())
    return environment, str(environment.folder / code.module)


_EXAMPLE: Final = "writ worker --process invoices@1.4.0 --package invoices-1.4.0.zip --queue billing"


def read_package(source: Path) -> Code:
    """What a package holds, with its digest: over the digests of all its files. Raises CommandError."""
    from writ.workers.environments import Code

    try:
        files = _unzipped(source) if source.is_file() else _walked(source)
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:
        raise CommandError(f"{source} cannot be read: {error}") from error
    if MANIFEST not in files:
        raise CommandError(f"{source} holds no {MANIFEST}, and so is no package")
    try:
        manifest = msgspec.json.decode(files[MANIFEST], type=Manifest)
        requirements = files.get(REQUIREMENTS, b"").decode()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CommandError(
            f"{source} has a {MANIFEST} or {REQUIREMENTS} that cannot be read: {error}"
        ) from error
    if manifest.module not in files or not manifest.module.endswith(".py"):
        raise CommandError(f"{source} names {manifest.module!r} for its tasks, which is no .py file in it")
    sums = sorted((path, hashlib.sha256(content).hexdigest()) for path, content in files.items())
    digest = hashlib.sha256(msgspec.json.encode(sums)).hexdigest()
    return Code(manifest.name, manifest.version, digest, manifest.module, requirements, files)


def _walked(folder: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    left = SIZE_MAX_BYTES
    for place in sorted(folder.rglob("*")):
        if "__pycache__" in place.parts or not place.is_file():
            continue
        left -= place.stat().st_size
        if left < 0:
            raise CommandError(f"{folder} holds more than {SIZE_MAX_BYTES} bytes; it is no package")
        found[place.relative_to(folder).as_posix()] = place.read_bytes()
    return found


def _unzipped(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        for entry in entries:
            parts = Path(entry.filename).parts
            if entry.filename.startswith("/") or ".." in parts or "\\" in entry.filename:
                raise CommandError(f"{file} holds {entry.filename!r}, which leaves its folder")
        if sum(entry.file_size for entry in entries) > SIZE_MAX_BYTES:
            raise CommandError(f"{file} holds more than {SIZE_MAX_BYTES} bytes; it is no package")
        return {entry.filename: archive.read(entry) for entry in entries}
