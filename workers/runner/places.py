"""Which files an attempt may read: those of the system and of Python, and the folders of its module."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_OF_ETC: Final = (
    "alternatives", "ca-certificates", "ca-certificates.conf", "group", "gai.conf", "host.conf", "hosts",
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld.so.preload", "localtime", "mime.types", "nsswitch.conf",
    "os-release", "passwd", "pki", "protocols", "resolv.conf", "services", "ssl", "timezone",
)  # fmt: skip
ETC: Final = tuple([f"/etc/{name}" for name in _OF_ETC])
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_MODULE_SUFFIXES: Final = (".py", ".pyc", ".so")


def imported_roots() -> tuple[str, ...]:
    """The folders that this process imports from, and has imported from."""
    found = {os.path.abspath(entry) for entry in sys.path if os.path.isdir(entry or ".")}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file:
            found.add(os.path.dirname(os.path.abspath(file)))
    within = [*SYSTEM, sys.prefix, sys.base_prefix]
    outside = {root for root in found if not _is_within(root, within)}
    least = [root for root in outside if not _is_within(root, outside - {root})]
    return tuple(sorted({*least, sys.prefix, sys.base_prefix}))


def readable(roots: Iterable[str], secrets: Iterable[str]) -> list[str]:
    """What of these folders an attempt may read: all but hidden names and secrets.

    Of a folder that is the home directory, or holds it, it is the modules and packages alone.
    """
    home = os.path.realpath(Path.home())
    kept = [os.path.realpath(secret) for secret in secrets]
    libraries = [*SYSTEM, sys.prefix, sys.base_prefix]
    found: dict[str, None] = {}
    for root in roots:
        if _is_within(root, libraries) and not any(_is_within(secret, [root]) for secret in kept):
            found[root] = None
        else:
            found.update(dict.fromkeys(_entries(root, home, kept)))
    return list(found)


def listable(roots: Iterable[str]) -> list[str]:
    """The folders of modules whose names may be listed, so that imports find what is in them."""
    home = os.path.realpath(Path.home())
    return [root for root in roots if not _is_within(home, [os.path.realpath(root)])]


def _entries(root: str, home: str, secrets: list[str]) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError:
        return
    modules_only = _is_within(home, [os.path.realpath(root)])
    for entry in entries:
        real = os.path.realpath(entry.path)
        if entry.name.startswith(".") or real in secrets:
            continue
        if modules_only and not _is_module(entry):
            continue
        if any(_is_within(secret, [real]) for secret in secrets) or _is_within(home, [real]):
            yield from _entries(entry.path, home, secrets)
        else:
            yield entry.path


def _is_module(entry: os.DirEntry[str]) -> bool:
    if entry.is_dir():
        return os.path.exists(os.path.join(entry.path, "__init__.py"))
    return entry.name.endswith(_MODULE_SUFFIXES)


def _is_within(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder.rstrip('/')}/") for folder in folders)
