"""The node's signature under checkpoints, and the folders outside the broker where those are kept.

The secret key is `audit/key.<n>` in the node's directory, mode 0600, made at the first start. Each new key is
stated in a note which the key before it has signed as well, so that who trusts one trusts those behind it.

A folder of checkpoints holds `keys`, these statements, and `log-<p>`, the checkpoints of a partition. Both
are only ever added to. Copies of the folder elsewhere are what a forger of all that is here does not reach.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from writ.schemas.checkpoints import (
    Checkpoint,
    Note,
    NoteError,
    Origin,
    Signature,
    checkpoint_in,
    key_id,
    key_text,
    moment,
    notes_in,
    stamped,
)

from .keys import KeyFileError, secret_in
from .objects import sync_folder

_KEYS: Final = "keys"
_SITE_CHARS: Final = 16


def verify_signature(public: bytes, text: bytes, signature: bytes) -> bool:
    """Whether an Ed25519 signature is that of the key over the text."""
    try:
        VerifyKey(public).verify(text, signature)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


def checkpoints_folder(directory: Path) -> Path:
    """Where a node keeps its checkpoints."""
    return directory / "checkpoints"


class NoteFile:
    """A file of signed notes that is only added to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Note]:
        """Empty where there is no file. Raises OSError, and NoteError where it holds something else."""
        try:
            return notes_in(_whole(self.path.read_bytes()))
        except FileNotFoundError:
            return []
        except UnicodeDecodeError as error:
            raise NoteError(f"{self.path} holds what is no text") from error
        except NoteError as error:
            raise NoteError(f"{self.path}: {error}") from error

    def add(self, notes: Sequence[Note]) -> None:
        """Durable on return. Takes the place of a note that a crash has left unfinished. Raises OSError."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = not self.path.exists()
        with self.path.open("ab+") as file:
            file.seek(0)
            whole = [f"{note}\n".encode() for note in notes_in(_whole(file.read()))]
            file.truncate(sum(map(len, whole)))
            file.write("".join([f"{note}\n" for note in notes]).encode())
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            sync_folder(self.path.parent)


def _whole(content: bytes) -> str:
    """A file up to where something in it was last ended: a crash may have cut off what stands behind."""
    return content[: content.rfind(b"\n\n") + 2].decode() if b"\n\n" in content else ""


class Key(NamedTuple):
    """A key of the node and since when it signs; `number` counts from 1."""

    number: int
    public: bytes
    since: int


def _statement(site: str, key: Key, after: str) -> str:
    public = base64.b64encode(key.public).decode()
    return f"{_keys_name(site)}\n{key.number} {public}\ntime {stamped(key.since)}\nafter {after}\n"


def _keys_name(site: str) -> str:
    return f"writ/{site}/{_KEYS}"


def site_of(first: bytes) -> str:
    """The name of a node's logs, from the first of its public keys."""
    return hashlib.sha256(first).hexdigest()[:_SITE_CHARS]


def keys_in(notes: Sequence[Note]) -> list[Key]:
    """The keys that the statements tell of, in order, each sworn to by the one before. Raises NoteError.

    Each names the statement before it, so that a key vouches for those before it, too.
    """
    keys: list[Key] = []
    before = "-"
    for note in notes:
        try:
            _, said, time, _, _ = note.text.split("\n")
            number, _, encoded = said.partition(" ")
            public = base64.b64decode(encoded, validate=True)
            key = Key(int(number), public, moment(time.removeprefix("time ")))
        except (ValueError, binascii.Error) as error:
            raise NoteError(f"{note.text[:80]!r} is no statement of a key") from error
        site = site_of(keys[0].public if keys else public)
        if key.number != len(keys) + 1 or _statement(site, key, before) != note.text:
            raise NoteError(f"the statement of key {len(keys) + 1} of {site} is missing, or is another")
        for each in (public, *(known.public for known in keys[-1:])):
            if not note.signed_by(_keys_name(site), each, verify_signature):
                raise NoteError(f"key {number} of {site} is not signed by itself and by the one before it")
        keys.append(key)
        before = note.digest
    return keys


