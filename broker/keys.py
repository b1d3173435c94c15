"""Secrets as files, NKey user seeds above all: made once, readable by their owner only, never written over.

A seed is the whole secret of a user. The broker's configuration holds only the public half, so the
configuration file may be read by anyone without giving anyone a way in.
"""

import os
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .jwt import KeyKind, Signer, signer_in

SEED_MODE = 0o600
DIRECTORY_MODE = 0o700

_SECRET_BYTES = 32
_PUBLIC_LENGTH = 56
_BASE32 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")


class KeyFileError(Exception):
    """A key file cannot be used as it is; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Key:
    """A user's public key, as the broker's configuration names it, and the file with its seed."""

    public: str
    seed_path: Path


def load_or_create(path: Path) -> Key:
    """Return the key whose seed is in `path`, making a new one there when there is no file.

    Raises `KeyFileError` when the file holds no user seed, and as `secret_in`.
    """
    secret_in(path, lambda: new_seed(KeyKind.USER))
    return load(path)


def new_seed(kind: KeyKind) -> bytes:
    """The seed of a key that nobody has seen."""
    # Key material is drawn here and nowhere else; it never reaches a decision or a record.
    return Signer(kind, os.urandom(_SECRET_BYTES)).seed.encode()  # noqa: TID251


def load(path: Path) -> Key:
    """Return the key whose seed is in `path`; raises `KeyFileError` as `load_or_create` does."""
    return Key(public=_public(read_secret(path), path), seed_path=path)


def secret_in(path: Path, make: Callable[[], bytes]) -> bytes:
    """What is in the file of a secret, which is made when there is no file.

    Of several processes that call this at once, one makes the secret and all get the same one. A missing
    parent directory is made with mode 0700. Raises `KeyFileError` when the file can be read by other users,
    or cannot be read or written.
    """
    try:
        if not path.exists():
            path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            _create(path, make())
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}; check the directory and its owner") from error
    return read_secret(path)


def read_secret(path: Path) -> bytes:
    """What is in the file of a secret that there is. Raises `KeyFileError` where others can read it too."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes().strip()
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}") from error
    if mode & 0o077:
        raise KeyFileError(f"key file {path} has mode {mode:04o}: others can read it; run: chmod 600 {path}")
    return content


def is_public_user_key(text: str) -> bool:
    """Tell whether `text` has the form of a public user key: 56 base32 characters, the first a U."""
    return len(text) == _PUBLIC_LENGTH and text[0] == "U" and set(text) <= _BASE32


def _public(seed: bytes, path: Path) -> str:
    try:
        public = signer_in(seed.decode("ascii")).public
    except ValueError as error:
        raise KeyFileError(_not_a_seed(path)) from error
    if not is_public_user_key(public):
        raise KeyFileError(_not_a_seed(path))
    return public


def _not_a_seed(path: Path) -> str:
    return f"key file {path} does not hold an NKey user seed (SU...); move it away to have a new one made"


def _create(path: Path, content: bytes) -> None:
    # Written beside its place and linked into it: a reader never sees half a secret, and `link`, unlike
    # `rename`, fails when another process was first.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # its mode is 0600
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
