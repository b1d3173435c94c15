"""The key store: what sealed content is read with, and what is destroyed to erase it.

One file, the only truth outside the log, readable by its owner alone. It is a row of entries of 64 bytes, and
an entry's number is part of its key's name, so that no process holds them all. Destroying a key writes zeros
over its entry, in place. A subject is known by a keyed digest: its name stands nowhere.

Content is sealed by XChaCha20-Poly1305 under a nonce that follows from key and content: who seals the same
twice under one key gets the same, which is how a repeated report is known.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt as decrypt,
)
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_encrypt as encrypt,
)
from nacl.exceptions import CryptoError

from writ.schemas.sealed import UNSEALED, Sealed

ENTRY_BYTES: Final = 64
"""Tag of the subject (16, zeros for none), nonce of the name (8), spare (8), secret (32)."""

_SECRET_AT: Final = 32
_GONE: Final = bytes(ENTRY_BYTES - _SECRET_AT)
_MODE: Final = 0o600


def vault_path(directory: Path) -> Path:
    """Where a node keeps its vault, by its directory."""
    return directory / "vault"


class VaultError(Exception):
    """The key store cannot be used as it is; the text says why and what to do."""


class Vault:
    """Fulfils `Keys` on a file, or on a nameless one for tests. Several processes may use one file at a time.

    Methods raise OSError where the file cannot be read or written.
    """

    def __init__(self, path: Path | None = None, *, create: bool = True) -> None:
        self._path = path
        self._create = create
        self._opened: int | None = None
        self._subjects: dict[bytes, list[str]] = {}
        self._read_entries = 0
        self.unsynced = False

    @property
    def _file(self) -> int:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> int:
        if self._path is None:
            nameless = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this does
            return os.dup(nameless.fileno())
        is_new = not self._path.exists()
        flags = os.O_RDWR | (os.O_CREAT if self._create else 0)
        file = os.open(self._path, flags, _MODE)
        if stat.S_IMODE(os.fstat(file).st_mode) & 0o077:
            os.close(file)
            raise VaultError(f"{self._path} can be read by others; run: chmod 600 {self._path}")
        if is_new:
            folder = os.open(self._path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        return file

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            os.close(opened)

    # --- keys -------------------------------------------------------------------------------------------

    def new(self, subject: str | None = None) -> str:
        """A new key's name; of a subject, if one is named. Durable after `sync`."""
        nonce, secret = os.urandom(8), os.urandom(32)
        tag = bytes(16) if subject is None else self._tag(subject)
        with self._alone():
            self._begin()
            number = -(-os.fstat(self._file).st_size // ENTRY_BYTES)  # a torn one is passed over
            os.pwrite(self._file, tag + nonce + bytes(8) + secret, number * ENTRY_BYTES)
        self.unsynced = True
        return f"{number:x}-{nonce.hex()}"

    def of(self, subject: str) -> list[str]:
        """The keys of a subject that were not destroyed, oldest first."""
        tag = self._tag(subject)
        self._read_on()
        return [key for key in self._subjects.get(tag, []) if self._secret(key) is not None]

    def destroy(self, key: str) -> None:
        """Writes zeros over a key; durable on return. Nothing where it is gone already."""
        if self._secret(key) is None:
            return
        at = int(key.partition("-")[0], 16) * ENTRY_BYTES
        os.pwrite(self._file, bytes(16), at)
        os.pwrite(self._file, _GONE, at + _SECRET_AT)
        os.fsync(self._file)

    def sync(self) -> None:
        """Makes new keys durable."""
        if self.unsynced:
            self.unsynced = False
            os.fsync(self._file)

    @contextmanager
    def _alone(self) -> Generator[None]:
        """While no other process adds an entry: leaders of several partitions share a vault."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _tag(self, subject: str) -> bytes:
        own = os.pread(self._file, ENTRY_BYTES, 0)
        if len(own) < ENTRY_BYTES:
            with self._alone():
                self._begin()
            own = os.pread(self._file, ENTRY_BYTES, 0)
        return hashlib.blake2b(subject.encode(), key=own[_SECRET_AT:], digest_size=16).digest()

    def _begin(self) -> None:
        """Makes entry 0, the vault's own, before any other."""
        if os.fstat(self._file).st_size < ENTRY_BYTES:
            os.pwrite(self._file, bytes(_SECRET_AT) + os.urandom(32), 0)
            self.unsynced = True

    def _read_on(self) -> None:
        """Takes notice of the subjects of new entries."""
        entries = os.fstat(self._file).st_size // ENTRY_BYTES
        for number in range(max(1, self._read_entries), entries):
            entry = os.pread(self._file, ENTRY_BYTES, number * ENTRY_BYTES)
            if any(entry[:16]):
                self._subjects.setdefault(entry[:16], []).append(f"{number:x}-{entry[16:24].hex()}")
        self._read_entries = entries

    def _secret(self, key: str) -> bytes | None:
        """None where it was destroyed, or is of another vault."""
        number, _, nonce = key.partition("-")
        try:
            entry = os.pread(self._file, ENTRY_BYTES, int(number, 16) * ENTRY_BYTES)
        except (ValueError, FileNotFoundError):
            return None
        known = len(entry) == ENTRY_BYTES and entry[16:24].hex() == nonce and any(entry[_SECRET_AT:])
        return entry[_SECRET_AT:] if known else None

    # --- content ----------------------------------------------------------------------------------------

    def seal(self, key: str, content: bytes) -> Sealed:
        """Content under a key; an empty envelope where that is destroyed: nobody may read it any more."""
        secret = self._secret(key)
        if secret is None:
            return Sealed(key, "")
        hashing = _derived(secret, b"digest")
        nonce = hashlib.blake2b(content, key=hashing, digest_size=24, person=b"nonce").digest()
        shown = hashlib.blake2b(content, key=hashing, digest_size=32, person=b"content").hexdigest()
        cipher = encrypt(content, key.encode(), nonce, _derived(secret, b"cipher"))
        return Sealed(key, shown, cipher=nonce + cipher)

    def digest_key(self, key: str) -> bytes:
        """What digests are made with beside content under a key; empty where that is destroyed."""
        secret = self._secret(key)
        return b"" if secret is None else _derived(secret, b"params")

    def open(self, envelope: Sealed) -> bytes | None:
        """The content; None where its key is destroyed or not here."""
        if envelope.key == UNSEALED:
            return bytes(envelope.plain)
        secret = self._secret(envelope.key)
        if secret is None or not envelope.cipher:
            return None
        nonce, cipher = envelope.cipher[:24], envelope.cipher[24:]
        try:
            return decrypt(cipher, envelope.key.encode(), nonce, _derived(secret, b"cipher"))
        except CryptoError:
            return None


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(purpose, key=secret, digest_size=32).digest()
