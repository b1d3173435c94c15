"""Signed checkpoints of a log's tree, in the form of https://c2sp.org/tlog-checkpoint and signed-note.

    writ/3f0c92d1a87b5e64/log-0/epoch-1       the origin: node, partition and epoch; no two logs share one
    1042                                      records in the tree
    XhF3...=                                  its root, as base64
    time 2026-01-31T12:00:00.000000Z
    after 9c1e...                             SHA-256 of the checkpoint before, up to its signatures; or -

    — writ/3f0c92d1a87b5e64/log-0/epoch-1 kP2x...=     four bytes that tell the key, then the signature

A file of them is such notes with an empty line between. Statements about keys and jobs are notes too.
Signing and checking are left to others: nothing here holds a key.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import re
from collections.abc import Callable
from typing import Final, NamedTuple

_ED25519: Final = b"\x01"
_KEY_BYTES: Final = 32
_ID_BYTES: Final = 4
_SIGNATURE_BYTES: Final = 64
_NAME: Final = re.compile(r"[!-*,-~]+")
_ORIGIN: Final = re.compile(r"writ/([0-9a-f]{16})/log-(0|[1-9]\d{0,8})/epoch-([1-9]\d{0,17})")
_SIZE: Final = re.compile(r"0|[1-9]\d{0,17}")
_AFTER: Final = re.compile(r"-|[0-9a-f]{64}")
_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"
_MARK: Final = "— "

Verify = Callable[[bytes, bytes, bytes], bool]
"""Whether a signature (third) over a text (second) is that of an Ed25519 public key (first)."""


class NoteError(ValueError):
    """A text that is no signed note, or no checkpoint. It says what is wrong."""


class Signature(NamedTuple):
    name: str
    key_id: bytes
    signature: bytes


class Note(NamedTuple):
    """A text, which ends with a line break, and who has signed it."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        lines = [f"{_MARK}{s.name} {_base64(s.key_id + s.signature)}\n" for s in self.signatures]
        return f"{self.text}\n{''.join(lines)}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def signed_by(self, name: str, public: bytes, verify: Verify) -> bool:
        """Whether the key `public` has signed it under `name`."""
        wanted = key_id(name, public)
        return any(
            verify(public, self.text.encode(), s.signature)
            for s in self.signatures
            if (s.name, s.key_id) == (name, wanted)
        )


def notes_in(content: str) -> list[Note]:
    """The notes of a file; what stands behind the last whole one was never finished. Raises NoteError."""
    parts = content.split("\n\n")[:-1]
    return [_note(text + "\n", signed) for text, signed in zip(parts[::2], parts[1::2], strict=False)]


def last_note(content: bytes, *, whole: bool) -> tuple[int, Note] | None:
    """The last note of a file that ends with `content`, and where in that the note ends.

    What stands behind it was never finished. None where there is none, or, unless `content` is the `whole`
    file, where its beginning is cut off. Raises NoteError where the file ends with something else.
    """
    *blocks, unfinished = content.split(b"\n\n")
    end = len(content) - len(unfinished)
    if blocks and not _is_signed(blocks[-1]):  # a text that was never signed
        end -= len(blocks.pop()) + 2
    if (not blocks) if whole else len(blocks) < 3:  # the first of three may be cut off
        return None
    if len(blocks) < 2 or _is_signed(blocks[-2]) or not _is_signed(blocks[-1]):
        raise NoteError(f"{blocks[-1][:80]!r} is not the signature of a text")
    try:
        return end, _note(blocks[-2].decode() + "\n", blocks[-1].decode())
    except UnicodeDecodeError as error:
        raise NoteError("the last note is no text") from error


def _is_signed(block: bytes) -> bool:
    return block.startswith(_MARK.encode())


def one_note(content: str) -> Note:
    """Raises NoteError where it is none, or more."""
    text, apart, signed = content.partition("\n\n")
    if not apart or not signed.endswith("\n") or "\n\n" in signed:
        raise NoteError("this is not one signed note: a text, an empty line and lines of signatures")
    return _note(text + "\n", signed.removesuffix("\n"))