class Notary:
    """Signs for the node in `directory`, whose key is made where there is none. Raises KeyFileError.

    Checkpoints go to the node's own folder and to each of `copies`.
    """

    def __init__(self, directory: Path, now: int, copies: Sequence[Path] = ()) -> None:
        self._directory = directory / "audit"
        self.folders = [checkpoints_folder(directory), *copies]
        try:
            self.keys = keys_in(NoteFile(self.folders[0] / _KEYS).read())
            self._secret = self._load(self.keys[-1].number if self.keys else 1)
            public = self._secret.verify_key.encode()
            if not self.keys:
                self._state(now, self._secret, [])
            elif public != self.keys[-1].public:
                raise KeyFileError(
                    f"{self._path(self.keys[-1].number)} is not the key of {self.folders[0] / _KEYS}; "
                    "put the one or the other back as it was, from a copy"
                )
            self._finish()
        except (OSError, NoteError) as error:
            raise KeyFileError(f"the keys of checkpoints cannot be read or written: {error}") from error

    @property
    def site(self) -> str:
        return site_of(self.keys[0].public)

    @property
    def public(self) -> bytes:
        """Of the key that signs now."""
        return self.keys[-1].public

    def origin(self, partition: int, epoch: int) -> Origin:
        return Origin(self.site, partition, epoch)

    def key_text(self, name: str) -> str:
        """The public key under the name of an origin, as witnesses take it."""
        return key_text(name, self.public)

    def statements(self) -> str:
        """Of all keys, as they are in the folders. Raises OSError, NoteError."""
        return "\n".join([str(note) for note in NoteFile(self.folders[0] / _KEYS).read()])

    def sign(self, name: str, text: str) -> Note:
        return Note(text, (_signed(self._secret, name, text),))

    def rotate(self, now: int) -> Key:
        """Goes over to a new key; the old one swears to it and is destroyed. Raises OSError, KeyFileError."""
        old = self._secret
        number = self.keys[-1].number + 1
        self._secret = self._load(number)
        self._state(now, self._secret, [old])
        self._finish()
        return self.keys[-1]

    # --- checkpoints ------------------------------------------------------------------------------------

    def file(self, partition: int) -> NoteFile:
        """The node's own checkpoints of a partition."""
        return NoteFile(self.folders[0] / f"log-{partition}")

    def newest(self, partition: int) -> tuple[Note, Checkpoint] | None:
        """The newest checkpoint of a partition in any of the folders, None where there is none.

        Raises OSError, NoteError: also where it is signed by none of the node's keys.
        """
        newest: tuple[Note, Checkpoint] | None = None
        for folder in self.folders:
            for note in NoteFile(folder / f"log-{partition}").read()[-1:]:
                found = checkpoint_in(note.text)
                if not any(note.signed_by(str(found.origin), k.public, verify_signature) for k in self.keys):
                    raise NoteError(f"the newest checkpoint in {folder} is signed by no key of this node")
                if newest is None or (found.origin.epoch, found.size) > (
                    newest[1].origin.epoch,
                    newest[1].size,
                ):
                    newest = note, found
        return newest

    def add(self, checkpoint: Checkpoint) -> Note:
        """Signs a checkpoint and puts it into every folder. Raises OSError where one cannot be written.

        A copy that was away gets what it lacks.
        """
        note = self.sign(str(checkpoint.origin), checkpoint.text)
        name = f"log-{checkpoint.origin.partition}"
        own = NoteFile(self.folders[0] / name)
        own.add([note])
        for folder in self.folders[1:]:
            copy = NoteFile(folder / name)
            copy.add(own.read()[len(copy.read()) :])
        return note

    # --- keys -------------------------------------------------------------------------------------------

    def _path(self, number: int) -> Path:
        return self._directory / f"key.{number}"

    def _load(self, number: int) -> SigningKey:
        path = self._path(number)
        if number <= len(self.keys) and not path.exists():
            raise KeyFileError(f"key file {path} is missing; put it back from a copy")
        seed = secret_in(path, lambda: base64.b64encode(SigningKey.generate().encode()))
        try:
            return SigningKey(base64.b64decode(seed, validate=True))
        except (ValueError, TypeError, binascii.Error) as error:
            raise KeyFileError(f"key file {path} does not hold a key of checkpoints") from error

    def _state(self, now: int, new: SigningKey, before: Sequence[SigningKey]) -> None:
        public = new.verify_key.encode()
        site = self.site if self.keys else site_of(public)
        key = Key(len(self.keys) + 1, public, now)
        file = NoteFile(self.folders[0] / _KEYS)
        after = [note.digest for note in file.read()]
        text = _statement(site, key, after[-1] if after else "-")
        signers = [_signed(each, _keys_name(site), text) for each in (*before, new)]
        file.add([Note(text, tuple(signers))])
        self.keys.append(key)

    def _finish(self) -> None:
        """What follows from the newest statement, whoever was killed in the middle of it."""
        self._path(self.keys[-1].number - 1).unlink(missing_ok=True)
        own = NoteFile(self.folders[0] / _KEYS).read()
        for folder in self.folders[1:]:
            copy = NoteFile(folder / _KEYS)
            copy.add(own[len(copy.read()) :])


def _signed(secret: SigningKey, name: str, text: str) -> Signature:
    public = secret.verify_key.encode()
    return Signature(name, key_id(name, public), secret.sign(text.encode()).signature)
