"""The node's signature under checkpoints, and the places outside the broker where those are kept.

The secret key is `audit/key.<n>` in the node's directory, mode 0600, made at the first start. Each new key is
stated in a note which the key before it has signed as well, so that who trusts one trusts those behind it.

A folder of checkpoints holds `keys`, these statements, and `log-<p>`, the checkpoints of a partition. Both
are only ever added to. Copies elsewhere, in other folders or in buckets of an object store, are what a forger
of all that is here does not reach.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
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
    stamped,
)

from .keys import KeyFileError, secret_in
from .note_places import NoteFile, NoteFolder, NotePlace, StoreAway

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


@contextmanager
def _alone_in(directory: Path) -> Generator[None]:
    """The views of each partition sign in a process of their own, with one key, and all make copies of it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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

    Checkpoints go to the node's own folder and to each of `copies`. `away` are object stores among them that
    could not be reached, by address, and why: what they lack they get later.
    """

    def __init__(self, directory: Path, now: int, copies: Sequence[NotePlace] = ()) -> None:
        self.away: dict[str, str] = {}
        self.own = NoteFolder(checkpoints_folder(directory))
        self._directory = directory / "audit"
        self._copies = copies
        try:
            with _alone_in(directory):
                self._open(now)
        except (OSError, NoteError) as error:
            raise KeyFileError(f"the keys of checkpoints cannot be read or written: {error}") from error

    def _open(self, now: int) -> None:
        self.keys = keys_in(self.own.notes(_KEYS).read())
        self._secret = self._load(self.keys[-1].number if self.keys else 1)
        public = self._secret.verify_key.encode()
        if not self.keys:
            self._state(now, self._secret, [])
        elif public != self.keys[-1].public:
            raise KeyFileError(
                f"{self._path(self.keys[-1].number)} is not the key of {self.own.path / _KEYS}; "
                "put the one or the other back as it was, from a copy"
            )
        self._forget()

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
        """Of all keys, as they are in the node's own folder. Raises OSError, NoteError."""
        return "\n".join([str(note) for note in self.own.notes(_KEYS).read()])

    def sign(self, name: str, text: str) -> Note:
        return Note(text, (_signed(self._secret, name, text),))

    def rotate(self, now: int) -> Key:
        """Goes over to a new key; the old one swears to it and is destroyed. Raises OSError, KeyFileError."""
        old = self._secret
        number = self.keys[-1].number + 1
        self._secret = self._load(number)
        self._state(now, self._secret, [old])
        self._forget()
        return self.keys[-1]

    # --- checkpoints ------------------------------------------------------------------------------------

    def file(self, partition: int) -> NoteFile:
        """The node's own checkpoints of a partition."""
        return self.own.notes(f"log-{partition}")

    def newest(self, partition: int) -> tuple[Note, Checkpoint] | None:
        """The newest checkpoint of a partition in any of the places, None where there is none.

        Raises OSError, NoteError: also where it is signed by none of the node's keys. Stores that are away
        are left out.
        """
        newest: tuple[Note, Checkpoint] | None = None
        for place in (self.own, *self._copies):
            note = self._newest_in(place, partition)
            if note is None:
                continue
            found = checkpoint_in(note.text)
            if not any(note.signed_by(str(found.origin), k.public, verify_signature) for k in self.keys):
                raise NoteError(f"the newest checkpoint in {place} is signed by no key of this node")
            if newest is None or (found.origin.epoch, found.size) > (
                newest[1].origin.epoch,
                newest[1].size,
            ):
                newest = note, found
        return newest

    def _newest_in(self, place: NotePlace, partition: int) -> Note | None:
        try:
            return place.notes(f"log-{partition}").end()[1]
        except StoreAway as error:
            self.away[str(place)] = str(error)
            return None

    def add(self, checkpoint: Checkpoint) -> Note:
        """Signs a checkpoint and puts it into every place. Raises OSError where a folder is not to be had."""
        note = self.sign(str(checkpoint.origin), checkpoint.text)
        self.file(checkpoint.origin.partition).add([note])
        self.copy(checkpoint.origin.partition)
        return note

    def copy(self, partition: int) -> None:
        """Gives each copy what it lacks, keys first; a store may be away.

        Raises OSError, and NoteError where a copy is of something else than the node's own folder.
        """
        with _alone_in(self._directory.parent):
            for place in self._copies:
                if str(place) in self.away:
                    continue
                try:
                    for name in (_KEYS, f"log-{partition}"):
                        self._complete(place, name)
                except StoreAway as error:
                    self.away[str(place)] = str(error)

    def _complete(self, place: NotePlace, name: str) -> None:
        own, copy = self.own.notes(name), place.notes(name)
        held, newest = copy.end()
        if newest != own.before(held):
            raise NoteError(f"{place}/{name} has others than {self.own}: the one or the other was changed")
        copy.add(own.read(held))

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
        file = self.own.notes(_KEYS)
        _, after = file.end()
        text = _statement(site, key, "-" if after is None else after.digest)
        signers = [_signed(each, _keys_name(site), text) for each in (*before, new)]
        file.add([Note(text, tuple(signers))])
        self.keys.append(key)

    def _forget(self) -> None:
        """Destroys the key that the newest statement has replaced, whoever was killed in the middle of it."""
        self._path(self.keys[-1].number - 1).unlink(missing_ok=True)


def _signed(secret: SigningKey, name: str, text: str) -> Signature:
    public = secret.verify_key.encode()
    return Signature(name, key_id(name, public), secret.sign(text.encode()).signature)