def _note(text: str, signed: str) -> Note:
    found: list[Signature] = []
    for line in signed.split("\n"):
        name, _, encoded = line.removeprefix(_MARK).partition(" ")
        content = _bytes(encoded)
        if not line.startswith(_MARK) or not _NAME.fullmatch(name) or len(content or b"") <= _ID_BYTES:
            raise NoteError(f"{line[:80]!r} is no line of a signature")
        assert content is not None
        found.append(Signature(name, content[:_ID_BYTES], content[_ID_BYTES:]))
    return Note(text, tuple(found))


# --- keys -----------------------------------------------------------------------------------------------


def key_id(name: str, public: bytes) -> bytes:
    """The four bytes by which signatures name a key."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:_ID_BYTES]


def key_text(name: str, public: bytes) -> str:
    """A public key as witnesses take it: name, key id and key."""
    return f"{name}+{key_id(name, public).hex()}+{_base64(_ED25519 + public)}"


def key_in(text: str) -> bytes:
    """The 32 bytes of a public key of `key_text`. Raises NoteError."""
    if not text.isascii():
        raise NoteError(f"{text[:120]!a} is no public key; writ audit key prints one")
    name, _, rest = text.strip().partition("+")
    told, _, encoded = rest.partition("+")
    content = _bytes(encoded)
    if content is None or len(content) != 1 + _KEY_BYTES or content[:1] != _ED25519:
        raise NoteError(f"{text[:120]!r} is no public key; writ audit key prints one")
    if key_id(name, content[1:]).hex() != told:
        raise NoteError(f"the public key {text[:120]!r} is damaged: its id is not {told[:8]}")
    return content[1:]


# --- checkpoints ----------------------------------------------------------------------------------------


class Origin(NamedTuple):
    """Whose tree it is. `site` is 16 hex digits that tell this node's logs from those of others."""

    site: str
    partition: int
    epoch: int

    def __str__(self) -> str:
        return f"writ/{self.site}/log-{self.partition}/epoch-{self.epoch}"


class Checkpoint(NamedTuple):
    """What a log held at a time, in microseconds UTC. `after`: digest of the checkpoint before, or -."""

    origin: Origin
    size: int
    root: bytes
    at: int
    after: str = "-"

    @property
    def text(self) -> str:
        time = stamped(self.at)
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\ntime {time}\nafter {self.after}\n"


def checkpoint_in(text: str) -> Checkpoint:
    """What the text of a note says. Raises NoteError where it is not exactly that of a checkpoint."""
    lines = text.split("\n")
    if len(lines) != 6:
        raise NoteError(f"a checkpoint has five lines, and this note {len(lines) - 1}")
    origin, size, root = _ORIGIN.fullmatch(lines[0]), _SIZE.fullmatch(lines[1]), _bytes(lines[2])
    if origin is None:
        raise NoteError(f"{lines[0][:80]!r} is no origin of a log")
    if size is None or root is None or len(root) != hashlib.sha256().digest_size:
        raise NoteError(f"{lines[1][:20]!r} and {lines[2][:60]!r} are no size and root of a tree")
    after = lines[4].removeprefix("after ")
    try:
        at = moment(lines[3].removeprefix("time "))
    except ValueError as error:
        raise NoteError(f"{lines[3][:60]!r} is no time") from error
    if not _AFTER.fullmatch(after):
        raise NoteError(f"{lines[4][:80]!r} does not name the checkpoint before")
    found = Checkpoint(Origin(origin[1], int(origin[2]), int(origin[3])), int(size[0]), root, at, after)
    if found.text != text:
        raise NoteError("a checkpoint is written otherwise than this one")
    return found


def stamped(at: int) -> str:
    """A time in microseconds as it is written in notes."""
    return (datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=at)).strftime(_TIME)


def moment(text: str) -> int:
    """The microseconds of `stamped`. Raises ValueError."""
    since = datetime.datetime.strptime(text, _TIME) - datetime.datetime(1970, 1, 1)
    return since // datetime.timedelta(microseconds=1)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _bytes(text: str) -> bytes | None:
    """What base64 stands for; None where it is none, or is written otherwise than `_base64` does."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return content if _base64(content) == text else None
